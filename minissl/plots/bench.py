"""A picture of a comparison: how long one side takes, as a share of each other side's time."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from minissl.plots import BLUE, GREY, PALE, save, style

Times = Mapping[str, Sequence[float]]  # side -> seconds in every round, one's own side first


def ratios(times: Times) -> dict[str, list[float]]:
    """The first side's time over each other side's, round by round, in order of size."""
    (_, mine), *others = times.items()
    return {name: sorted(a / b for a, b in zip(mine, theirs, strict=True)) for name, theirs in others}


def plot_bench(times: Mapping[str, Times], title: str, path: str | Path) -> None:
    """Draw, a panel for each preset, a bar for each rival: the median ratio, and a line from the least to the most."""
    with style():
        figure = Figure(figsize=(3.4 * len(times) + 1.8, 4.6), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
        panels = figure.subplots(1, len(times), sharey=True, squeeze=False)[0]
        for axes, (preset, of_preset) in zip(panels, times.items(), strict=True):
            found = ratios(of_preset)
            names = list(found)[::-1]  # the first on top
            for y, name in enumerate(names):
                least, median, most = found[name][0], statistics.median(found[name]), found[name][-1]
                axes.barh(y, median, color=BLUE if median < 1 else PALE, height=0.6)
                axes.plot([least, most], [y, y], color=GREY, linewidth=1.5)
                axes.annotate(
                    f"{median:.2f}", (max(median, most), y), (6, 0), textcoords="offset points", va="center",
                    fontweight="bold",
                )  # fmt: skip
            axes.axvline(1, color=GREY, linestyle="--", linewidth=1.2)
            axes.set_yticks(range(len(names)), names)
            axes.set_xlim(0, 1.25 * max(most for *_, most in found.values()))
            axes.set_title(preset, loc="left", fontweight="bold")
            axes.tick_params(left=False)
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
        figure.supxlabel("minissl's time as a share of theirs\n(dashed: as fast; line: all rounds)")
        save(figure, path)


def plot_growth(series: Mapping[str, tuple[Sequence[int], Sequence[float]]], path: str | Path) -> None:
    """Draw milliseconds by value, both on logarithmic axes, beside the line of what is proportional."""
    with style():
        figure = Figure(figsize=(3.6 * len(series), 3.9), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
        panels = figure.subplots(1, len(series), sharey=True, squeeze=False)[0]
        for axes, (name, (values, milliseconds)) in zip(panels, series.items(), strict=True):
            line = [milliseconds[0] * value / values[0] for value in values]
            axes.plot(values, line, color=GREY, linestyle="--", linewidth=1.2)
            axes.plot(values, milliseconds, color=BLUE, marker="o", linewidth=2.5)
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_xticks(values, [str(value) for value in values])
            axes.set_title(name, loc="left", fontweight="bold")
            axes.grid(axis="y", color="0.9")
        panels[0].set_ylabel("ms a step (dashed:\nin proportion)")
        save(figure, path)
