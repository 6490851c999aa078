"""The part of CuPy that speaks to other GPUs, for the stand-in, through MPI; names and signatures are CuPy's.

Streams matter here as they do there. An array whose sum is on its way holds NaN until its stream was found to be done;
and a sum whose stream did not wait for the one that computes is refused: it might send half a gradient.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np

import stand_in
from stand_in import Refused, ndarray

DTYPES = "bBiIlLqQefdFD"  # those of CuPy's table for NCCL; bfloat16 is not among them
GPUS = int(os.environ.get("STAND_IN_GPUS", "2"))


class _Transfer:
    """An array on its way into another: nobody may look there until it was found to have arrived."""

    def __init__(self, request: Any, received: Any, array: ndarray):
        self._request, self._received, self._array = request, received, array
        self._arrived = False
        array._host[...] = np.nan

    def done(self) -> bool:
        if not self._arrived and self._request.Test():
            self._arrived = True
            self._array._host[...] = self._received
        return self._arrived


class Stream:
    """Transfers in order."""

    def __init__(self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: int | None = None):
        self._non_blocking = non_blocking
        self._under_way: list[_Transfer] = []
        self._follows = False  # has it waited for the stream that computes, since its last transfer began?

    def record(self, event: Event | None = None) -> Event:
        event = event or Event()
        self._under_way = [transfer for transfer in self._under_way if not transfer._arrived]
        event._stream, event._before = self, list(self._under_way)
        return event

    def wait_event(self, event: Event) -> None:
        self._follows |= event._stream is COMPUTES

    def synchronize(self) -> None:
        event = self.record()
        while not event.done:
            pass


COMPUTES = Stream(null=True)


class Event:
    """A point on a stream."""

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False):
        self._stream: Stream | None = None
        self._before: list[_Transfer] = []

    @property
    def done(self) -> bool:
        return all(transfer.done() for transfer in self._before)


class Device:
    """One of GPUS."""

    _used: int | None = None

    def __init__(self, device: int | None = None):
        assert device is not None
        assert 0 <= device < GPUS
        self.id = device

    def use(self) -> Device:
        """As CuPy's, for the calling thread; minissl's others do nothing on a device."""
        assert Device._used is None, "a process takes one GPU, and keeps it"
        assert not stand_in.CALLS, "what was on a device before is on the first one, which is another process's"
        Device._used = self.id
        return self

    @property
    def pci_bus_id(self) -> str:
        return f"0000:{self.id:02x}:00.0"


class NCCLBackend:
    """The communicator."""

    def __init__(self, n_devices: int, rank: int, host: str = "", port: int = 0, use_mpi: bool = False):
        from mpi4py import MPI

        assert use_mpi, "without MPI it asks for a port of the first machine"
        assert Device._used is not None, "without a device of its own a process works on the first one"
        assert (n_devices, rank) == (MPI.COMM_WORLD.size, MPI.COMM_WORLD.rank)
        self._world = MPI.COMM_WORLD

    def all_reduce(self, in_array: Any, out_array: Any, op: str = "sum", stream: Stream | None = None) -> None:
        sent = self._sent(in_array)
        assert op == "sum"
        received = np.empty_like(sent)
        self._begin(self._world.Iallreduce(sent, received), received, out_array, stream)

    def broadcast(self, in_out_array: Any, root: int = 0, stream: Stream | None = None) -> None:
        sent = self._sent(in_out_array)
        self._begin(self._world.Ibcast(sent, root), sent, in_out_array, stream)

    def _sent(self, array: Any) -> Any:
        if not isinstance(array, ndarray) or array.dtype.char not in DTYPES:
            raise Refused(f"NCCL takes arrays of the device, and of its own dtypes, not {type(array)}")
        if not array.flags.c_contiguous:
            raise Refused("NCCL requires arrays to be contiguous")
        return array._host.copy()

    def _begin(self, request: Any, received: Any, array: Any, stream: Stream | None) -> None:
        if stream is None or not stream._non_blocking or not stream._follows:
            raise Refused("a sum that does not wait for what is summed, or for which all else waits")
        stream._follows = False
        stream._under_way.append(_Transfer(request, received, array))


def init_process_group(
    n_devices: int, rank: int, *, backend: str = "nccl", host: str | None = None, port: int | None = None,
    use_mpi: bool = False,
) -> NCCLBackend:  # fmt: skip
    return NCCLBackend(n_devices, rank, use_mpi=use_mpi)


@contextmanager
def in_place_of_cupy(nccl: bool = True) -> Any:
    """The stand-in, with `cupy.cuda` and `cupyx.distributed`, where minissl looks for them."""
    with stand_in.in_place_of_cupy() as cupy:
        vars(cupy.cuda).update(
            Stream=Stream, Event=Event, Device=Device, get_current_stream=lambda: COMPUTES,
            nccl=ModuleType("cupy.cuda.nccl"), runtime=ModuleType("cupy.cuda.runtime"),
        )  # fmt: skip
        cupy.cuda.nccl.available = nccl
        cupy.cuda.runtime.getDeviceCount = lambda: GPUS
        cupyx = ModuleType("cupyx")
        cupyx.distributed = ModuleType("cupyx.distributed")
        cupyx.distributed.__dict__.update(init_process_group=init_process_group, NCCLBackend=NCCLBackend)
        sys.modules |= {"cupyx": cupyx, "cupyx.distributed": cupyx.distributed}
        try:
            yield cupy
        finally:
            del sys.modules["cupyx"], sys.modules["cupyx.distributed"]
