"""Pre-training by span selection: texts ask about themselves (`pretext/span_selection.py`), and a model answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from minissl.backend import Array, to_host
from minissl.finetuning.batches import bucketed
from minissl.finetuning.loop import Epoch, FinetuneOptions, finetune
from minissl.finetuning.reading import EVALUATION_BATCH, Batch
from minissl.pretext.span_selection import SpanQuestions, make_span_questions, unlikely_answers
from minissl.text.tokenizer import BertTokenizer
from minissl.workers import Workers

SHORT, LONG = 64, 128  # tokens in a sequence in the first half of the passes, and in the second
PASS_STEPS = 200
DOCUMENTS = 256  # or more are asked about at a time, so that some can be
HELDOUT_ROWS = 512
TRAIN, HELDOUT = range(2)  # streams of random numbers


class SpanTask:
    """Batches of questions that documents of sentences ask about themselves, and what the model gets right of others'.

    `documents` and `heldout` hold the ids of sentences.
    """

    def __init__(
        self, documents: Sequence[Sequence[Sequence[int]]], heldout: Sequence[Sequence[Sequence[int]]],
        tokenizer: BertTokenizer, batch_size: int, seed: int,
    ):  # fmt: skip
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.seed = seed
        self._documents = documents
        self._heldout = heldout
        every = np.concatenate([np.asarray(s, np.int64) for document in documents for s in document])
        self._unlikely = unlikely_answers(np.bincount(every, minlength=len(tokenizer)))

    def _ask(
        self, documents: Sequence[Sequence[Sequence[int]]], length: int, rng: np.random.Generator
    ) -> SpanQuestions:
        t = self.tokenizer
        return make_span_questions(
            documents, length, cls_id=t.cls_token_id, sep_id=t.sep_token_id, pad_id=t.pad_token_id,
            mask_id=t.mask_token_id, word_start=t.word_start, unlikely=self._unlikely, rng=rng,
        )  # fmt: skip

    def batches(self, length: int) -> Iterator[Batch]:
        """Batches without end: every document once, in random order, and again with other questions."""
        rng = np.random.default_rng([self.seed, TRAIN, length])
        while True:
            order = rng.permutation(len(self._documents))
            for part in np.array_split(order, max(1, len(order) // DOCUMENTS)):
                made = self._ask([self._documents[i] for i in part.tolist()], length, rng)
                for rows in bucketed(made.attention_mask.sum(axis=1), self.batch_size, rng):
                    yield _batch(made, rows)

    def heldout(self, length: int = LONG) -> list[Batch]:
        """The same HELDOUT_ROWS questions about the held-out documents, whatever the seed."""
        made = self._ask(self._heldout, length, np.random.default_rng([0, HELDOUT]))
        rows = np.arange(min(HELDOUT_ROWS, len(made.input_ids)))
        return [_batch(made, rows[i : i + EVALUATION_BATCH]) for i in range(0, len(rows), EVALUATION_BATCH)]


def _batch(made: SpanQuestions, rows: Array) -> Batch:
    length = int(made.attention_mask[rows].sum(axis=1).max())
    batch: Batch = {name: column[rows] for name, column in made._asdict().items()}
    return {name: column[:, :length] if column.ndim == 2 else column for name, column in batch.items()}


def pretrain_on_spans(model: Any, task: SpanTask, options: FinetuneOptions) -> list[Epoch]:
    """Train `model` for `options.epochs` passes of PASS_STEPS batches; measure on held-out questions after each.

    Short sequences come first: in them the model finds what both sides share sooner. `start` is the share of
    held-out questions whose answer's first token is found, `both` that whose last is found too.
    """
    heldout = task.heldout()
    streams = {length: task.batches(length) for length in (SHORT, LONG)}

    def batches(number: int) -> list[Batch]:
        stream = streams[SHORT if 2 * number < options.epochs else LONG]
        return [next(stream) for _ in range(PASS_STEPS)]

    def evaluate(workers: Workers) -> dict[str, float]:
        def one(i: int) -> Array:
            asked = {name: a for name, a in heldout[i].items() if not name.endswith("positions")}
            out = model(**asked)
            start, end = (
                np.where(asked["attention_mask"], to_host(logits), -np.inf).argmax(axis=1) == heldout[i][name]
                for logits, name in ((out.start_logits, "start_positions"), (out.end_logits, "end_positions"))
            )
            return np.stack([start, start & end], axis=1)

        start, both = np.concatenate(workers.map(one, len(heldout))).mean(axis=0).tolist()
        return {"start": start, "both": both}

    return finetune(model, options, batches, evaluate, better="both")
