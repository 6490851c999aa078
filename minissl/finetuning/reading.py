"""Reading for an answer: a model's scores over the windows of a passage, turned to the passage's own words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from minissl.backend import Array, to_host
from minissl.errors import InputError
from minissl.finetuning.batches import bucketed
from minissl.ops import softmax_forward
from minissl.text.squad import Question
from minissl.text.tokenizer import BertTokenizer
from minissl.text.windows import Span, Windows, answer_positions, best_spans, make_windows
from minissl.workers import Workers

Batch = dict[str, Array]
EVALUATION_BATCH = 16


@dataclass(frozen=True)
class Reading:
    """How passages are read, in tokens: the windows, what they share, and the longest question and answer."""

    length: int = 256
    stride: int = 64
    most_question: int = 40
    longest_answer: int = 30
    n_best: int = 20

    def __post_init__(self) -> None:
        for name in ("longest_answer", "n_best"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} {getattr(self, name)}: expected 1 or more")

    def windows(self, pairs: Sequence[tuple[str, str]], tokenizer: BertTokenizer) -> Windows:
        """The windows of (question, passage) pairs. Raises InputError as `make_windows` does."""
        return make_windows(pairs, tokenizer, length=self.length, stride=self.stride, most_question=self.most_question)


class Reply(NamedTuple):
    """An answer: `passage[start:stop]`, and its share of the n best answers' exp(score)."""

    start: int
    stop: int
    probability: float


class TrainingWindows:
    """The windows of questions with answers, dealt out in batches, pass after pass.

    Each pass takes one annotator's answer to each question, drawn anew; a window without it has [CLS] as the answer.
    """

    def __init__(self, questions: Sequence[Question], tokenizer: BertTokenizer, reading: Reading, seed: int):
        self.windows = reading.windows([(q.text, q.context) for q in questions], tokenizer)
        self.questions = questions
        self.seed = seed

    def batches(self, number: int, batch_size: int) -> list[Batch]:
        """Every window once, shuffled, those of like length together; the same for the same seed and number."""
        rng = np.random.default_rng([self.seed, number])
        answers = [q.answers[int(rng.integers(len(q.answers)))] for q in self.questions]
        start, end = answer_positions(self.windows, answers)
        dealt = bucketed(self.windows.attention_mask.sum(axis=1), batch_size, rng)
        return [
            {**inputs(self.windows, rows), "start_positions": start[rows], "end_positions": end[rows]} for rows in dealt
        ]


def inputs(windows: Windows, rows: Array) -> Batch:
    """What a model takes of some of the windows, without the padding that they all have."""
    length = int(windows.attention_mask[rows].sum(axis=1).max())
    names = ("input_ids", "attention_mask", "token_type_ids")
    return {name: getattr(windows, name)[rows, :length] for name in names}


def reply(model: Any, windows: Windows, reading: Reading, workers: Workers | None = None) -> list[list[Reply]]:
    """For each question its best answers, the best first; the windows are shared out over the workers.

    `model` is called with the inputs and gives `start_logits` and `end_logits` (B, T).
    """
    scores = np.full((2, *windows.input_ids.shape), -np.inf)
    batches = bucketed(windows.attention_mask.sum(axis=1), EVALUATION_BATCH)

    def one(i: int) -> None:
        taken = inputs(windows, batches[i])
        out = model(**taken)
        for side, logits in zip(scores, (out.start_logits, out.end_logits), strict=True):
            side[batches[i], : logits.shape[1]] = to_host(logits)

    if workers is None:
        for i in range(len(batches)):
            one(i)
    else:
        workers.map(one, len(batches))
    found = best_spans(windows, *scores, n_best=reading.n_best, longest=reading.longest_answer)
    return [_with_probabilities(spans) for spans in found]


def _with_probabilities(spans: list[Span]) -> list[Reply]:
    p, _ = softmax_forward(np.array([span.score for span in spans]))
    return [Reply(span.start, span.stop, float(share)) for span, share in zip(spans, p, strict=True)]
