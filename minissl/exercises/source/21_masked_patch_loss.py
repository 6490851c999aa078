"""21. The loss of a masked autoencoder

The model paints all N patches, and is asked about the M of the batch that were hidden. The target
of a patch of n numbers is what is in it less its mean, divided by its standard deviation:

    t = (patch - μ) / √(σ² + 1e-6)        σ² = Σ (patch - μ)² / (n - 1), the unbiased variance
    L = 1/(M n) Σ (prediction - t)²       over the M hidden patches and their n numbers
    dprediction = dL/dprediction          0 at the visible patches

Write `masked_patch_loss(prediction, patches, mask)`: prediction and patches (B, N, n), mask (B, N)
booleans, True = hidden, at least one of them. Return the loss, a number, and dprediction (B, N, n).
The target is not trained and gets no gradient.

Check it with `minissl exercise check`. It goes with lessons 8 and 9.
"""

import numpy as np


def masked_patch_loss(prediction, patches, mask):
    """Return loss, dprediction."""
    ### TODO: normalise each patch, compare at the hidden ones, and write down the gradient
    ### BEGIN SOLUTION
    n = patches.shape[-1]
    centred = patches - patches.mean(axis=-1, keepdims=True)
    variance = (centred * centred).sum(axis=-1, keepdims=True) / (n - 1)
    target = centred / np.sqrt(variance + 1e-6)
    difference = prediction[mask] - target[mask]
    dprediction = np.zeros_like(prediction)
    dprediction[mask] = 2 * difference / difference.size
    return (difference * difference).mean(), dprediction
    ### END SOLUTION


### BEGIN HINTS
# 1. Two steps that do not know of one another: the target, for each patch on its own; then a mean
#    squared error over the hidden patches alone. `prediction[mask]` is (M, n).
# 2. `patches.var(axis=-1, keepdims=True)` divides by n; with `ddof=1` it divides by n - 1. A patch
#    of one colour has variance 0, and 1e-6 under the root keeps the division from being 0/0.
# 3. With difference = prediction[mask] - target[mask], the loss is the mean of its squares over all
#    M·n numbers, and dprediction[mask] = 2 · difference / (M·n), in an array that began as zeros.
### END HINTS
