"""4. GELU, backward, with ReLU as the example

ReLU lets an entry through or stops it, y = x [x > 0]. GELU weighs it by the probability that a
standard normal number lies below it:

    y = x Φ(x)        Φ'(x) = φ(x) = exp(-x²/2) / √(2π)

An activation acts on each entry alone, so its backward is dy times the slope at that entry. The
ReLU pair shows the pattern: it is complete.

Write `gelu_backward(dy, cache)`: dx, of the shape of x.

Check it with `minissl exercise check`. It goes with lesson 1.
"""

import math

import numpy as np


def relu_forward(x):
    """y = max(x, 0); the cache is x."""
    return np.maximum(x, 0), x


def relu_backward(dy, cache):
    """The slope of ReLU is 1 where x > 0, else 0."""
    x = cache
    return dy * (x > 0)


def gelu_forward(x):
    """y = x Φ(x); the cache is x and Φ(x)."""
    erf = np.array([math.erf(entry / math.sqrt(2)) for entry in x.flat], x.dtype).reshape(x.shape)
    phi = 0.5 * (1 + erf)
    return x * phi, (x, phi)


def gelu_backward(dy, cache):
    """Return dx."""
    x, phi = cache
    ### TODO: dy times the slope of x Φ(x); `phi` is Φ(x)
    ### BEGIN SOLUTION
    density = np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return dy * (phi + x * density)
    ### END SOLUTION


### BEGIN HINTS
# 1. x Φ(x) is a product, and both of its factors move when x moves.
# 2. The product rule: (x Φ(x))' = Φ(x) + x φ(x), with φ from the text above.
# 3. `density = np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)`; then dy times the bracket of hint 2.
#    Constants from `math` leave float32 arrays in float32.
### END HINTS
