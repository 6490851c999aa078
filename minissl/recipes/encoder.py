"""The encoder that a fine-tuning begins with: a run's, or one that Hugging Face wrote; and fresh weights beside it."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from minissl.backend import Array
from minissl.errors import InputError
from minissl.models.bert import BertConfig, BertModel
from minissl.models.bert_heads import BertForQuestionAnswering
from minissl.text.tokenizer import BertTokenizer
from minissl.training.run_folder import METRICS, SETTINGS

Model = TypeVar("Model", BertModel, BertForQuestionAnswering)


class Encoder(NamedTuple):
    """What a folder holds of a BERT, its heads left out."""

    tokenizer: BertTokenizer
    config: BertConfig
    weights: dict[str, Array]

    def changed(self, **fields: Any) -> BertConfig:
        """The configuration with other labels, another dropout, …."""
        about = self.config.to_dict()
        if "id2label" in fields:
            about.pop("label2id", None)
        return BertConfig.from_dict({**about, **fields})


def load_encoder(folder: str | os.PathLike[str]) -> Encoder:
    """Read tokenizer, configuration and encoder. Raises InputError for an unfinished run, or files that do not fit."""
    encoder, tokenizer, _ = load_model(folder, BertModel, "pooler.")
    return Encoder(tokenizer, encoder.config, encoder.state_dict())


def load_model(
    folder: str | os.PathLike[str], kind: type[Model], fresh: str, **changes: Any
) -> tuple[Model, BertTokenizer, bool]:
    """Read a model of one kind and its tokenizer, from a folder or by its name at Hugging Face (see `hub`).

    Also says whether the file held the part whose keys begin with `fresh`. That part may be lacking, and is then new;
    `changes` are fields of the config, or the `device`. Raises InputError for a run that has not ended, a file without
    the whole encoder, and a vocabulary that is not the model's.
    """
    if Path(folder, SETTINGS).is_file() and not Path(folder, METRICS).is_file():
        raise InputError(f"{folder}: this run has not ended; let it end before something is built on it")
    tokenizer = BertTokenizer.from_pretrained(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that other heads are left, and this one may be new, is what was asked for
        model, loading = kind.from_pretrained(folder, output_loading_info=True, **changes)
    missing = loading["missing_keys"]
    lacking = [key for key in missing if not key.startswith(fresh)]
    if lacking:
        raise InputError(f"{folder}: its file lacks {len(lacking)} of the encoder's weights, {lacking[0]} the first")
    if len(tokenizer) != model.config.vocab_size:
        raise InputError(
            f"{folder}: the vocabulary has {len(tokenizer)} entries, the model {model.config.vocab_size}: "
            "not of one run"
        )
    return model, tokenizer, not missing
