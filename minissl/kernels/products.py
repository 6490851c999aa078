"""Twins for CuPy that need no kernel of their own: the reference ops with `bmm` for their matrix products.

`bmm` copies no transposes, and multiplies in the precision that `product_precision` chose.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minissl import ops
from minissl.backend import Array, bmm
from minissl.ops.cross_entropy import MaskedCrossEntropyCache
from minissl.ops.linear import LinearCache


def linear_forward(x: Array, weight: Array, bias: Array) -> tuple[Array, LinearCache]:
    """As `ops.linear_forward`."""
    y = bmm(x.reshape(-1, x.shape[-1]), weight.T)
    y += bias
    return y.reshape(*x.shape[:-1], weight.shape[0]), LinearCache(x, weight)


def linear_backward(dy: Array, cache: LinearCache) -> tuple[Array, Array, Array]:
    """As `ops.linear_backward`."""
    x, weight = cache
    rows, drows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    return bmm(drows, weight).reshape(x.shape), bmm(drows.T, rows), drows.sum(axis=0)


def masked_cross_entropy_forward(
    h: Array, weight: Array, bias: Array, targets: Array, count: int | None = None
) -> tuple[Array, MaskedCrossEntropyCache]:
    """As `ops.masked_cross_entropy_forward`."""
    logits, linear = linear_forward(h, weight, bias)
    loss, cross_entropy = ops.cross_entropy_forward(logits, targets, count)
    return loss, MaskedCrossEntropyCache(linear, cross_entropy)


def masked_cross_entropy_backward(dy: Array, cache: MaskedCrossEntropyCache) -> tuple[Array, Array, Array]:
    """As `ops.masked_cross_entropy_backward`."""
    return linear_backward(ops.cross_entropy_backward(dy, cache.cross_entropy), cache.linear)


TWINS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "linear": (linear_forward, linear_backward),
    "masked_cross_entropy": (masked_cross_entropy_forward, masked_cross_entropy_backward),
}
