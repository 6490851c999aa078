"""`report.plot()`: what backward returned beside what it should have, over the argument's axes."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.textpath import text_to_path
from matplotlib.ticker import MaxNLocator

from minissl.backend import Array
from minissl.errors import InputError
from minissl.gradcheck.kinds import KINDS, NOTES
from minissl.gradcheck.numerical import FLOOR
from minissl.gradcheck.report import ArgumentReport, Finding, Report
from minissl.plots import BLUE, FONT, GREY, RED, save, style
from minissl.plots.attention import evenly, printable

COLOURS = "RdBu_r"  # ColorBrewer's: blue below 0, red above, apart for every kind of colour blindness
WIDTH, MARGIN, LINE = 13.0, 0.25, 0.27  # inches; LINE is a line of the title
FLATTEST, TALLEST = 0.4, 1.2  # of a map, height by width
MOST_CELLS = 64  # on an axis of a map: with more, no single entry could be seen at half size
MOST_BLOCKS = 32  # of leading axes, ruled apart
MOST_BARS = 30
OFF_SCALE = 5.0  # a gradient larger than so many times the expected one leaves the scale, or that would be pale
NOTHING = Patch(facecolor="#e4e4e4", edgecolor="#a0a0a0", hatch="////", linewidth=0, label="no numerical derivative")
BAD = Patch(facecolor="black", label="NaN or infinite")
RING: dict[str, Any] = {"marker": "o", "fillstyle": "none", "linestyle": "none", "clip_on": False, "zorder": 5}


def plot_report(report: Report, path: str | Path | None = None, argument: str | None = None) -> Figure:
    """Draw one argument's gradient: got, expected, and their difference relative to the largest expected entry.

    It is `argument`, or the one that is wrong most. Where no gradient is wrong, bars show the error of each argument
    beside the tolerance. Maps lie over the last two axes, in blocks over the leading ones. With `path`, writes a PNG.
    Raises InputError for an argument that the report does not have.
    """
    if argument is not None and argument not in report.arguments:
        names = ", ".join(report.arguments) or "none"
        raise InputError(f"plot: the report has no argument {argument!r}; its arguments: {names}")
    name = _most_wrong(report) if argument is None else argument
    with style():
        figure = _errors(report) if name is None else _gradient(report, report.arguments[name])
        figure.draw_without_rendering()  # which makes the ticks: later, they would not be made in this style
        figure.set_layout_engine("none")  # a second layout would move everything by a hair
        if path is not None:
            save(figure, path)
    return figure


def _most_wrong(report: Report) -> str | None:
    blamed = [f.argument for f in report.findings if f.kind not in NOTES and f.argument in report.arguments]
    wrong = [name for name in blamed if report.arguments[name].relative_error > report.tolerance]
    return max(wrong, key=lambda name: report.arguments[name].relative_error, default=None)


# ---- the words above a picture


def _in_words(finding: Finding, what: str) -> tuple[str, str]:
    words = KINDS.get(finding.kind, finding.kind).removesuffix(", and none of the above")
    return f"{what}: {words}" if what else words[:1].upper() + words[1:], finding.message


def _about_argument(report: Report, record: ArgumentReport) -> tuple[str, str]:
    """A title and a sentence: the argument's own finding, an error before a note, or that its gradient is right."""
    own = sorted((f for f in report.findings if f.argument == record.name), key=lambda f: f.kind in NOTES)
    whole = [f for f in report.findings if not f.argument and f.kind not in NOTES]
    if own:
        return _in_words(own[0], record.name)
    error = f"relative error {record.relative_error:.1e}, tolerance {report.tolerance:g}"
    if whole and record.relative_error > report.tolerance:
        return _in_words(whole[0], f"{record.name}, {error}")
    return f"{record.name}: the gradient is right", error


def _about_all(report: Report) -> tuple[str, str]:
    errors = [f for f in report.findings if f.kind not in NOTES]
    if errors:
        return _in_words(errors[0], errors[0].argument)
    worst = f"worst relative error {report.relative_error:.1e}, tolerance {report.tolerance:g}"
    return "Every gradient is right", "; ".join([worst, *(f.message for f in report.findings)])


