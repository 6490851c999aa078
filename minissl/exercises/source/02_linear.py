"""2. The linear layer, backward

    y = x Wᵀ + b        x (…, D), W (F, D), b (F,), y (…, F)

Every row of x, whatever the leading axes (a batch, positions, heads), meets the same W and b.

Write `linear_backward(dy, cache)`: from dy (…, F) return dx (…, D), dweight (F, D), dbias (F,), in
this order. The number of leading axes may be none, one, two or three.

Check it with `minissl exercise check`. It goes with lesson 1.
"""

import numpy as np


def linear_forward(x, weight, bias):
    """y = x Wᵀ + b; the cache holds the two factors."""
    return x @ weight.T + bias, (x, weight)


def linear_backward(dy, cache):
    """Return dx, dweight, dbias."""
    x, weight = cache
    ### TODO: dx, dweight and dbias; the last two collect something from every row
    ### BEGIN SOLUTION
    dx = dy @ weight
    rows, drows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    return dx, drows.T @ rows, np.sum(drows, axis=0)
    ### END SOLUTION


### BEGIN HINTS
# 1. Which entries of y does one entry of W touch? One in every row: its gradient is a sum over all
#    rows. So is that of b.
# 2. y_f = Σ_d W_fd x_d + b_f gives dx_d = Σ_f dy_f W_fd, dW_fd = Σ_rows dy_f x_d, db_f = Σ_rows
#    dy_f. The shapes leave only one way to multiply.
# 3. Make x (R, D) and dy (R, F) first: `rows = x.reshape(-1, x.shape[-1])`, and dy in the same way.
#    A product (F, R) @ (R, D) sums over the rows by itself.
### END HINTS
