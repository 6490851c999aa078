"""14. Tied weights

BERT reads words with a table (V, D) and predicts words with the same table:

    h = tanh(weight[ids])        logits = h weightᵀ + bias

ids (B, T), h (B, T, D), logits (B, T, V), bias (V,). The tanh stands for the whole model between.
The one table is used twice, so its gradient has two parts: from the prediction, for all V rows, and
from the reading, for the rows of the ids.

Write `tied_backward(dlogits, cache)`: return dweight (V, D), dbias (V,).

Check it with `minissl exercise check`. It goes with lesson 6.
"""

import numpy as np


def tied_forward(ids, weight, bias):
    """logits = tanh(weight[ids]) weightᵀ + bias."""
    h = np.tanh(weight[ids])
    return h @ weight.T + bias, (ids, weight, h)


def tied_backward(dlogits, cache):
    """Return dweight, dbias."""
    ids, weight, h = cache
    ### TODO: the decoder's part of dweight, then back to the embedding, and the sum of both parts
    ### BEGIN SOLUTION
    drows = dlogits.reshape(-1, dlogits.shape[-1])
    dweight = drows.T @ h.reshape(-1, h.shape[-1])
    dh = dlogits @ weight
    np.add.at(dweight, ids, dh * (1 - h * h))
    return dweight, drows.sum(axis=0)
    ### END SOLUTION


### BEGIN HINTS
# 1. Pretend that there are two tables, one for reading and one for predicting. Find the gradient of
#    each; they were the same table, so add them.
# 2. Predicting is a linear layer (exercise 2): dweight = dlogitsᵀ h over all rows, dh = dlogits
#    weight. Then tanh: times 1 - h². Then the embedding (exercise 7), where equal ids add.
# 3. Start dweight with the product of (V, R) and (R, D). Then `np.add.at(dweight, ids, …)` puts the
#    reading's part on top.
### END HINTS
