"""Mean squared and mean absolute error over chosen positions: the losses of masked image modelling."""

from typing import NamedTuple

from minissl.backend import Array, array_module
from minissl.errors import InputError
from minissl.ops.embedding import LookupCache, take_positions_backward, take_positions_forward


class MaskedErrorCache(NamedTuple):
    """Which rows were chosen, prediction - target there, and what the sum was divided by."""

    chosen: LookupCache
    difference: Array
    size: float


def _chosen_difference(prediction: Array, target: Array, positions: Array, count: float | None) -> MaskedErrorCache:
    if prediction.shape != target.shape:
        raise InputError(f"masked error: prediction {prediction.shape} and target {target.shape} differ in shape")
    count = len(positions) if count is None else count
    if count < 1:
        raise InputError("masked error: no position chosen, so there is nothing to average over; is the mask all zero?")
    predicted, chosen = take_positions_forward(prediction, positions)
    true, _ = take_positions_forward(target, positions)
    return MaskedErrorCache(chosen, predicted - true, count * prediction.shape[-1])


def masked_mse_forward(
    prediction: Array, target: Array, positions: Array, count: float | None = None
) -> tuple[Array, MaskedErrorCache]:
    """loss = 1/(M P) Σ (prediction - target)² over the M chosen rows of width P (He et al. 2022, MAE).

    prediction and target (…, P), `positions` (M,) flat positions in the leading axes; `count` replaces M for a share.

    Raises InputError where the shapes differ or nothing is chosen.
    """
    cache = _chosen_difference(prediction, target, positions, count)
    return (cache.difference * cache.difference).sum() / cache.size, cache


def masked_mse_backward(dy: Array, cache: MaskedErrorCache) -> tuple[Array, Array]:
    """dprediction = 2 dy/(M P) (prediction - target) at the chosen rows, zero elsewhere; dtarget is its negative."""
    dprediction = take_positions_backward(cache.difference * (2 * dy / cache.size), cache.chosen)
    return dprediction, -dprediction


def masked_l1_forward(
    prediction: Array, target: Array, positions: Array, count: float | None = None
) -> tuple[Array, MaskedErrorCache]:
    """loss = 1/(M P) Σ |prediction - target| over the M chosen rows of width P (Xie et al. 2022, SimMIM).

    Shapes, `count` and errors as in `masked_mse_forward`.
    """
    cache = _chosen_difference(prediction, target, positions, count)
    return array_module(prediction).abs(cache.difference).sum() / cache.size, cache


def masked_l1_backward(dy: Array, cache: MaskedErrorCache) -> tuple[Array, Array]:
    """dprediction = dy/(M P) sign(prediction - target) at the chosen rows; dtarget is its negative."""
    sign = array_module(cache.difference).sign(cache.difference)
    dprediction = take_positions_backward(sign * (dy / cache.size), cache.chosen)
    return dprediction, -dprediction
