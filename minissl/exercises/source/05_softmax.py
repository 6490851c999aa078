"""5. Softmax, backward

    y_i = exp(x_i) / Σ_j exp(x_j)        over the last axis; x and y (…, V)

The entries of a row share one sum, so each x_j moves every y_i:  ∂y_i/∂x_j = y_i ([i = j] - y_j).

Write `softmax_backward(dy, cache)`: dx (…, V). The cache is y; nothing else is needed, and no
matrix of slopes either.

Check it with `minissl exercise check`. It goes with lesson 2.
"""

import numpy as np


def softmax_forward(x):
    """Softmax over the last axis. Taking the row's maximum off first changes nothing but keeps exp from overflowing."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    y = e / e.sum(axis=-1, keepdims=True)
    return y, y


def softmax_backward(dy, cache):
    """Return dx."""
    y = cache
    ### TODO: dx from y and dy, row by row
    ### BEGIN SOLUTION
    return y * (dy - (y * dy).sum(axis=-1, keepdims=True))
    ### END SOLUTION


### BEGIN HINTS
# 1. The chain rule sums over everything that x_j moved: dx_j = Σ_i dy_i ∂y_i/∂x_j. Put the slopes
#    of the text in.
# 2. The [i = j] leaves one term, the rest is one number for each row: dx_j = y_j (dy_j - Σ_i y_i
#    dy_i).
# 3. That number is `(y * dy).sum(axis=-1, keepdims=True)`: keepdims lets it broadcast back over its
#    row.
### END HINTS
