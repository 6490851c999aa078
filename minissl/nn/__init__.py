"""Layers: they own parameters and compose ops. They never hold an activation or a gradient.

y, cache = layer.forward(x, ...)
dx = layer.backward(dy, cache, grads)       # parameter gradients are added to `grads`, which the caller owns
"""

from minissl.nn.attention import MultiHeadAttention
from minissl.nn.feed_forward import FeedForward, activation
from minissl.nn.layers import Dropout, Embedding, Init, LayerNorm, Linear, XavierInit, blueprint
from minissl.nn.module import Grads, Module, Param
from minissl.nn.patches import PatchEmbedding
from minissl.nn.transformer import TransformerLayer

__all__ = [
    "Dropout",
    "Embedding",
    "FeedForward",
    "Grads",
    "Init",
    "LayerNorm",
    "Linear",
    "Module",
    "MultiHeadAttention",
    "Param",
    "PatchEmbedding",
    "TransformerLayer",
    "XavierInit",
    "activation",
    "blueprint",
]
