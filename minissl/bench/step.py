"""One BERT training step of minissl beside Hugging Face's on PyTorch: the same weights, batch, losses and threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minissl.backend import Array
from minissl.bench.turns import LEARNING_RATE, check_options, import_torch, table, times_in_turn, torch_step
from minissl.errors import InputError
from minissl.models.bert import PRESETS, BertConfig, BertForPreTraining
from minissl.pretext.mlm import mask_tokens
from minissl.training.trainer import Trainer, TrainingOptions
from minissl.workers import available_cores

SHAPES = {"tiny": (32, 64), "mini": (16, 128), "small": (8, 128), "base": (4, 128)}  # batch × length


def training_step(model: Any, batch: dict[str, Array], threads: int = 0) -> Callable[[], float]:
    """Return a callable that runs one whole step (forward, losses, backward, clip, AdamW) and returns the loss."""
    trainer = Trainer(model, TrainingOptions(10**6, LEARNING_RATE, 0.0, threads=threads or available_cores()))
    return lambda: sum(trainer.train_step([batch]).losses.values())


def bert_batch(config: BertConfig, rows: int, length: int, seed: int = 0) -> dict[str, Any]:
    """A full batch of random words: 15 % masked, two segments, both labels."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(5, config.vocab_size, (rows, length))
    maskable = np.ones_like(ids, bool)
    masked, labels = mask_tokens(ids, maskable, mask_id=4, vocab_size=config.vocab_size, rng=rng)
    segments = np.broadcast_to(np.arange(length) >= length // 2, ids.shape).astype(np.int64)
    return {
        "input_ids": masked,
        "attention_mask": np.ones_like(ids),
        "token_type_ids": segments,
        "labels": labels,
        "next_sentence_label": rng.integers(0, 2, rows),
    }


def compare(preset: str, rounds: int, threads: int) -> str:
    """Time both in turn, A B A B …, and return a table of medians and their ratio.

    Raises InputError where PyTorch or transformers is missing, or the two do not compute the same loss.
    """
    threads = check_options(preset, PRESETS, rounds, threads)
    torch, transformers = import_torch(threads)
    config = BertConfig(**PRESETS[preset])
    model = BertForPreTraining(config)
    batch = bert_batch(config, *SHAPES[preset])
    theirs = transformers.BertForPreTraining(transformers.BertConfig(**PRESETS[preset]))
    theirs.load_state_dict({key: torch.tensor(weight) for key, weight in model.state_dict().items()})
    tensors = {name: torch.tensor(array) for name, array in batch.items()}
    loss, expected = model(**batch).loss, theirs.eval()(**tensors).loss.item()
    if abs(loss - expected) > 1e-4 * expected:
        raise InputError(
            f"minissl's loss is {loss}, Hugging Face's {expected}: not the same model, so nothing was timed"
        )
    steps = {
        "minissl": training_step(model, batch, threads),
        "Hugging Face": torch_step(torch, theirs.train(), tensors),
    }
    rows, length = SHAPES[preset]
    return "\n".join(
        [
            f"preset {preset}, batch {rows} × {length}, {threads} thread(s), dropout on, float32",
            *table(times_in_turn(steps, rounds), torch, transformers),
        ]
    )
