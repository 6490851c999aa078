"""Cross-entropy over classes, and over the masked positions of a sequence. Each divides by its own count."""

from typing import NamedTuple

from minissl.backend import Array, array_module, require_ids
from minissl.errors import InputError
from minissl.ops.linear import LinearCache, linear_backward, linear_forward


class CrossEntropyCache(NamedTuple):
    """log p for every class, the true classes, and what the sum was divided by."""

    log_probs: Array
    targets: Array
    divisor: int


class MaskedCrossEntropyCache(NamedTuple):
    """The caches of the two ops it is made of."""

    linear: LinearCache
    cross_entropy: CrossEntropyCache


def check_targets(targets: Array, rows: int, classes: int, count: int | None) -> int:
    """Return what the sum over the targets divides by. Raises InputError where targets, rows and classes do not fit."""
    if targets.shape != (rows,):
        raise InputError(
            f"cross-entropy: targets {targets.shape} for {rows} rows of logits; every row needs one target"
        )
    divisor = rows if count is None else count
    if divisor < 1:
        raise InputError("cross-entropy: no target to average over; does any label differ from -100?")
    require_ids(targets, classes, "cross-entropy targets")
    return divisor


def cross_entropy_forward(logits: Array, targets: Array, count: int | None = None) -> tuple[Array, CrossEntropyCache]:
    """loss = -1/count Σ_n log p(target_n), p = softmax(logits), for logits (N, C) and integer targets (N,), in nats.

    `count` defaults to N. A share of a larger batch passes the count of the whole batch, so that shares add up.

    Raises InputError where there is nothing to average over, unless every row of logits has one target, and for a
    target outside 0 … C-1.
    """
    rows, classes = logits.shape
    divisor = check_targets(targets, rows, classes, count)
    xp = array_module(logits)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_probs = shifted - xp.log(xp.exp(shifted).sum(axis=-1, keepdims=True))
    loss = -log_probs[xp.arange(len(targets)), targets].sum() / divisor
    return loss, CrossEntropyCache(log_probs, targets, divisor)


def cross_entropy_backward(dy: Array, cache: CrossEntropyCache) -> Array:
    """dlogits = dy/count (p - onehot(target)): what was predicted less what was true."""
    log_probs, targets, divisor = cache
    xp = array_module(log_probs)
    dlogits = xp.exp(log_probs)
    dlogits[xp.arange(len(targets)), targets] -= 1
    return dlogits * (dy / divisor)


def masked_cross_entropy_forward(
    h: Array, weight: Array, bias: Array, targets: Array, count: int | None = None
) -> tuple[Array, MaskedCrossEntropyCache]:
    """L = -1/M Σ_m log softmax(W h_m + b)[target_m]: masked language modelling (Devlin et al. 2019, task 1).

    h (M, D) holds the hidden states of the M masked positions alone (`take_positions`), so no other logit is ever
    computed; weight (V, D), bias (V,), targets (M,). `count` (default M) is the article's L_m for the whole batch.

    Raises InputError where nothing is masked, and for a target outside 0 … V-1.
    """
    logits, linear = linear_forward(h, weight, bias)
    loss, cross_entropy = cross_entropy_forward(logits, targets, count)
    return loss, MaskedCrossEntropyCache(linear, cross_entropy)


def masked_cross_entropy_backward(dy: Array, cache: MaskedCrossEntropyCache) -> tuple[Array, Array, Array]:
    """dh, dweight, dbias: the two backward passes in reverse order."""
    return linear_backward(cross_entropy_backward(dy, cache.cross_entropy), cache.linear)
