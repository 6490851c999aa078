"""A strict stand-in for CuPy: an array library that computes with NumPy and refuses what a GPU's would refuse.

Its arrays never turn into NumPy's by themselves, never mix with them, and never hand a number to Python: on a GPU each
of these fails or waits for the device. Two things that CuPy does in silence are made visible: an index outside an array
wraps, and of values that are written to one place any may win. What this proves is that the code keeps to such a
library's rules; it runs nothing on a GPU.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

import emulation
import stand_in_cublas

CALLS: set[tuple[str, str, int, tuple[str, ...]]] = set()  # ("function" or "method", name, arguments, keywords)


class Refused(TypeError):
    """What CuPy refuses, or what would make a step wait for the device."""


def move(x: Any) -> Any:
    """A NumPy array as the stand-in's; containers of arrays likewise, and everything else as it is."""
    if isinstance(x, np.ndarray):
        return ndarray(x.copy())
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return type(x)(*map(move, x))
    if isinstance(x, (tuple, list)):
        return type(x)(map(move, x))
    return {key: move(value) for key, value in x.items()} if isinstance(x, dict) else x


def back(x: Any) -> Any:
    """The reverse of `move`, as a person asks for it with `cupy.asnumpy`."""
    if isinstance(x, ndarray):
        return x._host.copy()
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return type(x)(*map(back, x))
    if isinstance(x, (tuple, list)):
        return type(x)(map(back, x))
    return x


def _inside(x: Any, what: str) -> Any:
    """What NumPy computes with in place of an operand. Raises Refused for an array of the host's."""
    if isinstance(x, ndarray):
        return x._host
    if isinstance(x, (np.ndarray, list)):
        raise Refused(f"{what}: a host's {type(x).__name__} among the device's arrays; move it first")
    return x


def _outside(x: Any) -> Any:
    """A result: an array of the stand-in, 0-dimensional where NumPy gives a scalar."""
    return ndarray(np.asarray(x)) if isinstance(x, (np.ndarray, np.generic)) else x


def _index(key: Any, shape: tuple[int, ...]) -> Any:
    """An index with every id wrapped into its axis. Raises Refused for booleans, whose count the host must wait for."""
    parts = key if isinstance(key, tuple) else (key,)
    out: list[Any] = []
    axis = 0
    for part in parts:
        part = _inside(part, "index")
        if isinstance(part, np.ndarray):
            if part.dtype.kind not in "iu":
                raise Refused(f"an index of dtype {part.dtype}: the number of True has to come to the host")
            part = part % shape[axis]
        out.append(part)
        if part is Ellipsis:
            axis = len(shape) - (len(parts) - len(out) - sum(p is None for p in parts[len(out) :]))
        elif part is not None:
            axis += 1
    return tuple(out)


class ndarray:
    """An array that only its own library touches."""

    __array_ufunc__ = None  # NumPy leaves `host + device` to us, and we refuse
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, host: np.ndarray):
        self._host = host

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise Refused("implicit conversion to a NumPy array")

    def __float__(self) -> float:
        raise Refused("float() of a device array waits for the device")

    def __int__(self) -> int:
        raise Refused("int() of a device array waits for the device")

    __index__ = __int__

    def __bool__(self) -> bool:
        raise Refused("the truth of a device array waits for the device")

    def item(self, *_: Any) -> Any:
        raise Refused(".item() of a device array waits for the device")

    tolist = item

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    def __len__(self) -> int:
        return len(self._host)

    def __getitem__(self, key: Any) -> ndarray:
        return ndarray(np.asarray(self._host[_index(key, self.shape)]))

    def __setitem__(self, key: Any, value: Any) -> None:
        key = _index(key, self.shape)
        places = np.arange(self._host.size).reshape(self.shape)[key]
        values = np.broadcast_to(_inside(value, "assignment"), places.shape)
        if isinstance(places, np.ndarray) and any(isinstance(part, np.ndarray) for part in key):
            order = np.random.default_rng(places.size).permutation(places.size)
            flat = self._host.reshape(-1) if self._host.flags.c_contiguous else None
            if flat is None:
                raise Refused("stand-in: fancy assignment to a view that is not contiguous")
            flat[places.reshape(-1)[order]] = values.reshape(-1)[order]
        else:
            self._host[key] = values

    @property
    def T(self) -> ndarray:
        return ndarray(self._host.T)

    @property
    def data(self) -> Any:
        """The memory; what reads it by its pointer is told its bounds."""
        return SimpleNamespace(ptr=stand_in_cublas.pointer(self._host))

    @property
    def flags(self) -> Any:
        return self._host.flags

    def get(self) -> np.ndarray:
        """To the host, as a person asks for it: the one explicit way."""
        return self._host.copy()


for _name in ("shape", "dtype", "ndim", "size", "nbytes", "strides"):
    setattr(ndarray, _name, property(lambda self, name=_name: getattr(self._host, name)))

_REDUCTIONS = ("sum", "mean", "max", "min", "any", "all", "argmax", "argmin", "prod", "std", "var", "cumsum")


