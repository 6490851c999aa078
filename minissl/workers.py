"""Work split over the machine's cores, with the same bits for the same number of threads."""

from __future__ import annotations

import ctypes
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import ContextVar, copy_context
from itertools import pairwise
from threading import Lock
from typing import Any, Self, TypeVar

from minissl.backend import Array

Result = TypeVar("Result")

BETWEEN_LOOKS = 1e-4  # seconds between two calls of what a caller does meanwhile
SHARE_TOKENS = 512  # of an evaluation's share: enough that a matrix product is at its fastest, few enough for the cache


class Workers:
    """A fixed number of threads, with BLAS held to one thread each while they exist.

    NumPy releases the interpreter's lock inside its loops, so element-wise work spreads over the cores as the matrix
    products do; BLAS's own threads would spin on the very cores that the others need.
    """

    def __init__(self, threads: int):
        keep_freed_memory()
        self.threads = threads
        self._blas = _shared.blas
        self._blas.hold()
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def map(
        self, work: Callable[[int], Result], count: int, meanwhile: Callable[[], None] | None = None
    ) -> list[Result]:
        """Return [work(0), …, work(count-1)], in that order, whoever finishes first.

        The threads see the caller's `np.errstate`. What one of them raises is raised once all have ended. `meanwhile`
        is called by the caller's thread, again and again until then; even a single piece of work is then a thread's.
        """
        if meanwhile is not None and self._pool is None:
            self._pool = ThreadPoolExecutor(1)
        if self._pool is None or (count == 1 and meanwhile is None):
            return [copy_context().run(_marked, work, i) for i in range(count)]
        futures: list[Future[Result]] = []
        try:
            for i in range(count):
                futures.append(self._pool.submit(copy_context().run, _marked, work, i))
            while meanwhile is not None and wait(futures, timeout=BETWEEN_LOOKS).not_done:
                meanwhile()
            wait(futures)
        except BaseException:  # after Ctrl-C too nobody works on, into the gradients of a later step
            wait(futures)
            raise
        return [future.result() for future in futures]

    def __enter__(self) -> Self:
        """The threads, for a block at whose end they are closed."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close them, whatever the block came to."""
        self.close()

    def close(self) -> None:
        """End the threads and give BLAS its own back."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._blas.release()


_splitting: ContextVar[bool] = ContextVar("splitting", default=False)  # this thread has a share of split work already


def _marked(work: Callable[..., Result], *args: Any) -> Result:
    _splitting.set(True)
    return work(*args)


class _BlasLimit:
    """BLAS on one thread while anyone holds it there: trainers and evaluations, from several threads at once."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._holders = 0
        self._controller: Any = None  # looking for the libraries takes a millisecond: once
        self._limiter: Any = None
        self.threads = 1  # what BLAS had before: its own default, OPENBLAS_NUM_THREADS or threadpoolctl's

    def hold(self) -> None:
        """Hold BLAS to one thread."""
        with self._lock:
            if self._holders == 0:
                if self._controller is None:
                    from threadpoolctl import ThreadpoolController

                    self._controller = ThreadpoolController().select(user_api="blas")
                self.threads = max((b["num_threads"] for b in self._controller.info()), default=available_cores())
                self._limiter = self._controller.limit(limits=1)
            self._holders += 1

    def release(self) -> None:
        """Let go; the last one to do so gives BLAS its threads back."""
        with self._lock:
            self._holders -= 1
            if self._holders == 0:
                self._limiter.restore_original_limits()


class _Evaluation:
    """What evaluations share: threads that wait for work, made when first needed, and the limit on BLAS."""

    def __init__(self) -> None:
        self.blas = _BlasLimit()
        self._lock = Lock()
        self._pool: ThreadPoolExecutor | None = None

    def pool(self) -> ThreadPoolExecutor:
        """The threads beside the caller's own, one for each further core."""
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(max(1, available_cores() - 1), "minissl-evaluation")
            return self._pool


_shared = _Evaluation()


def _after_fork() -> None:
    """The child has none of its parent's threads, and a lock may have been held: begin afresh, with BLAS set free."""
    global _shared
    before, _shared = _shared.blas, _Evaluation()
    if before._holders:
        before._limiter.restore_original_limits()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def map_row_shares(work: Callable[[slice], Result], rows: int, tokens: int) -> list[Result]:
    """Return `work` of neighbouring slices of `rows` rows, in order, done by all cores; each row is `tokens` long.

    The slices depend on nothing but the sizes and BLAS's number of threads, which is how many work here. So the bits
    are the same where nobody else works: in a share of `Workers` already, or while other threads evaluate too.
    """
    shared = _shared
    shared.blas.hold()
    try:
        threads = min(available_cores(), shared.blas.threads)
        turns = -(-rows * tokens // (threads * SHARE_TOKENS))  # bounds the memory, and keeps the arrays in the cache
        count = min(rows, threads * turns)
        shares = [slice(rows * i // count, rows * (i + 1) // count) for i in range(count)]
        results: dict[int, Result] = {}
        waiting = iter(range(count))

        def take_turns() -> None:
            for i in waiting:  # an iterator gives each number to one thread alone
                results[i] = work(shares[i])

        helpers = 0 if _splitting.get() else min(threads, count) - 1
        futures = [shared.pool().submit(copy_context().run, _marked, take_turns) for _ in range(helpers)]
        try:
            copy_context().run(_marked, take_turns)
        finally:
            deque(waiting, maxlen=0)  # after an error nobody begins another share
            begun = [future for future in futures if not future.cancel()]  # the threads may be at others' shares still
            wait(begun)
        for future in begun:
            future.result()
        return [results[i] for i in range(count)]
    finally:
        shared.blas.release()


def keep_freed_memory() -> None:
    """Ask the GNU C library to keep freed memory for the process, for good; elsewhere this does nothing.

    By default every large temporary is a new mapping of zeroed pages, which a step touches one by one and gives back.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # Windows, macOS, other C libraries
        return
    m_mmap_threshold, m_trim_threshold, m_arena_max = -3, -1, -8
    mallopt(m_mmap_threshold, 1 << 30)
    mallopt(m_trim_threshold, 1 << 30)
    mallopt(m_arena_max, 1)  # no arena beside those that exist: what one thread frees serves others too


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


def launched() -> int:
    """How many processes mpirun started this one among; 1 where it did not."""
    return max(int(os.environ.get(name, "1")) for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE"))


def rank() -> int:
    """This process's number among them, from 0."""
    return max(int(os.environ.get(name, "0")) for name in ("PMI_RANK", "OMPI_COMM_WORLD_RANK"))
