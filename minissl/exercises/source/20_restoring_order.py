"""20. Restoring the order

A masked autoencoder shuffles an image's N patches, keeps the first K and encodes those alone:

    visible[k] = x[shuffle[k]]        for k = 0 … K - 1; shuffle (B, N) is a permutation in each row

The decoder wants N again, each in its own place, with the same mask token in all places that were
hidden. Behind the K visible patches we put N - K tokens; then everything stands in shuffled order,

    everything = [visible; token; …; token]        y[n] is the one of `everything` that was patch n

Write `restore_forward(visible, mask_token, shuffle)`: visible (B, K, D), mask_token (D,), shuffle
(B, N). Return y (B, N, D) and the cache that the given backward takes: ids (B, N), with y[n] =
everything[ids[n]], and K.

Check it with `minissl exercise check`. It goes with lesson 8.
"""

import numpy as np


def restore_forward(visible, mask_token, shuffle):
    """Return y, (ids, K)."""
    ### TODO: add the mask tokens, find the permutation that undoes `shuffle`, and index with it
    ### BEGIN SOLUTION
    B, K, D = visible.shape
    N = shuffle.shape[1]
    tokens = np.broadcast_to(mask_token, (B, N - K, D))
    everything = np.concatenate([visible, tokens], axis=1)
    ids = np.argsort(shuffle, axis=1)
    rows = np.arange(B)[:, None]
    return everything[rows, ids], (ids, K)
    ### END SOLUTION


def restore_backward(dy, cache):
    """Return dvisible, dmask_token: each gradient goes where its patch came from; the token was used often."""
    ids, K = cache
    deverything = np.zeros_like(dy)
    deverything[np.arange(len(ids))[:, None], ids] = dy
    return deverything[:, :K], deverything[:, K:].sum(axis=(0, 1))


### BEGIN HINTS
# 1. Take N = 3 and shuffle = [2, 0, 1]. `everything` holds patch 2, patch 0, patch 1. Patch 0
#    stands at place 1, patch 1 at place 2, patch 2 at place 0: ids = [1, 2, 0]. It is not shuffle.
# 2. ids is the inverse permutation: ids[shuffle[k]] = k. The argsort of a permutation is its
#    inverse, because sorting it brings k back to place shuffle[k].
# 3. `np.argsort(shuffle, axis=1)`. Every image has its own permutation, so index with two arrays,
#    `everything[np.arange(B)[:, None], ids]`. `np.broadcast_to(mask_token, (B, N - K, D))` are the
#    tokens, for `np.concatenate` along axis 1.
### END HINTS
