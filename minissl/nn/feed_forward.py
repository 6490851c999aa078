"""The position-wise feed-forward network."""

from typing import Any, NamedTuple

from minissl.backend import Array
from minissl.errors import InputError
from minissl.kernels import op
from minissl.nn.layers import Init, Linear
from minissl.nn.module import Grads, Module

# Hugging Face's `hidden_act` -> the op
ACTIVATIONS = {
    "gelu": op("gelu"),
    "gelu_python": op("gelu"),
    "gelu_new": op("gelu_tanh"),
    "gelu_fast": op("gelu_tanh"),
    "gelu_accurate": op("gelu_tanh"),
    "gelu_pytorch_tanh": op("gelu_tanh"),
    "quick_gelu": op("quick_gelu"),
    "relu": op("relu"),
    "silu": op("silu"),
    "swish": op("silu"),
    "tanh": op("tanh"),
}


def activation(name: str) -> Any:
    """Return the op of a `hidden_act`. Raises InputError for one that minissl does not have."""
    if name not in ACTIVATIONS:
        raise InputError(f"hidden_act {name!r} is not known; expected one of: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


class FeedForwardCache(NamedTuple):
    """The caches of both products; the first one's has its activation's too."""

    up: Any
    down: Any


class FeedForward(Module):
    """y = act(x W₁ᵀ + b₁) W₂ᵀ + b₂ at every position alike (Vaswani et al. 2017, equation 2); D -> F -> D."""

    def __init__(self, d: int, d_ff: int, act: str, init: Init):
        self.up = Linear(d, d_ff, init)
        self.down = Linear(d_ff, d, init)
        self.act = activation(act)

    def forward(self, x: Array) -> tuple[Array, FeedForwardCache]:
        """x (…, D) -> y (…, D)."""
        h, up_cache = self.up.forward(x, self.act)  # (…, F)
        y, down_cache = self.down.forward(h)
        return y, FeedForwardCache(up_cache, down_cache)

    def backward(self, dy: Array, cache: FeedForwardCache, grads: Grads) -> Array:
        """dy (…, D) -> dx (…, D)."""
        dh = self.down.backward(dy, cache.down, grads)
        return self.up.backward(dh, cache.up, grads)
