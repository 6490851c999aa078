"""`python -m minissl.bench.memory [--mae] [PRESET …]`: peak memory of training steps, and the time to import."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from minissl.bench import mae, step
from minissl.bench.conditions import Conditions, cautions, conditions
from minissl.bench.turns import check_options, import_torch, torch_step
from minissl.errors import InputError
from minissl.models.bert import PRESETS, BertConfig, BertForPreTraining
from minissl.models.mae import ViTMAEConfig, ViTMAEForPreTraining

STEPS = 3
IMPORTS = 5
MEASURE = """
import sys
from minissl.bench import memory
memory.print_peak(*sys.argv[1:])
"""
SIDES = {"BERT": ("minissl", "Hugging Face", "expert"), "MAE": ("minissl", "Hugging Face")}
SMALL: dict[str, dict[str, Any]] = {
    "BERT": {
        "vocab_size": 99, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 9,
    },
    "MAE": {
        "image_size": 8, "patch_size": 4, "num_channels": 1, "hidden_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 9, "decoder_hidden_size": 8, "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 2, "decoder_intermediate_size": 9,
    },
}  # fmt: skip
SMALL_SHAPE = {"BERT": (4, 6), "MAE": (4,)}
MODELS = {
    "minissl": "from minissl import BertForPreTraining",
    "Hugging Face": "from transformers import BertForPreTraining",
}

Calls = tuple[Callable[[], float], Callable[[], float]]  # a training step, and the loss in evaluation


class Peaks(NamedTuple):
    """Bytes at most of a process that trains for `steps` steps, by side: beyond what it had before, and in all."""

    what: str
    preset: str
    threads: int
    steps: int
    agreed: str
    peaks: dict[str, list[int]]
    conditions: Conditions


class Imports(NamedTuple):
    """Seconds in which fresh processes start and import, by side."""

    what: str
    times: dict[str, list[float]]
    conditions: Conditions


def measure(kind: str, preset: str, threads: int) -> Peaks:
    """Train, on each side, in a process of its own. `kind`: BERT or MAE.

    Raises InputError where PyTorch or transformers is missing, or a side's loss is another.
    """
    threads = check_options(preset, PRESETS if kind == "BERT" else mae.PRESETS, 1, threads)
    import_torch(threads)  # or say what to install
    before = conditions()
    found = {side: peak_memory(kind, side, preset, threads) for side in SIDES[kind]}
    _, _, loss = found["minissl"]
    for side, (_, _, theirs) in found.items():
        step.check_loss(loss, theirs, side)
    peaks = {side: [more, total] for side, (more, total, _) in found.items()}
    what, agreed = f"{kind} training, peak memory", f"every side's loss {loss:.4f}"
    return Peaks(what, preset, threads, STEPS, agreed, peaks, before)


def peak_memory(kind: str, side: str, preset: str, threads: int) -> tuple[int, int, float]:
    """Bytes at most of a process that trains for STEPS steps: beyond what it had before, and in all; and its loss.

    Raises InputError where the process ends without them.
    """
    arguments = [kind, side, preset, str(threads)]
    done = subprocess.run([sys.executable, "-c", MEASURE, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"{kind} {preset}, {side}: its process ended without a result: {done.stderr.strip()[-300:]}")
    before, after, loss = done.stdout.split()[-3:]
    return int(after) - int(before), int(after), float(loss)


def print_peak(kind: str, side: str, preset: str, threads: str) -> None:
    """In a fresh process: its peak before the steps and after them, and then the loss of a model that has not learned.

    A first step of a small model loads what is loaded late, which is no memory of the step.
    """
    make = _bert if kind == "BERT" else _mae
    sizes, shape = _sizes(kind, preset)
    make(side, SMALL[kind], SMALL_SHAPE[kind], int(threads))[0]()
    before = peak()
    train, _ = make(side, sizes, shape, int(threads))
    for _ in range(STEPS):
        train()
    after = peak()
    del train
    print(before, after, make(side, sizes, shape, int(threads))[1]())


def _sizes(kind: str, preset: str) -> tuple[dict[str, Any], tuple[int, ...]]:
    if kind == "BERT":
        return PRESETS[preset], step.SHAPES[preset]
    return mae.PRESETS[preset], (mae.BATCHES[preset],)


def _bert(side: str, sizes: dict[str, Any], shape: tuple[int, ...], threads: int) -> Calls:
    config = BertConfig(**sizes)
    model, batch = BertForPreTraining(config), step.bert_batch(config, *shape)
    if side == "minissl":
        return step.training_step(model, batch, threads), lambda: float(model(**batch).loss)
    torch, transformers = import_torch(threads)
    theirs = step.theirs_with_weights(torch, transformers, model)
    return _of_torch(torch, theirs, (step.expert_loss if side == "expert" else step.plain_loss)(torch, theirs, batch))


def _mae(side: str, sizes: dict[str, Any], shape: tuple[int, ...], threads: int) -> Calls:
    config = ViTMAEConfig(**sizes)
    model, batch = ViTMAEForPreTraining(config), mae.mae_batch(config, *shape)
    if side == "minissl":
        return step.training_step(model, batch, threads), lambda: float(model(**batch).loss)
    torch, transformers = import_torch(threads)
    theirs = mae.theirs_with_weights(transformers, model)
    return _of_torch(torch, theirs, mae.their_loss(torch, theirs, batch))


def _of_torch(torch: Any, theirs: Any, loss_of: Callable[[], Any]) -> Calls:
    def evaluate() -> float:
        theirs.eval()
        return float(loss_of().item())

    return torch_step(torch, theirs.train(), loss_of), evaluate


def peak() -> int:
    """The most bytes that this process has held. Linux counts its parent's into `ru_maxrss`, but not into VmHWM."""
    try:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")))
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measure_imports() -> Imports:
    """Time, in turn, fresh processes that start and import a model. Raises InputError where one cannot."""
    before = conditions()
    times: dict[str, list[float]] = {side: [] for side in MODELS}
    for number in range(1 + IMPORTS):  # the first reads from the disk
        for side, statement in MODELS.items():
            began = time.perf_counter()
            done = subprocess.run([sys.executable, "-c", statement], capture_output=True, text=True)
            if done.returncode:
                raise InputError(f"`{statement}` does not run here: {done.stderr.strip().splitlines()[-1]}")
            if number:
                times[side].append(time.perf_counter() - began)
    return Imports("a fresh process that imports BertForPreTraining", times, before)


