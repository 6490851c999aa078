"""A comparison kept: its numbers as JSON, and its picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from minissl.bench.step import measure
from minissl.bench.turns import Comparison, as_json, check_options, check_rounds, import_torch, shown
from minissl.files import write_json
from minissl.models.bert import PRESETS

NUMBERS, PICTURE = "bench.json", "bench.png"


def record(
    presets: Sequence[str], rounds: int, threads: int, out: Path | None, say: Callable[[str], None]
) -> list[Comparison]:
    """Compare a training step at each preset, say what was found, and write it into the folder `out`, where given.

    What cannot be run or kept is said before anything is timed.
    """
    for preset in presets:
        check_options(preset, PRESETS, rounds, threads)
    import_torch(check_rounds(rounds, threads))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    found = []
    for preset in presets:
        found.append(measure(preset, rounds, threads))
        say(shown(found[-1]))
    if out is not None:
        from minissl.plots.bench import plot_bench

        write_json(out / NUMBERS, {one.preset: as_json(one) for one in found})
        times = {f"{one.preset}, {one.batch}": one.times for one in found}
        title = f"A BERT training step on a CPU, {found[0].threads} threads"
        plot_bench(times, title, out / PICTURE)
        say(f"{out / NUMBERS}, {out / PICTURE}")
    return found
