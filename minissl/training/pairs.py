"""The gradients of two threads in one flat buffer: a large model then needs it once, and no pass sums two of them.

Of each parameter both threads' first gradients meet as a + b, which is b + a to the last bit, so it does not matter
who comes first. What else is added waits, and follows in the threads' order.
"""

from __future__ import annotations

from collections import deque
from threading import Lock
from typing import Any

from minissl.backend import Array
from minissl.kernels.rows import RowGradient
from minissl.nn import Grads, Param
from minissl.nn.module import require_shape

AHEAD = 16  # parameters, about a layer's: of how many a thread's gradients are kept, in a step's first micro-batch
WAITING = 2  # sums that may wait for the thread that is ahead


class PairedGrads:
    """Both threads' gradients, and the buffer of their sum."""

    def __init__(self, module: Any):
        self.sum = Grads(module)
        self.halves = (Half(self), Half(self))
        self._lock = Lock()
        self._first: dict[Param, Array | None] = {}  # one thread's, before the other's; None: in the buffer already
        self._both: deque[tuple[Param, Array | None, Array]] = deque()  # what is to be summed

    def give(self, param: Param, gradient: Array) -> None:
        """Take a thread's first gradient of a parameter; kept as it is, since nobody changes what was added."""
        with self._lock:
            alone = param not in self._first
            if not alone:
                self._both.append((param, self._first.pop(param), gradient))
            elif len(self._first) < AHEAD or self.sum.has(param):
                self._first[param] = gradient  # a sum that is begun takes a + b, or its bits would tell who was first
            else:  # this thread is far ahead; it takes the room that the sum will take
                self.sum.add(param, gradient)
                self._first[param] = None
        if alone or len(self._both) > WAITING:  # the thread that is ahead does the sums, which keeps the two together
            self._add_up()

    def _add_up(self) -> None:
        while self._both:
            try:
                param, a, b = self._both.popleft()
            except IndexError:  # the other thread took it
                return
            if a is None:
                self.sum.add(param, b)
            else:
                self.sum.add_both(param, a, b)

    def settle(self) -> None:
        """Once both threads are done with a micro-batch: sum what is left."""
        self._add_up()
        for param, gradient in self._first.items():
            if gradient is not None:
                self.sum.add(param, gradient)
        self._first.clear()
        for half in self.halves:
            half.hand_over(self.sum)

    def collect(self) -> Array:
        """As `Grads.collect`, of the sum."""
        self.settle()
        return self.sum.collect()


class Half(Grads):
    """What one of the two threads adds to."""

    def __init__(self, pair: PairedGrads):
        self.pair = pair
        self.added, self.loss_scale = None, 1.0
        self.flat, self._views, self._written = pair.sum.flat, pair.sum._views, pair.sum._written
        self._given: set[Param] = set()
        self._later: list[tuple[Param, RowGradient]] = []
        self._again: dict[Param, Array] = {}

    def add(self, param: Param, gradient: Array | RowGradient) -> None:
        """As `Grads.add`, save that the sum is there once both threads have added and `settle` was called."""
        require_shape(param, gradient)
        if isinstance(gradient, RowGradient):
            self._later.append((param, gradient))
            return
        gradient = gradient.astype(param.data.dtype, copy=False)  # as in the buffer: one rounding, whoever is first
        if param not in self._given:
            self._given.add(param)
            self.pair.give(param, gradient)
        else:
            before = self._again.get(param)
            self._again[param] = gradient if before is None else before + gradient

    def hand_over(self, total: Grads) -> None:
        """Add to the sum what waited."""
        for param, gradient in self._again.items():
            total.add(param, gradient)
        for param, rows in self._later:
            total.add(param, rows)
        self._given.clear()
        self._again.clear()
        self._later.clear()
