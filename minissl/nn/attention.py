"""Multi-head attention: several small attentions side by side, on slices of the width."""

from typing import Any, NamedTuple

import numpy as np

from minissl.backend import Array, array_module
from minissl.errors import InputError
from minissl.kernels import op
from minissl.nn.layers import Init, Linear
from minissl.nn.module import Grads, Module, as_one

linear = op("linear")
attention = op("attention")


class MultiHeadAttentionCache(NamedTuple):
    """The caches of the projections (one for x, one more for a memory), of attention and of the output layer."""

    projections: list[Any]
    attention: Any
    out: Any

    @property
    def weights(self) -> Array | None:
        """The attention weights (B, H, T, S), where the pair that ran keeps them."""
        return getattr(self.attention.cache, "weights", None)


class MultiHeadAttention(Module):
    """softmax(Q_h K_hᵀ/√K) V_h for each of H heads of width K = D/H, joined and mixed by `out`.

    Queries come from x; keys and values from x too (self-attention) or from a memory (cross-attention).
    Raises InputError where D does not divide into H heads.
    """

    def __init__(self, d: int, heads: int, dropout: float, init: Init, qkv_bias: bool = True):
        if d % heads:
            raise InputError(f"attention: width {d} does not divide into {heads} heads; each head has width D/H")
        self.query = Linear(d, d, init, qkv_bias)
        self.key = Linear(d, d, init, qkv_bias)
        self.value = Linear(d, d, init, qkv_bias)
        self.out = Linear(d, d, init)
        self.heads = heads
        self.dropout = dropout

    def forward(
        self, x: Array, mask: Array | None = None, rng: np.random.Generator | None = None, memory: Array | None = None
    ) -> tuple[Array, MultiHeadAttentionCache]:
        """x (B, T, D), memory (B, S, D), boolean mask broadcast to (B, H, T, S) -> y (B, T, D)."""
        if memory is None:
            (q, k, v), cache = self._project(x, [self.query, self.key, self.value])
            projections = [cache]
        else:
            (q,), query_cache = self._project(x, [self.query])
            (k, v), memory_cache = self._project(memory, [self.key, self.value])
            projections = [query_cache, memory_cache]
        y, attention_cache = attention.forward(q, k, v, mask, self.dropout, rng)  # (B, H, T, K)
        joined = y.swapaxes(1, 2).reshape(x.shape)  # (B, T, D): the heads side by side again
        y, out = self.out.forward(joined)
        return y, MultiHeadAttentionCache(projections, attention_cache, out)

    def backward(self, dy: Array, cache: MultiHeadAttentionCache, grads: Grads) -> Any:
        """dy (B, T, D) -> dx (B, T, D); with a memory (dx, dmemory)."""
        djoined = self.out.backward(dy, cache.out, grads)
        dheads = djoined.reshape(*dy.shape[:2], self.heads, -1).swapaxes(1, 2)  # (B, H, T, K)
        dq, dk, dv = attention.backward(dheads, cache.attention)
        if len(cache.projections) == 1:
            layers = [self.query, self.key, self.value]
            return self._project_backward([dq, dk, dv], cache.projections[0], layers, grads)
        dx = self._project_backward([dq], cache.projections[0], [self.query], grads)
        return dx, self._project_backward([dk, dv], cache.projections[1], [self.key, self.value], grads)

    def _project(self, x: Array, layers: list[Linear]) -> tuple[Array, Any]:
        """Run several linear layers on one x as a single matrix product; split each result into heads.

        x (B, T, D) -> (n, B, H, T, K).
        """
        weight = as_one([layer.weight for layer in layers])  # (n D, D)
        biases = [layer.bias for layer in layers if layer.bias is not None]
        complete = len(biases) == len(layers)
        bias = as_one(biases) if complete else array_module(x).concatenate([layer.shift() for layer in layers])
        y, cache = linear.forward(x, weight, bias)
        return y.reshape(*x.shape[:2], len(layers), self.heads, -1).transpose(2, 0, 3, 1, 4), cache

    def _project_backward(self, dys: list[Array], cache: Any, layers: list[Linear], grads: Grads) -> Array:
        """Undo `_project`: one product gives all weight gradients, another the sum of all dx."""
        xp = array_module(dys[0])
        dy = xp.stack([d.swapaxes(1, 2) for d in dys], axis=2)  # n × (B, H, T, K) -> (B, T, n, H, K)
        dx, dweight, dbias = linear.backward(dy.reshape(*dy.shape[:2], -1), cache)
        d = dweight.shape[1]
        for i, layer in enumerate(layers):
            grads.add(layer.weight, dweight[i * d : (i + 1) * d])
            if layer.bias is not None:
                grads.add(layer.bias, dbias[i * d : (i + 1) * d])
        return dx
