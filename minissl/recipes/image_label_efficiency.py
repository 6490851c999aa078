"""`minissl finetune image-label-efficiency`: what pre-training is worth, by the number of labels of each class.

From a pre-trained encoder, and from fresh weights of the same sizes, the same classifier is fine-tuned on few and many
labelled images, with several seeds each. Logistic regression learns from the same images: from the frozen encoder's
features, and from the pixels.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from minissl.backend import Array
from minissl.errors import InputError
from minissl.finetuning.image_classification import Augmentation, classes_of, encode
from minissl.finetuning.loop import FinetuneOptions
from minissl.finetuning.metrics import accuracy
from minissl.finetuning.probes import LinearProbe
from minissl.recipes.efficiency import Scores, keep, said
from minissl.recipes.image_finetuning import (
    ImageMaterial,
    ImageOptions,
    load_material,
    pixel_marks,
    rows_for,
    train_arm,
)
from minissl.workers import Workers

NAMES = ("pre-trained", "from scratch", "raw pixels", "linear probe")
PICTURE, NUMBERS = "image-label-efficiency.png", "image-label-efficiency.json"
WATCHED = 1000  # held-out images looked at after each pass; the result is measured on all


@dataclass(frozen=True)
class ImageEfficiencyOptions:
    """What `minissl finetune image-label-efficiency` can be told. `labels` are images of each class."""

    model: str
    data: str = "glyphs"
    image_size: int | None = None
    interpolate: bool = False
    labels: tuple[int, ...] = (10, 30, 100)
    seeds: tuple[int, ...] = (0, 1, 2)
    dropout: float = 0.0
    flip: bool = False
    crop: int | None = None

    def __post_init__(self) -> None:
        if not self.seeds or min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise InputError(f"--seeds {self.seeds!r}: expected different numbers from 0, such as 0 1 2")
        if not self.labels or min(self.labels) < 1:
            raise InputError(f"--labels {self.labels!r}: expected numbers of images of each class, such as 10 30 100")
        self.arm()

    def arm(self) -> ImageOptions:
        """The same settings for one fine-tuning. Raises InputError for what none can have."""
        return ImageOptions(
            model=self.model, interpolate=self.interpolate, dropout=self.dropout, flip=self.flip, crop=self.crop
        )


def image_label_efficiency(
    options: ImageEfficiencyOptions, training: FinetuneOptions, out: Path, say: Callable[[str], None]
) -> dict[str, Any]:
    """Run all of it, write the figure and, beside it, its numbers into `out`; return the numbers.

    Raises InputError for what a person got wrong, before anything is trained where that can be seen.
    """
    began = time.perf_counter()
    material = load_material(options.data, options.image_size, options.model, options.interpolate)
    parts = material.parts
    numbers = sorted(set(options.labels))
    rows_for(parts, numbers[-1], options.seeds[0])  # more than there are is said before anything is trained
    augmentation = options.arm().augmentation(parts.train)
    scores: Scores = {name: {} for name in NAMES}
    commonest = 0.0
    for count in numbers:
        for seed in options.seeds:
            rows = rows_for(parts, count, seed)
            marks = pixel_marks(parts, rows)
            commonest = marks.majority
            tuned, fresh = _compare(material, rows, options.dropout, augmentation, replace(training, seed=seed))
            probed = _probe(material, rows, training)
            for name, score in zip(NAMES, (tuned, fresh, marks.raw_pixels, probed), strict=True):
                scores[name].setdefault(str(count), []).append(score)
        say(f"{count:,} of each class: " + said(scores, count))
    found = {
        "data": parts.name,
        "classes": len(parts.classes),
        "heldout_images": len(parts.heldout.pixels),
        "majority": commonest,
        "seeds": list(options.seeds),
        "accuracy": scores,
        "options": asdict(options),
        "training": asdict(training),
        "seconds": round(time.perf_counter() - began, 2),
    }
    keep(found, numbers, out, PICTURE, NUMBERS, "labelled images of each class")
    return found


def _compare(
    material: ImageMaterial, rows: Array, dropout: float, augmentation: Augmentation, training: FinetuneOptions
) -> tuple[float, float]:
    """Accuracy of the pre-trained model and of the one from scratch, both fine-tuned on the same images."""
    watched = material.parts.heldout.take(np.arange(min(WATCHED, len(material.parts.heldout.pixels))))
    tuned, fresh = (
        train_arm(
            material, rows, training, from_scratch=from_scratch, frozen=False, dropout=dropout,
            augmentation=augmentation, watched=watched,
        )
        for from_scratch in (False, True)
    )  # fmt: skip
    return accuracy(tuned.confusion), accuracy(fresh.confusion)


def _probe(material: ImageMaterial, rows: Array, training: FinetuneOptions) -> float:
    """Accuracy of a linear probe on the frozen encoder, as `minissl probe` has it."""
    parts, encoder = material
    train, model = parts.train.take(rows), encoder.model(0).to(training.device)
    with Workers(training.working_threads) as workers:
        known, asked = (encode(model, images, encoder.scale, workers).both for images in (train, parts.heldout))
    said = LinearProbe(len(parts.classes)).fit(known, classes_of(train)).predict(asked).argmax(axis=1)
    return float((said == classes_of(parts.heldout)).mean())
