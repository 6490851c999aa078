"""What the comparisons with PyTorch share: its import, timing in turn, and the table."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info

from minissl.errors import InputError
from minissl.workers import available_cores

WARM_UP = 3
LEARNING_RATE = 1e-4


def check_options(preset: str, presets: Iterable[str], rounds: int, threads: int) -> int:
    """Return the number of threads, where 0 asks for one a core. Raises InputError for what cannot be run."""
    if preset not in presets:
        raise InputError(f"--preset {preset}: expected one of {', '.join(presets)}")
    return check_rounds(rounds, threads)


def check_rounds(rounds: int, threads: int) -> int:
    """The part of `check_options` that knows no preset."""
    if rounds < 1 or threads < 0:
        raise InputError(
            f"--rounds {rounds}, --threads {threads}: expected 1 round or more, 0 threads (all cores) or more"
        )
    return threads or available_cores()


def import_torch(threads: int) -> tuple[Any, Any]:
    """Return PyTorch, held to so many threads, and transformers. Raises InputError where one is missing."""
    try:
        import torch
        import transformers
    except ImportError as error:
        raise InputError(
            f"the comparison needs PyTorch and transformers: pip install 'minissl[parity]' ({error})"
        ) from error
    torch.set_num_threads(threads)
    if torch.get_num_threads() != threads:
        raise InputError(f"PyTorch runs on {torch.get_num_threads()} threads, not {threads}, so nothing was timed")
    return torch, transformers


def torch_step(torch: Any, model: Any, loss_of: Callable[[], Any]) -> Callable[[], float]:
    """A whole step as a user of transformers writes it: decay on matrices alone, clipping at 1."""
    params = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decays = [p.dim() > 1 and not name.endswith("_token") for name, p in params]
    groups = [
        {"params": [p for (_, p), d in zip(params, decays, strict=True) if d == decay], "weight_decay": 0.01 * decay}
        for decay in (True, False)
    ]
    optimiser = torch.optim.AdamW(groups, lr=LEARNING_RATE, eps=1e-6)

    def step() -> float:
        optimiser.zero_grad()
        loss = loss_of()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        return float(loss.item())

    return step


def times_in_turn(runs: dict[str, Callable[[], Any]], rounds: int, warm_up: int = WARM_UP) -> dict[str, list[float]]:
    """Seconds of each run, A B C A B C …: what else the machine does then meets all of them."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(warm_up + rounds):
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            if number >= warm_up:
                times[name].append(time.perf_counter() - began)
    return times


def table(times: dict[str, list[float]]) -> list[str]:
    """Medians, and the first one's ratio to each other one, pair by pair (median, least, most)."""
    width = max(map(len, times))
    lines = [
        f"{name:<{width}} {statistics.median(t) * 1e3:8.1f} ms (median of {len(t)}; {min(t) * 1e3:.1f} … "
        f"{max(t) * 1e3:.1f})"
        for name, t in times.items()
    ]
    (ours, mine), *others = times.items()
    for name, theirs in others:
        ratios = sorted(a / b for a, b in zip(mine, theirs, strict=True))
        lines.append(
            f"{ours} / {name}, pair by pair: {statistics.median(ratios):.2f} ({ratios[0]:.2f} … {ratios[-1]:.2f})"
        )
    return lines


def versions(torch: Any, transformers: Any) -> str:
    """The libraries that were compared."""
    return f"NumPy {np.__version__} on {_blas()}, PyTorch {torch.__version__}, transformers {transformers.__version__}"


def _blas() -> str:
    """NumPy's BLAS and the kind of processor that it was built or told to run for: PyTorch brings its own."""
    found = [b for b in threadpool_info() if b["user_api"] == "blas"]
    return ", ".join(f"{b['internal_api']} {b['version']} ({b.get('architecture', '?')})" for b in found) or "its BLAS"
