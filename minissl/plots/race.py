"""A race of the bug museum: wrong beside right, with the landmarks that give a loss its meaning."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from minissl.backend import Array
from minissl.plots import BLUE, GREY, RED, save, style
from minissl.plots.loss import smoothed, spread

LOSSES = {
    "mlm": "masked-word loss, held-out (nats)",
    "nsp": "next-sentence loss, held-out (nats)",
    "mse": "squared error, held-out",
}
LABEL_GAP = 0.075  # of the panel's height: one line of text
TITLE_WIDTH, FINDING_WIDTH = 74, 72  # characters in a line


def plot_race(
    title: str, finding: str, metric: str, landmarks: Mapping[str, float], right: Mapping[str, Any],
    wrong: Mapping[str, Any], path: str | Path,
) -> None:  # fmt: skip
    """Draw both curves under a title that says what is wrong and a line that says what shows of it.

    `right` and `wrong` hold `steps`, `heldout`, `reported` and `stopped`, as the race's JSON does. What the wrong
    program reports of itself is drawn too where it tells another tale than the held-out loss.
    """
    with style():
        figure = Figure(figsize=(9.6, 5.6), layout=ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.1))
        axes = figure.subplots()
        told = _told(wrong)
        _frame(axes, landmarks, [right, wrong], told)
        labels = [(value, f"{value:.2f}  {name}", GREY) for name, value in landmarks.items()]
        for value in landmarks.values():
            axes.axhline(value, color=GREY, linestyle=(0, (5, 3)), linewidth=1.5)
        labels += _curve(axes, right, "right", BLUE, 4.5) + _curve(axes, wrong, "wrong", RED, 2.5)
        if told is not None:
            axes.plot(*told, color=RED, linestyle=(0, (2, 1.5)), linewidth=2)
            labels.append((told[1][-1], f"{told[1][-1]:.2f}  wrong reports", RED))
        if wrong["stopped"]:
            axes.text(
                0.97, 0.92, "\n".join(textwrap.wrap(f"wrong stops at {wrong['stopped']}", 40)), color=RED, ha="right",
                va="top", fontweight="bold", transform=axes.transAxes, zorder=5,
                bbox={"facecolor": "white", "edgecolor": RED, "boxstyle": "round,pad=0.6"},
            )  # fmt: skip
        axes.set_ylabel(LOSSES[metric])
        axes.set_xlabel("step")
        said = "" if wrong["stopped"] else "\n".join(textwrap.wrap(finding, FINDING_WIDTH))  # the box says it
        axes.set_title(said, loc="left", fontsize=13, color=GREY, pad=14)
        words = "\n".join(textwrap.wrap(title[:1].upper() + title[1:], TITLE_WIDTH))
        figure.suptitle(words, x=0.012, ha="left", fontsize=15, fontweight="bold")
        _label_right(axes, labels)
        save(figure, path)


def _curve(axes: Axes, side: Mapping[str, Any], name: str, colour: str, width: float) -> list[tuple[float, str, str]]:
    """Draw the held-out loss and return the label of its end; where it stops being a number, say so there."""
    steps, losses = _numbers(side["steps"], side["heldout"])
    if not len(steps):
        return []
    axes.plot(steps, losses, "o-" if len(steps) == 1 else "-", color=colour, linewidth=width, solid_capstyle="round")
    if len(steps) == len(side["steps"]) and not side["stopped"]:
        return [(losses[-1], f"{losses[-1]:.2f}  {name}", colour)]
    axes.plot(steps[-1], losses[-1], "X", color=colour, markersize=13, clip_on=False)
    if not side["stopped"]:
        axes.annotate(
            f"{name}: no number any more", (steps[-1], losses[-1]), (14, 10), textcoords="offset points", color=colour,
            fontweight="bold",
        )  # fmt: skip
    return []


def _numbers(steps: Sequence[int], losses: Sequence[float | None]) -> tuple[Array, Array]:
    pairs = [(s, v) for s, v in zip(steps, losses, strict=True) if v is not None and np.isfinite(v)]
    return np.array([s for s, _ in pairs]), np.array([v for _, v in pairs])


def _told(wrong: Mapping[str, Any]) -> tuple[Array, Array] | None:
    """What the wrong program reported, smoothed, where that is far from its held-out loss in the end."""
    steps, losses = _numbers(range(1, len(wrong["reported"]) + 1), wrong["reported"])
    _, heldout = _numbers(wrong["steps"], wrong["heldout"])
    if len(steps) < 20 or not len(heldout):
        return None
    smooth = smoothed(losses)
    return (steps, smooth) if abs(smooth[-1] - heldout[-1]) > max(0.3, 0.05 * abs(heldout[-1])) else None


def _frame(axes: Axes, landmarks: Mapping[str, float], sides: Sequence[Mapping[str, Any]], told: Any) -> None:
    """Show landmarks and both curves whole; one that leaves them far behind leaves the picture."""
    curves = [_numbers(side["steps"], side["heldout"])[1] for side in sides]
    last = max([1, *(side["steps"][-1] for side in sides if side["steps"])])
    seen = np.concatenate([list(landmarks.values()), curves[0], *([told[1][-1:]] if told else [])])
    span = max(float(np.ptp(seen)), 0.1)
    top = max(float(seen.max()), min(float(curves[1].max(initial=0)), float(seen.max()) + span))
    axes.set_ylim(float(seen.min()) - 0.06 * span, top + 0.06 * span)
    axes.set_xlim(0, last)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.grid(axis="y", alpha=0.3)


def _label_right(axes: Axes, labels: list[tuple[float, str, str]]) -> None:
    """Write each label in the right margin at the height of its value; labels that would touch move apart."""
    bottom, top = axes.get_ylim()
    arrows = [(min(max(v, bottom), top), f"↑ {text}" if v > top else text, colour) for v, text, colour in labels]
    labels = sorted(arrows)
    heights = spread([(value - bottom) / (top - bottom) for value, _, _ in labels], LABEL_GAP)
    for (value, text, colour), height in zip(labels, heights, strict=True):
        axes.annotate(
            text, (1, value), (1.05, height), xycoords=axes.get_yaxis_transform(), textcoords="axes fraction",
            color=colour, va="center", annotation_clip=False, fontweight="normal" if colour == GREY else "bold",
            arrowprops={"arrowstyle": "-", "color": colour, "shrinkA": 2, "shrinkB": 0, "relpos": (0, 0.5)},
        )  # fmt: skip
