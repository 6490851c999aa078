"""One file a family of models: wiring of `nn` modules, configurations, and Hugging Face's names for the weights."""

from minissl.models.bert import BertConfig, BertForPreTraining, BertModel
from minissl.models.pretrained import ModelOutput, PreTrainedModel

__all__ = ["BertConfig", "BertForPreTraining", "BertModel", "ModelOutput", "PreTrainedModel"]
