"""Rows of different lengths, made into batches without much padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from minissl.backend import Array

POOL_BATCHES = 16  # within so many batches' rows, neighbours in length share a batch


def bucketed(lengths: Sequence[int] | Array, batch_size: int, rng: np.random.Generator | None = None) -> list[Array]:
    """Row numbers for each batch of one pass: every row once, rows of similar length together.

    With an `rng` the pass is shuffled: rows are dealt into pools at random, sorted by length inside each, and the
    batches come in random order. Without one, the longest rows come last (evaluation).
    """
    lengths = np.asarray(lengths)
    order = np.arange(len(lengths)) if rng is None else rng.permutation(len(lengths))
    pool = len(lengths) if rng is None else POOL_BATCHES * batch_size
    batches: list[Array] = []
    for start in range(0, len(order), max(1, pool)):
        part = order[start : start + pool]
        part = part[np.argsort(lengths[part], kind="stable")]
        batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
    return batches if rng is None else [batches[i] for i in rng.permutation(len(batches))]


def padded(rows: Sequence[Sequence[int]], filler: int) -> Array:
    """Rows of ids as one array (B, T), T the longest row's length; shorter rows end in `filler`."""
    out: Array = np.full((len(rows), max(map(len, rows))), filler, dtype=np.int64)
    for target, row in zip(out, rows, strict=True):
        target[: len(row)] = row
    return out
