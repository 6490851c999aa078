"""Cross-entropy over classes, over yes and no, and over masked positions. Each divides by its own count."""

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


class BinaryCrossEntropyCache(NamedTuple):
    """The inputs, and what the sum was divided by."""

    logits: Array
    targets: Array
    size: int


def binary_cross_entropy_forward(
    logits: Array, targets: Array, count: int | None = None
) -> tuple[Array, BinaryCrossEntropyCache]:
    """loss = -1/(N C) Σ t log σ(x) + (1-t) log σ(-x), for logits x and targets 0 ≤ t ≤ 1, both (N, C), in nats.

    Each of the C labels is a question of yes or no. In the form max(x, 0) - x t + log(1 + e^-|x|) nothing overflows.
    `count` replaces N for a share of a larger batch. Raises InputError where the shapes differ or nothing is asked.
    """
    if logits.shape != targets.shape:
        raise InputError(f"binary cross-entropy: logits {logits.shape} and targets {targets.shape} differ in shape")
    count = len(logits) if count is None else count
    if count < 1:
        raise InputError("binary cross-entropy: no row to average over")
    xp = array_module(logits)
    size = count * logits.shape[-1]
    losses = xp.maximum(logits, 0) - logits * targets + xp.log(1 + xp.exp(-xp.abs(logits)))
    return losses.sum() / size, BinaryCrossEntropyCache(logits, targets, size)


def binary_cross_entropy_backward(dy: Array, cache: BinaryCrossEntropyCache) -> tuple[Array, Array]:
    """dlogits = dy/(N C) (σ(x) - t), dtargets = -dy/(N C) x: what was predicted less what was true."""
    logits, targets, size = cache
    predicted = 0.5 * (1 + array_module(logits).tanh(0.5 * logits))  # σ(x)
    return (predicted - targets) * (dy / size), -logits * (dy / size)


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
