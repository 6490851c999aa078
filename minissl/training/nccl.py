"""Sums over GPUs, one for each process of a run: NVIDIA's NCCL, through `cupyx.distributed`.

A sum runs on a stream of its own: it begins once the GPU has computed what goes into it, while backward goes on.
"""

from __future__ import annotations

import platform
import warnings
from collections.abc import Callable
from typing import Any

from minissl.backend import Array
from minissl.errors import InputError
from minissl.training.processes import Processes, all_or_none


class Gpus:
    """What this process's GPU says to those of the others. `group` is a `cupyx.distributed` one over all processes."""

    def __init__(self, cuda: Any, group: Any):
        self._cuda, self._group = cuda, group
        self._stream = cuda.Stream(non_blocking=True)  # CuPy's own stream would make the two wait for each other

    def begin_sum(self, part: Array) -> Callable[[], bool]:
        """Begin to replace `part`, which is contiguous, by its sum over all processes."""
        self._follow()
        self._group.all_reduce(part, part, "sum", self._stream)
        event = self._stream.record(self._event())
        return lambda: bool(event.done)

    def copy_from_first(self, array: Array) -> None:
        """Overwrite the array with process 0's, by the time this returns."""
        self._follow()
        self._group.broadcast(array, 0, self._stream)
        self._stream.synchronize()

    def settle(self) -> None:
        """Wait for all that this process has asked of its GPU, sums left out."""
        self._cuda.get_current_stream().synchronize()

    def _follow(self) -> None:
        """What comes next on the stream of sums comes after what the GPU has been asked to compute so far."""
        self._stream.wait_event(self._cuda.get_current_stream().record(self._event()))

    def _event(self) -> Any:
        return self._cuda.Event(disable_timing=True)


def connect_gpus(processes: Processes, place: int) -> Gpus:
    """Take the GPU of number `place` among this machine's, and connect it to those of the other processes.

    CuPy's current GPU is a thread's: on a GPU all of a process's work is its main thread's.
    Raises InputError where CuPy, NCCL or a GPU is missing, or there are fewer GPUs than processes.
    """
    with all_or_none(processes):
        cuda, distributed = _cuda_and_nccl()
        count = _count(cuda)
        device = cuda.Device(place % count)  # a machine's scheduler may show each process only its own
        device.use()
    taken = set(processes.texts(f"{device.pci_bus_id} of {platform.node()}"))
    if len(taken) < processes.size:
        raise InputError(
            f"--device cuda: {processes.size} processes found {len(taken)} GPU(s) in all; start one for each GPU"
        )
    return Gpus(cuda, distributed.init_process_group(processes.size, processes.rank, use_mpi=True))


def _cuda_and_nccl() -> tuple[Any, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # CuPy's several lines about a missing NCCL
            import cupy
            from cupyx import distributed
    except ImportError as error:
        raise InputError(f"--device cuda: CuPy is missing; pip install 'minissl[gpu]' ({error})") from error
    if not cupy.cuda.nccl.available:
        raise InputError(
            "--device cuda in several processes: CuPy finds no NCCL, which sums their gradients; "
            "pip install nvidia-nccl-cu13"
        )
    return cupy.cuda, distributed


def _count(cuda: Any) -> int:
    try:
        count = int(cuda.runtime.getDeviceCount())
    except Exception as error:  # its driver's and its runtime's own errors
        raise InputError(f"--device cuda: CuPy finds no GPU to work on ({error}); minissl info says more") from error
    if not count:
        raise InputError("--device cuda: CuPy finds no GPU to work on; minissl info says more")
    return count