def shown(found: Peaks) -> str:
    """The table of a preset."""
    mine, mine_in_all = found.peaks["minissl"]
    about = f"{found.what}, preset {found.preset}, {found.threads} thread(s)"
    lines = [f"{about}: beyond the imports, and in all; {found.agreed}"]
    for side, (more, total) in found.peaks.items():
        ratios = f"   minissl's is {mine / more:.2f} and {mine_in_all / total:.2f} of it" if side != "minissl" else ""
        lines.append(f"  {side:<14} {more / 1e6:7.0f} MB {total / 1e6:7.0f} MB{ratios}")
    return "\n".join([*lines, *cautions(found.conditions, found.threads)])


def shown_imports(found: Imports) -> str:
    """A line for each side."""
    lines = [f"{found.what} of {side}: {statistics.median(times):.2f} s" for side, times in found.times.items()]
    return "\n".join([*lines, *found.conditions.lines(), *cautions(found.conditions, 1)])


def main(arguments: list[str] | None = None, say: Callable[[str], None] = print) -> None:
    """Print a table for each preset, and the times to import a model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("presets", nargs="*", metavar="PRESET")
    parser.add_argument("--mae", action="store_true", help="a masked autoencoder's steps, not BERT's")
    options = parser.parse_args(arguments)
    for preset in options.presets or list(mae.PRESETS if options.mae else PRESETS):
        say(shown(measure("MAE" if options.mae else "BERT", preset, 0)))
    say(shown_imports(measure_imports()))


if __name__ == "__main__":
    main()
