"""Which rows a step learns from, and batches that are made while the step before them computes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import lru_cache
from time import perf_counter
from types import TracebackType
from typing import Self

import numpy as np

from minissl.backend import Array
from minissl.errors import InputError

Batch = dict[str, Array]


def rows_of(step: int, n: int, batch_size: int, seed: int) -> Array:
    """The rows (batch_size,) of step 1, 2, …: shuffled passes over n rows, one after the other, cut into batches.

    A pure function of its arguments, so a run that resumes goes on with the same rows. A batch may hold the end of a
    pass and the beginning of the next. Raises InputError for a step below 1, no rows, or an empty batch.
    """
    if step < 1 or n < 1 or batch_size < 1:
        raise InputError(f"step {step}, {n} rows, batches of {batch_size}: expected 1 or more of each")
    at = (step - 1) * batch_size + np.arange(batch_size)
    passes = [_shuffled(n, number, seed) for number in range(at[0] // n, at[-1] // n + 1)]
    rows: Array = np.concatenate(passes)[at - at[0] // n * n]
    return rows


@lru_cache(maxsize=4)  # shuffling 60,000 rows costs more than a batch
def _shuffled(n: int, number: int, seed: int) -> Array:
    order: Array = np.random.default_rng([seed, number]).permutation(n)
    order.flags.writeable = False
    return order


class Loader:
    """`loader(step)` is `make(step)`, made by a thread of its own while the steps before it compute.

    `make` must be a pure function of the step: then every step's batch is the same in whatever order steps are asked
    for, and after a resume. NumPy releases the interpreter's lock, so making a batch costs the training little where a
    core is idle now and then. What `make` raises is raised by `loader(step)`.
    """

    def __init__(self, make: Callable[[int], Batch], first: int, last: int, ahead: int = 2):
        """Begin with step `first`; `last` is the last step, and `ahead` batches at most are made before their time."""
        self.waited = 0.0  # seconds that `loader(step)` waited for its batch, in all
        self._make = make
        self._last = last
        self._ahead = ahead
        self._pool = ThreadPoolExecutor(1, "minissl-loader")
        self._waiting: dict[int, Future[Batch]] = {}
        self._begin(first)

    def __call__(self, step: int) -> Batch:
        """The batch of a step; those that follow it are begun."""
        for other in [other for other in self._waiting if not step <= other <= step + self._ahead]:
            self._waiting.pop(other).cancel()
        if step not in self._waiting:
            self._submit(step)
        batch = self._waiting.pop(step)
        self._begin(step + 1)
        start = perf_counter()
        try:
            return batch.result()
        finally:
            self.waited += perf_counter() - start

    def _begin(self, step: int) -> None:
        for number in range(step, min(step + self._ahead, self._last + 1)):
            if number not in self._waiting:
                self._submit(number)

    def _submit(self, step: int) -> None:
        self._waiting[step] = self._pool.submit(copy_context().run, self._make, step)  # with the caller's np.errstate

    def close(self) -> None:
        """End the thread, after the batch that it is at; what waits is dropped. Closing twice does no harm."""
        self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
