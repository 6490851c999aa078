"""Which array library an array belongs to, and the few things that NumPy and CuPy spell differently."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from minissl.errors import InputError

Array = NDArray[Any]


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


def array_module(x: Any) -> ArrayLibrary:
    """Return the library (NumPy or CuPy) whose array `x` is. Only a process that imported CuPy can hold its arrays."""
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(x, cupy.ndarray):
        return cast(ArrayLibrary, cupy)
    return cast(ArrayLibrary, np)


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
