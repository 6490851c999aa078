"""BERT with tasks on it: several at once (`BertForTasks`), or one, under Hugging Face's names for those models."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from minissl.backend import Array, beside, to_number
from minissl.errors import InputError
from minissl.models.bert import BertConfig, BertForPreTraining, BertInputs, BertModel, check_inputs
from minissl.models.bert_tasks import (
    Batch,
    MaskedLMTask,
    NextSentenceTask,
    SequenceTask,
    SpanTask,
    Task,
    TokenTask,
)
from minissl.models.labels import Asked
from minissl.models.pretrained import LearningModel, ModelOutput, check_dtype
from minissl.nn import Grads, Init


class BertForTasks(LearningModel):
    """One encoder, several tasks: L = Σ weight · L_task, so the encoder's gradient is the weighted sum of theirs.

    A row of a batch takes part in the tasks whose labels it has; -100 leaves it out of one.
    """

    config_class = BertConfig
    renames: ClassVar[tuple[tuple[str, str], ...]] = BertModel.renames

    def __init__(
        self, config: BertConfig, tasks: Sequence[Callable[[BertConfig, Init], Task]],
        weights: Mapping[str, float] | None = None, seed: int = 0, dtype: str = "float32",
    ):  # fmt: skip
        """Make the encoder, and each task by calling `tasks[i](config, init)`; weights go by the tasks' names.

        Raises InputError for two tasks of one name, a weight of a task that is not there or one that is not above 0.
        """
        check_dtype(dtype)
        init = Init(np.random.default_rng(seed), dtype, config.initializer_range)
        made = [make(config, init) for make in tasks]
        self.config: BertConfig = config
        self.bert = BertModel(config, dtype=dtype, init=init, add_pooling_layer=any(task.pooled for task in made))
        self.tasks = {task.name: task for task in made}
        self.weights = dict.fromkeys(self.tasks, 1.0) | dict(weights or {})
        if len(self.tasks) < max(1, len(made)):
            names = ", ".join(task.name for task in made) or "none"
            raise InputError(f"tasks: {names}; expected one or more, each with its own name")
        for name, weight in self.weights.items():
            if name not in self.tasks:
                raise InputError(f"weights: there is no task {name!r}; there are: {', '.join(self.tasks)}")
            if not 0 < weight < math.inf:
                raise InputError(f"weights: {weight} for {name!r}, expected a number above 0")

    def forward(
        self, inputs: BertInputs, asked: dict[str, dict[str, Asked]], rng: np.random.Generator | None = None
    ) -> tuple[dict[str, Array], Any]:
        """Return each loss times its task's weight, and the caches. The sum is what training minimises."""
        hidden, bert_cache = self.bert.forward(inputs, rng)
        losses: dict[str, Array] = {}
        caches = {}
        for name, of_task in asked.items():
            own, caches[name] = self.tasks[name].forward(self.bert, hidden, of_task, rng)
            losses |= {loss: value * self.weights[name] for loss, value in own.items()}
        return losses, (bert_cache, caches)

    def backward(self, cache: Any, grads: Grads) -> None:
        """Each task sends its gradient to the hidden states; their sum goes down through the encoder once."""
        bert_cache, caches = cache
        dhiddens = [
            self.tasks[name].backward(self.bert, self.weights[name] * grads.loss_scale, of_task, grads)
            for name, of_task in caches.items()
        ]
        self.bert.backward(sum(dhiddens[1:], start=dhiddens[0]), bert_cache, grads)

    def untrained(self) -> dict[str, Array]:
        """Name the entries that looking up does not train: the padding row, as in Hugging Face."""
        key = next(key for key, _ in self.named_parameters() if key.endswith("word_embeddings.weight"))
        rows = np.zeros(self.bert.embeddings.word_embeddings.weight.data.shape, bool)
        rows[self.config.pad_token_id] = True
        return {key: rows}

    def counts(self, batch: Batch) -> dict[str, int]:
        """What each loss of a batch divides by. Raises InputError where nothing is asked."""
        asked = self._asked(batch)
        return {loss: one.divisor for of_task in asked.values() for loss, one in of_task.items()}

    def losses_and_backward(
        self, batch: Batch, counts: dict[str, int], grads: Grads, rng: np.random.Generator | None
    ) -> dict[str, float]:
        """One share of a step: every task's losses, times its weight, over its part of the batch."""
        inputs = check_inputs(self.config, **self._inputs(batch))
        asked = self._asked(batch, inputs.input_ids.shape, counts)
        inputs = beside(inputs, self.bert.embeddings.norm.gain.data)
        losses, cache = self.forward(inputs, asked, rng)
        self.backward(cache, grads)
        return {name: to_number(loss) for name, loss in losses.items()}

    def _inputs(self, batch: Batch) -> Batch:
        labels = {name for task in self.tasks.values() for name in task.labels}
        return {name: array for name, array in batch.items() if name not in labels}

    def _asked(
        self, batch: Batch, shape: tuple[int, ...] | None = None, counts: dict[str, int] | None = None
    ) -> dict[str, dict[str, Asked]]:
        given = {name: array for name, array in batch.items() if array is not None}
        asked = {name: of_task for name, task in self.tasks.items() if (of_task := task.asked(given, shape, counts))}
        if not asked:
            labels = [name for task in self.tasks.values() for name in task.labels]
            raise InputError(f"nothing to learn from: give {' and '.join(labels)}")
        return beside(asked, self.bert.embeddings.norm.gain.data)  # type: ignore[no-any-return]

    def answers(self, *args: Any, **inputs: Any) -> dict[str, ModelOutput]:
        """Evaluate every task on the same inputs, those of `BertModel`: task -> its output."""
        encoded = self.bert(*args, **inputs)
        return {name: ModelOutput(task.answer(self.bert, encoded)) for name, task in self.tasks.items()}


