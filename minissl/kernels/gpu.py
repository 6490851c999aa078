"""Faster twins for CuPy: one kernel where the reference op launches many, written in CUDA C in `kernels/cuda/`.

Every sum runs in an order that the sizes alone decide, with no atomic addition, so that a run gives the same bits each
time. The sources compile for `compute_90`, and their tests run them thread by thread on a CPU; they were not timed on a
GPU, so no gain stands here.

A source is compiled when it is first needed. Arrays of other dtypes than float32 and float64 are left to the reference
ops, and so is everything where compiling fails.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from minissl.backend import Array, array_module
from minissl.ops.layer_norm import LayerNormCache

FOLDER = Path(__file__).with_name("cuda")
SOURCES = ("common", "columns", "layer_norm")
C_TYPES = {"float32": "float", "float64": "double"}
THREADS = 256  # in a block: 8 warps
WARP = 32
MOST_SLABS = 128  # of rows, when columns are summed
MOST_BLOCKS = 2**31 - 1


def source() -> str:
    """The text of every kernel, behind what all of them use."""
    return "".join((FOLDER / f"{name}.cu").read_text(encoding="utf-8") for name in SOURCES)


@cache
def _compiled(raw_module: Any, dtype: str) -> dict[str, Any]:
    """Every kernel by name, for one dtype; none, with a warning, where they cannot be compiled."""
    code = source()
    try:
        module = raw_module(code, options=(f"-DREAL={C_TYPES[dtype]}",))
        return {name: module.get_function(name) for name in re.findall(r"__global__ void (\w+)", code)}
    except Exception as error:  # the compiler's own, and the driver's
        warnings.warn(
            f"the GPU's kernels do not compile; slower ops run instead: {error}", RuntimeWarning, stacklevel=2
        )
        return {}


def applies(*args: Any) -> bool:
    """Whether the twins take these arguments: CuPy's, all floating-point arrays of one dtype, and that compiled."""
    floats = {str(a.dtype) for a in args if getattr(getattr(a, "dtype", None), "kind", "") == "f" and a.ndim}
    (dtype,) = floats if len(floats) == 1 else ("",)
    first = next((a for a in args if hasattr(a, "dtype")), None)
    raw_module = getattr(array_module(first), "RawModule", None)
    return dtype in C_TYPES and raw_module is not None and bool(_compiled(raw_module, dtype))


def _run(kernel: str, grid: tuple[int, ...], dtype: Any, *args: Any, threads: int = THREADS) -> None:
    """Launch a kernel of arrays of `dtype`: Python's integers go as 64 bits, its floats as `dtype`."""
    import cupy

    if not all(grid):
        return
    converted = [np.int64(a) if isinstance(a, int) else dtype.type(a) if isinstance(a, float) else a for a in args]
    _compiled(cupy.RawModule, str(dtype))[kernel](grid, (threads,), tuple(converted))


def _row_grid(rows: int) -> tuple[int]:
    """Blocks for a warp to each row."""
    return (-(-rows * WARP // THREADS),)


def _contiguous(x: Array) -> Array:
    xp: Any = array_module(x)
    same: Array = xp.ascontiguousarray(x)
    return same


def _rows(x: Array) -> Array:
    """As a C-contiguous matrix; a kernel counts on it."""
    rows: Array = _contiguous(x).reshape(-1, x.shape[-1])
    return rows


def _column_sums(a: Array, b: Array | None = None) -> Array:
    """Σ over rows of a (R, D), or of a · b: (D,). Slabs of rows first, then the slabs, always in the same order."""
    xp = array_module(a)
    rows, width = a.shape
    slabs = max(1, min(-(-rows // 64), MOST_SLABS))
    columns = -(-width // WARP)
    each = -(-rows // slabs)
    slab_sums = xp.empty((slabs, width), a.dtype)
    if b is None:
        _run("column_sums", (columns, slabs), a.dtype, a, rows, width, each, slab_sums)
    else:
        _run("column_dots", (columns, slabs), a.dtype, a, b, rows, width, each, slab_sums)
    sums: Array = slab_sums.reshape(-1) if slabs == 1 else xp.empty(width, a.dtype)
    if slabs > 1:
        _run("column_sums", (columns, 1), a.dtype, slab_sums, slabs, width, slabs, sums)
    return sums


def layer_norm_forward(x: Array, gain: Array, bias: Array, eps: float) -> tuple[Array, LayerNormCache]:
    """As `ops.layer_norm_forward`, in one kernel."""
    xp: Any = array_module(x)
    rows = _rows(x)
    y, normed, inv_std = xp.empty_like(rows), xp.empty_like(rows), xp.empty((len(rows), 1), x.dtype)
    gain, bias = _contiguous(gain), _contiguous(bias)
    _run("layer_norm_forward", _row_grid(len(rows)), x.dtype, rows, gain, bias, float(eps), *rows.shape, y, normed,
         inv_std)  # fmt: skip
    return y.reshape(x.shape), LayerNormCache(normed.reshape(x.shape), inv_std.reshape(*x.shape[:-1], 1), gain)


def layer_norm_backward(dy: Array, cache: LayerNormCache) -> tuple[Array, Array, Array]:
    """As `ops.layer_norm_backward`: dx in one kernel, dgain and dbias as sums down columns."""
    rows, normed = _rows(dy), _rows(cache.normed)
    dx = array_module(dy).empty(rows.shape, dy.dtype)
    _run(
        "layer_norm_backward", _row_grid(len(rows)), dy.dtype, rows, normed, cache.inv_std, cache.gain, *rows.shape, dx
    )
    return dx.reshape(dy.shape), _column_sums(rows, normed), _column_sums(rows)


TWINS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "layer_norm": (layer_norm_forward, layer_norm_backward),
}
