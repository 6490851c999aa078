"""One BERT training step of minissl beside Hugging Face's on PyTorch: the same weights, batch, losses and threads."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from minissl.backend import Array
from minissl.errors import InputError
from minissl.models.bert import PRESETS, BertConfig, BertForPreTraining
from minissl.pretext.mlm import mask_tokens
from minissl.training.trainer import Trainer, TrainingOptions
from minissl.workers import available_cores

SHAPES = {"tiny": (32, 64), "mini": (16, 128), "small": (8, 128), "base": (4, 128)}  # batch × length
LEARNING_RATE = 1e-4


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
    threads = check_options(preset, rounds, threads)
    torch, transformers = import_torch()
    torch.set_num_threads(threads)
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
        "Hugging Face": _torch_step(torch, theirs.train(), tensors),
    }
    if torch.get_num_threads() != threads:
        raise InputError(f"PyTorch runs on {torch.get_num_threads()} threads, not {threads}, so nothing was timed")
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 3):  # the first three warm up
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if number >= 3:
                times[name].append(time.perf_counter() - began)
    ratios = sorted(a / b for a, b in zip(*times.values(), strict=True))
    rows = [
        f"preset {preset}, batch {SHAPES[preset][0]} × {SHAPES[preset][1]}, {threads} thread(s), dropout on, float32"
    ]
    rows += [f"{name:<14} {statistics.median(t) * 1e3:8.1f} ms (median of {rounds})" for name, t in times.items()]
    rows.append(
        f"minissl / Hugging Face, pair by pair: {statistics.median(ratios):.2f} ({ratios[0]:.2f} … {ratios[-1]:.2f})"
    )
    rows.append(f"NumPy {np.__version__}, PyTorch {torch.__version__}, transformers {transformers.__version__}")
    return "\n".join(rows)


def check_options(preset: str, rounds: int, threads: int) -> int:
    """Return the number of threads, where 0 asks for one a core. Raises InputError for what cannot be run."""
    if preset not in PRESETS:
        raise InputError(f"--preset {preset}: expected one of {', '.join(PRESETS)}")
    if rounds < 1 or threads < 0:
        raise InputError(
            f"--rounds {rounds}, --threads {threads}: expected 1 round or more, 0 threads (all cores) or more"
        )
    return threads or available_cores()


def import_torch() -> tuple[Any, Any]:
    """Return PyTorch and transformers. Raises InputError where one is missing."""
    try:
        import torch
        import transformers
    except ImportError as error:
        raise InputError(
            f"the comparison needs PyTorch and transformers: pip install 'minissl[parity]' ({error})"
        ) from error
    return torch, transformers


def _torch_step(torch: Any, model: Any, tensors: dict[str, Any]) -> Callable[[], float]:
    """The same step as a user of transformers writes it: decay on matrices alone, clipping at 1."""
    plain = [p for name, p in model.named_parameters() if name.endswith("bias") or "LayerNorm" in name]
    decayed = [p for name, p in model.named_parameters() if not (name.endswith("bias") or "LayerNorm" in name)]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=LEARNING_RATE, eps=1e-6)

    def step() -> float:
        optimiser.zero_grad()
        loss = model(**tensors).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        return float(loss.item())

    return step
