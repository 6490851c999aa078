"""The transformer layer: attention and feed-forward, each with dropout, a residual connection and layer norm."""

from typing import Any, NamedTuple

import numpy as np

from minissl.backend import Array
from minissl.kernels import op
from minissl.nn.attention import MultiHeadAttention
from minissl.nn.feed_forward import FeedForward
from minissl.nn.layers import Dropout, Init, LayerNorm
from minissl.nn.module import Grads, Module

gather_patches = op("gather_patches")


class TransformerLayerCache(NamedTuple):
    """The caches of the six steps, in forward's order."""

    attention: Any
    attention_dropout: Any
    attention_norm: Any
    feed_forward: Any
    output_dropout: Any
    output_norm: Any
    asked: Any = None  # of which positions the output was computed, where not of all


class TransformerLayer(Module):
    """Post-norm, as in BERT:    a = LN(x + drop(attention(x))),  y = LN(a + drop(feed_forward(a))).

    Pre-norm, as in ViT and GPT: a = x + drop(attention(LN(x))),  y = a + drop(feed_forward(LN(a))).
    """

    def __init__(
        self, d: int, heads: int, d_ff: int, act: str, dropout: float, attention_dropout: float, eps: float, init: Init,
        pre_norm: bool = False, qkv_bias: bool = True,
    ):  # fmt: skip
        self.attention = MultiHeadAttention(d, heads, attention_dropout, init, qkv_bias)
        self.attention_norm = LayerNorm(d, eps, init)
        self.feed_forward = FeedForward(d, d_ff, act, init)
        self.output_norm = LayerNorm(d, eps, init)
        self.dropout = Dropout(dropout)
        self.pre_norm = pre_norm

    def forward(
        self, x: Array, mask: Array | None = None, rng: np.random.Generator | None = None
    ) -> tuple[Array, TransformerLayerCache]:
        """x (B, T, D), boolean mask broadcast to (B, H, T, T) -> y (B, T, D)."""
        if self.pre_norm:
            h, attention_norm = self.attention_norm.forward(x)
            h, attention = self.attention.forward(h, mask, rng)
            a, attention_dropout = self.dropout.forward(h, rng, x)
            h, output_norm = self.output_norm.forward(a)
            h, feed_forward = self.feed_forward.forward(h)
            y, output_dropout = self.dropout.forward(h, rng, a)
        else:
            h, attention = self.attention.forward(x, mask, rng)
            h, attention_dropout = self.dropout.forward(h, rng, x)
            a, attention_norm = self.attention_norm.forward(h)
            h, feed_forward = self.feed_forward.forward(a)
            h, output_dropout = self.dropout.forward(h, rng, a)
            y, output_norm = self.output_norm.forward(h)
        return y, TransformerLayerCache(
            attention, attention_dropout, attention_norm, feed_forward, output_dropout, output_norm
        )

    def backward(self, dy: Array, cache: TransformerLayerCache, grads: Grads) -> Array:
        """dy (B, T, D) -> dx (B, T, D). Where x splits into two paths, their gradients are added."""
        if self.pre_norm:
            dh = self.dropout.backward(dy, cache.output_dropout)
            dh = self.feed_forward.backward(dh, cache.feed_forward, grads)
            da = dy + self.output_norm.backward(dh, cache.output_norm, grads)
            dh = self.dropout.backward(da, cache.attention_dropout)
            dh = self.attention.backward(dh, cache.attention, grads)
            return da + self.attention_norm.backward(dh, cache.attention_norm, grads)
        dsum = self.output_norm.backward(dy, cache.output_norm, grads)
        dh = self.dropout.backward(dsum, cache.output_dropout)
        da = dsum + self.feed_forward.backward(dh, cache.feed_forward, grads)
        dsum = self.attention_norm.backward(da, cache.attention_norm, grads)
        dh = self.dropout.backward(dsum, cache.attention_dropout)
        return dsum + self.attention.backward(dh, cache.attention, grads)

    def forward_at(
        self, x: Array, asked: Array, rng: np.random.Generator | None = None
    ) -> tuple[Array, TransformerLayerCache]:
        """As `forward` without a mask, pre-norm, at the positions asked (B, M) alone: x (B, T, D) -> y (B, M, D).

        Every position is attended to; what the others would see is not computed, as nobody looks at it.
        """
        h, attention_norm = self.attention_norm.forward(x)
        queries, taken = gather_patches.forward(h, asked)
        h, attention = self.attention.forward(queries, None, rng, memory=h)
        a, attention_dropout = self.dropout.forward(h, rng, gather_patches.forward(x, asked)[0])
        h, output_norm = self.output_norm.forward(a)
        h, feed_forward = self.feed_forward.forward(h)
        y, output_dropout = self.dropout.forward(h, rng, a)
        return y, TransformerLayerCache(
            attention, attention_dropout, attention_norm, feed_forward, output_dropout, output_norm, taken
        )

    def backward_at(self, dy: Array, cache: TransformerLayerCache, grads: Grads) -> Array:
        """dy (B, M, D) -> dx (B, T, D): positions asked get the gradient of their own outputs too."""
        dh = self.dropout.backward(dy, cache.output_dropout)
        dh = self.feed_forward.backward(dh, cache.feed_forward, grads)
        da = dy + self.output_norm.backward(dh, cache.output_norm, grads)
        dh = self.dropout.backward(da, cache.attention_dropout)
        dqueries, dh = self.attention.backward(dh, cache.attention, grads)
        dh = dh + gather_patches.backward(dqueries, cache.asked)
        return gather_patches.backward(da, cache.asked) + self.attention_norm.backward(dh, cache.attention_norm, grads)
