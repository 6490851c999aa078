"""A map of features: every image a point, coloured by its class, which the features were not told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from minissl.backend import Array
from minissl.errors import InputError
from minissl.plots import PALE, save, style

# Petroff's sequence of ten (arXiv:2107.02270); after ten classes the marker changes
COLOURS = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd",
)  # fmt: skip
MARKERS = "o^sDvP"
MOST_NAMES = 30  # classes that a legend can hold


def plot_feature_map(
    panels: Mapping[str, Array], classes: Array, names: Sequence[str], title: str, path: str | Path
) -> None:
    """Draw each panel's points (n, 2), side by side; `classes` (n,) number their `names`.

    Raises InputError where there is nothing to draw, or a panel has not a point for each class.
    """
    if not panels or not len(classes) or any(points.shape != (len(classes), 2) for points in panels.values()):
        shapes = ", ".join(f"{name} {points.shape}" for name, points in panels.items())
        raise InputError(f"panels {shapes or 'none'}, {len(classes)} classes: expected a point (n, 2) for each")
    order = np.random.default_rng(0).permutation(len(classes))  # no class is drawn over the others
    size = 40 * (300 / max(len(classes), 300)) ** 0.5
    with style():
        layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08)
        figure = Figure(figsize=(5.8 * len(panels) + 2.6, 5.8), layout=layout)
        grid = figure.subplots(1, len(panels), squeeze=False)[0]
        kinds = min(len(MARKERS), 1 + int(classes.max()) // len(COLOURS))
        for axes, (name, points) in zip(grid, panels.items(), strict=True):
            for kind in range(kinds):
                some = order[(classes[order] // len(COLOURS)) % len(MARKERS) == kind]
                colours = [COLOURS[c % len(COLOURS)] for c in classes[some]]
                axes.scatter(*points[some].T, s=size, c=colours, marker=MARKERS[kind], alpha=0.75, linewidths=0)
            axes.set_title(name, loc="left", fontsize=13)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set(visible=True, color=PALE)
            axes.set_box_aspect(1)
            axes.margins(0.03)
        if len(names) <= MOST_NAMES:
            handles = [
                grid[0].scatter([], [], s=70, color=COLOURS[i % len(COLOURS)],
                                marker=MARKERS[i // len(COLOURS) % len(MARKERS)])
                for i in range(len(names))
            ]  # fmt: skip
            figure.legend(handles, names, loc="outside right center", frameon=False, ncols=1 + (len(names) > 15))
        figure.suptitle(title, fontsize=15, fontweight="bold")
        save(figure, path)
