"""`python -m minissl.bench.loading`: loading a BERT-base beside reading its file, in time and peak memory."""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from minissl.models.bert import BertForPreTraining

ROUNDS = 15
WAYS = {
    "reading the file": "content = path.read_bytes()",
    "BertForPreTraining.from_pretrained": "model = BertForPreTraining.from_pretrained(path.parent)",
    "safetensors' safe_open, all tensors": (
        "with safe_open(path, 'np') as file: arrays = {name: file.get_tensor(name) for name in file.keys()}"
    ),
}
MEASURE = """
import resource, sys
from pathlib import Path
from safetensors import safe_open
from minissl import BertForPreTraining
path = Path(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
{way}
print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def seconds(call: Callable[[], object]) -> tuple[float, float]:
    """The time of one call, by the clock and of the processor; what it returns is let go after it."""
    began = time.perf_counter(), time.process_time()
    result = call()
    took = time.perf_counter() - began[0], time.process_time() - began[1]
    del result
    return took


def peak_memory(way: str, path: Path) -> tuple[int, int]:
    """Bytes at most of a process that does this once: beyond its imports, and in all."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE.format(way=way), str(path)], capture_output=True, text=True, check=True
    )
    unit = 1 if sys.platform == "darwin" else 1024
    before, after = (int(number) * unit for number in done.stdout.split())
    return after - before, after


def main(say: Callable[[str], None] = print) -> None:
    """Print medians in turn, with the file in the page cache, and the peak memory of a fresh process for each way."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.safetensors")
        # made in a process of its own: the peak of this one is where those that it starts begin to count
        make = "import sys; from minissl import *; BertForPreTraining(BertConfig()).save_pretrained(sys.argv[1])"
        subprocess.run([sys.executable, "-c", make, folder], check=True)
        size = path.stat().st_size
        say(f"{path.name}: {size / 1e6:.0f} MB, float32; peak memory beyond the imports, and in all")
        for name, way in WAYS.items():
            more, total = peak_memory(way, path)
            say(f"{name:<36} {more / 1e6:6.0f} MB = {more / size:.2f} × the file   {total / 1e6:6.0f} MB in all")
        times = [
            (seconds(path.read_bytes), seconds(lambda: BertForPreTraining.from_pretrained(folder)))
            for _ in range(ROUNDS + 2)
        ][2:]  # the first two warm up
    for clock, what in enumerate(("by the clock", "of the processor")):
        read, load = (statistics.median(pair[way][clock] for pair in times) for way in (0, 1))
        ratios = sorted(pair[1][clock] / pair[0][clock] for pair in times)
        say(
            f"{what}: reading {read * 1e3:.0f} ms, loading {load * 1e3:.0f} ms (medians of {ROUNDS}, in turn); "
            f"loading / reading {statistics.median(ratios):.2f} ({ratios[0]:.2f} … {ratios[-1]:.2f})"
        )


if __name__ == "__main__":
    main()