def _method(name: str) -> Any:
    def method(self: ndarray, *args: Any, **kwargs: Any) -> Any:
        _check_keywords(name, kwargs)
        CALLS.add(("method", name, len(args), tuple(sorted(kwargs))))
        args = tuple(a if isinstance(a, list) else _inside(a, name) for a in args)
        return _outside(getattr(self._host, name)(*args, **{k: _inside(v, name) for k, v in kwargs.items()}))

    return method


_SHAPES = (
    "reshape",
    "swapaxes",
    "transpose",
    "astype",
    "copy",
    "repeat",
    "ravel",
    "squeeze",
    "argsort",
    "clip",
    "view",
)
for _name in (*_REDUCTIONS, *_SHAPES):
    setattr(ndarray, _name, _method(_name))


def _check_keywords(name: str, kwargs: dict[str, Any]) -> None:
    """CuPy's reductions have neither `where` nor `initial`."""
    for keyword in ("where", "initial"):
        if keyword in kwargs:
            raise Refused(f"{name}: CuPy has no keyword {keyword!r}")


def _operator(name: str, *, in_place: bool = False) -> Any:
    def operate(self: ndarray, other: Any) -> Any:
        result = getattr(self._host, name)(_inside(other, name))
        if result is NotImplemented:
            return result
        return self if in_place else _outside(result)

    return operate


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor"):
    setattr(ndarray, f"__{_name}__", _operator(f"__{_name}__"))
    setattr(ndarray, f"__r{_name}__", _operator(f"__r{_name}__"))
    if _name != "matmul":  # `a @= b` is rare, and CuPy's has rules of its own
        setattr(ndarray, f"__i{_name}__", _operator(f"__i{_name}__", in_place=True))
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    setattr(ndarray, f"__{_name}__", _operator(f"__{_name}__"))
for _name in ("neg", "pos", "abs", "invert"):
    setattr(ndarray, f"__{_name}__", lambda self, name=f"__{_name}__": _outside(getattr(self._host, name)()))


def _function(name: str) -> Any:
    """A function of the library: device arrays and Python's numbers in, device arrays out."""
    inner = getattr(np, name)

    def function(*args: Any, **kwargs: Any) -> Any:
        _check_keywords(name, kwargs)
        CALLS.add(("function", name, len(args), tuple(sorted(kwargs))))
        if name in _SIZED and isinstance(args[0], ndarray):
            raise Refused(f"{name}: a size on the device has to come to the host")
        if name in ("concatenate", "stack"):
            args = ([_inside(a, name) for a in args[0]], *args[1:])
            return _outside(inner(*args, **kwargs))
        out = kwargs.pop("out", None)
        args = tuple(_inside(a, name) for a in args)
        kwargs = {k: _inside(v, name) for k, v in kwargs.items()}
        if out is not None:
            inner(*args, out=_inside(out, name), **kwargs)
            return out
        return _outside(inner(*args, **kwargs))

    return function


class _Add:
    """`add`, with the `.at` that sums over repeated ids; the order of a sum on a GPU is not fixed."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return _function("add")(*args, **kwargs)

    def at(self, target: ndarray, ids: Any, values: Any) -> None:
        key = _index(ids, target.shape)
        np.add.at(target._host, key, _inside(values, "add.at"))


def _asarray(x: Any, dtype: Any = None) -> ndarray:
    """To the device: the one function that takes a host's array."""
    CALLS.add(("function", "asarray", 1 if dtype is None else 2, ()))
    return x if isinstance(x, ndarray) and dtype in (None, x.dtype) else ndarray(np.array(back(x), dtype))


_FUNCTIONS = (
    "abs", "arange", "argsort", "clip", "copysign", "divide", "empty", "exp", "log", "maximum", "minimum", "multiply",
    "sign", "sqrt", "tanh", "where", "zeros", "zeros_like", "empty_like", "full", "ones", "concatenate", "stack", "dot",
    "matmul", "take_along_axis", "isfinite", "cos", "sin", "broadcast_to", "logical_and", "ascontiguousarray", "sort",
)  # fmt: skip

_SIZED = ("arange", "empty", "full", "ones", "zeros")


def library() -> ModuleType:
    """The stand-in as a module named cupy, with the functions that CuPy has of those that ops call."""
    module = ModuleType("cupy")
    for name in _FUNCTIONS:
        setattr(module, name, _function(name))
    module.__dict__.update(ndarray=ndarray, add=_Add(), asarray=_asarray, asnumpy=back)
    module.cuda = SimpleNamespace(get_cublas_handle=lambda: stand_in_cublas.HANDLE)
    if emulation.COMPILER is not None:
        module.__dict__["RawModule"] = emulation.RawModule
    return module


@contextmanager
def in_place_of_cupy() -> Any:
    """Let `array_module` find the stand-in where it looks for CuPy, and `bmm` its cuBLAS."""
    libraries = {"cupy": library(), "cupy_backends.cuda.libs": ModuleType("cupy_backends.cuda.libs")}
    libraries["cupy_backends.cuda.libs"].cublas = stand_in_cublas
    before = {name: sys.modules.get(name) for name in libraries}
    sys.modules.update(libraries)
    try:
        yield libraries["cupy"]
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
