"""13. The residual connection of an encoder layer

Each half of a BERT layer adds what it computed to what it was given, and normalises the sum:

    y = layer_norm(x + f(x))        here f(x) = tanh(x Wᵀ), with W (D, D)

x reaches the sum on two ways: straight, and through f. What is used twice collects two gradients.
The layer norm comes after the sum, so both have passed it.

Write `residual_backward(dy, cache)`: from dy (…, D) return dx (…, D), dweight (D, D), dgain (D,),
dbias (D,). The backward passes of f and of the layer norm are given.

Check it with `minissl exercise check`. It goes with lesson 3.
"""

import numpy as np


def f_forward(x, weight):
    """h = tanh(x Wᵀ)."""
    h = np.tanh(x @ weight.T)
    return h, (x, weight, h)


def f_backward(dh, cache):
    """Return dx, dweight."""
    x, weight, h = cache
    du = dh * (1 - h * h)
    return du @ weight, du.reshape(-1, du.shape[-1]).T @ x.reshape(-1, x.shape[-1])


def layer_norm_forward(x, gain, bias, eps):
    """y = gain · (x - μ)/√(σ² + eps) + bias."""
    centred = x - x.mean(axis=-1, keepdims=True)
    inv_std = 1 / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + eps)
    normed = centred * inv_std
    return gain * normed + bias, (normed, inv_std, gain)


def layer_norm_backward(dy, cache):
    """Return dx, dgain, dbias."""
    normed, inv_std, gain = cache
    dnormed = dy * gain
    mean_part = dnormed.mean(axis=-1, keepdims=True)
    variance_part = normed * (dnormed * normed).mean(axis=-1, keepdims=True)
    leading = tuple(range(dy.ndim - 1))
    return inv_std * (dnormed - mean_part - variance_part), (dy * normed).sum(axis=leading), dy.sum(axis=leading)


def residual_forward(x, weight, gain, bias, eps):
    """y = layer_norm(x + f(x)); the cache is the two caches."""
    h, f_cache = f_forward(x, weight)
    y, norm_cache = layer_norm_forward(x + h, gain, bias, eps)
    return y, (f_cache, norm_cache)


def residual_backward(dy, cache):
    """Return dx, dweight, dgain, dbias."""
    f_cache, norm_cache = cache
    ### TODO: back through the layer norm, then along both ways to x
    ### BEGIN SOLUTION
    dsum, dgain, dbias = layer_norm_backward(dy, norm_cache)
    dx, dweight = f_backward(dsum, f_cache)
    return dsum + dx, dweight, dgain, dbias
    ### END SOLUTION


### BEGIN HINTS
# 1. Read the forward pass from its end: the layer norm was last, so it comes first. It gives the
#    gradient of the sum.
# 2. A sum hands its gradient to both terms unchanged. With s = x + f(x): dx = ds + (what f_backward
#    makes of ds).
# 3. `dsum, dgain, dbias = layer_norm_backward(dy, norm_cache)`, then f_backward of dsum, not of dy;
#    the straight way adds dsum, not dy.
### END HINTS
