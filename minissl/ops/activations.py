"""Element-wise activations. Each derivative is spelled out beside its function."""

import math
from typing import NamedTuple

from minissl.backend import Array, array_module
from minissl.ops.erf import erf

SQRT_2_OVER_PI = math.sqrt(2 / math.pi)


class GeluCache(NamedTuple):
    """The input and the gate that multiplied it: Φ(x), its tanh form, σ(1.702 x) or σ(x)."""

    x: Array
    gate: Array


def gelu_forward(x: Array) -> tuple[Array, GeluCache]:
    """y = x Φ(x), with Φ the standard normal distribution function (Hendrycks & Gimpel 2016)."""
    gate = 0.5 * (1 + erf(x * math.sqrt(0.5)))
    return x * gate, GeluCache(x, gate)


def gelu_backward(dy: Array, cache: GeluCache) -> Array:
    """dx = dy (Φ(x) + x φ(x)), where φ(x) = exp(-x²/2)/√(2π) is the derivative of Φ."""
    x, gate = cache
    density = array_module(x).exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi))
    return dy * (gate + x * density)


def gelu_tanh_forward(x: Array) -> tuple[Array, GeluCache]:
    """y = x/2 (1 + tanh u), u = √(2/π) (x + 0.044715 x³): BERT's own approximation of GELU (error up to 4.7e-4)."""
    xp = array_module(x)
    gate = 0.5 * (1 + xp.tanh(SQRT_2_OVER_PI * (x + 0.044715 * x * x * x)))
    return x * gate, GeluCache(x, gate)


def gelu_tanh_backward(dy: Array, cache: GeluCache) -> Array:
    """dx = dy (g + x g'), g' = 2 g (1 - g) u', u' = √(2/π) (1 + 3 · 0.044715 x²)."""
    x, gate = cache
    du = SQRT_2_OVER_PI * (1 + 3 * 0.044715 * x * x)
    return dy * (gate + x * (2 * gate * (1 - gate) * du))


def quick_gelu_forward(x: Array) -> tuple[Array, GeluCache]:
    """y = x σ(1.702 x), the sigmoid form that CLIP uses. σ(z) = (1 + tanh(z/2))/2 cannot overflow."""
    xp = array_module(x)
    gate = 0.5 * (1 + xp.tanh(0.851 * x))
    return x * gate, GeluCache(x, gate)


def quick_gelu_backward(dy: Array, cache: GeluCache) -> Array:
    """dx = dy (s + x · 1.702 s (1 - s)), s = σ(1.702 x)."""
    x, gate = cache
    return dy * (gate + 1.702 * x * gate * (1 - gate))


def silu_forward(x: Array) -> tuple[Array, GeluCache]:
    """y = x σ(x), also called swish. σ(z) = (1 + tanh(z/2))/2 cannot overflow."""
    gate = 0.5 * (1 + array_module(x).tanh(0.5 * x))
    return x * gate, GeluCache(x, gate)


def silu_backward(dy: Array, cache: GeluCache) -> Array:
    """dx = dy (s + x s (1 - s)), s = σ(x)."""
    x, gate = cache
    return dy * (gate + x * gate * (1 - gate))


def relu_forward(x: Array) -> tuple[Array, Array]:
    """y = max(x, 0); the cache is x."""
    return array_module(x).maximum(x, 0), x


def relu_backward(dy: Array, cache: Array) -> Array:
    """dx = dy where x > 0, else 0 (and 0 at the kink itself, as PyTorch has it)."""
    return dy * (cache > 0)


def tanh_forward(x: Array) -> tuple[Array, Array]:
    """y = tanh(x); the cache is y, because its derivative needs nothing else."""
    y = array_module(x).tanh(x)
    return y, y


def tanh_backward(dy: Array, cache: Array) -> Array:
    """dx = dy (1 - y²)."""
    return dy * (1 - cache * cache)
