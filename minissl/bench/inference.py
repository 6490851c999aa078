"""`BertModel` of minissl beside Hugging Face's on PyTorch, evaluated: the same weights, batch, outputs and threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from minissl.backend import Array
from minissl.bench.conditions import Watch
from minissl.bench.turns import Comparison, check_options, import_torch, shown, times_in_turn
from minissl.errors import InputError
from minissl.models.bert import PRESETS, BertConfig, BertModel

SHAPES = {"tiny": (32, 64), "mini": (16, 128), "small": (8, 128), "base": (8, 128)}  # batch × length
TOLERANCE = 2e-5  # of the largest output: float32's rounding, through twelve layers


def compare(preset: str, rounds: int, threads: int) -> str:
    """Time minissl and both of transformers' attentions in turn, A B C A B C …; return a table of medians and ratios.

    Raises InputError where PyTorch or transformers is missing, or the three do not compute the same hidden states.
    """
    return shown(measure(preset, rounds, threads))


def measure(preset: str, rounds: int, threads: int) -> Comparison:
    """As `compare`, in numbers."""
    threads = check_options(preset, PRESETS, rounds, threads)
    torch, transformers = import_torch(threads)
    watch = Watch()
    model, batch = model_and_batch(preset)
    runs: dict[str, Callable[[], Any]] = {
        "minissl": lambda: model(**batch).last_hidden_state,
        "PyTorch, sdpa": torch_run(torch, transformers, model, batch, "sdpa"),
        "PyTorch, eager": torch_run(torch, transformers, model, batch, "eager"),
    }
    with threadpool_limits(threads, user_api="blas"):  # minissl works on as many threads as BLAS has
        agreed = check_outputs(runs, "PyTorch, sdpa")
        times = times_in_turn(runs, rounds, watch=watch)
    rows, length = SHAPES[preset]
    return Comparison(
        "BertModel, evaluation",
        preset,
        f"{rows} × {length}",
        threads,
        agreed,
        times,
        watch.conditions,
    )


def model_and_batch(preset: str) -> tuple[BertModel, dict[str, Any]]:
    """A new model, and a full batch of random words."""
    model = BertModel(BertConfig(**PRESETS[preset]))
    ids = np.random.default_rng(0).integers(5, model.config.vocab_size, SHAPES[preset])
    return model, {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def torch_run(
    torch: Any, transformers: Any, model: BertModel, batch: dict[str, Any], attention: str
) -> Callable[[], Array]:
    """Return the evaluation of Hugging Face's model with these weights, by one of its attentions."""
    theirs = transformers.BertModel(
        transformers.BertConfig(**model.config.to_dict(), attn_implementation=attention)
    ).eval()
    theirs.load_state_dict({key: torch.tensor(weight) for key, weight in model.state_dict().items()})
    tensors = {name: torch.tensor(array) for name, array in batch.items()}

    def run() -> Any:
        with torch.inference_mode():
            return theirs(**tensors).last_hidden_state.numpy()

    return run


def check_outputs(runs: dict[str, Callable[[], Array]], reference: str) -> str:
    """Say how far all outputs are from one side's. Raises InputError where that is more than rounding."""
    expected = runs[reference]()
    errors = {name: np.abs(run() - expected).max() / np.abs(expected).max() for name, run in runs.items()}
    for name, error in errors.items():
        if not error <= TOLERANCE:
            raise InputError(f"{name}: outputs differ by {error:.1e} of the largest, so nothing was timed")
    return f"outputs within {max(errors.values()):.0e} of the largest"
