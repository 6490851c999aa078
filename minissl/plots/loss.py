"""`loss.png`: how the losses fell, beside the landmarks that give them a meaning."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from minissl.backend import Array
from minissl.errors import InputError
from minissl.plots import BLUE, GREY, PALE, RED, save, style

LANDMARKS = {"mlm_chance": "chance ln V", "mlm_unigram": "unigram", "mlm_floor": "exact floor"}
PANEL_INCHES = (7.0, 5.6)
IMAGE_ERRORS = {"mae": ("squared error", "mean"), "simmim": ("absolute error", "median")}
IMAGE_INCHES = (9.0, 5.6)
DRAWN_STEPS = 1000  # more would run together
LABEL_GAP = 0.07  # of the panel's height: one line of text


def plot_losses(records: Sequence[Mapping[str, Any]], landmarks: Mapping[str, float | None], path: str | Path) -> None:
    """Draw the losses of a run: masked LM, and next sentence where it was trained.

    `records` are the lines of `log.jsonl`: `step`, `mlm`, and where there are any `nsp`, `heldout_mlm_loss` and
    `heldout_nsp_loss`. `landmarks` holds `mlm_chance`, `mlm_unigram`, `mlm_floor`; None is left out.
    Raises InputError where no record holds a loss.
    """
    panels = [key for key in ("mlm", "nsp") if len(_series(records, key)[0])]
    if "mlm" not in panels:
        raise InputError(f"{path}: nothing to draw, the log holds no masked-LM loss; did the run finish a step?")
    width, height = PANEL_INCHES
    with style():
        layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08)
        figure = Figure(figsize=(width * len(panels), height), layout=layout)
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        known = {name: value for key, name in LANDMARKS.items() if (value := landmarks.get(key)) is not None}
        _draw(axes[0], records, "mlm", "Guessing the masked words", known, digits=2)
        if "nsp" in panels:
            _draw(axes[1], records, "nsp", "Is it the next sentence?", {"chance ln 2": math.log(2)}, digits=3)
        _legend_below(figure, axes[0])
        save(figure, path)


def plot_image_losses(
    records: Sequence[Mapping[str, Any]], objective: str, landmarks: Mapping[str, float | None], path: str | Path
) -> None:
    """Draw the loss of a run on images: `mae` or `simmim`, which is also its key in the records.

    `landmarks` holds `mean_image`, `patch_mean`, `floor`; None is left out.
    Raises InputError where no record holds a loss.
    """
    if not len(_series(records, objective)[0]):
        raise InputError(f"{path}: nothing to draw, the log holds no loss {objective!r}; did the run finish a step?")
    with style():
        figure = Figure(figsize=IMAGE_INCHES, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08))
        axes = figure.subplots()
        unit, middle = IMAGE_ERRORS[objective]
        names = {
            "mean_image": f"training {middle} image",
            "patch_mean": f"true patch {middle}",
            "floor": "exact floor",
        }
        known = {name: value for key, name in names.items() if (value := landmarks.get(key)) is not None}
        steps, losses = _series(records, objective)
        near = steps[losses <= 1.5 * max(known.values(), default=math.inf)]  # random weights say nothing of the rest
        drawn = [r for r in records if near.size and r["step"] >= near[0]] or records
        _draw(axes, drawn, objective, "Painting the hidden patches", known, 3, unit, ratios)
        _legend_below(figure, axes)
        save(figure, path)


def _legend_below(figure: Figure, axes: Axes) -> None:
    handles, names = axes.get_legend_handles_labels()
    legend = figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    legend.get_lines()[0].set_markersize(12)  # in the panels there are hundreds of these dots, here is one


def _draw(
    axes: Axes, records: Sequence[Mapping[str, Any]], key: str, title: str, landmarks: dict[str, float], digits: int,
    unit: str = "nats", compared: Callable[[float, dict[str, float], int], str] | None = None,
) -> None:  # fmt: skip
    """One panel: training, held-out and landmarks, each landmark named at its line, the result in the title."""
    steps, losses = _series(records, key)
    smooth = smoothed(losses)
    heldout_steps, heldout = _series(records, f"heldout_{key}_loss")
    drawn = np.arange(len(steps))[:: -math.ceil(len(steps) / DRAWN_STEPS)][::-1]  # from the end: the last one counts
    line = "o-" if len(steps) < 10 else "-"  # a line through one point is invisible
    axes.plot(steps[drawn], losses[drawn], ".", color=PALE, markersize=4, label="training, single steps")
    axes.plot(steps[drawn], smooth[drawn], line, color=BLUE, linewidth=2.5, label="training, smoothed", clip_on=False)
    if len(heldout):
        axes.plot(heldout_steps, heldout, "o-", color=RED, linewidth=2, label="held-out", clip_on=False)
    for value in landmarks.values():
        axes.axhline(value, color=GREY, linestyle=(0, (5, 3)), linewidth=1.5)

    # single steps may leave the picture: their noise is many times what a whole run gains on the next sentence
    seen = np.concatenate([smooth, heldout, list(landmarks.values()), np.percentile(losses, [10, 90])])
    margin = 0.06 * max(np.ptp(seen), 0.1)
    axes.set_ylim(seen.min() - margin, seen.max() + margin)
    axes.set_xlim(0, steps[-1])
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_xlabel("step")
    axes.set_ylabel(f"loss ({unit})")
    axes.grid(axis="y", alpha=0.3)

    name, result = ("held-out", heldout[-1]) if len(heldout) else ("training", smooth[-1])
    labels = [(value, f"{value:.{digits}f} {landmark}", GREY) for landmark, value in landmarks.items()]
    label_right(axes, [*labels, (result, f"{result:.{digits}f} {name}", RED if len(heldout) else BLUE)])
    axes.set_title(title, loc="left", fontweight="bold", pad=30)
    finding = f"{name} {result:.{digits}f} {unit}" + (compared or differences)(result, landmarks, digits)
    # it may be wider than the axes, and must not make them narrower
    axes.annotate(finding, (0, 1), (0, 11), xycoords="axes fraction", textcoords="offset points").set_in_layout(False)


def _series(records: Sequence[Mapping[str, Any]], key: str) -> tuple[Array, Array]:
    """Steps and values of the records that hold a finite number under `key`."""
    pairs = [(r["step"], r[key]) for r in records if r.get(key) is not None and math.isfinite(r[key])]
    return np.array([step for step, _ in pairs]), np.array([value for _, value in pairs], np.float64)


def smoothed(values: Array) -> Array:
    """Centred moving mean over a twentieth of the curve.

    Near the start the window shrinks on both sides, because the first steep fall is real.
    """
    n = len(values)
    at = np.arange(n)
    reach = np.minimum(n // 40, at)
    low, high = at - reach, np.minimum(at + reach + 1, n)
    total = np.concatenate([[0.0], np.cumsum(values)])
    mean: Array = (total[high] - total[low]) / (high - low)
    return mean


def label_right(axes: Axes, labels: list[tuple[float, str, str]]) -> None:
    """Write each label in the right margin at the height of its value; labels that would touch move apart."""
    labels = sorted(labels)
    bottom, top = axes.get_ylim()
    heights = spread([(value - bottom) / (top - bottom) for value, _, _ in labels], LABEL_GAP)
    for (value, text, colour), height in zip(labels, heights, strict=True):
        axes.annotate(
            text, (1, value), (1.05, height), xycoords=axes.get_yaxis_transform(), textcoords="axes fraction",
            color=colour, va="center", annotation_clip=False,
            fontweight="normal" if colour == GREY else "bold",
            arrowprops={"arrowstyle": "-", "color": colour, "shrinkA": 2, "shrinkB": 0, "relpos": (0, 0.5)},
        )  # fmt: skip


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Move ascending heights apart to at least `gap`, upwards first, and down again from the top of the panel."""
    spaced: list[float] = []
    for height in heights:
        spaced.append(max(height, spaced[-1] + gap) if spaced else height)
    return [min(height, 1 - gap * (len(spaced) - 1 - i)) for i, height in enumerate(spaced)]


def differences(loss: float, landmarks: dict[str, float], digits: int) -> str:
    """The loss beside its landmarks, in words: ", 1.18 below unigram". Chance is left out beside a better landmark."""
    telling = {name: value for name, value in landmarks.items() if not name.startswith("chance")} or landmarks
    sides = {name: "below" if loss < value else "above" for name, value in telling.items()}
    return "".join(f", {abs(loss - value):.{digits}f} {sides[name]} {name}" for name, value in telling.items())


def ratios(loss: float, landmarks: dict[str, float], digits: int) -> str:
    """The error as a multiple of what it can be compared with: ", 0.48 × training mean image"; no rival sees truth."""
    fair = {name: value for name, value in landmarks.items() if not name.startswith("true")}
    return "".join(f", {loss / value:.{digits - 1}f} × {name}" for name, value in fair.items())
