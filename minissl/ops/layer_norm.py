"""Layer normalisation (Ba, Kiros & Hinton 2016, equation 4)."""

from typing import NamedTuple

from minissl.backend import Array, array_module


class LayerNormCache(NamedTuple):
    """The normalised input and 1/σ: x itself is not needed again."""

    normed: Array
    inv_std: Array
    gain: Array


def layer_norm_forward(x: Array, gain: Array, bias: Array, eps: float) -> tuple[Array, LayerNormCache]:
    """y = gain · (x - μ)/√(σ² + eps) + bias, with μ and σ² over the last axis; x (…, D), gain and bias (D,)."""
    xp = array_module(x)
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred * centred).mean(axis=-1, keepdims=True)
    inv_std = 1 / xp.sqrt(variance + eps)
    normed = centred * inv_std
    return gain * normed + bias, LayerNormCache(normed, inv_std, gain)


def layer_norm_backward(dy: Array, cache: LayerNormCache) -> tuple[Array, Array, Array]:
    """dx = (g - mean(g) - n · mean(g · n)) / σ, where g = gain · dy and n is the normalised input.

    Moving one input moves μ and σ for its whole row. The two means take those parts out, so dx has no component
    along 1 (the mean) nor along n (the variance): layer norm cannot see either.
    """
    normed, inv_std, gain = cache
    dnormed = dy * gain
    mean_part = dnormed.mean(axis=-1, keepdims=True)
    variance_part = normed * (dnormed * normed).mean(axis=-1, keepdims=True)
    dx = inv_std * (dnormed - mean_part - variance_part)
    leading = tuple(range(dy.ndim - 1))  # gain and bias were broadcast over these, so their gradients are summed
    return dx, (dy * normed).sum(axis=leading), dy.sum(axis=leading)
