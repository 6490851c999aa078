"""What the comparisons with PyTorch share: its import, timing in turn, the table, and under which conditions."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from minissl.bench.conditions import Conditions, Watch, cautions
from minissl.errors import InputError
from minissl.workers import available_cores

WARM_UP = 3
MOST_A_CORE = 16  # threads: each has a gradient of its own
LEARNING_RATE = 1e-4


class Comparison(NamedTuple):
    """Seconds of every side in every round, minissl's first; what was compared, and what all sides agreed on first."""

    what: str
    preset: str
    batch: str
    threads: int
    agreed: str
    times: dict[str, list[float]]
    conditions: Conditions


def shown(found: Comparison) -> str:
    """The table of a comparison."""
    about = f"{found.what}, preset {found.preset}, batch {found.batch}, {found.threads} thread(s), float32"
    foot = [*found.conditions.lines(), *cautions(found.conditions, found.threads)]
    return "\n".join([f"{about}; {found.agreed}", *table(found.times), *foot])


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
    cores = available_cores()
    if threads > MOST_A_CORE * cores:
        raise InputError(f"--threads {threads}: expected {MOST_A_CORE * cores} at most, on {cores} core(s)")
    return threads or cores


def import_torch(threads: int) -> tuple[Any, Any]:
    """Return PyTorch, held to so many threads, and transformers. Raises InputError where one is missing."""
    try:
        import torch
        import transformers
    except ImportError as error:
        raise InputError(
            f"the comparison needs PyTorch and transformers: pip install 'minissl[parity]' ({error})"
        ) from error
    transformers.utils.logging.disable_progress_bar()  # of weights that are loaded
    hold_torch(torch, threads)
    return torch, transformers


def hold_torch(torch: Any, threads: int) -> None:
    """Hold PyTorch to so many threads. Raises InputError where it takes another number."""
    with suppress(ValueError, RuntimeError):  # more than an int holds
        torch.set_num_threads(threads)
    if torch.get_num_threads() != threads:
        raise InputError(f"PyTorch runs on {torch.get_num_threads()} threads, not {threads}, so nothing was timed")


def torch_step(
    torch: Any, model: Any, loss_of: Callable[[], Any], scaler: Any = None, fused: bool | None = None
) -> Callable[[], float]:
    """A whole step as a user of transformers writes it: decay on matrices alone, clipping at 1.

    On a GPU also as they do: a loss scaler for float16, and AdamW's fused kernel.
    """
    scaler = scaler or torch.amp.GradScaler(enabled=False)
    params = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decays = [p.dim() > 1 and not name.endswith("_token") for name, p in params]
    groups = [
        {"params": [p for (_, p), d in zip(params, decays, strict=True) if d == decay], "weight_decay": 0.01 * decay}
        for decay in (True, False)
    ]
    optimiser = torch.optim.AdamW(groups, lr=LEARNING_RATE, eps=1e-6, fused=fused)

    def step() -> float:
        optimiser.zero_grad()
        loss = loss_of()
        scaler.scale(loss).backward()
        scaler.unscale_(optimiser)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimiser)
        scaler.update()
        return float(loss.item())

    return step


def times_in_turn(
    runs: Mapping[str, Callable[[], Any]], rounds: int, warm_up: int = WARM_UP, watch: Watch | None = None,
    prepare: Mapping[str, Callable[[], Any]] | None = None,
) -> dict[str, list[float]]:  # fmt: skip
    """Seconds of each run, A B C A B C …: what else the machine does then meets all of them, and `watch` sees it.

    `prepare` holds what some runs need done before each time, and is not timed.
    """
    from tqdm import tqdm

    prepare = prepare or {}
    times: dict[str, list[float]] = {name: [] for name in runs}
    numbers = range(warm_up + rounds)
    for number in tqdm(numbers, unit="round", mininterval=0.5, dynamic_ncols=True, leave=False, disable=None):
        if number == warm_up and watch is not None:
            watch.begin()
        for name, run in runs.items():
            if name in prepare:
                prepare[name]()
            began = time.perf_counter()
            run()
            if number >= warm_up:
                times[name].append(time.perf_counter() - began)
    if watch is not None:
        watch.end()
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


def as_json(value: Any) -> Any:
    """Named tuples, however deep, as objects with their fields' names."""
    if hasattr(value, "_asdict"):
        return as_json(value._asdict())
    if isinstance(value, dict):
        return {name: as_json(one) for name, one in value.items()}
    return [as_json(one) for one in value] if isinstance(value, list) else value