class BertForTask(BertForTasks):
    """A model with one task, under Hugging Face's names; `labels` are those of the task."""

    def __init__(self, config: BertConfig, seed: int = 0, dtype: str = "float32"):
        super().__init__(config, [self.make_task], seed=seed, dtype=dtype)

    @staticmethod
    def make_task(config: BertConfig, init: Init) -> Task:
        """Make the task, with its sizes from the configuration."""
        raise NotImplementedError

    def _answer(self, labels: dict[str, Any], *inputs: Any) -> ModelOutput:
        encoded = self.bert(*inputs)
        (task,) = self.tasks.values()
        answer = task.answer(self.bert, encoded)
        out = ModelOutput()
        if any(given is not None for given in labels.values()):
            shape = encoded.last_hidden_state.shape[:2]
            out["loss"] = task.loss_of(answer, self._asked(labels, shape)[task.name])
        out.update(answer)
        out.update({name: encoded[name] for name in ("hidden_states", "attentions") if name in encoded})
        return out


class BertForLabels(BertForTask):
    """A model with one task whose truth is given as `labels`."""

    def __call__(
        self, input_ids: Array, attention_mask: Array | None = None, token_type_ids: Array | None = None,
        position_ids: Array | None = None, labels: Array | None = None, output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> ModelOutput:  # fmt: skip
        """Evaluate: the task's scores, and `loss` where labels are given; on request every layer's own states."""
        asked = {"labels": labels}
        return self._answer(
            asked, input_ids, attention_mask, token_type_ids, position_ids, output_hidden_states, output_attentions
        )


class BertForMaskedLM(BertForLabels):
    """A word for every position; labels (B, T), -100 = not asked. Output: `logits` (B, T, V)."""

    renames: ClassVar[tuple[tuple[str, str], ...]] = (("tasks.mlm.", ""), *BertModel.renames)
    aliases: ClassVar[dict[str, str]] = BertForPreTraining.aliases

    make_task = MaskedLMTask


class BertForNextSentencePrediction(BertForLabels):
    """Whether the second segment follows the first; labels (B,): 0 = is next, 1 = is not. Output: `logits` (B, 2)."""

    renames: ClassVar[tuple[tuple[str, str], ...]] = (
        ("tasks.nsp.classifier.", "seq_relationship."),
        *BertModel.renames,
    )

    make_task = NextSentenceTask


class BertForSequenceClassification(BertForLabels):
    """A class for a sequence (`config.num_labels` of them), several at once, or a number. Output: `logits` (B, C).

    Labels (B,) of classes, or numbers (B, C), by `config.problem_type`: see `SequenceTask`.
    """

    renames: ClassVar[tuple[tuple[str, str], ...]] = (("tasks.classification.", ""), *BertModel.renames)

    @staticmethod
    def make_task(config: BertConfig, init: Init) -> Task:
        """A `SequenceTask` of the configuration's labels, problem and dropout."""
        problem, dropout = config.problem_type, head_dropout(config)
        return SequenceTask(config, init, config.num_labels, problem=problem, dropout=dropout)


class BertForTokenClassification(BertForLabels):
    """A class for every token; labels (B, T), -100 = not asked. Output: `logits` (B, T, C)."""

    renames: ClassVar[tuple[tuple[str, str], ...]] = (("tasks.tagging.", ""), *BertModel.renames)

    @staticmethod
    def make_task(config: BertConfig, init: Init) -> Task:
        """A `TokenTask` of the configuration's labels and dropout."""
        return TokenTask(config, init, config.num_labels, dropout=head_dropout(config))


class BertForQuestionAnswering(BertForTask):
    """Where the answer starts and ends. Output: `start_logits` and `end_logits` (B, T)."""

    renames: ClassVar[tuple[tuple[str, str], ...]] = (("tasks.span.", ""), *BertModel.renames)

    @staticmethod
    def make_task(config: BertConfig, init: Init) -> Task:
        """A `SpanTask`. Raises InputError for a configuration of more or fewer than its two scores."""
        if config.num_labels != 2:
            raise InputError(f"config: num_labels is {config.num_labels}, expected 2: an answer's start and end")
        return SpanTask(config, init)

    def __call__(
        self, input_ids: Array, attention_mask: Array | None = None, token_type_ids: Array | None = None,
        position_ids: Array | None = None, start_positions: Array | None = None, end_positions: Array | None = None,
        output_hidden_states: bool = False, output_attentions: bool = False,
    ) -> ModelOutput:  # fmt: skip
        """Evaluate: `start_logits`, `end_logits`, and `loss` where positions (B,) are given."""
        asked = {"start_positions": start_positions, "end_positions": end_positions}
        return self._answer(
            asked, input_ids, attention_mask, token_type_ids, position_ids, output_hidden_states, output_attentions
        )


def head_dropout(config: BertConfig) -> float:
    """The share that a classifier's dropout drops."""
    return config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout
