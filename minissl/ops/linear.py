"""The affine map y = x Wᵀ + b."""

from typing import NamedTuple

from minissl.backend import Array


class LinearCache(NamedTuple):
    """What backward needs: its two factors."""

    x: Array
    weight: Array


def linear_forward(x: Array, weight: Array, bias: Array) -> tuple[Array, LinearCache]:
    """y = x Wᵀ + b, for x (…, D), weight (F, D), bias (F,); y (…, F).

    The weight is stored outputs × inputs, as PyTorch and its checkpoints have it.
    """
    rows = x.reshape(-1, x.shape[-1])  # (…, D) -> (R, D): one matrix product whatever the leading axes
    y = rows @ weight.T + bias
    return y.reshape(*x.shape[:-1], weight.shape[0]), LinearCache(x, weight)


def linear_backward(dy: Array, cache: LinearCache) -> tuple[Array, Array, Array]:
    """dx = dy W, dW = dyᵀ x, db = Σ dy over every row, because every row used the same W and b."""
    x, weight = cache
    rows, drows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    dx = (drows @ weight).reshape(x.shape)
    dweight = drows.T @ rows
    dbias = drows.sum(axis=0)
    return dx, dweight, dbias
