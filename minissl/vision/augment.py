"""Other views of the same image: shifted crops and mirror images."""

from __future__ import annotations

import numpy as np

from minissl.backend import Array
from minissl.errors import InputError


def augment(pixels: Array, rng: np.random.Generator, *, flip: bool = False, crop: int = 0) -> Array:
    """Move each image of (n, C, H, W) by up to `crop` pixels either way; mirror one in two, left to right, for `flip`.

    Moving is cropping H × W at random out of the image with a border of `crop` zeros (black), as is usual for CIFAR-10
    (He et al. 2016, section 4.2). A new array of the same dtype; what is drawn depends on `rng` and the sizes alone.
    Raises InputError for a crop below 0 or as large as the image.
    """
    n, C, H, W = pixels.shape
    if not 0 <= crop < min(H, W):
        raise InputError(f"crop={crop}: expected 0 to {min(H, W) - 1} pixels for images of {H} × {W}")
    out = pixels.copy()
    if crop:
        padded = np.zeros((n, C, H + 2 * crop, W + 2 * crop), pixels.dtype)
        padded[:, :, crop : crop + H, crop : crop + W] = pixels
        top, left = rng.integers(0, 2 * crop + 1, (2, n))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (H, W), axis=(2, 3))  # (n, C, top, left, H, W)
        out = windows[np.arange(n), :, top, left]
    if flip:
        mirrored = np.flatnonzero(rng.random(n) < 0.5)
        out[mirrored] = out[mirrored, :, :, ::-1]
    return out