def _page(words: tuple[str, str], note: str, height: float) -> Figure:
    """A figure with a body of `height` inches, and above it the title, the sentence and the note, whole."""
    parts = [(words[0], 15, "bold", "black"), (words[1], 13, "normal", "black"), (note, 12, "normal", GREY)]
    wrapped = [_wrapped(text, size, weight) for text, size, weight, _ in parts]
    top = 2 * MARGIN + LINE * sum(map(len, wrapped))
    figure = Figure(figsize=(WIDTH, top + height))
    body = height / (top + height)
    figure.set_layout_engine(ConstrainedLayoutEngine(rect=(0, 0, 1, body), w_pad=0.12, h_pad=0.08, wspace=0.04))
    y = top + height - MARGIN
    for lines, (_, size, weight, colour) in zip(wrapped, parts, strict=True):
        for line in lines:
            figure.text(
                MARGIN / WIDTH, y / (top + height), line, fontsize=size, fontweight=weight, color=colour, va="top",
                parse_math=False,
            ).set_in_layout(False)  # fmt: skip
            y -= LINE
    return figure


def _wrapped(text: str, size: float, weight: str) -> list[str]:
    """Lines that fit between the margins, in letters that the font has."""
    text = "".join(printable(letter) for letter in " ".join(text.split()))
    font = FontProperties(family=FONT, size=size, weight=weight)
    room = 70 * (WIDTH - 2 * MARGIN)  # points, nearly: letters on pixels are a little wider than their outlines
    width = 200
    while True:
        lines = textwrap.wrap(text, width)
        points = [text_to_path.get_text_width_height_descent(line, font, ismath=False)[0] for line in lines]
        longest = max(points, default=0.0)
        if longest <= room:
            return lines
        width = min(width - 1, int(width * room / longest))


# ---- no gradient is wrong: one bar for each argument


def _errors(report: Report) -> Figure:
    worst = sorted(report.arguments.values(), key=lambda a: -a.relative_error)[:MOST_BARS]
    shown = [a for a in report.arguments.values() if any(a is other for other in worst)]
    part = f"the {len(shown)} largest of {len(report.arguments)} errors" if len(shown) < len(report.arguments) else ""
    figure = _page(_about_all(report), part, 1.4 + 0.36 * len(shown) if shown else 0.0)
    if not shown:
        return figure
    finite = [a.relative_error for a in shown if 0 < a.relative_error < math.inf]
    low = min([1e-16, *(e / 10 for e in finite)])
    tolerance = max(report.tolerance, low)  # 0 has no place on a log scale
    high = 1e3 * max([tolerance, *finite])
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.axvline(tolerance, color=GREY, linestyle=(0, (5, 3)), linewidth=2)
    axes.annotate(
        f"tolerance {report.tolerance:g}", (tolerance, 1), (0, 4), xycoords=("data", "axes fraction"),
        textcoords="offset points", color=GREY, ha="center", va="bottom",
    )  # fmt: skip
    for i, a in enumerate(shown):
        colour = RED if a.relative_error > report.tolerance else BLUE
        end = min(max(a.relative_error, low), high / 100)
        axes.barh(i, end - low, 0.6, left=low, color=colour)
        axes.annotate(
            f"{a.relative_error:.1e}" if a.relative_error else "0", (end, i), (6, 0), textcoords="offset points",
            va="center", color=colour, fontweight="bold",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )  # fmt: skip
    axes.set_yticks(range(len(shown)), [f"{a.name}  {a.shape}" for a in shown], parse_math=False)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("relative error of the gradient (log scale)")
    return figure


# ---- one argument: got, expected, difference; NaN stands for no derivative, infinity for what is not finite


