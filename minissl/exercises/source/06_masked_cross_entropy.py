"""6. Cross-entropy over the masked positions

Masked language modelling asks about M hidden positions of the batch, and about no other. `labels`
holds the true id there and -100 everywhere else:

    L = -1/M Σ log softmax(logits)[label]        the sum and M over the positions with label ≠ -100
    dlogits = (softmax(logits) - onehot(label)) / M        there, and 0 everywhere else

Write `masked_cross_entropy(logits, labels)`: logits (B, T, V), integer labels (B, T), at least one
of them not -100. Return the loss, a number, and dlogits (B, T, V). Logits may be large (1000)
without an overflow.

Check it with `minissl exercise check`. It goes with lesson 2.
"""

import numpy as np

IGNORE = -100


def masked_cross_entropy(logits, labels):
    """Return loss, dlogits."""
    ### TODO: the mean loss over the positions that have a label, and its gradient for all logits
    ### BEGIN SOLUTION
    b, t = np.nonzero(labels != IGNORE)
    targets, rows = labels[b, t], np.arange(len(b))
    scores = logits[b, t]
    scores = scores - scores.max(axis=-1, keepdims=True)
    log_probs = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    dlogits = np.zeros_like(logits)
    dlogits[b, t] = np.exp(log_probs)
    dlogits[b, t, targets] -= 1
    return -log_probs[rows, targets].mean(), dlogits / len(rows)
    ### END SOLUTION


### BEGIN HINTS
# 1. Pick the M rows that have a label first. Then it is an ordinary cross-entropy over (M, V), and
#    the ignored positions cannot leak into the loss, the count or the gradient.
# 2. log softmax(z) = z - max(z) - log Σ exp(z - max(z)). The row's maximum makes every exponent at
#    most 0.
# 3. `b, t = np.nonzero(labels != IGNORE)`, then `logits[b, t]` is (M, V) and `labels[b, t]` is
#    (M,). Start dlogits with zeros, fill `dlogits[b, t]`, and take 1 off at
#    `dlogits[b, t, targets]`. Divide by M.
### END HINTS
