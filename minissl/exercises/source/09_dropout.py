"""9. Dropout

In training each entry is dropped with probability `rate`; what stays is scaled up, so that the mean
of y is x and evaluation needs no change (inverted dropout):

    y = x · keep / (1 - rate)        keep is 1 with probability 1 - rate, else 0, for each entry on its own

Write `dropout_forward(x, rate, rng)`: draw from `rng`, a NumPy Generator, and from nothing else.
Return y (…) and the cache, whatever the given backward must multiply dy by.

Check it with `minissl exercise check`. It goes with lesson 4.
"""

import numpy as np


def dropout_forward(x, rate, rng):
    """Return y, cache. `rate` is the share that is dropped, 0 ≤ rate < 1."""
    ### TODO: draw which entries stay, scale them, and keep for backward what x was multiplied by
    ### BEGIN SOLUTION
    factor = np.where(rng.random(x.shape) < rate, 0, 1 / (1 - rate)).astype(x.dtype)
    return x * factor, factor
    ### END SOLUTION


def dropout_backward(dy, cache):
    """dx = dy times what x was multiplied by: the very same entries, the very same scale."""
    return dy * cache


### BEGIN HINTS
# 1. y is x times an array of the same shape, made of zeros and of one other number. That array is
#    also the cache.
# 2. `rng.random(x.shape)` is uniform between 0 and 1: it is below `rate` with probability `rate`.
# 3. `np.where(rng.random(x.shape) < rate, 0, 1 / (1 - rate))` is that array, in float64: convert it
#    with `.astype(x.dtype)`, so that float32 stays float32.
### END HINTS
