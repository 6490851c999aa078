"""Which array library an array belongs to, and the few things that NumPy and CuPy spell differently."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minissl.errors import InputError

Array = NDArray[Any]


def array_module(x: Any) -> Any:
    """Return the library (NumPy or CuPy) whose array `x` is. Only a process that imported CuPy can hold its arrays."""
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(x, cupy.ndarray):
        return cupy
    return np


def require_ids(ids: Array, size: int, what: str) -> None:
    """Refuse ids outside 0 … size-1: NumPy wraps a negative index and CuPy wraps every one, so the result would be wrong.

    Looks at host arrays only. Device arrays were checked on the host before they were moved; looking would synchronise.
    """
    if not isinstance(ids, np.ndarray) or ids.size == 0:
        return
    if ids.dtype.kind not in "iu":
        raise InputError(f"{what}: expected integers, got dtype {ids.dtype}; ids index a table and are never rounded")
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= size:
        bad = low if low < 0 else high
        hint = " (-100 marks positions to ignore: pass labels to the model, positions to an op)" if bad == -100 else ""
        raise InputError(f"{what}: id {bad} is outside 0 … {size - 1}; does the tokenizer's vocabulary fit the model's?{hint}")
