"""15. The corruption of masked language modelling

BERT hides 15 % of the words and asks for them. In each row of `input_ids` (B, T), only at positions
where `maskable` (B, T) is True (no [CLS], no [SEP], no padding), with n of them in the row:

    choose max(1, round(0.15 n)) positions, all equally likely, none twice
    each chosen id, on its own:  80 % → mask_id,  10 % → a random id of 0 … vocab_size - 1,  10 % → stays as it is
    labels: the original id at every chosen position, -100 everywhere else

Write `mask_tokens(input_ids, maskable, mask_id, vocab_size, rng)`: return masked_ids and labels,
integers (B, T). Draw from `rng`, a NumPy Generator, and from nothing else; leave `input_ids` as it
is. Every row has a maskable position.

Check it with `minissl exercise check`. It goes with lesson 6.
"""

import numpy as np

IGNORE = -100


def mask_tokens(input_ids, maskable, mask_id, vocab_size, rng):
    """Return masked_ids, labels."""
    ### TODO: for each row choose the positions, note their labels, then hide, replace or keep each id
    ### BEGIN SOLUTION
    masked_ids, labels = input_ids.copy(), np.full_like(input_ids, IGNORE)
    for row in range(len(input_ids)):
        positions = np.flatnonzero(maskable[row])
        for t in rng.choice(positions, max(1, round(0.15 * len(positions))), replace=False):
            labels[row, t] = input_ids[row, t]
            fate = rng.random()
            if fate < 0.8:
                masked_ids[row, t] = mask_id
            elif fate < 0.9:
                masked_ids[row, t] = rng.integers(vocab_size)
    return masked_ids, labels
    ### END SOLUTION


### BEGIN HINTS
# 1. Two questions, asked one after the other: which positions (and their labels, whatever happens
#    to them next), then what becomes of each. A loop over the rows is good enough.
# 2. Start from a copy of the ids and from labels full of -100. `np.flatnonzero(maskable[row])`
#    lists the positions that may be chosen; `rng.choice(…, replace=False)` chooses without repeats.
# 3. One `rng.random()` for each chosen position: below 0.8 mask, below 0.9 random, else nothing to
#    do. `rng.integers(n)` draws 0 … n - 1. The label is set in all three cases.
### END HINTS
