"""Layers with one op each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np

from minissl.backend import Array, array_module
from minissl.errors import InputError
from minissl.kernels import Op, chain, dropout_add, op
from minissl.nn.module import Grads, Module, Param

linear = op("linear")
embedding = op("embedding")
layer_norm = op("layer_norm")
dropout = op("dropout")
add_dropped = dropout_add()


class Blueprint:
    """The parameters of a model whose numbers come later: of each the shape, however large, and how to draw it.

    Raises InputError for more than `most` parameters, which is a configuration's slip.
    """

    def __init__(self, most: int):
        self.most = most
        self.shapes: dict[Param, tuple[int, ...]] = {}
        self._draws: dict[Param, Callable[[], Array]] = {}

    def param(self, shape: tuple[int, ...], dtype: str, decay: bool, draw: Callable[[], Array]) -> Param:
        """Return a parameter without numbers."""
        if len(self.shapes) == self.most:
            raise InputError(f"config: more than {self.most} weights and biases, far more than the file holds")
        param = Param(np.zeros(0, dtype), decay)
        self.shapes[param] = shape
        self._draws[param] = draw
        return param

    def draw(self, param: Param) -> None:
        """Give a parameter the numbers with which it would have begun."""
        param.data = self._draws[param]()


_blueprint: ContextVar[Blueprint | None] = ContextVar("blueprint", default=None)


@contextmanager
def blueprint(most: int) -> Iterator[Blueprint]:
    """Within it, models are made without numbers: drawing takes longer than reading, where they are to be read."""
    made = Blueprint(most)
    token = _blueprint.set(made)
    try:
        yield made
    finally:
        _blueprint.reset(token)


@dataclass
class Init:
    """How parameters begin: normal with standard deviation `std`, drawn on the host, so that a seed means one model."""

    rng: np.random.Generator
    dtype: str = "float32"
    std: float = 0.02

    def weight(self, *shape: int, zero_row: int | None = None) -> Param:
        """Draw a matrix, which weight decay applies to; `zero_row` begins at zero."""

        def draw() -> Array:
            data = (self.rng.standard_normal(shape) * self.std).astype(self.dtype)
            if zero_row is not None:
                data[zero_row] = 0
            return data

        return self._param(shape, True, draw)

    def token(self, *shape: int) -> Param:
        """Draw a token's vector or a table of positions: as a matrix, but weight decay leaves it alone."""
        return self._param(shape, False, lambda: (self.rng.standard_normal(shape) * self.std).astype(self.dtype))

    def fixed(self, shape: tuple[int, ...], make: Callable[[], Array]) -> Param:
        """Start with the numbers that `make` gives; a constant, where backward adds no gradient."""
        return self._param(shape, False, lambda: make().reshape(shape).astype(self.dtype))

    def zeros(self, *shape: int) -> Param:
        """Start a bias."""
        return self._param(shape, False, lambda: np.zeros(shape, self.dtype))

    def ones(self, size: int) -> Param:
        """Start a gain."""
        return self._param((size,), False, lambda: np.ones(size, self.dtype))

    def _param(self, shape: tuple[int, ...], decay: bool, draw: Callable[[], Array]) -> Param:
        plan = _blueprint.get()
        return Param(draw(), decay) if plan is None else plan.param(shape, self.dtype, decay, draw)


@dataclass
class XavierInit(Init):
    """Matrices begin uniform within ±√(6/(fan_in + fan_out)) (Glorot & Bengio 2010), the rest as in `Init`.

    A convolution's weight (D, C, P, P) counts as the matrix (D, CP²) that it is.
    """

    def weight(self, *shape: int, zero_row: int | None = None) -> Param:
        """Draw a matrix."""
        bound = math.sqrt(6 / (shape[0] + math.prod(shape[1:])))

        def draw() -> Array:
            data = self.rng.uniform(-bound, bound, shape).astype(self.dtype)
            if zero_row is not None:
                data[zero_row] = 0
            return data

        return self._param(shape, True, draw)


class Linear(Module):
    """y = x Wᵀ + b, weight (d_out, d_in); with `bias` False b is 0 and not a parameter."""

    def __init__(self, d_in: int, d_out: int, init: Init, bias: bool = True):
        self.weight = init.weight(d_out, d_in)
        self.bias = init.zeros(d_out) if bias else None

    def shift(self) -> Array:
        """b, of zeros where it is not a parameter."""
        weight = self.weight.data
        return array_module(weight).zeros(len(weight), weight.dtype) if self.bias is None else self.bias.data

    def forward(self, x: Array, act: Op | None = None) -> tuple[Array, Any]:
        """x (…, d_in) -> y (…, d_out), and where an activation is given, act(y): both ops as one, with one cache."""
        run = linear if act is None else chain(linear, act)
        return run.forward(x, self.weight.data, self.shift())

    def backward(self, dy: Array, cache: Any, grads: Grads) -> Array:
        """dy (…, d_out) -> dx (…, d_in)."""
        dx, dweight, dbias = linear.backward(dy, cache)
        grads.add(self.weight, dweight)
        if self.bias is not None:
            grads.add(self.bias, dbias)
        return dx


class Embedding(Module):
    """A table of `size` rows, looked up by id; the row of `padding` begins at zero."""

    def __init__(self, size: int, d: int, init: Init, padding: int | None = None):
        self.weight = init.weight(size, d, zero_row=padding)

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

    def forward(
        self, x: Array, rng: np.random.Generator | None = None, residual: Array | None = None
    ) -> tuple[Array, Any]:
        """x -> x · keep/(1 - rate), or x itself without an rng; where a residual is given, that plus it.

        Of the sum, `backward` gives dx; dresidual is dy itself.
        """
        if rng is None or self.rate == 0:
            return x if residual is None else residual + x, None
        if residual is None:
            return dropout.forward(x, self.rate, rng)
        return add_dropped.forward(x, residual, self.rate, rng)

    def backward(self, dy: Array, cache: Any, grads: Grads | None = None) -> Array:
        """dy -> dy · keep/(1 - rate), or dy itself where nothing was dropped; `grads` is every module's, and unused."""
        return dy if cache is None else dropout.backward(dy, cache)
