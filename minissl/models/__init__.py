"""One file a family of models: wiring of `nn` modules, configurations, and Hugging Face's names for the weights."""

from minissl.models.bert import BertConfig, BertForPreTraining, BertModel
from minissl.models.bert_heads import (
    BertForMaskedLM,
    BertForNextSentencePrediction,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTasks,
    BertForTokenClassification,
)
from minissl.models.mae import ViTMAEConfig, ViTMAEForPreTraining, ViTMAEModel
from minissl.models.pretrained import ModelOutput, PreTrainedModel
from minissl.models.vit import ViTConfig, ViTForImageClassification, ViTForMaskedImageModeling, ViTModel

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
    "ModelOutput",
    "PreTrainedModel",
    "ViTConfig",
    "ViTForImageClassification",
    "ViTForMaskedImageModeling",
    "ViTMAEConfig",
    "ViTMAEForPreTraining",
    "ViTMAEModel",
    "ViTModel",
]
