"""3. Sums where the forward pass broadcast

NumPy stretches a small array over a large one: in `x + bias`, with x (B, T, D) and bias (D,), each
bias entry is used B·T times. What is used several times collects a gradient from each use, so
backward sums over what was stretched:

    dbias = dy summed over B and T

Write `unbroadcast(dy, shape)`: dy has the large shape, `shape` is the small array's. Return the
small array's gradient, of exactly that shape. Broadcasting adds axes on the left, and stretches
axes of size 1; both can happen at once.

Check it with `minissl exercise check`. It goes with lesson 1.
"""

import numpy as np


def unbroadcast(dy, shape):
    """Return dy summed to `shape`, for example (B, T, D) to (D,), (T, 1), (1, 1, D) or ()."""
    ### TODO: sum over the axes that were added on the left and over those that were stretched from 1
    ### BEGIN SOLUTION
    added = dy.ndim - len(shape)
    dx = np.sum(dy, axis=tuple(range(added)))
    stretched = tuple(axis for axis, size in enumerate(shape) if size == 1)
    return np.sum(dx, axis=stretched, keepdims=True)
    ### END SOLUTION


### BEGIN HINTS
# 1. Two kinds of axes disappear. Those that `shape` does not have are summed away. Those where
#    `shape` has a 1 are summed too, but they stay, with size 1.
# 2. `dy.ndim - len(shape)` axes were added, and they are the first ones. After summing them, dy and
#    `shape` have the same number of axes, and can be compared one by one.
# 3. First `np.sum(dy, axis=tuple(range(added)))`, then a sum with `keepdims=True` over every axis
#    whose size in `shape` is 1.
### END HINTS
