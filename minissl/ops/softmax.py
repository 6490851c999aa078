"""Softmax over the last axis."""

from minissl.backend import Array, array_module


def softmax_forward(x: Array) -> tuple[Array, Array]:
    """y_i = exp(x_i) / Σ_j exp(x_j) over the last axis; the cache is y.

    The row's maximum is subtracted first: y does not change, and exp never sees a large number.
    """
    xp = array_module(x)
    e = xp.exp(x - x.max(axis=-1, keepdims=True))
    y = e / e.sum(axis=-1, keepdims=True)
    return y, y


def softmax_backward(dy: Array, cache: Array) -> Array:
    """dx_i = y_i (dy_i - Σ_j y_j dy_j): the Jacobian diag(y) - y yᵀ, never built."""
    y = cache
    return y * (dy - (y * dy).sum(axis=-1, keepdims=True))
