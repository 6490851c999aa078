"""Which array library an array belongs to, and the few things that NumPy and CuPy spell differently."""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from minissl.errors import InputError

Array = NDArray[Any]


DEVICES = ("cpu", "cuda")


class ArrayLibrary(Protocol):
    """What ops and layers call by a library's name: functions that NumPy and CuPy spell alike and mean alike."""

    __name__: str
    add: Any  # a ufunc, of which `.at` is used
    abs: Callable[..., Array]
    arange: Callable[..., Array]
    asarray: Callable[..., Array]
    clip: Callable[..., Array]
    concatenate: Callable[..., Array]
    copysign: Callable[..., Array]
    divide: Callable[..., Array]
    dot: Callable[..., Array]
    empty: Callable[..., Array]
    exp: Callable[..., Array]
    log: Callable[..., Array]
    maximum: Callable[..., Array]
    minimum: Callable[..., Array]
    multiply: Callable[..., Array]
    sign: Callable[..., Array]
    sqrt: Callable[..., Array]
    stack: Callable[..., Array]
    tanh: Callable[..., Array]
    where: Callable[..., Array]
    zeros: Callable[..., Array]
    zeros_like: Callable[..., Array]


def array_module(x: Any) -> ArrayLibrary:
    """Return the library (NumPy or CuPy) whose array `x` is. Only a process that imported CuPy can hold its arrays."""
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(x, cupy.ndarray):
        return cast(ArrayLibrary, cupy)
    return cast(ArrayLibrary, np)


def beside(value: Any, like: Array) -> Any:
    """Return arrays where `like` is: an array, or what in a (named) tuple or dict is one. The rest stays as it is.

    Inputs are checked on the host, and then moved by this; nothing else moves by itself.
    """
    xp = array_module(like)
    if xp.__name__ == "numpy":
        return value
    if isinstance(value, np.ndarray):
        return xp.asarray(value)
    if isinstance(value, tuple):
        moved = [beside(item, like) for item in value]
        return type(value)(*moved) if hasattr(value, "_fields") else tuple(moved)
    if isinstance(value, dict):
        return {name: beside(item, like) for name, item in value.items()}
    return value


def to_host(value: Any) -> Any:
    """The reverse of `beside`: arrays as NumPy's, wherever they were. From a device this waits for them."""
    if isinstance(value, tuple):
        moved = [to_host(item) for item in value]
        return type(value)(*moved) if hasattr(value, "_fields") else tuple(moved)
    return value if array_module(value).__name__ == "numpy" else value.get()


def on_device(x: Array, device: str) -> Array:
    """Return the array on "cpu" (NumPy) or "cuda" (CuPy); itself, where it is there already.

    Raises InputError for another device, and where CuPy or its GPU is missing.
    """
    if device not in DEVICES:
        raise InputError(f"device {device!r}: expected 'cpu' or 'cuda'")
    if device == "cpu":
        return cast(Array, to_host(x))
    try:
        import cupy

        return cast(Array, cupy.asarray(x))
    except ImportError as error:
        raise InputError(f"device 'cuda': CuPy is missing; pip install 'minissl[gpu]' ({error})") from error
    except Exception as error:  # its driver's and its runtime's own errors
        raise InputError(f"device 'cuda': CuPy finds no GPU to work on ({error}); minissl info says more") from error


def require_device(device: str, precision: str = "float32") -> None:
    """Raise InputError, as `on_device` and `require_precision` do, before anything is begun that would need the two."""
    require_precision(precision, on_device(np.zeros(1, np.float32), device))


def to_number(x: Any) -> float:
    """A single number on the host. From a device this waits until it is computed, so it comes last in a step."""
    return float(to_host(x))


PRECISIONS = ("float32", "tf32", "float16", "bfloat16")

_precision: ContextVar[str] = ContextVar("precision", default="float32")


