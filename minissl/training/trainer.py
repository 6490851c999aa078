"""The training step: shares, their sum, clipping, AdamW. Any `Trainable` module will do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple, Protocol

import numpy as np

from minissl.backend import Array, array_module, beside, product_precision, require_precision, to_number
from minissl.errors import InputError
from minissl.nn import Grads
from minissl.nn.module import packing_order
from minissl.training.adamw import AdamW, adamw_update, squared_norm
from minissl.training.buckets import Buckets
from minissl.training.loss_scale import LossScale, NoLossScale
from minissl.training.pairs import PairedGrads
from minissl.training.processes import Alone, Processes
from minissl.training.schedule import warmup_linear
from minissl.workers import Workers, available_cores, slices, split_rows

Batch = dict[str, Array]


class Trainable(Protocol):
    """What a trainer asks of a model."""

    def pack(self) -> Array:
        """Move the parameters into one flat buffer."""

    def counts(self, batch: Batch) -> dict[str, int]:
        """What each loss of the batch divides by."""

    def losses_and_backward(
        self, batch: Batch, counts: dict[str, int], grads: Grads, rng: np.random.Generator | None
    ) -> dict[str, float]:
        """The losses of a share of the batch, and their gradients added to `grads`."""


@dataclass(frozen=True)
class TrainingOptions:
    """How to train. `warmup` is a share of the steps; AdamW's own settings stand in `adamw`.

    `precision` is that of a device's matrix products, one of `minissl.backend.PRECISIONS`.
    """

    steps: int
    learning_rate: float
    warmup: float = 0.1
    clip_norm: float = 1.0
    threads: int = field(default_factory=available_cores)
    seed: int = 0
    adamw: AdamW = field(default_factory=AdamW)
    precision: str = "float32"


class StepRecord(NamedTuple):
    """One step, as it is logged: the losses before the update, and the gradient's norm before clipping."""

    step: int
    losses: dict[str, float]
    grad_norm: float
    lr: float


class NonFiniteError(InputError):
    """A loss or a gradient turned NaN or infinite; nothing was updated. The message says which."""

    def __init__(self, step: int, losses: dict[str, float], grad_norm: float):
        shown = ", ".join(f"{name} {value}" for name, value in losses.items())
        super().__init__(
            f"step {step}: the loss or the gradient is no longer finite ({shown}, gradient norm {grad_norm})"
        )


class _Slice(NamedTuple):
    """A part of the flat buffer that AdamW updates in one call."""

    part: slice
    decay: bool
    factor: float


