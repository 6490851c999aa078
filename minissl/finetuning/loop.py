"""The fine-tuning loop: passes over labelled rows, a look at held-out rows after each, and the best weights kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from minissl.backend import require_device
from minissl.errors import InputError, require_values
from minissl.training.adamw import AdamW
from minissl.training.loop import Interrupted, interruption
from minissl.training.trainer import Batch, NonFiniteError, StepRecord, Trainer, TrainingOptions
from minissl.workers import Workers, available_cores


@dataclass(frozen=True)
class FinetuneOptions:
    """How to fine-tune, and on which device. `layer_decay` is each layer's learning rate as a share of the next one's.

    With `patience` P, training ends once P passes in a row have brought nothing better, and the best pass's weights are
    kept; without, the last pass's are.
    """

    epochs: int = 5
    batch_size: int = 32
    learning_rate: float = 5e-4
    warmup: float = 0.1
    weight_decay: float = 0.01
    layer_decay: float = 1.0
    patience: int = 0
    seed: int = 0
    threads: int = field(default_factory=available_cores)
    device: str = "cpu"

    def __post_init__(self) -> None:
        expected: list[tuple[str, bool, str]] = [
            ("epochs", self.epochs >= 1, "1 or more"),
            ("batch_size", self.batch_size >= 1, "1 or more"),
            ("learning_rate", 0 < self.learning_rate < math.inf, "a number above 0, such as 5e-4"),
            ("warmup", 0 <= self.warmup <= 1, "a share of the steps, 0 to 1"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "0 or more"),
            ("layer_decay", 0 < self.layer_decay <= 1, "above 0, at most 1 (1: every layer learns alike)"),
            ("patience", self.patience >= 0, "0 (no early stopping) or more"),
            ("seed", self.seed >= 0, "0 or more"),
            ("threads", self.threads >= 1, "1 or more"),
        ]
        require_values(self, expected)
        require_device(self.device)

    @property
    def working_threads(self) -> int:
        """How many share the work: a device needs only one."""
        return self.threads if self.device == "cpu" else 1

    def training(self, steps: int) -> TrainingOptions:
        """What the trainer is told, for a run of so many steps."""
        threads = min(self.working_threads, self.batch_size)
        adamw = AdamW(weight_decay=self.weight_decay)
        return TrainingOptions(steps, self.learning_rate, self.warmup, threads=threads, seed=self.seed, adamw=adamw)


class Epoch(NamedTuple):
    """One pass: its number from 1, the mean training losses, and what was measured on held-out rows after it."""

    number: int
    losses: dict[str, float]
    heldout: dict[str, float]


def layer_factors(model: Any, decay: float) -> dict[str, float]:
    """Layer-wise decay (Howard and Ruder 2018, section 3.1): parameter name -> its share of the learning rate.

    Of L layers, numbered from 0, layer i has decay^(L-i), the embeddings below them decay^(L+1), all above them 1.
    """
    names = [name for name, _ in model.named_parameters()]
    layers = 1 + max((int(name.split(".layer.")[1].split(".")[0]) for name in names if ".layer." in name), default=-1)

    def height(name: str) -> int:
        if ".layer." in name:
            return layers - int(name.split(".layer.")[1].split(".")[0])
        return layers + 1 if "embeddings." in name else 0

    return {name: decay ** height(name) for name in names}


def finetune(
    model: Any, options: FinetuneOptions, batches: Callable[[int], Sequence[Batch | list[Batch]]],
    evaluate: Callable[[Workers], Mapping[str, float]], *, better: str, landmarks: str = "",
) -> list[Epoch]:  # fmt: skip
    """Train `model` (any `Trainable`) for some passes, each over `batches(pass)`, and measure after each.

    `batches` returns equally many batches for each pass, 0, 1, …, one for each update, or a list of micro-batches; the
    rate falls to 0 over all of them. `evaluate` is called between passes, with the threads to share its work over;
    `better` names the one of its numbers that early stopping wants high. The progress bar shows the loss, and
    `landmarks` beside it.
    Raises Interrupted on Ctrl-C, once the step has ended; InputError where the loss is no longer finite.
    """
    from tqdm import tqdm

    first = batches(0)
    steps = options.epochs * len(first)
    factors = layer_factors(model, options.layer_decay) if options.layer_decay < 1 else {}
    trainer = Trainer(model, options.training(steps), factors)
    epochs: list[Epoch] = []
    best, best_weights = -math.inf, None
    try:
        with (
            interruption() as interrupted,
            np.errstate(all="ignore"),  # the losses themselves are watched
            tqdm(total=steps, unit="step", mininterval=0.5, dynamic_ncols=True, leave=False) as bar,
        ):
            for number in range(options.epochs):
                records = []
                for batch in batches(number) if number else first:
                    records.append(_step(trainer, batch))
                    bar.set_description(_described(records, epochs, better, landmarks), refresh=False)
                    bar.update()
                    if interrupted:
                        raise Interrupted(f"stopped at step {trainer.step} of {steps}; nothing was written")
                losses = {name: float(np.mean([r.losses[name] for r in records])) for name in records[0].losses}
                epochs.append(Epoch(number + 1, losses, dict(evaluate(trainer.workers))))
                if options.patience:
                    if epochs[-1].heldout[better] > best:
                        best, best_weights = epochs[-1].heldout[better], trainer.weights.copy()
                    elif number + 1 - best_epoch(epochs, better) >= options.patience:
                        break
        if best_weights is not None:
            trainer.weights[...] = best_weights
    finally:
        trainer.close()
    return epochs


def best_epoch(epochs: list[Epoch], better: str) -> int:
    """The number of the first of the passes with the highest `better`."""
    return max(epochs, key=lambda epoch: (epoch.heldout[better], -epoch.number)).number


def _step(trainer: Trainer, batch: Batch | list[Batch]) -> StepRecord:
    try:
        return trainer.train_step(batch if isinstance(batch, list) else [batch])
    except NonFiniteError as error:
        raise InputError(f"{error}; the usual slip is a learning rate that is too high") from error


def _described(records: list[StepRecord], epochs: list[Epoch], better: str, landmarks: str) -> str:
    recent = records[-50:]
    shown = " ".join(f"{name} {np.mean([r.losses.get(name, 0.0) for r in recent]):.3f}" for name in recent[-1].losses)
    if epochs:
        shown += f", held-out {better} {epochs[-1].heldout[better]:.3f}"
    return f"epoch {len(epochs) + 1}: {shown}" + (f" ({landmarks})" if landmarks else "")