def require_precision(name: str, like: Array) -> None:
    """Refuse a precision of products that does not exist, or that weights such as `like` cannot be trained in.

    Raises InputError: a name not in PRECISIONS; anything but "float32" for NumPy's arrays or for weights that are not
    float32; "bfloat16" where `ml_dtypes`, which gives NumPy that type, is missing.
    """
    if name not in PRECISIONS:
        raise InputError(f"precision {name!r}: expected one of {', '.join(PRECISIONS)}")
    if name == "float32":
        return
    if array_module(like).__name__ == "numpy":
        raise InputError(f"precision {name!r}: only a GPU multiplies faster in it; leave it out, or use device 'cuda'")
    if like.dtype != np.float32:
        raise InputError(f"precision {name!r}: expected a model in float32, got {like.dtype}; weights stay in float32")
    if name == "bfloat16":
        try:
            import ml_dtypes  # noqa: F401  (NumPy knows the type by its name from then on)
        except ImportError as error:
            raise InputError("precision 'bfloat16': ml_dtypes is missing; pip install 'minissl[gpu]'") from error


@contextmanager
def product_precision(name: str, like: Array) -> Iterator[None]:
    """Let `bmm` multiply a device's float32 matrices in this precision until the block ends.

    Only what is multiplied is rounded: to 11 bits by "tf32" and "float16" (which also ends at 65504), to 8 by
    "bfloat16". Sums, results and everything but products stay in float32. Threads of `Workers` do as their caller.
    Raises what `require_precision` raises.
    """
    require_precision(name, like)
    token = _precision.set(name)
    try:
        yield
    finally:
        _precision.reset(token)


def bmm(a: Array, b: Array, scale: float = 1.0) -> Array:
    """Return scale · a b, C-contiguous (…, m, n), for a (…, m, k) and b (…, k, n); one of them may be a single matrix.

    On a device this is one call of cuBLAS, which reads a stack of matrices where it lies if rows or columns are
    contiguous and one stride leads from each matrix to the next. So a transposed view costs no copy; heads sliced from
    (B, T, H, K), which take two strides, cost one. float32 is multiplied as `product_precision` says; float16 and
    bfloat16 have their products summed, and returned, in float32.
    Raises InputError for shapes that do not fit, for integers on a device, and where a and b are in different places.
    """
    batch = a.shape[:-2] or b.shape[:-2]
    if min(a.ndim, b.ndim) < 2 or a.shape[-1] != b.shape[-2] or not {a.shape[:-2], b.shape[:-2]} <= {(), batch}:
        raise InputError(f"product of {a.shape} and {b.shape}: expected (…, m, k) and (…, k, n); is one transposed?")
    if array_module(a) is not array_module(b):
        raise InputError("product of an array on the host and one on the device: move one of them to the other")
    if array_module(a).__name__ == "numpy":
        y: Array = np.matmul(a, b, order="C")
        return y if scale == 1 else np.multiply(y, scale, out=y)
    factor_type = np.result_type(a.dtype, b.dtype)
    precision = _precision.get()
    if factor_type == np.float32 and precision in ("float16", "bfloat16"):
        factor_type = np.dtype(precision)
    kind = _KINDS.get(factor_type.char)
    if kind is None:
        raise InputError(f"product of {a.dtype} and {b.dtype}: expected float16, bfloat16, float32 or float64")
    if precision == "tf32" and kind is _FLOAT32:
        kind = _TF32
    cublas = _cublas()
    if cublas is None:
        a, b = (x.astype(factor_type, copy=False).astype(kind.total, copy=False) for x in (a, b))
        return cast(Array, a @ b * scale)
    return _cublas_product(cublas, a, b, scale, factor_type, kind)


class _Kind(NamedTuple):
    """What cuBLAS is told of a product; the numbers are CUDA's cudaDataType_t and cublasComputeType_t."""

    factor: int
    total: type[np.floating[Any]]
    total_type: int
    compute_type: int
    scalar: Callable[[float], Any]


_FLOAT32 = _Kind(0, np.float32, 0, 68, ctypes.c_float)
_TF32 = _FLOAT32._replace(compute_type=77)
_KINDS = {  # by NumPy's letter for the factors' type, since a dtype's name takes NumPy longer than all else here
    "f": _FLOAT32,
    "d": _Kind(1, np.float64, 1, 70, ctypes.c_double),
    "e": _FLOAT32._replace(factor=2),  # float16
    "E": _FLOAT32._replace(factor=14),  # bfloat16, by ml_dtypes
}
_DEFAULT_ALGORITHM = -1  # cublasGemmAlgo_t


