"""Loss scaling: small gradients pass through float16 as larger numbers (Micikevicius et al. 2018, section 3.2)."""

from __future__ import annotations

import numpy as np

from minissl.backend import Array

FIRST = 2.0**16  # more than most models bear: the first steps halve it to what this one does
GROW_AFTER = 2000


class LossScale:
    """S: the gradient of each loss starts at S instead of 1, and what reaches the weights is divided by S again.

    float16 has nothing between 0 and 6e-8, where many gradients lie, and ends at 65504. S is a power of two, so it
    changes no digit: it halves when a gradient overflows, and doubles after every `GROW_AFTER` steps without that.
    """

    def __init__(self) -> None:
        self._state: Array = np.array([FIRST, 0.0])  # S, and the steps since it last changed

    @property
    def value(self) -> float:
        """S as it stands."""
        return float(self._state[0])

    def state(self) -> dict[str, Array]:
        """What a resumed run needs, in arrays to be written over."""
        return {"loss_scale": self._state}

    def halve(self) -> bool:
        """After an overflow; False where S is 1 already, so that the gradient itself does not fit."""
        if self.value <= 1:
            return False
        self._state[:] = self.value / 2, 0
        return True

    def stepped(self) -> None:
        """After a step whose gradient was finite."""
        self._state[1] += 1
        if self._state[1] == GROW_AFTER:
            self._state[:] = self.value * 2, 0


class NoLossScale:
    """What stands in its place where no gradient passes through float16: S = 1, with nothing to halve or to keep."""

    value = 1.0

    def state(self) -> dict[str, Array]:
        """Nothing."""
        return {}

    def halve(self) -> bool:
        """Never."""
        return False

    def stepped(self) -> None:
        """Nothing changes."""
