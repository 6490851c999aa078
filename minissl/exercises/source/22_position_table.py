"""22. Where a patch stands: sines and cosines

Attention does not know where a patch stands, so a table with one row for each place is added. That
of a masked autoencoder is fixed. With the D/4 frequencies

    ω_i = 10000^(-4i/D)        i = 0 … D/4 - 1

the patch in column x and row y of the grid (both counted from 0) has the row

    [sin(x ω), cos(x ω), sin(y ω), cos(y ω)]        four pieces of D/4 numbers; the column comes first

The class token stands before all patches and has no place: its row is zero.

Write `position_table(h, w, d)`: the table (1 + h·w, d) in float64: the class token, then the
patches of a grid of h rows and w columns, row by row. d divides by 4.

Check it with `minissl exercise check`. It goes with lesson 7.
"""

import numpy as np


def position_table(h, w, d):
    """Return the table (1 + h·w, d)."""
    ### TODO: the coordinates of every patch, the angles, and a row of zeros before them
    ### BEGIN SOLUTION
    omega = 10000.0 ** (-4 * np.arange(d // 4) / d)
    y, x = np.divmod(np.arange(h * w)[:, None], w)
    table = np.zeros((1 + h * w, d))
    table[1:] = np.concatenate([np.sin(x * omega), np.cos(x * omega), np.sin(y * omega), np.cos(y * omega)], axis=1)
    return table
    ### END SOLUTION


### BEGIN HINTS
# 1. First the coordinates. Row by row means that the column x changes fastest: x is 0, 1, …, w - 1,
#    0, 1, … and y is 0 w times, then 1 w times. Patch n is in row n // w and column n % w.
# 2. The angles of all patches at once: x of shape (h·w, 1) times ω of shape (d/4,) is (h·w, d/4).
#    Four such pieces side by side are d numbers.
# 3. `np.concatenate([np.sin(x * omega), np.cos(x * omega), np.sin(y * omega), np.cos(y * omega)],
#    axis=1)`, below a row of `np.zeros`.
### END HINTS
