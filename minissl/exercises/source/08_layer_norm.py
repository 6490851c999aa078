"""8. Layer normalisation, backward

    n = (x - μ) / √(σ² + eps)        y = gain · n + bias        μ and σ² of each row, over the last axis

x, n, y (…, D), gain and bias (D,). Moving one x_i also moves μ and σ² of its row, and so every
entry of that row.

Write `layer_norm_backward(dy, cache)`: return dx (…, D), dgain (D,), dbias (D,). The cache holds n,
1/√(σ² + eps) and the gain.

Check it with `minissl exercise check`. It goes with lesson 3.
"""

import numpy as np


def layer_norm_forward(x, gain, bias, eps):
    """y = gain · (x - μ)/√(σ² + eps) + bias."""
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred * centred).mean(axis=-1, keepdims=True)
    inv_std = 1 / np.sqrt(variance + eps)
    normed = centred * inv_std
    return gain * normed + bias, (normed, inv_std, gain)


def layer_norm_backward(dy, cache):
    """Return dx, dgain, dbias."""
    normed, inv_std, gain = cache
    ### TODO: dgain and dbias by sums, dx through n, the mean and the variance
    ### BEGIN SOLUTION
    dnormed = dy * gain
    mean_part = dnormed.mean(axis=-1, keepdims=True)
    variance_part = normed * (dnormed * normed).mean(axis=-1, keepdims=True)
    dx = inv_std * (dnormed - mean_part - variance_part)
    leading = tuple(range(dy.ndim - 1))
    return dx, (dy * normed).sum(axis=leading), dy.sum(axis=leading)
    ### END SOLUTION


### BEGIN HINTS
# 1. The second half, y = gain · n + bias, is easy: dn = dy · gain, and gain and bias were broadcast
#    over the leading axes (exercise 3). Then go from dn to dx: three paths, x itself, its mean, its
#    variance.
# 2. dx = (dn - mean(dn) - n · mean(dn · n)) / √(σ² + eps), with both means over the last axis.
# 3. `dnormed = dy * gain` comes first: the gain belongs inside both means.
#    `dnormed.mean(axis=-1, keepdims=True)` is the mean's path; for dgain sum `dy * normed` over
#    `tuple(range(dy.ndim - 1))`.
### END HINTS
