"""The figures of lessons 7 to 9: images as sequences of patches, what was hidden and painted, and what mattered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import ConnectionPatch, Rectangle

from minissl.backend import Array
from minissl.ops import patch_embedding_forward, patchify_forward, sincos_positions
from minissl.plots import BLUE, GREY, PALE, RED, save, style
from minissl.vision.glyphs import glyphs

SIDE = 8  # of a patch in lesson 7
WIDTH = 12  # of the vectors that are drawn there
GRID = (6, 8)  # of the table that is drawn
TABLE_WIDTH = 32


def letter() -> Array:
    """The letter of lesson 7: an image (3, 32, 32) of numbers from 0 to 1."""
    image: Array = glyphs(26, 26).train.pixels[10] / 255
    return image


def lesson_7_patches(folder: Path) -> None:
    """An image is cut into patches; in a row, each made a vector, behind the class token, they are the sequence."""
    image = letter()
    rows, columns = image.shape[1] // SIDE, image.shape[2] // SIDE
    patches, _ = patchify_forward(image, SIDE)
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((WIDTH, 3, SIDE, SIDE)) / SIDE
    vectors, _ = patch_embedding_forward(image - image.mean(), weight, np.zeros(WIDTH))
    sequence = np.concatenate([0.7 * rng.standard_normal((1, WIDTH)), vectors])
    number = len(patches)
    with style():
        figure = Figure(figsize=(13.5, 5.6))
        whole = figure.add_axes((0.015, 0.22, 0.27, 0.27 * 13.5 / 5.6))
        whole.imshow(image.transpose(1, 2, 0))
        for i in range(1, rows):
            whole.axhline(i * SIDE - 0.5, color="white", linewidth=2.5)
        for j in range(1, columns):
            whole.axvline(j * SIDE - 0.5, color="white", linewidth=2.5)
        for n in range(number):
            at = SIDE * (n % columns) + 0.4, SIDE * (n // columns) + 0.4
            whole.text(*at, str(n), color="white", fontsize=13, fontweight="bold", va="top", bbox={
                "facecolor": GREY, "edgecolor": "none", "pad": 1.5})  # fmt: skip
        _bare(whole)
        whole.set_title("an image (C, H, W)", fontsize=15, pad=10)

        left, each = 0.355, 0.0375
        for n, patch in enumerate(patches):
            axes = figure.add_axes((left + (n + 1) * each, 0.72, 0.85 * each, 0.85 * each * 13.5 / 5.6))
            axes.imshow(patch.reshape(SIDE, SIDE, 3), vmin=0, vmax=1)
            _bare(axes)
            axes.set_title(str(n), fontsize=13, color=GREY, pad=3)
            if n == 0:
                first = axes
        figure.text(
            left + each * (1 + number / 2), 0.89, "N patches of P²C numbers, row by row", ha="center", fontsize=15
        )

        table = figure.add_axes((left, 0.13, each * (1 + number), 0.42))
        largest = float(np.abs(sequence).max())
        table.imshow(sequence.T, cmap="RdBu_r", vmin=-largest, vmax=largest, aspect="auto")
        for n in range(number + 1):
            table.axvline(n - 0.5, color="white", linewidth=5)
        table.set_xticks(range(number + 1), ["class", *map(str, range(number))])
        table.get_xticklabels()[0].set(color=RED, fontweight="bold")
        table.set_yticks([])
        table.tick_params(length=0)
        for side in table.spines.values():
            side.set_visible(False)
        table.set_ylabel("D", rotation=0, labelpad=12, va="center")
        figure.text(left + each * (1 + number / 2), 0.025, "N + 1 vectors of width D: what a transformer reads",
                    ha="center", fontsize=15)  # fmt: skip
        figure.text(left + each * (1 + number / 2), 0.615, "the same $W$ and $b$ for each, plus its position",
                    ha="center", va="center", color=BLUE, fontsize=15)  # fmt: skip
        for n, where in ((0, first), (number - 1, axes)):
            _arrow(figure, where, (0.5, -0.12), table, ((n + 1.5) / (number + 1), 1.03))
        _arrow(figure, whole, (1.03, 0.72), first, (-0.75, 0.5))
        save(figure, folder / "lesson-7-patches.png")


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(False)


def _arrow(figure: Figure, start: Axes, at: tuple[float, float], end: Axes, to: tuple[float, float]) -> None:
    """An arrow from a place in one panel to a place in another, both as shares of the panel."""
    figure.add_artist(
        ConnectionPatch(
            at, to, start.transAxes, end.transAxes, arrowstyle="-|>", color=BLUE, linewidth=2.5, mutation_scale=18
        )
    )


def lesson_7_positions(folder: Path) -> None:
    """The sine-cosine table of a grid of patches, and how alike three places are to all others."""
    table = sincos_positions(GRID, TABLE_WIDTH)
    h, w = GRID
    places = ((0, 0), (2, 4), (5, 6))
    with style():
        figure = Figure(figsize=(13.5, 6.4))
        axes = figure.add_axes((0.065, 0.1, 0.5, 0.8))
        image = axes.imshow(table, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
        quarter = TABLE_WIDTH // 4
        for i in range(1, 4):
            axes.axvline(i * quarter - 0.5, color="black", linewidth=1.5)
        for y in range(h):
            axes.axhline(y * w + 0.5, color="black", linewidth=0.8)
        names = [f"{f}(${z}\\omega$)" for z in "xy" for f in ("sin", "cos")]
        axes.set_xticks([(i + 0.5) * quarter - 0.5 for i in range(4)], names, fontsize=15)
        axes.set_yticks([0, *(0.5 + w * (y + 0.5) for y in range(h))], ["class", *(f"row {y}" for y in range(h))])
        axes.get_yticklabels()[0].set(color=RED, fontweight="bold")
        axes.tick_params(length=0)
        axes.set_title("The table: one line for each patch", loc="left", fontweight="bold")
        figure.colorbar(image, cax=figure.add_axes((0.575, 0.25, 0.012, 0.5)), ticks=[-1, 0, 1])

        alike = [(table[1:] @ table[1 + row * w + column]).reshape(GRID) for row, column in places]
        for i, ((row, column), values) in enumerate(zip(places, alike, strict=True)):
            panel = figure.add_axes((0.68, 0.655 - 0.278 * i, 0.2, 0.245))
            shown = panel.imshow(values, cmap="Blues", vmin=float(np.min(alike)), vmax=TABLE_WIDTH / 2, aspect="auto")
            panel.plot(column, row, "o", color=RED, markersize=9)
            _bare(panel)
            if i == 0:
                panel.set_title("How alike a place is to all others", fontweight="bold", pad=9)
        bar = figure.colorbar(shown, cax=figure.add_axes((0.91, 0.25, 0.012, 0.5)))
        bar.set_label("dot product")
        save(figure, folder / "lesson-7-positions.png")


def plot_paintings(
    rows: Sequence[tuple[str, Array, Array | None]], path: str | Path, colours: str = "RdBu_r"
) -> None:  # fmt: skip
    """Images (n, H, W) in rows, each with its name; hidden pixels (n, H, W) are left out of a row that gives them.

    All rows have the colours of the first one: what is painted beyond its darkest and brightest pixel is cut off.
    """
    low, high = float(rows[0][1].min()), float(rows[0][1].max())
    if colours == "RdBu_r":  # white in the middle: 0
        low, high = -max(high, -low), max(high, -low)
    with style():
        count = len(rows[0][1])
        figure = Figure(figsize=(13.5, 1.62 * len(rows)))
        left, each = 0.175, 0.82 / count
        height = 1 / len(rows)
        for i, (name, images, hidden) in enumerate(rows):
            bottom = 1 - (i + 1) * height
            figure.text(left - 0.015, bottom + height / 2, name, ha="right", va="center", fontsize=16)
            for j, image in enumerate(images):
                axes = figure.add_axes((left + j * each, bottom + 0.03 * height, 0.94 * each, 0.94 * height))
                shown = image if hidden is None else np.where(hidden[j], np.nan, image)
                axes.imshow(shown, cmap=colours, vmin=low, vmax=high)
                _bare(axes)
                axes.set_facecolor("#d9d9d9" if colours == "RdBu_r" else PALE)
        save(figure, path)


def plot_image_ablation(
    table: Array, ratios: Sequence[float], errors: Mapping[str, Sequence[tuple[float, float]]],
    untaught: tuple[float, float], found: Mapping[str, Sequence[float]], landmarks: Mapping[str, float],
    path: str | Path,
) -> None:  # fmt: skip
    """Three panels of lesson 9.

    `table` (trained, asked): squared errors by mask ratio. `errors`: (squared, absolute) of each seed, by loss, beside
    those of who paints the mean image, the median image. `found`: what the linear probe of each seed found, by arm.
    """
    percent = [f"{100 * ratio:g} %" for ratio in ratios]
    with style():
        figure = Figure(figsize=(15.5, 5.4), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08))
        left, middle, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.25))
        left.imshow(table, cmap="Blues_r", aspect="auto")
        dark = table.min() + 0.5 * (table.max() - table.min())
        for i, j in np.ndindex(table.shape):
            colour = "white" if table[i, j] < dark else "black"
            left.text(j, i, f"{table[i, j]:.2f}", ha="center", va="center", color=colour, fontsize=15)
            if i == j:  # its own game
                left.add_patch(Rectangle((j - 0.46, i - 0.46), 0.92, 0.92, fill=False, edgecolor=RED, linewidth=3))
        left.set_xticks(range(len(ratios)), percent)
        left.set_yticks(range(len(ratios)), percent)
        left.tick_params(length=0)
        left.set_xlabel("asked with this much hidden")
        left.set_ylabel("trained with this much hidden")
        left.set_title("Squared error (red: its own game)", loc="left", fontweight="bold")

        for (name, points), colour, marker in zip(errors.items(), (BLUE, RED), "os", strict=True):
            x, y = zip(*points, strict=True)
            middle.plot(x, y, marker, color=colour, markersize=10)
            middle.annotate(f"trained with {name}", (float(np.mean(x)), max(y)), (0, 12), textcoords="offset points",
                            color=colour, ha="center", fontweight="bold")  # fmt: skip
        middle.axvline(untaught[0], color=GREY, linestyle=(0, (5, 3)), linewidth=1.5)
        middle.axhline(untaught[1], color=GREY, linestyle=(0, (5, 3)), linewidth=1.5)
        middle.annotate("mean image", (untaught[0], 1), (5, -4), xycoords=("data", "axes fraction"),
                        textcoords="offset points", color=GREY, va="top")  # fmt: skip
        middle.annotate("median image", (1, untaught[1]), (-4, -6), xycoords=("axes fraction", "data"),
                        textcoords="offset points", color=GREY, va="top", ha="right")  # fmt: skip
        middle.margins(0.5, 0.25)
        middle.set_xlabel("squared error")
        middle.set_ylabel("absolute error")
        middle.set_title("Each loss wins at its own", loc="left", fontweight="bold")

        names = list(found)
        for i, name in enumerate(names):
            right.plot([100 * share for share in found[name]], [i] * len(found[name]), "o", color=BLUE, markersize=9)
        for i, (name, share) in enumerate(landmarks.items()):
            right.axvline(100 * share, color=GREY, linestyle=(0, (5, 3)), linewidth=1.5)
            right.annotate(name, (100 * share, 0), (5, 4 + 18 * i), xycoords=("data", "axes fraction"),
                           textcoords="offset points", color=GREY)  # fmt: skip
        right.set_yticks(range(len(names)), names)
        right.set_ylim(len(names) + 0.3, -0.6)
        right.set_xlim(0, 100 * max(landmarks.values()) * 1.35)
        right.set_xlabel("characters that a linear probe names right (%)")
        right.grid(axis="x", alpha=0.3)
        right.set_title("What is in the features", loc="left", fontweight="bold")
        save(figure, path)


FIGURES: dict[str, Callable[[Path], None]] = {
    "lesson-7-patches": lesson_7_patches,
    "lesson-7-positions": lesson_7_positions,
}
