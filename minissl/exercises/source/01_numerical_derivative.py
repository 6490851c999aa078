"""1. The numerical derivative

Every gradient in this course is checked against measured slopes. Move one entry of x by a small
step h, both ways:

    ∂f/∂x_i ≈ (f(x with x_i + h) - f(x with x_i - h)) / 2h

The error is of order h², because both sides are asked; with one side only it is of order h.

Write `numerical_gradient(f, x, step)`: f takes an array of the shape of x and returns a number; x
holds floats and may have any shape. Return an array of the shape of x, one slope for each entry,
and leave x itself as it is.

Check it with `minissl exercise check`. It goes with lesson 1.
"""

import numpy as np


def numerical_gradient(f, x, step):
    """Return ∂f/∂x by central differences; the shape of x."""
    ### TODO: for each entry of x, ask f one step above and one step below
    ### BEGIN SOLUTION
    gradient = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        above, below = x.copy(), x.copy()
        above[i] += step
        below[i] -= step
        gradient[i] = (f(above) - f(below)) / (2 * step)
    return gradient
    ### END SOLUTION


### BEGIN HINTS
# 1. One slope needs two calls of f. The two calls differ in a single entry of x, so the whole job
#    is a loop over the entries.
# 2. `for i in np.ndindex(x.shape)` visits every entry of an array of any shape; x[i] is then one
#    number. Work on a copy of x, so that the next entry starts from the true x.
# 3. With `above = x.copy()` and `above[i] += step`, and `below` likewise:
#    `(f(above) - f(below)) / (2 * step)`.
### END HINTS
