"""`python -m minissl.bench.memory PRESET …`: each side's peak memory in BERT training steps, and its time to import."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from minissl.bench.turns import check_options
from minissl.models.bert import PRESETS

STEPS = 3
IMPORTS = 5
SETTING = """
import sys
from minissl.bench.memory import peak
from minissl.bench.step import *
{imports}
preset, threads = sys.argv[1], int(sys.argv[2])
before = peak()
config = BertConfig(**PRESETS[preset])
batch = bert_batch(config, *SHAPES[preset])
{make}
for _ in range({steps}):
    step()
print(before, peak())
"""
TORCH = """
theirs = transformers.BertForPreTraining(transformers.BertConfig(**PRESETS[preset])).train()
step = torch_step(torch, theirs, {loss}(torch, theirs, batch))
"""
SIDES = {
    "minissl": ("", "step = training_step(BertForPreTraining(config), batch, threads)"),
    "Hugging Face": ("torch, transformers = import_torch(int(sys.argv[2]))", TORCH.format(loss="plain_loss")),
    "expert": ("torch, transformers = import_torch(int(sys.argv[2]))", TORCH.format(loss="expert_loss")),
}
MODELS = {
    "minissl": "from minissl import BertForPreTraining",
    "Hugging Face": "from transformers import BertForPreTraining",
}


def peak_memory(side: str, preset: str, threads: int) -> tuple[int, int]:
    """Bytes at most of a process that trains for STEPS steps: beyond its imports, and in all."""
    imports, make = SIDES[side]
    script = SETTING.format(imports=imports, make=make, steps=STEPS)
    done = subprocess.run(
        [sys.executable, "-c", script, preset, str(threads)], capture_output=True, text=True, check=True
    )
    before, after = map(int, done.stdout.split()[-2:])
    return after - before, after


def peak() -> int:
    """The most bytes that this process has held. Linux counts its parent's into `ru_maxrss`, but not into VmHWM."""
    try:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")))
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def import_seconds(statement: str) -> float:
    """The median time in which a fresh process starts and imports."""
    times = []
    for _ in range(IMPORTS):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", statement], capture_output=True, check=True)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def main(presets: list[str], say: Callable[[str], None] = print) -> None:
    """Print a table for each preset, and the times to import a model."""
    for preset in presets or list(PRESETS):
        threads = check_options(preset, PRESETS, 1, 0)
        peaks = {side: peak_memory(side, preset, threads) for side in SIDES}
        mine, mine_in_all = peaks["minissl"]
        say(f"{preset}: peak memory of {STEPS} steps beyond the imports, and in all")
        for side, (more, total) in peaks.items():
            ratios = (
                f"   minissl's is {mine / more:.2f} and {mine_in_all / total:.2f} of it" if side != "minissl" else ""
            )
            say(f"  {side:<14} {more / 1e6:7.0f} MB {total / 1e6:7.0f} MB{ratios}")
    for side, statement in MODELS.items():
        say(f"a fresh process that imports BertForPreTraining of {side}: {import_seconds(statement):.2f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
