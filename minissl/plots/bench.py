"""A picture of a comparison: how long one side takes, as a share of each other side's time."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MultipleLocator, NullLocator, StrMethodFormatter

from minissl.plots import BLUE, GREY, PALE, RED, VIOLET, save, style

Times = Mapping[str, Sequence[float]]  # side -> seconds in every round, one's own side first


class Share(NamedTuple):
    """minissl's time or memory as a share of a rival's, at one size: least, median and most of all rounds."""

    label: str
    rival: str
    least: float
    median: float
    most: float


class Overview(NamedTuple):
    """What `plot_overview` draws; what has not been measured is empty."""

    shares: Mapping[str, Sequence[Share]]  # by kind
    import_seconds: Mapping[str, float]  # by side
    speed_up: Mapping[
        str, tuple[str, Sequence[int], Mapping[str, Sequence[float]]]
    ]  # by kind: the size, threads, sides
    growth: Mapping[str, tuple[Sequence[int], Sequence[float]]]  # by letter: values and milliseconds
    foot: str


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
        for axes, (name, of_name) in zip(panels, series.items(), strict=True):
            _draw_growth(axes, name, *of_name)
        panels[0].set_ylabel("ms a step (dashed:\nin proportion)")
        save(figure, path)


COLOURS = {
    "Hugging Face": PALE, "expert": BLUE, "compiled": VIOLET, "PyTorch": BLUE, "beyond imports": BLUE, "in all": PALE,
}  # fmt: skip


def plot_overview(found: Overview, path: str | Path) -> None:
    """Draw every comparison on one slide: shares of PyTorch's time and memory, import, threads and growth."""
    with style():
        figure = Figure(figsize=(14, 10), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1, hspace=0.04))
        grid = figure.add_gridspec(2, 1, height_ratios=(2.1, 1))
        columns = grid[0].subgridspec(1, 3, width_ratios=(1, 1.2, 1))
        stacked = columns[1].subgridspec(3, 1, height_ratios=(4, 3, 2.2))
        shares = found.shares
        _draw_shares(figure.add_subplot(columns[0]), "BERT: a training step", shares["step"])
        _draw_shares(figure.add_subplot(stacked[0]), "BERT: evaluation", shares["evaluation"])
        _draw_shares(figure.add_subplot(stacked[1]), "MAE: a training step", shares["MAE step"])
        _draw_seconds(figure.add_subplot(stacked[2]), "start and import, s", found.import_seconds)
        of_memory = [one._replace(label=f"MAE {one.label}") for one in shares["MAE memory"]]
        _draw_shares(figure.add_subplot(columns[2]), "Peak memory of training", [*shares["memory"], *of_memory])
        bottom = grid[1].subgridspec(1, 5)
        panels = [figure.add_subplot(bottom[i]) for i in range(5)]
        titles = {"threads, step": "a step", "threads, evaluation": "evaluation"}
        for axes, (kind, title) in zip(panels, titles.items(), strict=False):
            if kind in found.speed_up:
                _draw_speed_up(axes, title, *found.speed_up[kind])
            else:
                axes.set_axis_off()
        for axes, (title, series) in zip(panels[2:], found.growth.items(), strict=False):
            _draw_growth(axes, f"a step by {title}", *series)
        panels[2].set_ylabel("ms a step")
        for axes in panels[2 + len(found.growth) :]:
            axes.set_axis_off()
        title = "minissl on a CPU: its time and memory as shares of PyTorch's (dashed: alike)"
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=17)
        colour = RED if "caution" in found.foot else GREY
        figure.supxlabel(found.foot, x=0.01, ha="left", fontsize=9, color=colour)
        save(figure, path)


def _draw_shares(axes: Axes, title: str, shares: Sequence[Share]) -> None:
    """A bar for each rival, in a group for each size, with all rounds as a line; a legend where there are several."""
    axes.set_title(title, loc="left", fontweight="bold")
    if not shares:
        axes.set_axis_off()
        return
    y, ticks = 0.0, {}
    for label, group in groupby(shares, lambda one: one.label):
        of_size = list(group)
        ticks[label] = y + (len(of_size) - 1) / 2
        for one in of_size:
            axes.barh(y, one.median, color=COLOURS[one.rival], height=0.8)
            axes.plot([one.least, one.most], [y, y], color=GREY, linewidth=1.5)
            end = (max(one.median, one.most), y)
            axes.annotate(f"{one.median:.2f}", end, (5, 0), textcoords="offset points", va="center", fontweight="bold")
            y += 1
        y += 0.6
    axes.axvline(1, color=GREY, linestyle="--", linewidth=1.2)
    axes.set_yticks(list(ticks.values()), list(ticks))
    axes.invert_yaxis()
    axes.set_xlim(0, max(1.1, 1.2 * max(one.most for one in shares)))
    axes.xaxis.set_major_locator(MultipleLocator(0.5))
    axes.tick_params(left=False)
    rivals = list(dict.fromkeys(one.rival for one in shares))
    if len(rivals) > 1:
        handles = [Patch(color=COLOURS[rival], label=rival) for rival in rivals]
        axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.05), ncols=len(rivals), frameon=False)


def _draw_seconds(axes: Axes, title: str, seconds: Mapping[str, float]) -> None:
    axes.set_title(title, loc="left", fontweight="bold")
    for y, value in enumerate(seconds.values()):
        axes.barh(y, value, color=PALE if y else BLUE, height=0.8)
        axes.annotate(f"{value:.2f}", (value, y), (5, 0), textcoords="offset points", va="center", fontweight="bold")
    if not seconds:
        axes.set_axis_off()
        return
    axes.set_yticks(range(len(seconds)), list(seconds))
    axes.set_xticks([])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.2 * max(seconds.values()))
    axes.tick_params(left=False)


def _draw_speed_up(
    axes: Axes, title: str, size: str, threads: Sequence[int], sides: Mapping[str, Sequence[float]]
) -> None:  # fmt: skip
    """A line for each side, beside that of twice the speed on twice the threads."""
    ideal = [number / threads[0] for number in threads]
    axes.plot(threads, ideal, color=GREY, linestyle="--", linewidth=1.2)
    for (side, gains), colour, y in zip(sides.items(), (BLUE, GREY), (0.97, 0.86), strict=True):
        axes.plot(threads, gains, color=colour, marker="o", linewidth=2.5)
        axes.text(
            0.03, y, f"{side} {gains[-1]:.2f} ×", color=colour, fontweight="bold", va="top", transform=axes.transAxes,
            fontsize=11,
        )  # fmt: skip
    axes.set_xticks(threads, [str(number) for number in threads])
    axes.set_ylim(0, 1.4 * max(*ideal, *(gain for gains in sides.values() for gain in gains)))
    axes.set_xlabel("threads")
    axes.set_ylabel("speed-up")
    axes.set_title(f"{title}, {size}", loc="left", fontweight="bold", fontsize=13)


def _draw_growth(axes: Axes, title: str, values: Sequence[int], milliseconds: Sequence[float]) -> None:
    line = [milliseconds[0] * value / values[0] for value in values]
    axes.plot(values, line, color=GREY, linestyle="--", linewidth=1.2)
    axes.plot(values, milliseconds, color=BLUE, marker="o", linewidth=2.5)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(values, [str(value) for value in values])
    axes.set_title(title, loc="left", fontweight="bold", fontsize=13)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(axis="y", color="0.9")
