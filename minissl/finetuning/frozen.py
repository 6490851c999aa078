"""The linear probe: the encoder stays as it is, and only what stands on it learns."""

from __future__ import annotations

from typing import cast

import numpy as np

from minissl.backend import Array, beside, to_host, to_number
from minissl.models.bert import BertModel
from minissl.models.bert_heads import BertForSequenceClassification
from minissl.models.labels import asked_classes, classify_backward, classify_forward
from minissl.models.vit import ViTForImageClassification
from minissl.nn import Grads, Module
from minissl.training.trainer import Batch


class FrozenEncoder(Module):
    """A classifier's pooler and head, trained on hidden states of [CLS] that are computed once.

    The parameters are the classifier's own, so it is trained when this is; its encoder sees no backward pass.
    """

    def __init__(self, model: BertForSequenceClassification):
        (task,) = model.tasks.values()
        self.pooler = model.bert.pooler
        self.task = task

    @staticmethod
    def features(model: BertForSequenceClassification, batch: Batch) -> Array:
        """Evaluate the encoder: the hidden state of [CLS], (B, 1, D), on the host."""
        hidden: Array = to_host(model.bert(batch["input_ids"], batch["attention_mask"]).last_hidden_state[:, :1])
        return hidden

    def counts(self, batch: Batch) -> dict[str, int]:
        """What the loss divides by."""
        return {name: asked.divisor for name, asked in self.task.asked({"labels": batch["labels"]}, None, None).items()}

    def losses_and_backward(
        self, batch: Batch, counts: dict[str, int], grads: Grads, rng: np.random.Generator | None
    ) -> dict[str, float]:
        """As the whole model's, from `hidden` (B, 1, D) up; what the head says to the encoder is not passed on."""
        asked = self.task.asked({"labels": batch["labels"]}, batch["hidden"].shape[:2], counts)
        hidden, asked = beside((batch["hidden"], asked), self.pooler.dense.weight.data)
        encoder = cast(BertModel, self)  # a task asks the encoder for its pooler alone
        losses, cache = self.task.forward(encoder, hidden, asked, rng)
        self.task.backward(encoder, grads.loss_scale, cache, grads)
        return {name: to_number(loss) for name, loss in losses.items()}


class FrozenImageEncoder(Module):
    """An image classifier's head, trained on last states of the class token that are computed once."""

    def __init__(self, model: ViTForImageClassification):
        self.classifier = model.classifier
        self.classes = model.config.num_labels

    def counts(self, batch: Batch) -> dict[str, int]:
        """What the loss divides by."""
        return {"classification": asked_classes("labels", batch["labels"], self.classes, None, None).divisor}

    def losses_and_backward(
        self, batch: Batch, counts: dict[str, int], grads: Grads, rng: np.random.Generator | None
    ) -> dict[str, float]:
        """As the whole model's, from `hidden` (B, D) up; what the head says to the encoder is not passed on."""
        rows = (len(batch["hidden"]),)
        asked = asked_classes("labels", batch["labels"], self.classes, rows, counts["classification"])
        hidden, asked = beside((batch["hidden"], asked), self.classifier.weight.data)
        logits, linear_cache = self.classifier.forward(hidden)
        loss, cache = classify_forward(logits, asked)
        self.classifier.backward(classify_backward(grads.loss_scale, cache), linear_cache, grads)
        return {"classification": to_number(loss)}
