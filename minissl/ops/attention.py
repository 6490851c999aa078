"""Scaled dot-product attention (Vaswani et al. 2017, equation 1)."""

import math
from typing import NamedTuple

import numpy as np

from minissl.backend import Array, array_module
from minissl.ops.dropout import DropoutCache, draw_keep
from minissl.ops.softmax import softmax_backward


class AttentionCache(NamedTuple):
    """The inputs, the weights before dropout (the softmax needs those) and which weights dropout kept."""

    q: Array
    k: Array
    v: Array
    weights: Array
    kept: DropoutCache | None


def attention_forward(
    q: Array, k: Array, v: Array, mask: Array | None = None, rate: float = 0.0, rng: np.random.Generator | None = None
) -> tuple[Array, AttentionCache]:
    """y = dropout(softmax(q kᵀ/√K)) v, for q (…, T, K), k (…, S, K), v (…, S, K'); y (…, T, K').

    `mask` is boolean, broadcast to (…, T, S), True = may attend; hidden scores count as -∞, and a query that may
    attend to nothing gets zeros. Dropout (on the weights, as in the paper) happens only where `rng` is given.
    Raises InputError for a rate outside 0 ≤ rate < 1.
    """
    xp = array_module(q)
    scores = q @ k.swapaxes(-1, -2) * (1 / math.sqrt(q.shape[-1]))  # (…, T, S)
    if mask is not None:
        scores = xp.where(mask, scores, -math.inf)
    highest = scores.max(axis=-1, keepdims=True)
    e = xp.exp(scores - xp.where(highest > -math.inf, highest, 0))  # not -∞ - -∞ in a row that sees nothing
    total = e.sum(axis=-1, keepdims=True)
    weights = e / xp.where(total > 0, total, 1)
    kept = draw_keep(weights.shape, rate, rng, xp) if rng is not None and rate != 0 else None
    y = _drop(weights, kept) @ v  # (…, T, K')
    return y, AttentionCache(q, k, v, weights, kept)


def attention_backward(dy: Array, cache: AttentionCache) -> tuple[Array, Array, Array]:
    """dq = ds k/√K, dk = dsᵀ q/√K, dv = wᵀ dy, with ds = softmax_backward(dropout_backward(dy vᵀ)).

    A hidden score has weight 0, so softmax's own factor gives it no gradient; nothing needs the mask again.
    """
    q, k, v, weights, kept = cache
    dv = _drop(weights, kept).swapaxes(-1, -2) @ dy  # the weights that met v are those after dropout
    dweights = _drop(dy @ v.swapaxes(-1, -2), kept)  # (…, T, S)
    dscores = softmax_backward(dweights, weights) * (1 / math.sqrt(q.shape[-1]))
    return dscores @ k, dscores.swapaxes(-1, -2) @ q, dv


def _drop(weights: Array, kept: DropoutCache | None) -> Array:
    return weights if kept is None else weights * kept.keep * kept.scale