@dataclass(frozen=True)
class _Side:
    """One axis of a map: `blocks` over the axes `folded`, each of `size` entries of `axis`, `pooled` to a cell."""

    axis: int
    size: int
    folded: tuple[int, ...]
    blocks: tuple[int, ...]
    pooled: int

    @property
    def count(self) -> int:
        """Blocks on this side."""
        return math.prod(self.blocks)

    @property
    def cells(self) -> int:
        """Cells in a block."""
        return math.ceil(self.size / self.pooled)

    def ticks(self) -> tuple[list[float], list[str]]:
        """Places and names: the blocks' indices, where there are blocks, or the entries'."""
        if self.blocks:
            some = evenly(self.count, 8 // len(self.blocks) or 1)
            names = [", ".join(str(int(i)) for i in np.unravel_index(b, self.blocks)) for b in some]
            return [(b + 0.5) * self.cells - 0.5 for b in some], names
        marks = sorted({int(i) for i in _few(self.size).tick_values(0, self.size - 1) if 0 <= i < self.size})
        return [(i + 0.5) / self.pooled - 0.5 for i in marks], [str(i) for i in marks]

    def label(self, lines: str) -> str:
        """Which axes lie on this side."""
        leading = ", ".join(map(str, self.folded))
        if self.blocks:
            return f"blocks: ax{'e' if len(self.folded) > 1 else 'i'}s {leading}\n{lines}: axis {self.axis}"
        return f"axes {leading}, {self.axis} folded" if self.folded else f"axis {self.axis}"


class _Fold(NamedTuple):
    """An array as a map: `shown` (rows, columns) is the flat index of the entry in each cell."""

    shown: Array
    sides: tuple[_Side, _Side]


def _gradient(report: Report, record: ArgumentReport) -> Figure:
    got, expected = np.array(record.gradient, np.float64), np.array(record.numerical, np.float64)
    got[~np.isfinite(got)] = math.inf
    comparable = got.shape == expected.shape
    size = _unit(report, got, expected)
    arrays, titles = [got, expected], ["got: what backward returned", "expected: numerical"]
    if comparable:
        with np.errstate(invalid="ignore"):
            arrays.append(np.where(np.isfinite(got), (got - expected) / size, math.inf))
        titles.append("difference / " + ("largest |expected|" if size == _largest(expected) else f"{size:.2g}"))
    telling = [_telling(arrays[-1], got)] * 3 if comparable else [_telling(a, a) for a in arrays]
    worst = _worst(arrays[-1], telling[-1], report.tolerance) if comparable else None
    folds = [_fold(weights) if weights.ndim > 1 and weights.size else None for weights in telling]

    maps = [fold for fold in folds if fold is not None]
    marks = _marks(arrays, worst)
    note = _note(expected, maps, comparable)
    if comparable and np.isfinite(expected).any() and size != _largest(expected):
        note += f" Next to nothing was expected, so the difference is divided by {size:.2g}."
    if worst is None and comparable and report.tolerance < record.relative_error < math.inf:
        note += " All of these are right: the error shows along random directions over the whole argument."
    height = _height(arrays, maps) + (0.35 if marks else 0)
    figure = _page(_about_argument(report, record), note, height)
    panels = figure.subplots(1, 3)
    largest = max(_largest(got), size)
    ends = [largest if largest <= OFF_SCALE * size else size] * 2
    ends.append(max(_largest(arrays[-1]), report.tolerance) or 1.0)
    for i, (array, fold, title) in enumerate(zip(arrays, folds, titles, strict=True)):
        panels[i].set_title(title, fontsize=13, fontweight="bold", pad=8)
        if fold is not None:
            _map(panels[i], array, fold, ends[i], worst)
        elif array.ndim == 1 and array.size:
            _line(panels[i], array, RED if i == 2 else BLUE, ends[i] if i == 2 else largest, worst)
        else:
            _say(panels[i], _number(array.item()) if array.size else "no entries", 22)
    if not comparable:
        _say(panels[2], f"got {got.shape},\nexpected {expected.shape}:\nno difference to draw", 15)
    _colour_bar(figure, [axes for axes in panels[:2] if axes.images], ends[0], largest)
    _colour_bar(figure, [axes for axes in panels[2:] if axes.images], ends[-1], ends[-1])
    for axes in panels[1:] if comparable else []:
        axes.set_ylabel("")  # the first panel says it
    if marks:
        figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), frameon=False)
    return figure


def _unit(report: Report, got: Array, expected: Array) -> float:
    """What the difference is divided by: the largest expected entry, unless that is nothing but rounding noise."""
    largest = _largest(expected)
    floor = FLOOR * max(_largest(a.numerical) for a in report.arguments.values())
    return largest if largest > floor else max(floor, _largest(got)) or 1.0


