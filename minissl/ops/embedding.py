"""Looking up rows: of a table by id, and of a sequence by position."""

import math
from typing import NamedTuple

from minissl.backend import Array, array_module, require_ids


class LookupCache(NamedTuple):
    """Which rows were read, and the shape they were read from."""

    ids: Array
    shape: tuple[int, ...]


def embedding_forward(ids: Array, weight: Array) -> tuple[Array, LookupCache]:
    """y = weight[ids], for integer ids (…) and weight (V, D); y (…, D). Raises InputError for an id outside 0 … V-1."""
    require_ids(ids, weight.shape[0], "embedding ids")
    return weight[ids], LookupCache(ids, weight.shape)


def embedding_backward(dy: Array, cache: LookupCache) -> Array:
    """dweight[v] = Σ dy over the places where id v was looked up: a row read twice gets both gradients."""
    ids, shape = cache
    xp = array_module(dy)
    dweight = xp.zeros(shape, dy.dtype)
    xp.add.at(dweight, ids, dy)  # `dweight[ids] += dy` would keep only the last of repeated ids
    return dweight


def take_positions_forward(x: Array, positions: Array) -> tuple[Array, LookupCache]:
    """y_m = the row of x (…, D) at flat position positions[m] of its leading axes; y (M, D).

    Raises InputError for a position outside x.
    """
    rows = x.reshape(-1, x.shape[-1])
    require_ids(positions, len(rows), "positions")
    return rows[positions], LookupCache(positions, x.shape)


def take_positions_backward(dy: Array, cache: LookupCache) -> Array:
    """dx is dy at the chosen positions and zero everywhere else."""
    positions, shape = cache
    rows = LookupCache(positions, (math.prod(shape[:-1]), shape[-1]))
    return embedding_backward(dy, rows).reshape(shape)
