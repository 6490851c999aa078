"""AdamW (Loshchilov & Hutter 2019): Adam with the weight decay taken out of the gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass

from minissl import kernels
from minissl.backend import Array, array_module
from minissl.kernels import gpu

BLOCK = 1 << 18  # numbers updated at a time: five arrays of them stay in a core's cache through all the passes


@dataclass(frozen=True)
class AdamW:
    """The settings. `bias_correction=False` is what BERT's own code did."""

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-6
    weight_decay: float = 0.01
    bias_correction: bool = True


def adamw_update(
    weights: Array, gradients: Array, mean: Array, square: Array, settings: AdamW, *,
    lr: float, step: int, decay: bool, scale: float = 1.0,
) -> None:  # fmt: skip
    """Update `weights`, `mean` and `square` in place, for step = 1, 2, …; all flat and of one size.

    g = scale · gradient (clipping), m = β₁ m + (1-β₁) g, v = β₂ v + (1-β₂) g²,
    w = w - lr λ w - lr m̂/(√v̂ + eps), with m̂ = m/(1-β₁ᵗ) and v̂ = v/(1-β₂ᵗ), or m and v uncorrected.
    """
    s = settings
    mean_correction = 1 - s.beta1**step if s.bias_correction else 1.0
    square_correction = 1 - s.beta2**step if s.bias_correction else 1.0
    shrink = 1 - lr * s.weight_decay if decay else 1.0
    xp = array_module(weights)
    arrays = weights, gradients, mean, square
    if kernels.enabled() and gpu.applies(*arrays) and all(a.flags.c_contiguous for a in arrays):
        gradient_factors = (1 - s.beta1) * scale, math.sqrt(1 - s.beta2) * scale
        inverse_root = 1 / math.sqrt(square_correction)
        rate = lr / mean_correction
        gpu.adamw(*arrays, s.beta1, s.beta2, *gradient_factors, inverse_root, s.eps, shrink, rate)
        return
    scratch = xp.empty(min(BLOCK, weights.size), weights.dtype)
    for start in range(0, weights.size, BLOCK):
        w, g, m, v = (a[start : start + BLOCK] for a in arrays)
        t = scratch[: w.size]
        xp.multiply(g, (1 - s.beta1) * scale, out=t)
        m *= s.beta1
        m += t
        xp.multiply(g, math.sqrt(1 - s.beta2) * scale, out=t)
        t *= t
        v *= s.beta2
        v += t
        xp.sqrt(v, out=t)
        t *= 1 / math.sqrt(square_correction)
        t += s.eps
        xp.divide(m, t, out=t)
        t *= lr / mean_correction
        w *= shrink
        w -= t


def squared_norm(x: Array) -> Array:
    """Σ x² of a flat buffer, for clipping: the same bits each run, and on a device left there."""
    if kernels.enabled() and gpu.applies(x):
        return gpu.squared_norm(x)
    total: Array = array_module(x).dot(x, x)
    return total