class Trainer:
    """Weights, moments and the step count of a run. All randomness is a function of (seed, step), so a run resumes."""

    def __init__(
        self, model: Any, options: TrainingOptions, lr_factors: Mapping[str, float] | None = None,
        processes: Processes | None = None,
    ):  # fmt: skip
        """`lr_factors`: parameter name -> what the learning rate is multiplied by; 1 for every name left out.

        Of several `processes` each is given every batch whole, and works on its own rows of it.
        Raises InputError for a precision that the model's weights cannot be trained in.
        """
        self.model: Trainable = model
        self.processes: Processes = processes or Alone()
        self.options = options
        self.step = 0
        self.weights = model.pack()
        self._params = packing_order(model)
        require_precision(options.precision, self.weights)
        self._loss_scale = LossScale() if options.precision == "float16" else NoLossScale()
        xp = array_module(self.weights)
        self.mean, self.square = xp.zeros_like(self.weights), xp.zeros_like(self.weights)
        self.workers = Workers(options.threads)
        self._slices = _slices(model, lr_factors or {}, options.threads)
        # of several processes each thread has a buffer of its own, whose gradients `Buckets` counts as they come
        pairs = [PairedGrads(model) for _ in range(options.threads // 2)] if self.processes.size == 1 else []
        alone = [Grads(model) for _ in range(options.threads - 2 * len(pairs))]
        self._grads = [*(half for pair in pairs for half in pair.halves), *alone]  # each thread's
        self._sums: list[PairedGrads | Grads] = [*pairs, *alone]
        self._buckets = Buckets(model, self._grads, self.processes) if self.processes.size > 1 else None

    def train_step(self, micro_batches: list[Batch]) -> StepRecord:
        """Do one update from the gradient of all the micro-batches as if they were one batch.

        Raises NonFiniteError, with the weights as they were, where the loss or the gradient is not finite; InputError
        where the model's weights are no longer in this trainer's buffer.
        """
        if any(p.place is None or p.place.flat is not self.weights for p in self._params):
            raise InputError("model.to, astype or an assignment has moved the model's weights; make a new trainer")
        self.step += 1
        try:
            with product_precision(self.options.precision, self.weights):
                losses, gradient, norm = self._finite_gradient(micro_batches)
        except BaseException:
            self.step -= 1
            for grads in self._sums:  # half a gradient must not reach the next step
                grads.collect()
            raise
        lr = self._update(gradient, norm)
        self._loss_scale.stepped()
        return StepRecord(self.step, losses, norm, lr)

    def _finite_gradient(self, micro_batches: list[Batch]) -> tuple[dict[str, float], Array, float]:
        """The losses, the gradient and its norm, all finite: what overflows is done again at half the loss scale."""
        while True:
            losses, gradient, norm = self._losses_and_gradient(micro_batches)
            finite_loss = math.isfinite(sum(losses.values()))
            if finite_loss and math.isfinite(norm):
                return losses, gradient, norm
            if not (finite_loss and self._loss_scale.halve()):
                raise NonFiniteError(self.step, losses, norm)

    def _losses_and_gradient(self, micro_batches: list[Batch]) -> tuple[dict[str, float], Array, float]:
        """The losses, the gradient of their sum times the loss scale, and the norm of that gradient without it."""
        counts: dict[str, int] = {}  # micro-batches may ask different things
        for batch in micro_batches:
            for name, count in self.model.counts(batch).items():
                counts[name] = counts.get(name, 0) + count
        losses = dict.fromkeys((name for name, count in counts.items() if count), 0.0)
        for of_thread in self._grads:
            of_thread.loss_scale = self._loss_scale.value
        shares = [self._shares(batch) for batch in micro_batches]
        if self._buckets is not None:
            self._buckets.begin((*losses, *map(len, shares)), max(map(len, shares)))
        for micro, of_batch in enumerate(shares):
            from_threads = self._run_shares(of_batch, counts, micro)
            for grads in self._sums:
                grads.settle()
            for share in from_threads:
                for name, loss in share.items():
                    losses[name] += loss
        gradient, norm = self._sum_shares()
        totals = self.processes.sum(np.array(list(losses.values())))
        return dict(zip(losses, totals.tolist(), strict=True)), gradient, norm / self._loss_scale.value

    def _shares(self, batch: Batch) -> list[Batch]:
        """The rows of each thread of this process."""
        first = self.processes.rank * self.options.threads
        return split_rows(batch, self.processes.size * self.options.threads)[first : first + self.options.threads]

    def _run_shares(self, shares: list[Batch], counts: dict[str, int], micro: int) -> list[dict[str, float]]:
        """Forward and backward on each thread's rows, into its own gradients; each loss divides by the whole count."""
        first = self.processes.rank * self.options.threads

        def work(i: int) -> dict[str, float]:
            seeds = np.random.SeedSequence([self.options.seed, self.step, micro, first + i])
            rng = np.random.Generator(np.random.Philox(seeds))
            return self.model.losses_and_backward(shares[i], counts, self._grads[i], rng)

        return self.workers.map(work, len(shares), None if self._buckets is None else self._buckets.meanwhile)

    def _sum_shares(self) -> tuple[Array, float]:
        """Sum the gradients in a fixed order; return the sum (in the first thread's buffer) and its norm."""
        if self._buckets is None:
            first, *rest = [grads.collect() for grads in self._sums]
        else:
            first, rest = self._buckets.finish(), []

        def work(i: int) -> float:
            part = self._slices[i].part
            total = first[part]
            for other in rest:
                total += other[part]
            return to_number(squared_norm(total))

        return first, math.sqrt(sum(self.workers.map(work, len(self._slices))))

    def _update(self, gradient: Array, norm: float) -> float:
        o = self.options
        lr = o.learning_rate * warmup_linear(self.step, o.steps, max(1, round(o.warmup * o.steps)))
        scale = min(1.0, o.clip_norm / (norm + 1e-6)) / self._loss_scale.value

        def work(i: int) -> None:
            part, decay, factor = self._slices[i]
            weights, g, mean, square = (a[part] for a in (self.weights, gradient, self.mean, self.square))
            adamw_update(weights, g, mean, square, o.adamw, lr=lr * factor, step=self.step, decay=decay, scale=scale)

        self.workers.map(work, len(self._slices))
        return lr

    def start_alike(self) -> None:
        """Give every process the first one's weights, moments and step."""
        step = np.array([self.step])
        for array in (*self.state().values(), step):
            self.processes.copy_from_first(array)
        self.step = int(step[0])

    @property
    def waited(self) -> float:
        """Seconds that this process had nothing to do but to wait for the sums of gradients."""
        return 0.0 if self._buckets is None else self._buckets.waiting.seconds

    def state(self) -> dict[str, Array]:
        """Everything that a resumed run needs beside the step: the weights, AdamW's two moments, any loss scale."""
        return {"weights": self.weights, "mean": self.mean, "square": self.square, **self._loss_scale.state()}

    def load_state(self, state: dict[str, Array], step: int) -> None:
        """Take up a run after `step`. Raises InputError where the arrays are not this model's."""
        for name, mine in self.state().items():
            if name not in state or state[name].shape != mine.shape or state[name].dtype != mine.dtype:
                raise InputError(
                    f"checkpoint: {name!r} is missing or has another size than this run's model ({mine.size})"
                )
        for name, mine in self.state().items():
            mine[...] = beside(state[name], mine)
        self.step = step

    def close(self) -> None:
        """End the worker threads."""
        self.workers.close()


def _slices(model: Any, factors: Mapping[str, float], threads: int) -> list[_Slice]:
    """Cut the flat buffer for AdamW: no slice straddles an edge between two rates, or of weight decay.

    Raises InputError for a factor of a parameter that the model does not have.
    """
    names = {param: name for name, param in model.named_parameters()}
    unknown = set(factors) - set(names.values())
    if unknown:
        raise InputError(f"learning-rate factors: the model has no parameter {min(unknown)!r}")
    cut: list[_Slice] = []
    start = 0
    for (decay, factor), run in groupby(packing_order(model), lambda p: (p.decay, factors.get(names[p], 1.0))):
        size = sum(param.data.size for param in run)
        parts = slices(size, threads) if decay else [slice(0, size)]  # what has no decay is small
        cut += [_Slice(slice(start + part.start, start + part.stop), decay, factor) for part in parts]
        start += size
    return cut
