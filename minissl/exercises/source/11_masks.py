"""11. Padding and causal masks

A tokenizer pads short texts and says in `attention_mask` (B, S) which positions are real (1) and
which padding (0). Attention wants to know who may look at whom, as booleans that broadcast to its
scores (B, H, T, S), True = may attend:

    padding   (B, 1, 1, S)   a key that is padding is hidden from every query
    causal    (B, 1, T, S)   and query t sees the keys 0 … t only, itself included (here T = S)

Write `make_mask(attention_mask, causal)`: the first shape where `causal` is False, the second where
it is True.

Check it with `minissl exercise check`. It goes with lesson 5.
"""

import numpy as np


def make_mask(attention_mask, causal):
    """Return a boolean mask, True = may attend."""
    ### TODO: the padding mask, and with `causal` the lower triangle too
    ### BEGIN SOLUTION
    mask = attention_mask.astype(bool)[:, None, None, :]
    if causal:
        mask = mask & np.tri(attention_mask.shape[1], dtype=bool)
    return mask
    ### END SOLUTION


### BEGIN HINTS
# 1. Padding is about keys, so S comes last. Axes of size 1 say "the same for every head" and "the
#    same for every query".
# 2. `attention_mask[:, None, None, :]` is (B, 1, 1, S). Causal means key s ≤ query t: the lower
#    triangle with its diagonal, a (T, S) array. A pair may attend where both allow it.
# 3. `np.tri(n, dtype=bool)` is that triangle, and `&` between booleans broadcasts. `attention_mask`
#    holds integers: they must become booleans first.
### END HINTS
