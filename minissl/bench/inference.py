"""`BertModel` of minissl beside Hugging Face's on PyTorch, evaluated: the same weights, batch, outputs and threads."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

from minissl.bench.step import check_options, import_torch
from minissl.errors import InputError
from minissl.models.bert import PRESETS, BertConfig, BertModel

SHAPES = {"tiny": (32, 64), "mini": (16, 128), "small": (8, 128), "base": (8, 128)}  # batch × length
WARM_UP = 3
TOLERANCE = 2e-5  # of the largest output: float32's rounding, through twelve layers


def compare(preset: str, rounds: int, threads: int) -> str:
    """Time minissl and both of transformers' attentions in turn, A B C A B C …; return a table of medians and ratios.

    Raises InputError where PyTorch or transformers is missing, or the three do not compute the same hidden states.
    """
    threads = check_options(preset, rounds, threads)
    torch, transformers = import_torch()
    torch.set_num_threads(threads)
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
        if torch.get_num_threads() != threads:
            raise InputError(f"PyTorch runs on {torch.get_num_threads()} threads, not {threads}, so nothing was timed")
        times = _times(runs, rounds)
    lines = [f"BertModel {preset}, evaluation, batch {rows} × {length}, {threads} thread(s), float32"]
    lines += [f"{name:<15} {statistics.median(t) * 1e3:8.1f} ms (median of {rounds})" for name, t in times.items()]
    ours = times.pop("minissl")
    for name, theirs in times.items():
        ratios = sorted(a / b for a, b in zip(ours, theirs, strict=True))
        middle = statistics.median(ratios)
        lines.append(f"minissl / {name}, pair by pair: {middle:.2f} ({ratios[0]:.2f} … {ratios[-1]:.2f})")
    lines.append(
        f"NumPy {np.__version__} on {_blas()}, PyTorch {torch.__version__}, transformers {transformers.__version__}"
    )
    return "\n".join(lines)


def _times(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(WARM_UP + rounds):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            if number >= WARM_UP:
                times[name].append(time.perf_counter() - began)
    return times


def _blas() -> str:
    """NumPy's BLAS and the kind of processor that it was built or told to run for: PyTorch brings its own."""
    found = [b for b in threadpool_info() if b["user_api"] == "blas"]
    return ", ".join(f"{b['internal_api']} {b['version']} ({b.get('architecture', '?')})" for b in found) or "its BLAS"
