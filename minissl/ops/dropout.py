"""Inverted dropout (Srivastava et al. 2014): what survives is scaled up, so that evaluation needs no change."""

from typing import NamedTuple

import numpy as np

from minissl.backend import Array, ArrayLibrary, array_module
from minissl.errors import InputError

LEVELS = 1 << 16


class DropoutCache(NamedTuple):
    """Which entries were kept, and by how much they were scaled."""

    keep: Array
    scale: float


def levels_dropped(rate: float) -> int:
    """Below which of the 65536 levels an entry is dropped. Raises InputError for a rate outside 0 ≤ rate < 1."""
    if not 0 <= rate < 1:
        raise InputError(f"dropout: rate {rate} given, expected 0 ≤ rate < 1 (the share that is dropped, not kept)")
    return min(round(rate * LEVELS), LEVELS - 1)


def draw_keep(shape: tuple[int, ...], rate: float, rng: np.random.Generator, xp: ArrayLibrary) -> DropoutCache:
    """Draw which entries stay: 16 random bits each, so the rate is rounded to 1/65536 and the scale fits it exactly.

    The bits are drawn on the host, four entries to a 64-bit word, and moved: one seed means one mask on any device.
    Words come in fours, as counter-based generators (Salmon et al. 2011) make them, so that a device can make its own.

    Raises InputError for a rate outside 0 ≤ rate < 1.
    """
    dropped = levels_dropped(rate)
    size = int(np.prod(shape))
    words = rng.integers(0, 2**64 - 1, 4 * -(-size // 16), dtype=np.uint64, endpoint=True)
    keep = (words.view(np.uint16)[:size] >= dropped).reshape(shape)
    return DropoutCache(xp.asarray(keep), LEVELS / (LEVELS - dropped))


def dropout_forward(x: Array, rate: float, rng: np.random.Generator) -> tuple[Array, DropoutCache]:
    """y = x · keep / (1 - rate), keep ~ Bernoulli(1 - rate) for each entry, so that E[y] = x.

    Raises InputError for a rate outside 0 ≤ rate < 1.
    """
    cache = draw_keep(x.shape, rate, rng, array_module(x))
    return x * cache.keep * cache.scale, cache


def dropout_backward(dy: Array, cache: DropoutCache) -> Array:
    """dx = dy · keep / (1 - rate): the very mask of the forward pass."""
    return dy * cache.keep * cache.scale
