"""Which array library an array belongs to, and the few things that NumPy and CuPy spell differently."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Protocol, cast

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


def to_number(x: Any) -> float:
    """A single number on the host. From a device this waits until it is computed, so it comes last in a step."""
    return float(to_host(x))


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
