"""A class for every text: rows of ids, the passes over them, and what the model says of new ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from minissl.backend import Array, to_host
from minissl.finetuning.batches import bucketed, padded
from minissl.finetuning.frozen import FrozenEncoder
from minissl.finetuning.loop import Epoch, FinetuneOptions, finetune
from minissl.finetuning.metrics import accuracy, confusion_matrix
from minissl.models.bert_heads import BertForSequenceClassification
from minissl.ops import softmax_forward
from minissl.text.labelled import Labelled
from minissl.text.tokenizer import BertTokenizer
from minissl.training.trainer import Batch
from minissl.workers import Workers

EVALUATION_ROWS = 64
LEAST_ROWS = 2000  # in a pass: fewer are gone over several times, or fifty labels would make ten updates


class Rows(NamedTuple):
    """Texts as ids, [CLS] and [SEP] included, and their classes (N,)."""

    ids: list[list[int]]
    classes: Array

    def take(self, rows: Sequence[int]) -> Rows:
        """Choose some rows."""
        return Rows([self.ids[i] for i in rows], self.classes[list(rows)])


class Special(NamedTuple):
    """The ids that are no word's."""

    cls: int
    sep: int
    pad: int
    mask: int


def encode(tokenizer: BertTokenizer, labelled: Labelled, names: Sequence[str], longest: int) -> Rows:
    """Turn texts into rows of at most `longest` ids; what is over is cut off at the end."""
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    ids = [[cls, *tokenizer.encode_words(text)[: longest - 2], sep] for text in labelled.texts]
    return Rows(ids, np.array([names.index(label) for label in labelled.labels]))


def special(tokenizer: BertTokenizer) -> Special:
    """The tokenizer's own special ids."""
    return Special(tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id, tokenizer.mask_token_id)


def inputs(rows: Rows, chosen: Sequence[int] | Array, ids: Special) -> Batch:
    """A batch of the chosen rows, padded to the longest of them."""
    input_ids = padded([rows.ids[i] for i in chosen], ids.pad)
    length = np.array([len(rows.ids[i]) for i in chosen])
    return {"input_ids": input_ids, "attention_mask": np.arange(input_ids.shape[1]) < length[:, None]}


def drop_words(batch: Batch, share: float, ids: Special, rng: np.random.Generator) -> Batch:
    """Put [MASK] in the place of a `share` of the words: no pass shows the same texts, and no one word decides.

    Word dropout (Iyyer et al. 2015), with the token that pre-training taught the encoder to read around.
    """
    words = batch["attention_mask"] & (batch["input_ids"] != ids.cls) & (batch["input_ids"] != ids.sep)
    dropped = words & (rng.random(words.shape) < share)
    return {**batch, "input_ids": np.where(dropped, ids.mask, batch["input_ids"])}


def fine_tune(
    model: BertForSequenceClassification, train: Rows, heldout: Rows, ids: Special, options: FinetuneOptions, *,
    word_dropout: float = 0.0, frozen: bool = False, landmarks: str = "",
) -> list[Epoch]:  # fmt: skip
    """Train a classifier; each pass is measured on `heldout` (`accuracy`), which decides nothing.

    Early stopping looks at a tenth of the training rows instead, which then are not trained on (`stopping`). A pass
    goes over fewer than LEAST_ROWS rows several times. `frozen` trains the pooler and the head alone, on whole texts.
    Raises InputError as `finetune` does.
    """
    chosen = np.arange(len(train.ids))
    if options.patience:
        chosen = np.random.default_rng([options.seed, 0]).permutation(chosen)
    edge = len(chosen) // 10 if options.patience else 0
    train, stopping = train.take(chosen[edge:].tolist()), train.take(chosen[:edge].tolist())
    measured = {"accuracy": heldout} | ({"stopping": stopping} if edge else {})

    lengths = [len(row) for row in train.ids]
    repeats = -(-LEAST_ROWS // len(lengths))

    def evaluate(workers: Workers) -> dict[str, float]:
        classes = model.config.num_labels
        return {
            name: accuracy(confusion_matrix(rows.classes, predict(model, rows, ids, workers).argmax(axis=1), classes))
            for name, rows in measured.items()
        }

    def batches(epoch: int) -> list[Batch]:
        rng = np.random.default_rng([options.seed, 1, epoch])
        made = []
        for part in (part for _ in range(repeats) for part in bucketed(lengths, options.batch_size, rng)):
            batch = {"hidden": features[part]} if frozen else inputs(train, part, ids)
            if word_dropout and not frozen:
                batch = drop_words(batch, word_dropout, ids, rng)
            made.append({**batch, "labels": train.classes[part]})
        return made

    features = _features(model, train, ids) if frozen else np.zeros(0)
    learner: Any = FrozenEncoder(model) if frozen else model
    better = "stopping" if edge else "accuracy"
    return finetune(learner, options, batches, evaluate, better=better, landmarks=landmarks)


def predict(model: BertForSequenceClassification, rows: Rows, ids: Special, workers: Workers) -> Array:
    """p(class | text), (N, C), in float64."""
    parts = bucketed([len(row) for row in rows.ids], EVALUATION_ROWS)

    def work(i: int) -> Array:
        batch = inputs(rows, parts[i], ids)
        scores: Array = to_host(model(batch["input_ids"], batch["attention_mask"]).logits)
        return scores

    scores = workers.map(work, len(parts))
    logits = np.empty((len(rows.ids), model.config.num_labels))
    logits[np.concatenate(parts)] = np.concatenate(scores)
    probabilities: Array = softmax_forward(logits)[0]
    return probabilities


def _features(model: BertForSequenceClassification, rows: Rows, ids: Special) -> Array:
    parts = bucketed([len(row) for row in rows.ids], EVALUATION_ROWS)
    hidden = np.empty((len(rows.ids), 1, model.config.hidden_size), model.bert.pooler.dense.weight.data.dtype)
    for part in parts:
        hidden[part] = FrozenEncoder.features(model, inputs(rows, part, ids))
    return hidden
