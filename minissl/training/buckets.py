"""Gradients summed over threads and processes in buckets, each sent as soon as backward is done with it.

Backward reaches the last layers first, so their gradients travel while the first layers are still at work.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from minissl.backend import array_module
from minissl.nn import Grads, Param
from minissl.nn.module import packing_order
from minissl.training.processes import Processes, Waiting

BUCKET = 1 << 18  # numbers in a bucket at least: 1 MB in float32, where a message costs more than its beginning


@dataclass
class _Bucket:
    """Neighbouring parameters: a slice of the flat buffer."""

    part: slice
    params: list[Param]
    missing: int = 0  # gradients that are still to come, over all of this process's threads


@dataclass
class _Kind:
    """Steps that ask the same of the model: how often each thread adds to each parameter, once that is known."""

    expected: list[Counter[Param]] = field(default_factory=list)

    def counts(self, param: Param) -> list[int]:
        """How often each thread adds to the parameter; nothing as long as that is not known."""
        return [of_thread[param] for of_thread in self.expected]


class Buckets:
    """The gradients of a process's threads on their way to their sum over all processes.

    How often a step adds to a parameter (tied weights: more than once) is counted in the first step of each kind, which
    sends everything at its end; later steps send a bucket when the last of its gradients has come. Every process sends
    its buckets in one order, from the end of the model to its beginning.
    """

    def __init__(self, model: Any, grads: list[Grads], processes: Processes):
        self._grads, self._processes = grads, processes
        self._buckets = _cut(packing_order(model))
        self._bucket_of = {param: bucket for bucket in self._buckets for param in bucket.params}
        self._kinds: dict[tuple[Any, ...], _Kind] = {}
        self._lock = Lock()
        self._seen: list[Counter[Param]] = []
        self._sums: list[Callable[[], bool]] = []
        self._kind = _Kind()
        self._on_device = array_module(grads[0].flat).__name__ != "numpy"
        self.waiting = Waiting(processes)
        for i, one in enumerate(grads):
            one.added = self._watcher(i)

    def begin(self, asked: tuple[Any, ...], shares: int) -> None:
        """Before a step: what it asks, and how many of the threads have a share of it."""
        self._kind = self._kinds.setdefault((*asked, shares), _Kind())
        self._seen = [Counter() for _ in range(shares)]
        self._sums = []
        for bucket in self._buckets:
            bucket.missing = sum(sum(self._kind.counts(param)) for param in bucket.params)

    @property
    def meanwhile(self) -> Callable[[], None] | None:
        """What keeps the sums moving, called again and again while the threads work; those of GPUs move alone."""
        return None if self._on_device else self._look

    def _look(self) -> None:
        self._send_complete()
        for done in self._sums:
            done()

    def _send_complete(self) -> None:
        while self._kind.expected and len(self._sums) < len(self._buckets):
            bucket = self._buckets[len(self._sums)]
            with self._lock:
                if bucket.missing:
                    break
            if not all(all(self._kind.counts(param)) for param in bucket.params):
                break  # a thread never writes one of them: `finish` puts zeros there
            self._send(bucket, [one.flat[bucket.part] for one in self._grads[: len(self._seen)]])

    def finish(self) -> Any:
        """Once the threads have ended: send the rest, wait for all sums, and return the flat buffer that has them."""
        self._kind.expected = self._kind.expected or self._seen
        first, *others = [one.collect() for one in self._grads]  # sent gradients were all written, so they stay
        for bucket in self._buckets[len(self._sums) :]:
            self._send(bucket, [flat[bucket.part] for flat in (first, *others)])
        self._processes.settle(first)  # backward itself is no waiting for others
        for done in self._sums:
            self.waiting.until(done)
        return first

    def _send(self, bucket: _Bucket, parts: list[Any]) -> None:
        total, *others = parts
        for other in others:
            total += other
        self._sums.append(self._processes.begin_sum(total))

    def _watcher(self, i: int) -> Callable[[Param], None]:
        def added(param: Param) -> None:
            self._seen[i][param] += 1
            if self._kind.expected:
                assert self._seen[i][param] <= self._kind.expected[i][param], "a gradient that came after its sum"
                with self._lock:
                    self._bucket_of[param].missing -= 1
                if self._on_device:
                    self._send_complete()

        return added


def _cut(params: list[Param]) -> list[_Bucket]:
    """Cut the flat buffer, from its end to its beginning, into buckets of BUCKET numbers or more."""
    stop = sum(param.data.size for param in params)
    buckets: list[_Bucket] = []
    held: list[Param] = []
    size = 0
    for param in reversed(params):
        held.append(param)
        size += param.data.size
        if size >= BUCKET or param is params[0]:
            buckets.append(_Bucket(slice(stop - size, stop), held))
            stop, held, size = stop - size, [], 0
    return buckets
