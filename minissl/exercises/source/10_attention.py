"""10. Scaled dot-product attention, backward

    scores = q kᵀ / √K        weights = softmax(scores)        y = weights v

q (…, T, K), k (…, S, K), v (…, S, K'), scores and weights (…, T, S), y (…, T, K'). Where the
boolean mask is False the score counts as -∞, so its weight is 0. A query that may attend to nothing
has no weights at all, and y is 0 there.

Write `attention_backward(dy, cache)`: from dy (…, T, K') return dq, dk, dv.

Check it with `minissl exercise check`. It goes with lesson 4. Once it passes, train a BERT with it; it
knows no dropout, hence the 0:

    minissl pretrain --with minissl-exercises/10_attention.py --data hmm --dropout 0
"""

import math

import numpy as np


def attention_forward(q, k, v, mask=None):
    """y = softmax(q kᵀ/√K) v; mask is boolean, broadcast to (…, T, S), True = may attend."""
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = np.where(mask, scores, -math.inf)
    highest = scores.max(axis=-1, keepdims=True)
    e = np.exp(scores - np.where(highest > -math.inf, highest, 0))
    total = e.sum(axis=-1, keepdims=True)
    weights = e / np.where(total > 0, total, 1)
    return weights @ v, (q, k, v, weights)


def attention_backward(dy, cache):
    """Return dq, dk, dv."""
    q, k, v, weights = cache
    ### TODO: the three steps of the forward pass in reverse
    ### BEGIN SOLUTION
    dv = weights.swapaxes(-1, -2) @ dy
    dweights = dy @ v.swapaxes(-1, -2)
    dscores = weights * (dweights - (weights * dweights).sum(axis=-1, keepdims=True))
    dscores = dscores / math.sqrt(q.shape[-1])
    return dscores @ k, dscores.swapaxes(-1, -2) @ q, dv
    ### END SOLUTION


### BEGIN HINTS
# 1. Two matrix products with a softmax (exercise 5) between them. For a product y = a b: da = dy bᵀ
#    and db = aᵀ dy. The transpose swaps the last two axes only: `.swapaxes(-1, -2)`, not `.T`.
# 2. dv = weightsᵀ dy, dweights = dy vᵀ, dscores = weights (dweights - Σ_S weights dweights), dq =
#    dscores k/√K, dk = dscoresᵀ q/√K. A weight of 0 stops its gradient: nothing needs the mask
#    again.
# 3. `dscores.swapaxes(-1, -2) @ q` is dk: the scores are (T, S), k has S rows. Both dq and dk need
#    the 1/√K, dv does not.
### END HINTS
