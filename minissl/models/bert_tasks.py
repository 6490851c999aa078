"""What BERT is put to work on: tasks, each a head on the encoder's hidden states with a loss of its own."""

from __future__ import annotations

from typing import Any

import numpy as np

from minissl.backend import Array, array_module
from minissl.errors import InputError
from minissl.kernels import op
from minissl.models.bert import BertConfig, BertModel, MaskedLMHead
from minissl.models.labels import (
    Asked,
    asked_classes,
    asked_labels,
    classify_backward,
    classify_forward,
    label_loss_backward,
    label_loss_forward,
)
from minissl.models.pretrained import ModelOutput, as_array
from minissl.nn import Dropout, Grads, Init, Linear, Module
from minissl.pretext.mlm import IGNORE

take_positions = op("take_positions")
masked_cross_entropy = op("masked_cross_entropy")

Batch = dict[str, Array]


class Task(Module):
    """A head with its loss. `name` is the loss's in a log; `labels` are its columns in a batch."""

    name: str
    labels: tuple[str, ...]
    pooled = False  # whether it reads the pooler's vector, so that the encoder needs one

    classes: int

    def asked(self, batch: Batch, shape: tuple[int, ...] | None, counts: dict[str, int] | None) -> dict[str, Asked]:
        """What a batch of (B, T) = `shape` asks of each loss; nothing where the batch lacks this task's labels.

        Here: labels (B, T), a class for every token, -100 = not asked.
        """
        (name,) = self.labels
        if name not in batch:
            return {}
        count = None if counts is None else counts[self.name]
        return {self.name: asked_classes(name, batch[name], self.classes, shape, count)}

    def forward(
        self, bert: BertModel, hidden: Array, asked: dict[str, Asked], rng: np.random.Generator | None
    ) -> tuple[dict[str, Array], Any]:
        """hidden (B, T, D) -> losses."""
        raise NotImplementedError

    def backward(self, bert: BertModel, dloss: float, cache: Any, grads: Grads) -> Array:
        """dhidden (B, T, D), where every loss of the task has the upstream gradient `dloss`."""
        raise NotImplementedError

    def answer(self, bert: BertModel, encoded: ModelOutput) -> dict[str, Array]:
        """Evaluate: the output fields, Hugging Face's."""
        raise NotImplementedError

    def loss_of(self, answer: dict[str, Array], asked: dict[str, Asked]) -> Any:
        """Evaluate: the sum of the losses of an answer."""
        return classify_forward(answer["logits"], asked[self.name])[0]


class SequenceTask(Task):
    """Something about the whole sequence: W dropout(pooled) + b. A class, several at once, or a number.

    The loss is cross-entropy, binary cross-entropy (labels (B, C) of 0 and 1) or the mean squared error, by `problem`.
    """

    pooled = True

    def __init__(
        self, config: BertConfig, init: Init, classes: int, name: str = "classification", labels: str = "labels",
        problem: str | None = None, dropout: float = 0.0,
    ):  # fmt: skip
        self.dropout = Dropout(dropout)
        self.classifier = Linear(config.hidden_size, classes, init)
        self.classes = classes
        self.name = name
        self.labels = (labels,)
        self.problem = problem

    def asked(self, batch: Batch, shape: tuple[int, ...] | None, counts: dict[str, int] | None) -> dict[str, Asked]:
        """Labels (B,) of classes, -100 = not asked; or numbers (B, C), which are all asked."""
        (name,) = self.labels
        if name not in batch:
            return {}
        count = None if counts is None else counts[self.name]
        rows = None if shape is None else shape[0]
        return {self.name: asked_labels(name, batch[name], self.classes, self.problem, rows, count)}

    def forward(
        self, bert: BertModel, hidden: Array, asked: dict[str, Asked], rng: np.random.Generator | None
    ) -> tuple[dict[str, Array], Any]:
        """hidden (B, T, D) -> one loss."""
        pooled, pooler_cache = bert.pooler.forward(hidden)
        dropped, dropout_cache = self.dropout.forward(pooled, rng)
        logits, linear_cache = self.classifier.forward(dropped)  # (B, C)
        loss, loss_cache = label_loss_forward(logits, asked[self.name])
        return {self.name: loss}, (hidden.shape, pooler_cache, dropout_cache, linear_cache, loss_cache)

    def backward(self, bert: BertModel, dloss: float, cache: Any, grads: Grads) -> Array:
        """Only the first position, [CLS], gets a gradient."""
        shape, pooler_cache, dropout_cache, linear_cache, loss_cache = cache
        dlogits = label_loss_backward(dloss, loss_cache)
        dpooled = self.dropout.backward(self.classifier.backward(dlogits, linear_cache, grads), dropout_cache)
        dhidden = array_module(dpooled).zeros(shape, dpooled.dtype)
        dhidden[:, 0] = bert.pooler.backward(dpooled, pooler_cache, grads)
        return dhidden

    def answer(self, bert: BertModel, encoded: ModelOutput) -> dict[str, Array]:
        """`logits` (B, C)."""
        return {"logits": self.classifier.forward(encoded.pooler_output)[0]}

    def loss_of(self, answer: dict[str, Array], asked: dict[str, Asked]) -> Any:
        """Evaluate the loss."""
        return label_loss_forward(answer["logits"], asked[self.name])[0]


