"""`BertModel` of minissl beside Hugging Face's on PyTorch, evaluated: the same weights, batch, outputs and threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from minissl.bench.turns import check_options, import_torch, table, times_in_turn, versions
from minissl.errors import InputError
from minissl.models.bert import PRESETS, BertConfig, BertModel

SHAPES = {"tiny": (32, 64), "mini": (16, 128), "small": (8, 128), "base": (8, 128)}  # batch × length
TOLERANCE = 2e-5  # of the largest output: float32's rounding, through twelve layers


def compare(preset: str, rounds: int, threads: int) -> str:
    """Time minissl and both of transformers' attentions in turn, A B C A B C …; return a table of medians and ratios.

    Raises InputError where PyTorch or transformers is missing, or the three do not compute the same hidden states.
    """
    threads = check_options(preset, PRESETS, rounds, threads)
    torch, transformers = import_torch(threads)
    model = BertModel(BertConfig(**PRESETS[preset]))
    rows, length = SHAPES[preset]
    rng = np.random.default_rng(0)
    ids = rng.integers(5, model.config.vocab_size, (rows, length))
    batch: dict[str, Any] = {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "token_type_ids": np.zeros_like(ids),
    }
    weights = {key: torch.tensor(weight) for key, weight in model.state_dict().items()}
    tensors = {name: torch.tensor(array) for name, array in batch.items()}

    def torch_run(attention: str) -> Callable[[], Any]:
        config = transformers.BertConfig(**PRESETS[preset], attn_implementation=attention)
        theirs = transformers.BertModel(config).eval()
        theirs.load_state_dict(weights)

        def run() -> Any:
            with torch.inference_mode():
                return theirs(**tensors).last_hidden_state.numpy()

        return run

    runs: dict[str, Callable[[], Any]] = {
        "minissl": lambda: model(**batch).last_hidden_state,
        "PyTorch, sdpa": torch_run("sdpa"),
        "PyTorch, eager": torch_run("eager"),
    }
    with threadpool_limits(threads, user_api="blas"):  # minissl works on as many threads as BLAS has
        expected = runs["PyTorch, sdpa"]()
        for name, run in runs.items():
            error = np.abs(run() - expected).max() / np.abs(expected).max()
            if not error <= TOLERANCE:
                raise InputError(f"{name}: outputs differ by {error:.1e} of the largest, so nothing was timed")
        times = times_in_turn(runs, rounds)
    return "\n".join(
        [
            f"BertModel {preset}, evaluation, batch {rows} × {length}, {threads} thread(s), float32",
            *table(times),
            versions(torch, transformers),
        ]
    )
