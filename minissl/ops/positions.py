"""Where a patch stands in its image: fixed sine-cosine tables, and tables fitted to another image size."""

import math
from typing import NamedTuple

import numpy as np

from minissl.backend import Array, array_module
from minissl.errors import InputError

BICUBIC = -0.75  # the free parameter of Keys's cubic (1981); PyTorch's value


def sincos_positions(grid: tuple[int, int], d: int) -> Array:
    """The fixed table (1 + h·w, D) in float64: a row of zeros for the class token, then the patches, row by row.

    Each is [sin(x ω), cos(x ω), sin(y ω), cos(y ω)] for the patch in column x and row y, with the D/4 frequencies
    ω_i = 10000^(-4i/D); the column comes first, as in MAE's own code (He et al. 2022).
    Raises InputError where D does not divide by 4.
    """
    if d % 4:
        raise InputError(f"sine-cosine positions: width {d} does not divide by 4: sines and cosines of two coordinates")
    omega = 10000.0 ** (-np.arange(d // 4) / (d // 4))
    y, x = np.indices(grid).reshape(2, -1, 1)  # (h w, 1) each
    table = np.concatenate([np.sin(x * omega), np.cos(x * omega), np.sin(y * omega), np.cos(y * omega)], axis=1)
    return np.concatenate([np.zeros((1, d)), table])


def bicubic_weights(size: int, new_size: int) -> Array:
    """W (new_size, size), with which y = W x resamples a line of numbers by cubic convolution (Keys 1981), a = -0.75.

    Point i of the new line lies at (i + 1/2) · size/new_size - 1/2 of the old one (the corners are not aligned), and
    sees its four neighbours; beyond an end the last number goes on. It is PyTorch's `bicubic`.
    """
    weights = np.zeros((new_size, size))
    for i in range(new_size):
        place = (i + 0.5) * size / new_size - 0.5
        left = math.floor(place)
        for neighbour in range(left - 1, left + 3):
            weights[i, min(max(neighbour, 0), size - 1)] += _cubic(abs(place - neighbour))
    return weights


def _cubic(t: float) -> float:
    """Keys's kernel at distance t ≤ 2, with 1 at 0 and 0 at 1 and 2."""
    if t <= 1:
        return (BICUBIC + 2) * t**3 - (BICUBIC + 3) * t**2 + 1
    return BICUBIC * (t**3 - 5 * t**2 + 8 * t - 4)


class InterpolationCache(NamedTuple):
    """How each axis was resampled: W of the rows (h', h) and of the columns (w', w)."""

    rows: Array
    columns: Array


def interpolate_positions_forward(
    table: Array, grid: tuple[int, int], new_grid: tuple[int, int]
) -> tuple[Array, InterpolationCache]:
    """Fit a table (1 + h·w, D) for patches in a `grid` (h, w) to a `new_grid` (h', w'); y (1 + h'·w', D).

    The first row, the class token's, stays; the others are one image of D channels, resampled along both axes:
    y_ij = Σ_kl W_ik W_jl x_kl (Dosovitskiy et al. 2021, section 3.2). Raises InputError for a table of another grid.
    """
    (h, w), d = grid, table.shape[-1]
    if table.shape[0] != 1 + h * w:
        raise InputError(f"positions: a table of {table.shape[0]} rows given, a grid of {h} × {w} has {1 + h * w}")
    xp = array_module(table)
    rows = xp.asarray(bicubic_weights(h, new_grid[0]), table.dtype)
    columns = xp.asarray(bicubic_weights(w, new_grid[1]), table.dtype)
    patches = _resample(table[1:].reshape(h, w, d), rows, columns)
    return xp.concatenate([table[:1], patches.reshape(-1, d)]), InterpolationCache(rows, columns)


def interpolate_positions_backward(dy: Array, cache: InterpolationCache) -> Array:
    """dtable: resampling is linear, so backward is its transpose, Wᵀ along each axis."""
    rows, columns = cache
    dpatches = dy[1:].reshape(len(rows), len(columns), -1)
    dtable = _resample(dpatches, rows.T, columns.T)
    return array_module(dy).concatenate([dy[:1], dtable.reshape(-1, dy.shape[-1])])


def _resample(x: Array, rows: Array, columns: Array) -> Array:
    """x (h, w, D) -> (h', w', D): rows @ along the first axis, columns @ along the second."""
    h, w, d = x.shape
    x = (rows @ x.reshape(h, w * d)).reshape(-1, w, d)
    return columns @ x  # for every row alike: (w', w) @ (h', w, D)