def _largest(a: Array) -> float:
    return float(np.abs(a[np.isfinite(a)]).max(initial=0))


def _telling(difference: Array, got: Array) -> Array:
    """How much each entry has to tell: 3 if it is not finite, 1 to 2 by its difference, below 1 without one."""
    by_difference = 1 + np.abs(difference) / (_largest(difference) or 1.0)
    by_size = np.fmin(np.abs(got) / (2 * _largest(got) or 1.0), 0.5)
    return np.where(np.isnan(difference), by_size, np.minimum(by_difference, 3))


def _worst(difference: Array, telling: Array, tolerance: float) -> int | None:
    """The flat index of the worst entry, if one is wrong."""
    worst = int(telling.argmax()) if telling.size else 0
    if not telling.size or not abs(difference.flat[worst]) > tolerance:
        return None
    telling.flat[worst] = 4  # which no other entry in its cell can hide
    return worst


def _fold(telling: Array) -> _Fold:
    """Fold the leading axes down and across, to as square a map as their order allows; a cell shows what tells most."""
    *leading, rows, columns = telling.shape
    n = len(leading)
    split = min(
        range(n + 1), key=lambda s: abs(math.log(math.prod(leading[:s]) * rows / (math.prod(leading[s:]) * columns)))
    )
    down = _side(n, rows, range(split), leading[:split])
    across = _side(n + 1, columns, range(split, n), leading[split:])
    order: Array = np.moveaxis(np.arange(telling.size).reshape(telling.shape), n, split)
    flat = order.reshape(down.count, down.size, across.count, across.size)
    spare = [(0, side.cells * side.pooled - side.size) for side in (down, across)]
    pools = np.pad(flat, [(0, 0), spare[0], (0, 0), spare[1]], mode="edge").reshape(
        down.count, down.cells, down.pooled, across.count, across.cells, across.pooled
    )
    pools = pools.transpose(0, 1, 3, 4, 2, 5).reshape(down.count * down.cells, across.count * across.cells, -1)
    best = telling.reshape(-1)[pools].argmax(axis=-1)
    return _Fold(np.take_along_axis(pools, best[..., None], axis=-1)[..., 0], (down, across))


