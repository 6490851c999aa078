"""`minissl fill`: the words that a trained model puts in the place of each [MASK]."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minissl.backend import to_host
from minissl.errors import InputError
from minissl.models.bert import BertForPreTraining
from minissl.ops import softmax_forward
from minissl.text.tokenizer import BertTokenizer
from minissl.training.run_folder import METRICS, SETTINGS, RunFolder


class Guess(NamedTuple):
    """A word and the probability the model gives it."""

    word: str
    probability: float


def fill(model: str | os.PathLike[str], text: str, best: int = 5, device: str = "cpu") -> list[list[Guess]]:
    """Return, for each [MASK] in the text, the `best` words with their probabilities, most likely first.

    `model` is a run's folder, one that Hugging Face wrote, or a model's name there (see `hub`).
    Raises InputError for `best` < 1, a folder without a finished model, without its head or with another's vocabulary,
    a text without [MASK] or longer than the model takes, and a device that is not there.
    """
    if best < 1:
        raise InputError(f"--best {best}: expected 1 or more")
    if Path(model, SETTINGS).is_file() and not Path(model, METRICS).is_file():
        raise InputError(f"{model}: this run has not ended; {RunFolder(Path(model), {}).go_on}")
    tokenizer = BertTokenizer.from_pretrained(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a file without next sentence prediction is as good
        reader, loading = BertForPreTraining.from_pretrained(model, device=device, output_loading_info=True)
    if any(key.startswith("cls.predictions.") for key in loading["missing_keys"]):
        raise InputError(f"{model}: this model has no head that guesses masked words; was it fine-tuned on a task?")
    return guess(reader, tokenizer, text, best)


def guess(model: BertForPreTraining, tokenizer: BertTokenizer, text: str, best: int) -> list[list[Guess]]:
    """As `fill`, with a model at hand."""
    inputs = tokenizer(text, return_tensors="np")
    length, longest = inputs["input_ids"].shape[1], model.config.max_position_embeddings
    if length > longest:
        raise InputError(f"the text is too long: {length} word pieces, and this model takes {longest}; shorten it")
    if len(tokenizer) != model.config.vocab_size:
        raise InputError(
            f"the vocabulary has {len(tokenizer)} entries, the model {model.config.vocab_size}: not of one run"
        )
    masked = np.flatnonzero(inputs["input_ids"][0] == tokenizer.mask_token_id)
    if not masked.size:
        raise InputError(f"no [MASK] in {text!r}; put [MASK], in capitals, where a word is to be guessed")
    logits = to_host(model(**inputs).prediction_logits)[0, masked].astype(np.float64)  # (M, V)
    p, _ = softmax_forward(logits)
    order = np.argsort(-p, axis=-1, kind="stable")[:, :best]
    words = [tokenizer.convert_ids_to_tokens([int(i) for i in row]) for row in order]
    return [
        [Guess(w, float(row[i])) for w, i in zip(ws, ids, strict=True)]
        for ws, ids, row in zip(words, order, p, strict=True)
    ]
