"""Layers with one op each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from minissl.backend import Array
from minissl.kernels import op
from minissl.nn.module import Grads, Module, Param

linear = op("linear")
embedding = op("embedding")
layer_norm = op("layer_norm")
dropout = op("dropout")


@dataclass
class Init:
    """How parameters begin: normal with standard deviation `std`, drawn on the host, so that a seed means one model."""

    rng: np.random.Generator
    dtype: str = "float32"
    std: float = 0.02

    def weight(self, *shape: int) -> Param:
        """Draw a matrix, which weight decay applies to."""
        return Param((self.rng.standard_normal(shape) * self.std).astype(self.dtype), decay=True)

    def zeros(self, size: int) -> Param:
        """Start a bias."""
        return Param(np.zeros(size, self.dtype), decay=False)

    def ones(self, size: int) -> Param:
        """Start a gain."""
        return Param(np.ones(size, self.dtype), decay=False)


class Linear(Module):
    """y = x Wᵀ + b, weight (d_out, d_in)."""

    def __init__(self, d_in: int, d_out: int, init: Init):
        self.weight = init.weight(d_out, d_in)
        self.bias = init.zeros(d_out)

    def forward(self, x: Array) -> tuple[Array, Any]:
        """x (…, d_in) -> y (…, d_out)."""
        return linear.forward(x, self.weight.data, self.bias.data)

    def backward(self, dy: Array, cache: Any, grads: Grads) -> Array:
        """dy (…, d_out) -> dx (…, d_in)."""
        dx, dweight, dbias = linear.backward(dy, cache)
        grads.add(self.weight, dweight)
        grads.add(self.bias, dbias)
        return dx


class Embedding(Module):
    """A table of `size` rows, looked up by id."""

    def __init__(self, size: int, d: int, init: Init):
        self.weight = init.weight(size, d)

    def forward(self, ids: Array) -> tuple[Array, Any]:
        """ids (…) -> y (…, D)."""
        return embedding.forward(ids, self.weight.data)

    def backward(self, dy: Array, cache: Any, grads: Grads) -> None:
        """Ids have no gradient; the rows that were read do."""
        grads.add(self.weight, embedding.backward(dy, cache))


class LayerNorm(Module):
    """Normalises the last axis, then scales and shifts it."""

    def __init__(self, d: int, eps: float, init: Init):
        self.gain = init.ones(d)
        self.bias = init.zeros(d)
        self.eps = eps

    def forward(self, x: Array) -> tuple[Array, Any]:
        """x (…, D) -> y (…, D)."""
        return layer_norm.forward(x, self.gain.data, self.bias.data, self.eps)

    def backward(self, dy: Array, cache: Any, grads: Grads) -> Array:
        """dy (…, D) -> dx (…, D)."""
        dx, dgain, dbias = layer_norm.backward(dy, cache)
        grads.add(self.gain, dgain)
        grads.add(self.bias, dbias)
        return dx


class Dropout(Module):
    """Drops entries in training, which is where an `rng` is given; otherwise passes x on."""

    def __init__(self, rate: float):
        self.rate = rate

    def forward(self, x: Array, rng: np.random.Generator | None = None) -> tuple[Array, Any]:
        """x -> x · keep/(1 - rate), or x itself without an rng."""
        if rng is None or self.rate == 0:
            return x, None
        return dropout.forward(x, self.rate, rng)

    def backward(self, dy: Array, cache: Any, grads: Grads | None = None) -> Array:
        """dy -> dy · keep/(1 - rate), or dy itself where nothing was dropped; `grads` is every module's, and unused."""
        return dy if cache is None else dropout.backward(dy, cache)