class NextSentenceTask(SequenceTask):
    """Whether the second segment follows the first (0) or not (1)."""

    def __init__(self, config: BertConfig, init: Init, name: str = "nsp", labels: str = "labels"):
        super().__init__(config, init, 2, name, labels, "single_label_classification")


class TokenTask(Task):
    """A class for every token: W dropout(h) + b."""

    def __init__(
        self, config: BertConfig, init: Init, classes: int, name: str = "tagging", labels: str = "labels",
        dropout: float = 0.0,
    ):  # fmt: skip
        self.dropout = Dropout(dropout)
        self.classifier = Linear(config.hidden_size, classes, init)
        self.classes = classes
        self.name = name
        self.labels = (labels,)

    def forward(
        self, bert: BertModel, hidden: Array, asked: dict[str, Asked], rng: np.random.Generator | None
    ) -> tuple[dict[str, Array], Any]:
        """hidden (B, T, D) -> one loss."""
        dropped, dropout_cache = self.dropout.forward(hidden, rng)
        logits, linear_cache = self.classifier.forward(dropped)  # (B, T, C)
        loss, loss_cache = classify_forward(logits, asked[self.name])
        return {self.name: loss}, (dropout_cache, linear_cache, loss_cache)

    def backward(self, bert: BertModel, dloss: float, cache: Any, grads: Grads) -> Array:
        """dhidden (B, T, D)."""
        dropout_cache, linear_cache, loss_cache = cache
        dlogits = classify_backward(dloss, loss_cache)
        return self.dropout.backward(self.classifier.backward(dlogits, linear_cache, grads), dropout_cache)

    def answer(self, bert: BertModel, encoded: ModelOutput) -> dict[str, Array]:
        """`logits` (B, T, C)."""
        return {"logits": self.classifier.forward(encoded.last_hidden_state)[0]}


