"""Several processes that train one model, on one machine or many: what they say to each other, through MPI.

    mpirun -n 4 minissl pretrain

Every process holds the whole model and computes the gradient of its own rows of each batch; the gradients are summed,
and all do the same update. It is what the threads of one process do, one level up. What is on GPUs goes through NCCL.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from minissl.backend import Array, array_module
from minissl.errors import InputError
from minissl.workers import launched

if TYPE_CHECKING:
    from minissl.training.nccl import Gpus

PATIENCE = 60.0  # seconds of waiting after which a person is told
POLL = 1e-4  # seconds between looks at a sum on its way


class Processes(Protocol):
    """The processes of a run; `rank` is this one's number, 0 … size-1. Process 0 prints and saves."""

    rank: int
    size: int
    neighbours: int  # how many of them are on this machine

    def take_gpu(self) -> None:
        """From now on work on a GPU of one's own: before anything else is on one, for the first would be everybody's.

        Raises InputError where there is none for each process.
        """

    def begin_sum(self, part: Array) -> Callable[[], bool]:
        """Begin to replace `part` by its sum over all processes; what is returned says whether that is done."""

    def settle(self, part: Array) -> None:
        """Return once what this process itself was to compute of `part` is there: a GPU does it in its own time."""

    def sum(self, values: Array) -> Array:
        """The sum of the host's arrays over all processes, by the time this returns."""

    def copy_from_first(self, array: Array) -> None:
        """Overwrite the array with process 0's."""

    def texts(self, text: str) -> list[str]:
        """Every process's text."""

    def abort(self) -> None:
        """End every process of the run, now: one that is missing would be waited for, for ever."""


class Alone:
    """One process, which is all there is."""

    rank, size, neighbours = 0, 1, 1

    def take_gpu(self) -> None:
        """It works on CuPy's current one."""

    def begin_sum(self, part: Array) -> Callable[[], bool]:
        """Nothing to add."""
        return lambda: True

    def settle(self, part: Array) -> None:
        """Nobody measures how long it waits for others."""

    def sum(self, values: Array) -> Array:
        """The values themselves."""
        return values

    def copy_from_first(self, array: Array) -> None:
        """It is process 0's already."""

    def texts(self, text: str) -> list[str]:
        """Its own."""
        return [text]

    def abort(self) -> None:
        """What ends this process ends the run."""


class Several:
    """The processes that mpirun started."""

    def __init__(self, mpi: Any):
        self._communicator, self._in_place = mpi.COMM_WORLD, mpi.IN_PLACE
        self.rank, self.size = self._communicator.rank, self._communicator.size
        here = self._communicator.Split_type(mpi.COMM_TYPE_SHARED)
        self.neighbours: int = here.size
        self._place: int = here.rank  # this one's number among them
        self._gpus: Gpus | None = None

    def take_gpu(self) -> None:
        """One for each process of a machine, in their order. Every process calls this."""
        from minissl.training.nccl import connect_gpus

        if self._gpus is None:
            self._gpus = connect_gpus(self, self._place)

    def begin_sum(self, part: Array) -> Callable[[], bool]:
        """Begin a sum that goes on while others compute; every process begins its sums in the same order."""
        if (gpus := self._gpus_of(part)) is not None:
            return gpus.begin_sum(part)
        request = self._communicator.Iallreduce(self._in_place, part)
        return lambda: bool(request.Test())

    def settle(self, part: Array) -> None:
        """On the host it has been computed by now."""
        if (gpus := self._gpus_of(part)) is not None:
            gpus.settle()

    def sum(self, values: Array) -> Array:
        """The sum, in the order of the ranks, so the same bits everywhere."""
        gathered = np.empty((self.size, *values.shape), values.dtype)
        self._communicator.Allgather(np.ascontiguousarray(values), gathered)
        total: Array = gathered.sum(axis=0)
        return total

    def copy_from_first(self, array: Array) -> None:
        """Broadcast."""
        if (gpus := self._gpus_of(array)) is not None:
            gpus.copy_from_first(array)
        else:
            self._communicator.Bcast(array, root=0)

    def texts(self, text: str) -> list[str]:
        """Gather them as UTF-8, padded to the longest."""
        mine = np.frombuffer(text.encode(), np.uint8)
        sizes = np.empty(self.size, np.int64)
        self._communicator.Allgather(np.array([mine.size]), sizes)
        padded = np.zeros(max(1, sizes.max()), np.uint8)
        padded[: mine.size] = mine
        gathered = np.empty((self.size, padded.size), np.uint8)
        self._communicator.Allgather(padded, gathered)
        return [row[:size].tobytes().decode() for row, size in zip(gathered, sizes, strict=True)]

    def _gpus_of(self, array: Array) -> Gpus | None:
        """The way of a GPU's array to the other processes; None for an array of the host."""
        if array_module(array).__name__ == "numpy":
            return None
        if self._gpus is None:
            raise InputError("an array on a GPU in one of several processes: call take_gpu() before the model is moved")
        return self._gpus

    def abort(self) -> None:
        """End all."""
        self._communicator.Abort(2)


@cache
def find_processes() -> Processes:
    """The processes of this run. Raises InputError where mpirun started several and mpi4py is missing."""
    size = launched()
    if size == 1:
        return Alone()
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise InputError(
            f"started as one of {size} processes, which need mpi4py to work together: pip install 'minissl[mpi]' "
            f"({error})"
        ) from error
    if size != MPI.COMM_WORLD.size:
        raise InputError(
            f"started as one of {size} processes, of which mpi4py sees {MPI.COMM_WORLD.size}: is its MPI the mpirun's?"
        )
    return Several(MPI)


@contextmanager
def all_or_none(processes: Processes) -> Iterator[None]:
    """A block that every process passes, or none: an InputError in one of them is raised by all, in one line."""
    problem: InputError | None = None
    try:
        yield
    except InputError as error:
        problem = error
    problems = processes.texts("" if problem is None else str(problem))
    if problem is not None and all(said == problems[0] for said in problems):
        raise problem
    for rank, said in enumerate(problems):
        if said:
            raise InputError(f"process {rank} of {processes.size}: {said}") from problem


@contextmanager
def none_is_left() -> Iterator[None]:
    """A command of which processes wait for each other: where one dies alone, it says why, and ends all.

    An InputError passes: `all_or_none`, or sums that are everywhere the same, have made it everybody's.
    """
    try:
        yield
    except InputError:
        raise
    except BaseException as error:
        processes = find_processes()
        if processes.size > 1:
            said = f"{type(error).__name__}: {error}".strip().rstrip(":")
            print(
                f"minissl: process {processes.rank} of {processes.size} died ({said}), so the run ends; "
                "go on from its last checkpoint with --resume",
                file=sys.stderr, flush=True,
            )  # fmt: skip
            processes.abort()
        raise


class Waiting:
    """Waits until something is done, measures how long, and tells a person where it takes suspiciously long."""

    def __init__(self, processes: Processes):
        self._processes = processes
        self.seconds = 0.0

    def until(self, done: Callable[[], bool]) -> None:
        """Return once `done()`."""
        began = time.perf_counter()
        told = False
        while not done():
            time.sleep(POLL)
            if not told and time.perf_counter() - began > PATIENCE:
                told = True
                print(f"minissl: process {self._processes.rank} has waited {PATIENCE:.0f} s for the others; "
                      "has one died or lost its network?", file=sys.stderr, flush=True)  # fmt: skip
        self.seconds += time.perf_counter() - began
