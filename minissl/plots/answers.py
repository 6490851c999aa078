"""Pictures of a reader: where in a passage it sees the answer begin and end, and how it scores beside landmarks."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from minissl.backend import Array
from minissl.errors import InputError
from minissl.plots import BLUE, GREY, PALE, RED, save, style
from minissl.plots.attention import printable

NAMED = 3  # of each side's peaks, the highest, have their word written
TITLE_LETTERS = 88
YELLOW = "#ffe08a"  # behind the true answer: light in a grey print too


class Reading(NamedTuple):
    """One passage as it was read: its tokens, how likely the answer begins and ends at each, and the truth."""

    question: str
    tokens: Sequence[str]
    start: Array  # (T,) probabilities
    end: Array  # (T,)
    answer: tuple[int, int]  # the true answer's first and last token
    given: str


def plot_readings(readings: Sequence[Reading], path: str | Path) -> None:
    """Draw each passage from left to right: the chance that the answer begins there upwards, that it ends downwards.

    The true answer's place is shaded. Raises InputError where there is nothing to draw or the sizes do not fit.
    """
    fits = [len(r.tokens) == len(r.start) == len(r.end) > r.answer[1] >= r.answer[0] >= 0 for r in readings]
    if not readings or not all(fits):
        raise InputError(
            f"{path}: {len(readings)} passages to draw; each needs a start and an end probability for every token, "
            "and an answer inside"
        )
    with style():
        figure = Figure(figsize=(13, 3.9 * len(readings) + 0.5), layout=ConstrainedLayoutEngine(h_pad=0.15, w_pad=0.1))
        for axes, reading in zip(figure.subplots(len(readings), 1, squeeze=False)[:, 0], readings, strict=True):
            _draw(axes, reading)
        axes.set_xlabel("token of the passage")
        handles, names = axes.get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False)
        save(figure, path)


def _draw(axes: Axes, reading: Reading) -> None:
    T = len(reading.tokens)
    first, last = reading.answer
    axes.axvspan(first - 0.5, last + 0.5, color=YELLOW, label="the true answer", linewidth=0)
    axes.bar(np.arange(T), reading.start, color=BLUE, width=1.0, label="the answer begins here")
    axes.bar(np.arange(T), -reading.end, color=RED, width=1.0, label="the answer ends here")
    axes.axhline(0, color=GREY, linewidth=0.8)
    top = float(max(reading.start.max(), reading.end.max()))
    axes.set_ylim(-1.45 * top, 1.45 * top)
    axes.set_xlim(-0.5, T - 0.5)
    axes.yaxis.set_major_formatter(lambda value, _: f"{abs(value):.0%}")
    axes.set_ylabel("probability")
    for side, sign in ((reading.start, 1), (reading.end, -1)):
        named: list[int] = []
        for place in np.argsort(-side, kind="stable")[:NAMED].tolist():
            if side[place] > 0.1 * top and all(abs(place - other) > 0.07 * T for other in named):
                named.append(place)
                _name(axes, printable(reading.tokens[place]), place, sign * float(side[place]), sign, T)
    answer = " ".join(reading.given.split())
    title = textwrap.wrap(f"{reading.question.strip()}   →   {answer}", TITLE_LETTERS, max_lines=2, placeholder=" …")
    axes.set_title("\n".join(title), loc="left", fontweight="bold", parse_math=False)


def _name(axes: Axes, word: str, place: int, height: float, sign: int, tokens: int) -> None:
    """Write a word beyond its bar; near an edge it leans inwards."""
    side = "left" if place < 0.05 * tokens else "right" if place > 0.95 * tokens else "center"
    axes.annotate(
        word, (place, height), (0, 4 * sign), textcoords="offset points", ha=side, fontsize=12, parse_math=False,
        va="bottom" if sign > 0 else "top", color=BLUE if sign > 0 else RED,
    )  # fmt: skip


def plot_scores(scores: Mapping[str, tuple[float, float]], mine: str, path: str | Path) -> None:
    """Draw exact match and F1 (shares) as two panels of bars, one bar for each name; `mine` is set off.

    Raises InputError where `mine` is not among the names.
    """
    if mine not in scores:
        raise InputError(f"{path}: no score is called {mine!r}; there are: {', '.join(scores) or 'none'}")
    names = list(scores)[::-1]  # the first on top
    labels = ["\n".join(textwrap.wrap(name, 26)) for name in names]
    with style():
        figure = Figure(figsize=(11, 1.0 + 0.85 * len(names)), layout=ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.1))
        panels = figure.subplots(1, 2, sharey=True)
        for i, (axes, title) in enumerate(zip(panels, ("Exact match", "F1"), strict=True)):
            values = [100 * scores[name][i] for name in names]
            axes.barh(labels, values, color=[BLUE if name == mine else PALE for name in names])
            for label, name, value in zip(labels, names, values, strict=True):
                weight = "bold" if name == mine else "normal"
                axes.annotate(
                    f"{value:.1f} %", (value, label), (5, 0), textcoords="offset points", va="center", fontweight=weight
                )
            axes.set_xlim(0, 118)
            axes.set_xticks([])
            axes.spines["bottom"].set_visible(False)
            axes.tick_params(left=False)
            axes.set_title(title, loc="left", fontweight="bold")
        save(figure, path)
