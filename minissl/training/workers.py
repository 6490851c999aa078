"""One step's work split over the machine's cores, with the same bits for the same number of threads."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextvars import copy_context
from itertools import pairwise
from typing import Any, TypeVar

from minissl.backend import Array

Result = TypeVar("Result")


class Workers:
    """A fixed number of threads, with BLAS held to one thread each while they exist.

    NumPy releases the interpreter's lock inside its loops, so element-wise work spreads over the cores as the matrix
    products do; BLAS's own threads would spin on the very cores that the others need.
    """

    def __init__(self, threads: int):
        from threadpoolctl import threadpool_limits

        keep_freed_memory()
        self.threads = threads
        self._limit = threadpool_limits(limits=1, user_api="blas")
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def map(self, work: Callable[[int], Result], count: int) -> list[Result]:
        """Return [work(0), …, work(count-1)], in that order, whoever finishes first.

        The threads see the caller's `np.errstate`. What one of them raises is raised once all have ended.
        """
        if self._pool is None or count == 1:
            return [work(i) for i in range(count)]
        futures = [self._pool.submit(copy_context().run, work, i) for i in range(count)]
        wait(futures)
        return [future.result() for future in futures]

    def close(self) -> None:
        """End the threads and give BLAS its own back."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._limit.restore_original_limits()


def keep_freed_memory() -> None:
    """Ask the GNU C library to keep freed memory for the process, for good; elsewhere this does nothing.

    By default every large temporary is a new mapping of zeroed pages, which a step touches one by one and gives back.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # Windows, macOS, other C libraries
        return
    m_mmap_threshold, m_trim_threshold = -3, -1
    mallopt(m_mmap_threshold, 1 << 30)
    mallopt(m_trim_threshold, 1 << 30)


def available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def split_rows(batch: dict[str, Array], shares: int) -> list[dict[str, Array]]:
    """Cut a batch into at most `shares` parts of neighbouring rows, sizes as equal as they can be."""
    rows = len(next(iter(batch.values())))
    shares = min(shares, rows)
    edges = [rows * i // shares for i in range(shares + 1)]
    return [{k: v[a:b] for k, v in batch.items()} for a, b in pairwise(edges)]


def slices(size: int, parts: int, align: int = 1024) -> list[Any]:
    """Cut range(size) into `parts` slices whose edges are multiples of `align`, the same on every call."""
    edges = [min(size, -(-size * i // parts // align) * align) for i in range(parts)] + [size]
    return [slice(a, b) for a, b in pairwise(edges)]
