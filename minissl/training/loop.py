"""The loop around the step: progress, log, checkpoints, and a clean end to an interruption."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import numpy as np

from minissl.errors import InputError
from minissl.training.diagnose import first_nonfinite
from minissl.training.run_folder import RunFolder
from minissl.training.trainer import Batch, NonFiniteError, StepRecord, Trainer


class Interrupted(InputError):
    """The run was stopped from outside; its state is saved."""


def train(
    trainer: Trainer, micro_batches: Callable[[int], list[Batch]], folder: RunFolder, fingerprint: str, *,
    save_every: int, on_step: Callable[[StepRecord], dict[str, Any]],
) -> None:  # fmt: skip
    """Train from the trainer's step to the last, logging each step and what `on_step` returns for it.

    A checkpoint is written every `save_every` steps, at the end, and on an interruption (Ctrl-C, a termination).
    Raises Interrupted, or InputError where the loss is no longer finite: the last checkpoint then stays as it was.
    """
    steps = trainer.options.steps
    with _interruption() as interrupted, np.errstate(all="ignore"):  # the losses themselves are watched
        while trainer.step < steps:
            batches = micro_batches(trainer.step + 1)
            try:
                record = trainer.train_step(batches)
            except NonFiniteError as error:
                raise InputError(_explain(trainer, batches, error, folder)) from error
            folder.log(
                {
                    "step": record.step,
                    **record.losses,
                    "grad_norm": record.grad_norm,
                    "lr": record.lr,
                    **on_step(record),
                }
            )
            if trainer.step % save_every == 0 or trainer.step == steps or interrupted:
                folder.save_checkpoint(trainer.state(), trainer.step, fingerprint)
            if interrupted and trainer.step < steps:
                raise Interrupted(
                    f"stopped at step {trainer.step} of {steps}; everything is saved. "
                    f"Go on with: minissl pretrain --resume {folder.path}"
                )


def _explain(trainer: Trainer, batches: list[Batch], error: NonFiniteError, folder: RunFolder) -> str:
    model: Any = trainer.model
    where = first_nonfinite(model, batches[0], None)
    kept = "the last checkpoint is kept" if (folder.path / "checkpoint.safetensors").exists() else "no checkpoint yet"
    return f"{error}; {where}; {kept} in {folder.path}. The usual slip is a learning rate that is too high"


@contextmanager
def _interruption() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying in the middle of an update; a second one ends the process at once."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

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
