"""7. Embedding, backward

    y = weight[ids]        ids (…) integers, weight (V, D), y (…, D)

Looking up is linear: row v of the table is copied to every place where the id is v. A word that
occurs three times in the batch gets three gradients, and a word that does not occur gets none.

Write `embedding_backward(dy, cache)`: dweight (V, D). The ids are integers and get no gradient.

Check it with `minissl exercise check`. It goes with lesson 1.
"""

import numpy as np


def embedding_forward(ids, weight):
    """y = weight[ids]; the cache holds the ids and the table's shape."""
    return weight[ids], (ids, weight.shape)


def embedding_backward(dy, cache):
    """Return dweight."""
    ids, shape = cache
    ### TODO: add each row of dy to the row of the table that it came from
    ### BEGIN SOLUTION
    dweight = np.zeros(shape, dy.dtype)
    np.add.at(dweight, ids, dy)
    return dweight
    ### END SOLUTION


### BEGIN HINTS
# 1. Start with a table of zeros, and send every row of dy back to where it was copied from. Where
#    two rows go to one place, they add.
# 2. `dweight[ids] = dy` keeps only the last of equal ids, and so does `dweight[ids] += dy`: NumPy
#    reads the rows once, adds, and writes them back.
# 3. `np.add.at(dweight, ids, dy)` adds one after another. And np.zeros makes float64 unless told:
#    pass dy.dtype.
### END HINTS
