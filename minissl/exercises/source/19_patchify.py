"""19. Patches, and the image again

A ViT cuts an image (C, H, W) into N = H/P · W/P patches of P × P pixels, row by row, and makes one
row of numbers of each, in the order row, column, channel:

    images (…, C, H, W)  →  y (…, N, P·P·C)        side = P, h = H/P, w = W/P, N = h·w

The forward pass is given. It computes nothing and carries each pixel to another place, so backward
carries each gradient to where its pixel came from.

Write `patchify_backward(dy, cache)`: dimages (…, C, H, W). It is also what puts an image together
again out of patches that a model has painted.

Check it with `minissl exercise check`. It goes with lesson 7.
"""

import numpy as np


def patchify_forward(images, side):
    """Cut images (…, C, H, W) into patches (…, N, P·P·C)."""
    *leading, channels, height, width = images.shape
    h, w = height // side, width // side
    x = images.reshape(*leading, channels, h, side, w, side)  # (…, C, h, P, w, P)
    x = np.moveaxis(x, -5, -1)  # (…, h, P, w, P, C)
    x = x.swapaxes(-4, -3)  # (…, h, w, P, P, C)
    return x.reshape(*leading, h * w, side * side * channels), (side, height, width)


def patchify_backward(dy, cache):
    """Return dimages."""
    side, height, width = cache
    ### TODO: the steps of the forward pass, backwards and in reverse order
    ### BEGIN SOLUTION
    *leading, _, numbers = dy.shape
    h, w, channels = height // side, width // side, numbers // side**2
    x = dy.reshape(*leading, h, w, side, side, channels)
    x = x.swapaxes(-4, -3)
    x = np.moveaxis(x, -1, -5)
    return x.reshape(*leading, channels, height, width)
    ### END SOLUTION


### BEGIN HINTS
# 1. Forward: reshape, move C to the end, swap two axes, reshape. Backward undoes the last of these
#    first. The shape in each comment tells what the step before has to give back.
# 2. The first step splits again what the last reshape of forward has joined: (…, N, P·P·C) →
#    (…, h, w, P, P, C). The number of channels follows from the last axis of dy: it is P·P·C.
# 3. Undo the swap by the same swap, `swapaxes(-4, -3)`, and the move by the move back,
#    `np.moveaxis(x, -1, -5)`. Only then, at (…, C, h, P, w, P), may a reshape join h with P and w
#    with P.
### END HINTS