class SpanTask(Task):
    """Where an answer starts and ends: two scores a token, each a softmax over the positions of the sequence.

    The loss is the mean of both cross-entropies (Devlin et al. 2019, section 4.2).
    """

    labels = ("start_positions", "end_positions")

    def __init__(self, config: BertConfig, init: Init, name: str = "span"):
        self.qa_outputs = Linear(config.hidden_size, 2, init)
        self.name = name

    @property
    def _losses(self) -> tuple[str, str]:
        return f"{self.name}_start", f"{self.name}_end"

    def asked(self, batch: Batch, shape: tuple[int, ...] | None, counts: dict[str, int] | None) -> dict[str, Asked]:
        """Positions (B,); one at T or beyond lies outside what was read, and is not asked, as in Hugging Face."""
        given = [name for name in self.labels if name in batch]
        if len(given) == 1:
            raise InputError(f"{given[0]}: given alone; a span needs both start_positions and end_positions")
        asked: dict[str, Asked] = {}
        for name, loss in zip(given, self._losses, strict=False):
            labels = as_array(name, batch[name]).reshape(-1)
            length = shape[1] if shape else as_array("input_ids", batch["input_ids"]).shape[-1]
            inside = np.where(labels >= length, IGNORE, labels)
            count = None if counts is None else counts[loss]
            known = (inside != IGNORE).any() or count is not None
            if not known:  # every answer's end may lie outside while its start does not
                asked[loss] = Asked(np.zeros(0, int), np.zeros(0, int), 0)
            else:
                asked[loss] = asked_classes(name, inside, length, shape and shape[:1], count)
        if asked and not any(one.divisor for one in asked.values()):
            raise InputError("start_positions, end_positions: every one lies outside its sequence, so nothing is asked")
        return asked

    def forward(
        self, bert: BertModel, hidden: Array, asked: dict[str, Asked], rng: np.random.Generator | None
    ) -> tuple[dict[str, Array], Any]:
        """hidden (B, T, D) -> half of each loss."""
        logits, linear_cache = self.qa_outputs.forward(hidden)  # (B, T, 2)
        losses, caches = {}, []
        for i, name in enumerate(self._losses):
            if asked[name].divisor:
                loss, cache = classify_forward(logits[..., i], asked[name])  # (B, T): the positions are the classes
                losses[name] = loss / 2
                caches.append((i, cache))
        return losses, (logits, linear_cache, caches)

    def backward(self, bert: BertModel, dloss: float, cache: Any, grads: Grads) -> Array:
        """dhidden (B, T, D)."""
        logits, linear_cache, caches = cache
        dlogits = array_module(logits).zeros_like(logits)
        for i, loss_cache in caches:
            dlogits[..., i] = classify_backward(dloss / 2, loss_cache)
        return self.qa_outputs.backward(dlogits, linear_cache, grads)

    def answer(self, bert: BertModel, encoded: ModelOutput) -> dict[str, Array]:
        """`start_logits` and `end_logits` (B, T)."""
        logits, _ = self.qa_outputs.forward(encoded.last_hidden_state)
        return {"start_logits": logits[..., 0], "end_logits": logits[..., 1]}

    def loss_of(self, answer: dict[str, Array], asked: dict[str, Asked]) -> Any:
        """Evaluate the loss."""
        losses = [
            classify_forward(logits, asked[name])[0] / 2
            for name, logits in zip(self._losses, answer.values(), strict=True)
            if asked[name].divisor
        ]
        return sum(losses)


class MaskedLMTask(Task):
    """The true word at each masked position, by the word embeddings themselves (tied)."""

    def __init__(self, config: BertConfig, init: Init, name: str = "mlm", labels: str = "labels"):
        self.predictions = MaskedLMHead(config, init)
        self.classes = config.vocab_size
        self.name = name
        self.labels = (labels,)

    def forward(
        self, bert: BertModel, hidden: Array, asked: dict[str, Asked], rng: np.random.Generator | None
    ) -> tuple[dict[str, Array], Any]:
        """hidden (B, T, D) -> one loss; only the M masked positions are decoded."""
        positions, ids, count, _ = asked[self.name]
        h, taken = take_positions.forward(hidden, positions)  # (M, D)
        h, head = self.predictions.forward(h)
        decoder = bert.embeddings.word_embeddings.weight.data
        loss, decoded = masked_cross_entropy.forward(h, decoder, self.predictions.bias.data, ids, count)
        return {self.name: loss}, (taken, head, decoded)

    def backward(self, bert: BertModel, dloss: float, cache: Any, grads: Grads) -> Array:
        """dhidden (B, T, D); the decoder's gradient reaches the word embeddings."""
        taken, head, decoded = cache
        dh, dweight, dbias = masked_cross_entropy.backward(dloss, decoded)
        grads.add(bert.embeddings.word_embeddings.weight, dweight)
        grads.add(self.predictions.bias, dbias)
        dhidden: Array = take_positions.backward(self.predictions.backward(dh, head, grads), taken)
        return dhidden

    def answer(self, bert: BertModel, encoded: ModelOutput) -> dict[str, Array]:
        """`logits` (B, T, V)."""
        h, _ = self.predictions.forward(encoded.last_hidden_state)
        return {"logits": h @ bert.embeddings.word_embeddings.weight.data.T + self.predictions.bias.data}
