"""Where the class token looks: images, and the weights of the last layer's heads over their patches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from minissl.backend import Array
from minissl.errors import InputError
from minissl.plots import RED, save, style
from minissl.plots.attention import evenly, printable

MOST_HEADS = 4
CELL_INCHES = 1.45
COLOURS = "viridis"


def plot_class_attention(images: Array, maps: Array, names: Sequence[str], path: str | Path) -> None:
    """Draw each image (0 black, 1 white; what lies outside is drawn as these), and below it a map for each head.

    `images` (n, C, H, W), `maps` (n, heads, h, w), the class token's attention to the h × w patches; `names` are the
    images' classes. Of many heads the first, the last and some evenly between are drawn, then the mean of all.
    Raises InputError where there is nothing to draw, or the three do not fit.
    """
    if images.ndim != 4 or maps.ndim != 4 or not len(images) == len(maps) == len(names) or not maps.size:
        raise InputError(
            f"images {images.shape}, maps {maps.shape} and {len(names)} names: expected (n, C, H, W), (n, heads, h, w) "
            "and a name for each image"
        )
    heads = evenly(maps.shape[1], MOST_HEADS)
    shown = np.concatenate([maps[:, heads], maps.mean(axis=1, keepdims=True)], axis=1).astype(np.float64)
    titles = [f"head {head + 1}" for head in heads] + ["mean of all" if len(heads) < maps.shape[1] else "mean"]
    even = 1 / (1 + maps.shape[2] * maps.shape[3])
    top = min(1.0, max(3 * even, float(np.quantile(shown, 0.995))))  # the noise of a nearly even map is no pattern
    colours = ScalarMappable(Normalize(0, top), COLOURS)
    with style():
        size = (CELL_INCHES * len(images) + 2.4, CELL_INCHES * (1 + shown.shape[1]) + 0.8)
        figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.04, compress=True))
        grid = figure.subplots(1 + shown.shape[1], len(images), squeeze=False)
        for column, image, weights, name in zip(grid.T, images, shown, names, strict=True):
            picture = np.clip(image, 0, 1).transpose(1, 2, 0)
            column[0].imshow(picture if len(image) == 3 else picture[..., 0], cmap="gray", vmin=0, vmax=1)
            column[0].set_title(printable(name), fontsize=13, parse_math=False)
            for axes, weight in zip(column[1:], weights, strict=True):
                axes.imshow(weight, cmap=colours.cmap, norm=colours.norm)
            for axes in column:
                axes.set_xticks([])
                axes.set_yticks([])
                axes.spines[:].set_visible(False)
        for axes, title in zip(grid[:, 0], ["image", *titles], strict=True):
            axes.set_ylabel(title)
        figure.suptitle("Where the class token looks, in the last layer", fontsize=15, fontweight="bold")
        bar = figure.colorbar(colours, ax=grid, extend="max" if shown.max() > top else "neither", aspect=30)
        bar.set_label("attention weight of a patch")
        bar.ax.axhline(even, color=RED, linewidth=2)
        bar.ax.annotate("even", (0, even), (-4, 0), textcoords="offset points", color=RED, ha="right", va="center")
        save(figure, path)
