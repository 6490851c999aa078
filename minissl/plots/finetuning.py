"""Pictures of a fine-tuning: which classes are taken for which, how accuracy grew, what pre-training is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, PercentFormatter

from minissl.backend import Array
from minissl.plots import BLUE, GREY, PALE, RED, VIOLET, save, style
from minissl.plots.loss import label_right

FAR = 0.2  # a majority so far below would press the curves together
MOST_NAMES = 30  # classes whose names and counts can still be read


class Curve(NamedTuple):
    """Accuracies by number of labels: one list for each number, an entry for each seed."""

    name: str
    labels: Sequence[int]
    scores: Sequence[Sequence[float]]


def plot_confusion(confusion: Array, names: Sequence[str], path: str | Path) -> None:
    """Draw the counts (C, C), true classes down, predicted across; shades are shares of the true class."""
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    readable = len(names) <= MOST_NAMES
    with style():
        side = min(12.0, 3.4 + 0.75 * len(names))
        figure = Figure(figsize=(side + 0.6, side), layout=ConstrainedLayoutEngine())
        axes = figure.subplots()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.8)
        if readable:
            for (i, j), count in np.ndenumerate(confusion):
                axes.text(j, i, f"{count:,}", ha="center", va="center", fontweight="bold" if i == j else "normal")
            axes.set_xticks(range(len(names)), names, rotation=0 if max(map(len, names)) < 9 else 45)
            axes.set_yticks(range(len(names)), names)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        right = np.trace(confusion) / max(1, confusion.sum())
        axes.set_title(f"{right:.1%} on the diagonal", loc="left", fontweight="bold")
        save(figure, path)


def plot_epochs(
    epochs: Sequence[Any], score: str, landmarks: Mapping[str, float], path: str | Path, what: str = "texts"
) -> None:
    """Draw the training loss, and the held-out `score` beside its landmarks, after each pass over the `what`.

    `epochs` have `number`, `losses` and `heldout`, as the fine-tuning loop gives them.
    """
    numbers = [epoch.number for epoch in epochs]
    with style():
        figure = Figure(figsize=(13.0, 5.0), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08))
        left, right = figure.subplots(1, 2)
        for name in epochs[0].losses:
            left.plot(numbers, [epoch.losses[name] for epoch in epochs], "o-", color=BLUE, linewidth=2.5)
        left.set_ylabel("loss (nats)")
        left.set_title("Training", loc="left", fontweight="bold")
        values = [epoch.heldout[score] for epoch in epochs]
        right.plot(numbers, values, "o-", color=RED, linewidth=2.5)
        for value in landmarks.values():
            right.axhline(value, color=GREY, linestyle=(0, (5, 3)), linewidth=1.5)
        right.set_title(f"Held-out {score}", loc="left", fontweight="bold")
        right.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        for axes in (left, right):
            axes.set_xlabel(f"pass over the training {what}")
            axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
            axes.grid(axis="y", alpha=0.3)
        label_right(
            right,
            [(value, f"{value:.1%} {name}", GREY) for name, value in landmarks.items()]
            + [(values[-1], f"{values[-1]:.1%} at the end", RED)],
        )
        save(figure, path)


def plot_label_efficiency(curves: Sequence[Curve], majority: float, title: str, path: str | Path, what: str) -> None:
    """Draw accuracy over the number of labels, mean and standard deviation over the seeds, a curve for each model.

    `what` the numbers count is written under them, and so is a majority that lies far below the curves.
    """
    colours = [BLUE, RED, GREY, VIOLET]
    with style():
        figure = Figure(figsize=(9.6, 5.8), layout=ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.1))
        axes = figure.subplots()
        ends = []
        if majority > min(np.mean(scores) for curve in curves for scores in curve.scores) - FAR:
            ends.append((majority, f"{majority:.1%} majority", GREY))
            axes.axhline(majority, color=GREY, linestyle=(0, (5, 3)), linewidth=1.5)
        else:
            what += f" (most frequent class: {majority:.0%})"
        for i, (curve, colour) in enumerate(zip(curves, colours, strict=False)):
            mean = np.array([np.mean(scores) for scores in curve.scores])
            spread = np.array([np.std(scores, ddof=1) if len(scores) > 1 else 0.0 for scores in curve.scores])
            at = np.array(curve.labels) * 1.03 ** (i - 1)  # bars that stand side by side can be told apart
            axes.errorbar(at, mean, spread, fmt="o-", color=colour, linewidth=2.5, capsize=5, label=curve.name)
            ends.append((float(mean[-1]), f"{mean[-1]:.1%} {curve.name}", colour))
        axes.set_xscale("log")
        axes.set_xticks(curves[0].labels, [f"{n:,}" for n in curves[0].labels])
        axes.minorticks_off()
        axes.yaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_xlabel(what)
        axes.set_ylabel("held-out accuracy")
        axes.grid(axis="y", alpha=0.3)
        axes.set_title(title, loc="left", fontweight="bold")
        label_right(axes, ends)
        save(figure, path)


def plot_tasks(accuracy: Mapping[str, Mapping[str, float]], path: str | Path) -> None:
    """Draw each task's accuracy, trained together and alone, beside its bag of words and most frequent label."""
    bars = {"together": BLUE, "alone": PALE, "bag of words": GREY, "majority": "#c9cbcf"}
    with style():
        figure = Figure(figsize=(3.0 + 3.2 * len(accuracy), 5.4), layout=ConstrainedLayoutEngine(h_pad=0.1))
        axes = figure.subplots()
        for i, (name, colour) in enumerate(bars.items()):
            at = np.arange(len(accuracy)) + 0.2 * (i - 1.5)
            drawn = axes.bar(at, [scores[name] for scores in accuracy.values()], 0.18, color=colour, label=name)
            axes.bar_label(drawn, fmt=lambda value: f"{value:.0%}", fontsize=11, padding=2)
        axes.set_xticks(range(len(accuracy)), list(accuracy))
        axes.set_ylim(0, 1.08)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_ylabel("held-out accuracy")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
        axes.set_title("Several tasks on one encoder", loc="left", fontweight="bold")
        save(figure, path)
