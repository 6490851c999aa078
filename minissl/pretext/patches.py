"""Masked image modelling: which patches are hidden, as indices and masks (He et al. 2022; Xie et al. 2022)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from minissl.backend import Array
from minissl.errors import InputError
from minissl.ops.patches import grid_of


class HiddenPatches(NamedTuple):
    """Which of N patches each image keeps and hides: ids in shuffled order, where each patch is then, and a mask."""

    keep: Array  # (B, K) the kept patches, in shuffled order
    restore: Array  # (B, N) the place of each patch in that order, below K where it is kept
    mask: Array  # (B, N) True = hidden
    hide: Array  # (B, N - K) the hidden patches, in shuffled order


def hide_patches(noise: Array, rate: float = 0.75) -> HiddenPatches:
    """Keep the int(N (1 - rate)) patches of least noise (B, N): a random subset for every image (He et al. 2022).

    The shuffle is argsort(noise), and the argsort of a permutation is its inverse.
    Raises InputError for a rate at which nothing is kept, or noise that is not (B, N).
    """
    if noise.ndim != 2 or not np.isfinite(noise).all():
        raise InputError(f"noise: shape {noise.shape} given, expected finite numbers (images, patches), one a patch")
    number = noise.shape[1]
    kept = number_to_keep(number, rate)
    shuffle = np.argsort(noise, axis=1, kind="stable")
    restore = np.argsort(shuffle, axis=1, kind="stable")
    return HiddenPatches(shuffle[:, :kept], restore, restore >= kept, shuffle[:, kept:])


def number_to_keep(number: int, rate: float) -> int:
    """int(N (1 - rate)). Raises InputError for a rate outside [0, 1), or at which no patch is kept."""
    if not 0 <= rate < 1:
        raise InputError(f"masking rate {rate}: expected a share in [0, 1), such as 0.75; was it meant in per cent?")
    kept = int(number * (1 - rate))
    if kept < 1:
        raise InputError(f"masking rate {rate}: of {number} patches none is left to see; lower it, or cut smaller ones")
    return kept


def mask_blocks(rng: np.random.Generator, rows: int, grid: tuple[int, int], block: int = 1, rate: float = 0.6) -> Array:
    """Hide ⌈rate · n⌉ of the n blocks of `block` × `block` patches of each image; a mask (rows, N), True = hidden.

    SimMIM hides blocks of 32 × 32 pixels, 60 % of them (Xie et al. 2022, section 3.2).
    Raises InputError where the grid does not divide into blocks, or for a rate outside (0, 1].
    """
    if not 0 < rate <= 1:
        raise InputError(f"masking rate {rate}: expected a share in (0, 1], such as 0.6; was it meant in per cent?")
    h, w = grid
    if block < 1 or h % block or w % block:
        raise InputError(f"a grid of {h} × {w} patches does not divide into blocks of {block} × {block} patches")
    blocks = (h // block, w // block)
    n = blocks[0] * blocks[1]
    order = np.argsort(rng.random((rows, n)), axis=1)
    hidden: Array = (np.argsort(order, axis=1) < np.ceil(rate * n)).reshape(rows, *blocks)
    return hidden.repeat(block, axis=1).repeat(block, axis=2).reshape(rows, h * w)


def hidden_pixels(mask: Array, size: tuple[int, ...], side: int) -> Array:
    """The mask of patches (B, N) as one of pixels (B, H, W), for images of `size` (H, W).

    Raises InputError where such images have another number of patches.
    """
    h, w = grid_of((size[0], size[1]), side)
    if mask.ndim != 2 or mask.shape[1] != h * w:
        raise InputError(f"mask {mask.shape} given, expected (images, patches), {h * w} patches each")
    pixels: Array = mask.reshape(-1, h, w).repeat(side, axis=1).repeat(side, axis=2)
    return pixels