def _cublas() -> Any:
    """CuPy's binding of cuBLAS, which is private: None in a version that has not what `bmm` calls."""
    try:
        from cupy_backends.cuda.libs import cublas
    except ImportError:
        return None
    return cublas if hasattr(cublas, "gemmStridedBatchedEx") else None


def _cublas_product(cublas: Any, a: Array, b: Array, scale: float, factor_type: np.dtype[Any], kind: _Kind) -> Array:
    import cupy

    batch, m, k, n = a.shape[:-2] or b.shape[:-2], *a.shape[-2:], b.shape[-1]
    y = cupy.empty((*batch, m, n), kind.total)
    if y.size == 0 or k == 0:
        return cast(Array, cupy.zeros(y.shape, kind.total))
    left, right = _factor(a, factor_type), _factor(b, factor_type)
    alpha, beta = kind.scalar(scale), kind.scalar(0)
    # cuBLAS stores by columns. To it our rows are the columns of the transpose, so it is given yᵀ = bᵀ aᵀ.
    cublas.gemmStridedBatchedEx(
        cupy.cuda.get_cublas_handle(), int(right.by_columns), int(left.by_columns), n, m, k, ctypes.addressof(alpha),
        right.array.data.ptr, kind.factor, right.leading, right.stride,
        left.array.data.ptr, kind.factor, left.leading, left.stride, ctypes.addressof(beta),
        y.data.ptr, kind.total_type, n, m * n, math.prod(batch), kind.compute_type, _DEFAULT_ALGORITHM,
    )  # fmt: skip
    return cast(Array, y)


class _Factor(NamedTuple):
    """A stack of matrices for cuBLAS; strides count numbers, not bytes."""

    array: Any  # holds the memory
    by_columns: bool  # columns are contiguous, not rows
    leading: int  # from one row (or column) to the next
    stride: int  # from one matrix to the next


def _factor(x: Array, dtype: np.dtype[Any]) -> _Factor:
    """`x` as it lies in memory, where cuBLAS can read that and the type is right; a copy elsewhere, rows still rows."""
    found = _layout(x) if x.dtype == dtype else None
    if found is not None:
        return _Factor(x, *found)
    if x.strides[-2] < x.strides[-1]:
        copied = x.swapaxes(-1, -2).astype(dtype, order="C").swapaxes(-1, -2)
    else:
        copied = x.astype(dtype, order="C")
    return _Factor(copied, *cast(tuple[bool, int, int], _layout(copied)))


def _layout(x: Array) -> tuple[bool, int, int] | None:
    """The last three of `_Factor`, or None for what cuBLAS cannot read: gaps both ways, or several batch strides."""
    *batch, rows, columns = x.shape
    *steps, down, across = (step // x.dtype.itemsize for step in x.strides)
    stride, count = 0, 1
    for size, step in zip(reversed(batch), reversed(steps), strict=True):
        if size == 1:
            continue
        if step < 0 or (count > 1 and step != stride * count):
            return None
        stride, count = (step if count == 1 else stride), count * size
    if across == 1 and down >= columns:
        return False, down, stride
    if down == 1 and across >= rows:
        return True, across, stride
    return None


def require_ids(
    ids: Array, size: int, what: str, slip: str = "do the tokenizer and the model belong together?"
) -> None:
    """Refuse ids outside 0 … size-1: NumPy wraps a negative index and CuPy wraps them all, into a wrong result.

    Looks at host arrays only. Device arrays were checked on the host before they were moved; looking would synchronise.
    `slip` is the likely mistake, for the message.
    """
    if not isinstance(ids, np.ndarray) or ids.size == 0:
        return
    if ids.dtype.kind not in "iu":
        raise InputError(f"{what}: expected integers, got dtype {ids.dtype}; ids index a table and are never rounded")
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= size:
        bad = low if low < 0 else high
        if bad == -100:
            slip = "-100 marks what is ignored: leave it out"
        raise InputError(f"{what}: {bad} is outside 0 … {size - 1}; {slip}")
