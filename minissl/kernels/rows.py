"""The gradient of a table of which few rows were read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from minissl.backend import Array


@dataclass(frozen=True)
class RowGradient:
    """`rows[i]` is the gradient of row `ids[i]`; no id stands twice, and every other row's gradient is zero."""

    ids: Array
    rows: Array
    shape: tuple[int, ...]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """The whole table's gradient, as NumPy asks for it: `np.asarray(gradient)`."""
        dense = np.zeros(self.shape, dtype or self.rows.dtype)
        dense[self.ids] = self.rows
        return dense