def _side(axis: int, size: int, folded: Sequence[int], blocks: Sequence[int]) -> _Side:
    count = math.prod(blocks)
    if count > MOST_BLOCKS:  # too many to rule apart
        size, blocks = count * size, ()
    elif count == 1:
        folded, blocks = (), ()
    pooled = math.ceil(size / (MOST_CELLS // math.prod(blocks)))
    return _Side(axis, size, tuple(folded), tuple(blocks), pooled)


def _map(axes: Axes, array: Array, fold: _Fold, end: float, worst: int | None) -> None:
    """A heat map. Where there is no value the hatched background shows."""
    values = array.reshape(-1)[fold.shown]
    axes.patch.set(facecolor=NOTHING.get_facecolor(), edgecolor="#a0a0a0", hatch=NOTHING.get_hatch())
    share = len(values) / len(values[0])
    aspect = min(max(share, FLATTEST), TALLEST) / share
    axes.imshow(np.where(np.isinf(values), np.nan, values), COLOURS, Normalize(-end, end), aspect=aspect)
    if np.isinf(values).any():
        axes.imshow(np.where(np.isinf(values), 0.0, np.nan), ListedColormap(["black"]), aspect=aspect)
    axes.spines[:].set_visible(True)
    for side, axis, rule in zip(fold.sides, (axes.yaxis, axes.xaxis), (axes.axhline, axes.axvline), strict=True):
        axis.set_ticks(*side.ticks())
        axis.set_label_text(side.label("rows" if axis is axes.yaxis else "columns"))
        for block in range(1, side.count):
            rule(block * side.cells - 0.5, color="black", linewidth=1.2)
    if worst is not None:
        row, column = np.argwhere(fold.shown == worst)[0]
        _ring(axes, column, row)


def _line(axes: Axes, array: Array, colour: str, end: float, worst: int | None) -> None:
    """A bar for each entry; of many, thin lines, so that a single one still shows."""
    at, finite = np.arange(array.size), np.isfinite(array)
    width = max(1.0, 150 / array.size)  # points
    axes.vlines(at[finite], 0, array[finite], color=colour, linewidth=width)
    axes.set_ylim(-1.15 * end, 1.15 * end)
    axes.set_xlim(-0.7, array.size - 0.3)
    for missing, drawn in ((np.isnan(array), NOTHING), (np.isinf(array), BAD)):
        for start, stop in _runs(missing):
            axes.axvspan(
                start - 0.5, stop - 0.5, facecolor=drawn.get_facecolor(), edgecolor="#a0a0a0", linewidth=0,
                hatch=drawn.get_hatch(),
            )  # fmt: skip
    axes.axhline(0, color="black", linewidth=1)
    axes.xaxis.set_major_locator(_few(array.size))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(lambda value, _: _number(value))  # without a power of ten above the panel
    axes.set_xlabel("axis 0")
    if worst is not None:
        _ring(axes, worst, array[worst] if finite[worst] else 0.0)


def _runs(mask: Array) -> list[tuple[int, int]]:
    """Start and stop of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(int)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _ring(axes: Axes, x: float, y: float) -> None:
    """Mark the worst entry: black on white, so that it shows on every colour."""
    axes.plot(x, y, color="white", markersize=14, markeredgewidth=5, **RING)
    axes.plot(x, y, color="black", markersize=14, markeredgewidth=2, **RING)


def _few(size: int) -> MaxNLocator:
    """Ticks for an axis of so many entries; long numbers are fewer."""
    return MaxNLocator(6 if size < 10_000 else 4, integer=True)


def _say(axes: Axes, text: str, size: float) -> None:
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, fontsize=size, ha="center", va="center", transform=axes.transAxes)


def _number(value: float) -> str:
    return f"{value + 0.0:.4g}".replace("-", "−") if math.isfinite(value) else "not finite"


def _note(expected: Array, maps: Sequence[_Fold], comparable: bool) -> str:
    """What a picture of a large argument leaves out."""
    parts = []
    pooled = max((tuple(side.pooled for side in fold.sides) for fold in maps), default=(1, 1), key=math.prod)
    if math.prod(pooled) > 1:
        which = "differs most" if comparable else "is largest"
        parts.append(f"Each cell stands for {pooled[0]} × {pooled[1]} entries and shows the one that {which}.")
    if np.isnan(expected).any():
        parts.append(f"{np.isfinite(expected).sum():,} of {expected.size:,} entries have a numerical derivative.")
    return " ".join(parts)


def _height(arrays: Sequence[Array], maps: Sequence[_Fold]) -> float:
    """Inches below the words: the tallest panel, with what stands around it."""
    if maps:
        share = max(len(fold.shown) / len(fold.shown[0]) for fold in maps)
        return 3.7 * min(max(share, FLATTEST), TALLEST) + 1.65
    return 3.5 if any(a.ndim for a in arrays) else 1.6


def _colour_bar(figure: Figure, panels: Sequence[Axes], end: float, largest: float) -> None:
    if panels:
        extend = "both" if largest > end else "neither"
        bar = figure.colorbar(
            ScalarMappable(Normalize(-end, end), COLOURS), ax=panels, location="bottom", extend=extend, aspect=30,
            shrink=0.9 / len(panels),
        )  # fmt: skip
        bar.set_ticks([-end, 0, end], labels=[_number(float(f"{v:.2g}")) for v in (-end, 0, end)])


def _marks(arrays: Sequence[Array], worst: int | None) -> list[Any]:
    """The legend: what marks mean, those that were used."""
    handles: list[Any] = []
    if worst is not None and arrays[0].ndim:
        index = tuple(int(i) for i in np.unravel_index(worst, arrays[0].shape))
        got, expected = (_number(float(a.flat[worst])) for a in arrays[:2])
        label = f"worst, at {index if len(index) > 1 else index[0]}: got {got}, expected {expected}"
        handles.append(Line2D([], [], color="black", markersize=14, markeredgewidth=2, label=label, **RING))
    handles += [NOTHING] if any(np.isnan(a).any() for a in arrays) else []
    handles += [BAD] if any(np.isinf(a).any() for a in arrays) else []
    return handles
