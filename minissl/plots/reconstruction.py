"""`reconstruction.png`: held-out images, what a model sees of them, and what it makes of the rest."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from minissl.backend import Array
from minissl.errors import InputError
from minissl.plots import save, style

COVER = np.array([0.663, 0.804, 0.941])  # the pale blue of the figures: no grey level of an image looks like it
SIDE_INCHES = 1.35
LETTERS = 0.105  # of the caption, inches each


def plot_reconstruction(images: Array, hidden: Array, rows: dict[str, Array], caption: str, path: str | Path) -> None:
    """Draw images in columns: the original, what is visible of it, and below these each of `rows`.

    `images` (n, C, H, W) hold values from 0, black, to 1, white, and `hidden` (n, H, W) says which pixels the model
    does not see. Each of `rows` is (n, C, H, W), of which only the hidden pixels are drawn; the visible ones are pasted
    from the original, and values below 0 or above 1 are drawn as 0 and 1. The caption should say both.
    Raises InputError for arrays that do not fit, or channels that are neither grey nor colour.
    """
    n, channels, *size = images.shape
    if n == 0 or channels not in (1, 3) or hidden.shape != (n, *size):
        raise InputError(f"images {images.shape}, hidden {hidden.shape}: expected (n, 1 or 3, H, W) and (n, H, W)")
    if any(row.shape != images.shape for row in rows.values()):
        raise InputError(f"rows {[row.shape for row in rows.values()]}: expected the images' shape {images.shape}")
    original = np.repeat(np.clip(images, 0, 1).transpose(0, 2, 3, 1), 3 // channels, axis=-1)  # (n, H, W, 3)
    covered = hidden[..., None]
    drawn = {"original": original, "what the model sees": np.where(covered, COVER, original)}
    for name, row in rows.items():
        painted = np.repeat(np.clip(row, 0, 1).transpose(0, 2, 3, 1), 3 // channels, axis=-1)
        drawn[name] = np.where(covered, painted, original)
    with style():
        save(_draw(drawn, caption), path)


def _draw(drawn: dict[str, Array], caption: str) -> Figure:
    n = len(next(iter(drawn.values())))
    width = n * SIDE_INCHES + 1.6
    lines = textwrap.wrap(caption, int(width / LETTERS))
    figure = Figure(
        figsize=(width, len(drawn) * SIDE_INCHES + 0.25 * len(lines) + 0.2),
        layout=ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0, rect=(0.01, 0, 0.98, 1)),
    )
    grid = figure.subplots(len(drawn), n, squeeze=False)
    for axes, (name, pictures) in zip(grid, drawn.items(), strict=True):
        for one, picture in zip(axes, pictures, strict=True):
            one.imshow(picture, interpolation="nearest")
            one.set_xticks([])
            one.set_yticks([])
            for spine in one.spines.values():
                spine.set_visible(False)
        axes[0].set_ylabel("\n".join(textwrap.wrap(name, 14)), rotation=0, ha="right", va="center")
    figure.supxlabel("\n".join(lines), fontsize=12, x=0.02, ha="left")
    return figure
