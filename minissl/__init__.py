"""minissl: self-supervised learning with transformers, every gradient by hand and checked.

Importing it loads NumPy and nothing else that is heavy; each public name is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from minissl.errors import InputError
    from minissl.kernels import reference_ops, replace_op
    from minissl.models import (
        BertConfig,
        BertForMaskedLM,
        BertForNextSentencePrediction,
        BertForPreTraining,
        BertForQuestionAnswering,
        BertForSequenceClassification,
        BertForTasks,
        BertForTokenClassification,
        BertModel,
        ViTConfig,
        ViTForImageClassification,
        ViTForMaskedImageModeling,
        ViTMAEConfig,
        ViTMAEForPreTraining,
        ViTMAEModel,
        ViTModel,
    )
    from minissl.text import BertTokenizer, BertTokenizerFast

_HOME = {
    "BertConfig": "minissl.models",
    "BertForMaskedLM": "minissl.models",
    "BertForNextSentencePrediction": "minissl.models",
    "BertForPreTraining": "minissl.models",
    "BertForQuestionAnswering": "minissl.models",
    "BertForSequenceClassification": "minissl.models",
    "BertForTasks": "minissl.models",
    "BertForTokenClassification": "minissl.models",
    "BertModel": "minissl.models",
    "BertTokenizer": "minissl.text",
    "BertTokenizerFast": "minissl.text",
    "InputError": "minissl.errors",
    "ViTConfig": "minissl.models",
    "ViTForImageClassification": "minissl.models",
    "ViTForMaskedImageModeling": "minissl.models",
    "ViTMAEConfig": "minissl.models",
    "ViTMAEForPreTraining": "minissl.models",
    "ViTMAEModel": "minissl.models",
    "ViTModel": "minissl.models",
    "reference_ops": "minissl.kernels",
    "replace_op": "minissl.kernels",
}
_ROOMS = ("gradcheck", "kernels", "models", "nn", "ops", "pretext", "text", "training", "vision")

__all__ = [
    "BertConfig",
    "BertForMaskedLM",
    "BertForNextSentencePrediction",
    "BertForPreTraining",
    "BertForQuestionAnswering",
    "BertForSequenceClassification",
    "BertForTasks",
    "BertForTokenClassification",
    "BertModel",
    "BertTokenizer",
    "BertTokenizerFast",
    "InputError",
    "ViTConfig",
    "ViTForImageClassification",
    "ViTForMaskedImageModeling",
    "ViTMAEConfig",
    "ViTMAEForPreTraining",
    "ViTMAEModel",
    "ViTModel",
    "reference_ops",
    "replace_op",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"minissl.{name}")
    raise AttributeError(f"minissl has no {name!r}; it has: {', '.join([*__all__, *_ROOMS])}")


def __dir__() -> list[str]:
    return [*__all__, *_ROOMS, "__version__"]
