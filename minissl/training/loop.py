"""The loop around the step: progress, log, checkpoints, and a clean end to an interruption."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import numpy as np

from minissl.backend import product_precision, to_host
from minissl.errors import InputError
from minissl.training.diagnose import first_nonfinite
from minissl.training.processes import all_or_none
from minissl.training.run_folder import CHECKPOINT, RunFolder
from minissl.training.trainer import Batch, NonFiniteError, StepRecord, Trainer


class Interrupted(InputError):
    """The run was stopped from outside; its state is saved."""


def train(
    trainer: Trainer, micro_batches: Callable[[int], list[Batch]], folder: RunFolder, *,
    began: float, save_every: int, on_step: Callable[[StepRecord], dict[str, Any]],
) -> None:  # fmt: skip
    """Train from the trainer's step to the last, logging each step and what `on_step` returns for it.

    `began` is when the run began by `time.perf_counter`, the seconds of earlier sessions taken off.
    A checkpoint is written every `save_every` steps, at the end, and on an interruption (Ctrl-C, a termination).
    Raises Interrupted, or InputError where the loss or a weight is no longer finite: the last checkpoint then stays.
    """
    steps = trainer.options.steps
    with interruption() as interrupted, np.errstate(all="ignore"):  # the losses themselves are watched
        while trainer.step < steps:
            batches = micro_batches(trainer.step + 1)
            try:
                record = trainer.train_step(batches)
            except NonFiniteError as error:
                # in the precision in which it happened, so that what overflows there does so again
                with product_precision(trainer.options.precision, trainer.weights):
                    raise diverged(str(error), trainer.model, batches, folder) from error
            noted = {"step": record.step, **record.losses, "grad_norm": record.grad_norm, "lr": record.lr}
            noted |= on_step(record)
            with all_or_none(trainer.processes):
                folder.log(noted)
            stop = bool(trainer.processes.sum(np.array([len(interrupted)])).any())  # looked at once: all stop, or none
            if stop or trainer.step % save_every == 0 or trainer.step == steps:
                if not np.isfinite(
                    to_host(trainer.weights)
                ).all():  # they would take the place of the last good checkpoint
                    what = f"step {trainer.step}: after the update the weights are no longer finite"
                    raise diverged(what, trainer.model, batches, folder)
                with all_or_none(trainer.processes):
                    folder.save_checkpoint(trainer.state(), trainer.step, time.perf_counter() - began)
            if stop and trainer.step < steps:
                raise Interrupted(f"stopped at step {trainer.step} of {steps}; everything is saved; {folder.go_on}")


def diverged(what: str, model: Any, batches: list[Batch], folder: RunFolder) -> InputError:
    """Return the error that says what is no longer finite, where that begins, and what is left of the run."""
    kept = "the last checkpoint is kept" if (folder.path / CHECKPOINT).exists() else "there is no checkpoint yet"
    where = first_nonfinite(model, batches)
    return InputError(f"{what}; {where}; {kept} in {folder.path}; the usual slip is a learning rate that is too high")


@contextmanager
def interruption() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying in the middle of an update; a second one ends the process at once."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    previous = {number: h for number, h in handlers.items() if h not in (None, signal.SIG_IGN)}  # `nohup` stays deaf

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for again, handler in previous.items():
            signal.signal(again, handler)

    for number in previous:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
