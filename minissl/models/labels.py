"""Labels: their names in a configuration, what they ask of a head's scores, and the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from minissl.backend import Array, require_ids
from minissl.errors import InputError
from minissl.kernels import op
from minissl.models.pretrained import PreTrainedConfig, as_array
from minissl.pretext.mlm import IGNORE

PROBLEM_TYPES = ("single_label_classification", "regression", "multi_label_classification")

take_positions = op("take_positions")
cross_entropy = op("cross_entropy")
masked_mse = op("masked_mse")
binary_cross_entropy = op("binary_cross_entropy")


@dataclass(kw_only=True)
class LabelledConfig(PreTrainedConfig):
    """A configuration that names the labels of a classifier."""

    num_labels: int = 2
    id2label: dict[int, str] | None = None  # None: LABEL_0, LABEL_1, …
    problem_type: str | None = None  # None: told from num_labels and the labels' dtype, as in Hugging Face

    def __post_init__(self) -> None:
        """Raise InputError for labels that cannot be. `id2label` decides `num_labels` where it is given."""
        if self.id2label is not None:
            self.id2label = checked_labels(self.id2label)
            self.num_labels = len(self.id2label)
        super().__post_init__()
        self.id2label = self.id2label or {i: f"LABEL_{i}" for i in range(self.num_labels)}
        if self.problem_type not in (None, *PROBLEM_TYPES):
            raise InputError(
                f"config: problem_type {self.problem_type!r} given, expected one of: {', '.join(PROBLEM_TYPES)}"
            )

    @property
    def label2id(self) -> dict[str, int]:
        """The number of each label's name."""
        return {label: i for i, label in (self.id2label or {}).items()}

    def to_dict(self) -> dict[str, Any]:
        """All fields, labels under Hugging Face's two names for them; what is None is left out."""
        fields = {name: value for name, value in super().to_dict().items() if value is not None}
        fields.pop("num_labels")
        labels = {str(i): label for i, label in fields["id2label"].items()}
        return {**fields, "id2label": labels, "label2id": self.label2id}


def checked_labels(id2label: Any) -> dict[int, str]:
    """Return the labels under integer keys. Raises InputError unless they are named 0, 1, 2 … without a gap."""
    try:
        labels = {int(i): str(label) for i, label in dict(id2label).items()}
    except (TypeError, ValueError) as error:
        raise InputError(
            f"config: id2label is {id2label!r}, expected numbers and names: {{0: 'bad', 1: 'good'}}"
        ) from error
    if not labels or sorted(labels) != list(range(len(labels))):
        raise InputError(f"config: id2label has the numbers {sorted(labels)}, expected 0, 1, 2, … without a gap")
    return dict(sorted(labels.items()))


class Asked(NamedTuple):
    """What one loss asks: the rows of the scores that it looks at, the truth there, and what its sum divides by."""

    positions: Array  # (M,) flat rows
    truth: Array  # (M,) classes, or (M, C) numbers
    divisor: int  # of the whole batch, where this is a share of it
    numbers: bool = False  # whether (M, C) are numbers to come close to, not labels of 0 and 1


def asked_classes(name: str, labels: Any, classes: int, shape: tuple[int, ...] | None, count: int | None) -> Asked:
    """Turn labels into the rows that are asked (not -100) and their classes, 0 … classes-1.

    Raises InputError where the shape is not `shape`, a label is no class, or nothing is asked (with no `count`).
    """
    labels = as_array(name, labels)
    if shape is not None and labels.shape != shape:
        like = "one for each row" if len(shape) == 1 else "as input_ids have it"
        raise InputError(f"{name}: shape {labels.shape} given, expected {shape}, {like}")
    positions = np.flatnonzero(labels != IGNORE)
    truth = labels.reshape(-1)[positions]
    require_ids(truth, classes, f"{name} (of {classes} classes)", "is num_labels the data's?")
    if count is None and not len(positions):
        raise InputError(f"{name}: none is asked (all are -100), so the loss has nothing to average over")
    return Asked(positions, truth, len(positions) if count is None else count)


def classify_forward(logits: Array, asked: Asked) -> tuple[Array, Any]:
    """Cross-entropy of the asked rows of logits (…, C); nothing flows back to the others."""
    rows, taken = take_positions.forward(logits, asked.positions)
    loss, cache = cross_entropy.forward(rows, asked.truth, asked.divisor)
    return loss, (taken, cache)


def classify_backward(dloss: float, cache: Any) -> Array:
    """dlogits (…, C)."""
    taken, cache = cache
    dlogits: Array = take_positions.backward(cross_entropy.backward(dloss, cache), taken)
    return dlogits


def asked_labels(
    name: str, labels: Any, classes: int, problem: str | None, rows: int | None, count: int | None
) -> Asked:
    """Labels (B,) of classes, -100 = not asked; or (B, C), all asked: numbers, or 0 and 1 for each of C labels.

    With no `problem` it is told as Hugging Face tells it. Raises InputError where shape or values are not such labels'.
    """
    labels = as_array(name, labels)
    if problem is None:
        by_dtype = "single_label_classification" if labels.dtype.kind in "iu" else "multi_label_classification"
        problem = "regression" if classes == 1 else by_dtype
    if problem == "single_label_classification":
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        return asked_classes(name, labels, classes, None if rows is None else (rows,), count)
    if labels.ndim == 1 and classes == 1:
        labels = labels[:, None]
    rows = len(labels) if rows is None else rows
    if labels.shape != (rows, classes):
        raise InputError(f"{name}: shape {labels.shape} given, expected (rows, labels) = {(rows, classes)}")
    if labels.dtype.kind not in "biuf" or not np.isfinite(labels).all():
        raise InputError(f"{name}: expected finite numbers, got {labels.dtype} with NaN, infinity or no numbers")
    if problem != "regression" and ((labels < 0) | (labels > 1)).any():
        raise InputError(f"{name}: expected 0 (no) or 1 (yes) for each label, or a share between them")
    return Asked(np.arange(rows), labels, rows if count is None else count, problem == "regression")


def label_loss_forward(logits: Array, asked: Asked) -> tuple[Array, Any]:
    """Cross-entropy, binary cross-entropy or the mean squared error of logits (B, C), by what is asked."""
    if asked.truth.ndim == 1:
        loss, cache = classify_forward(logits, asked)
        return loss, (classify_backward, cache)
    truth = asked.truth.astype(logits.dtype)
    if asked.numbers:
        loss, cache = masked_mse.forward(logits, truth, asked.positions, asked.divisor)
        return loss, (masked_mse.backward, cache)
    loss, cache = binary_cross_entropy.forward(logits, truth, asked.divisor)
    return loss, (binary_cross_entropy.backward, cache)


def label_loss_backward(dloss: float, cache: Any) -> Array:
    """dlogits (B, C); the truth is not trained."""
    backward, cache = cache
    gradients = backward(dloss, cache)
    dlogits: Array = gradients[0] if isinstance(gradients, tuple) else gradients
    return dlogits
