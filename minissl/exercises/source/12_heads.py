"""12. Many heads: split and merge

Multi-head attention runs H small attentions side by side. Head h looks only at features h·K …
(h+1)·K - 1 of q, k and v (B, T, D), where K = D/H, and its result goes back to the same place:

    q (B, T, D) → (B, H, T, K)        attention in each head        (B, H, T, K) → y (B, T, D)

Write `multi_head(q, k, v, heads)`: split, attend with the given `attention`, merge. Return y (B, T,
D). The keys may have another length than the queries: k and v are (B, S, D).

Check it with `minissl exercise check`. It goes with lesson 5.
"""

import math

import numpy as np


def attention(q, k, v):
    """softmax(q kᵀ/√K) v over the last two axes; the leading ones are free."""
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True) @ v


def multi_head(q, k, v, heads):
    """Return y (B, T, D): `heads` attentions, each on its own slice of the features."""
    ### TODO: split q, k and v into heads, attend, and put the heads side by side again
    ### BEGIN SOLUTION
    split = [x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2) for x in (q, k, v)]
    y = attention(*split)
    return y.swapaxes(1, 2).reshape(q.shape)
    ### END SOLUTION


### BEGIN HINTS
# 1. D is the last axis, and the features of one head are neighbours in it: cutting D into (H, K) is
#    a reshape. Bringing H in front of T is not; that needs a swap of axes.
# 2. Split: (B, T, D) → reshape (B, T, H, K) → swap axes 1 and 2 → (B, H, T, K). Merge: the same
#    steps backwards.
# 3. `x.reshape(B, T, heads, -1).swapaxes(1, 2)`, and after attention
#    `.swapaxes(1, 2).reshape(B, T, D)`. A reshape straight to (B, H, T, K) has the right shape and
#    the wrong numbers.
### END HINTS
