"""`minissl finetune label-efficiency`: what pre-training is worth, by the number of labels that there are.

One model is pre-trained, without a label. From it, and from fresh weights, the same classifier is fine-tuned on few and
many labelled texts, with several seeds each; a bag of words learns from the same texts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from minissl.errors import InputError
from minissl.finetuning.loop import FinetuneOptions
from minissl.finetuning.metrics import accuracy
from minissl.recipes.efficiency import Scores, keep, said
from minissl.recipes.pretrain import next_folder
from minissl.recipes.sentiment import (
    Baselines,
    Material,
    baselines,
    default_data,
    default_texts,
    load_material,
    pretrain_for,
    rows_for,
    train_arm,
)
from minissl.text.labelled import Columns

NAMES = ("pre-trained", "from scratch", "bag of words")
PICTURE, NUMBERS = "label-efficiency.png", "label-efficiency.json"


@dataclass(frozen=True)
class EfficiencyOptions:
    """What `minissl finetune label-efficiency` can be told; a `model` that is there already is not pre-trained again.

    `labels` are the numbers of labelled texts; all of them are always the last.
    """

    data: str = ""
    model: str = ""
    texts: tuple[str, ...] = ()
    steps: int = 0  # of pre-training; 0: the default
    labels: tuple[int, ...] = (50, 200, 1000)
    seeds: tuple[int, ...] = (0, 1, 2)
    dropout: float = 0.1
    word_dropout: float = 0.15

    def __post_init__(self) -> None:
        if self.model and (self.texts or self.steps):
            raise InputError("--model names what is pre-trained already; leave out --texts and --steps beside it")
        if not self.seeds or min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise InputError(f"--seeds {self.seeds!r}: expected different numbers from 0, such as 0 1 2")
        if not self.labels or min(self.labels) < 1:
            raise InputError(f"--labels {self.labels!r}: expected numbers of labelled texts, such as 50 200 1000")
        if self.steps < 0:
            raise InputError(f"--steps {self.steps}: expected 1 or more")


def label_efficiency(
    options: EfficiencyOptions, training: FinetuneOptions, out: Path, say: Callable[[str], None]
) -> dict[str, Any]:
    """Run all of it, write the figure and, beside it, its numbers into `out`; return the numbers.

    Raises InputError for what a person got wrong, before anything is trained where that can be seen.
    """
    began = time.perf_counter()
    data = options.data or default_data()
    model = options.model
    if not model:
        texts = options.texts or default_texts(data)
        model = str(pretrain_for(texts, next_folder("label-efficiency"), say, options.steps, training.device))
    material = load_material(data, Columns(), model)
    numbers = sorted({*options.labels, len(material.train.ids)})
    if numbers[-1] > len(material.train.ids):
        raise InputError(f"--labels {numbers[-1]}: there are {len(material.train.ids):,} labelled texts")
    scores: Scores = {name: {} for name in NAMES}
    marks: dict[tuple[int, ...], Baselines] = {}  # every seed learns from all the rows, and nothing in these is random
    for count in numbers:
        for seed in options.seeds:
            rows = tuple(rows_for(material, count, seed))
            if rows not in marks:
                marks[rows] = baselines(material, list(rows))
            found = _compare(material, list(rows), options, replace(training, seed=seed))
            for name, score in zip(NAMES, (*found, marks[rows].bag_of_words), strict=True):
                scores[name].setdefault(str(count), []).append(score)
        say(f"{count:,} labels: " + said(scores, count))
    numbers_found = {
        "data": material.name,
        "heldout_rows": len(material.heldout.ids),
        "majority": marks[rows].majority,
        "seeds": list(options.seeds),
        "accuracy": scores,
        "options": asdict(options),
        "training": asdict(training),
        "seconds": round(time.perf_counter() - began, 2),
    }
    keep(numbers_found, numbers, out, PICTURE, NUMBERS, "labelled texts")
    return numbers_found


def _compare(
    material: Material, rows: list[int], options: EfficiencyOptions, training: FinetuneOptions
) -> tuple[float, float]:
    """Accuracy of the pre-trained model and of the one from scratch, both fine-tuned on the same rows."""
    pretrained, fresh = (
        train_arm(
            material,
            rows,
            training,
            from_scratch=from_scratch,
            frozen=False,
            dropout=options.dropout,
            word_dropout=options.word_dropout,
        )
        for from_scratch in (False, True)
    )
    return accuracy(pretrained.confusion), accuracy(fresh.confusion)
