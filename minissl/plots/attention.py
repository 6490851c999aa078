"""`attention.png`: which tokens of one sentence look at which, in every layer and head."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.layout_engine import ConstrainedLayoutEngine

from minissl.backend import Array
from minissl.errors import InputError
from minissl.plots import FONT, RED, save, style

MOST_PANELS = 4  # layers down, and heads across
MOST_TOKENS = 32
MOST_CELLS = 48  # side by side over all panels: with more, a slide could not show their names
MOST_LETTERS = 12
CELL_INCHES, LETTER_INCHES = 0.19, 0.085
COLOURS = "Blues"  # white for nothing; the lightness alone gives the order


def plot_attention(attentions: Sequence[Array], tokens: Sequence[str], path: str | Path) -> None:
    """Draw attention weights as a grid of maps: layers down, heads across; in a map rows are queries, columns keys.

    `attentions` has one array (1, H, T, T) for each layer, on the host; `tokens` are the T tokens as text. Of many
    layers or heads the first, the last and some evenly between are drawn, of many tokens the first; the title says so.
    Raises InputError where there is nothing to draw, or where the shapes and the tokens do not fit.
    """
    T = len(tokens)
    fits = [weights.ndim == 4 and weights.shape == (1, attentions[0].shape[1], T, T) for weights in attentions]
    if not T or not fits or not all(fits):
        raise InputError(
            f"attention maps {[weights.shape for weights in attentions]} for {T} tokens: expected (1, heads, tokens, "
            "tokens) for each layer; were they asked for with output_attentions=True, on this one sentence?"
        )
    layers, heads = evenly(len(attentions), MOST_PANELS), evenly(attentions[0].shape[1], MOST_PANELS)
    shown = min(T, MOST_TOKENS, MOST_CELLS // max(len(layers), len(heads)))
    maps = np.stack([attentions[layer][0, heads, :shown, :shown] for layer in layers]).astype(np.float64)

    drawn = [(len(layers), len(attentions), "layers"), (len(heads), attentions[0].shape[1], "heads")]
    parts = [f"{some} of {number} {what}" for some, number, what in drawn if some < number]
    parts += [f"the first {shown} of {T} tokens"] if shown < T else []
    with style():
        figure = _draw(maps, layers, heads, [printable(token) for token in tokens[:shown]], ", ".join(parts), 1 / T)
        save(figure, path)


def evenly(number: int, most: int) -> list[int]:
    """At most `most` of 0 … number-1: the first, the last, and some evenly between."""
    return [round(i) for i in np.linspace(0, number - 1, min(number, most)).tolist()]


def printable(token: str) -> str:
    """The token in letters that the font has: □ stands for any other, and a long token ends in ….

    A missing letter would be a warning of Matplotlib's, and an empty box anyway.
    """
    known = get_font(findfont(FONT)).get_charmap()
    text = "".join(letter if ord(letter) in known and letter.isprintable() else "□" for letter in token)
    return text if len(text) <= MOST_LETTERS else text[: MOST_LETTERS - 1] + "…"


def _draw(maps: Array, layers: list[int], heads: list[int], names: list[str], part: str, even: float) -> Figure:
    """The grid of maps (layers, heads, queries, keys) with one colour scale. `even` is the weight of an even share."""
    side, margin = max(len(names) * CELL_INCHES, 1.9), max(len(name) for name in names) * LETTER_INCHES
    size = (len(heads) * (side + 0.1) + margin + 2.0, len(layers) * (side + 0.35) + margin + 1.0)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08, compress=True))
    grid = figure.subplots(len(layers), len(heads), squeeze=False, sharex=True, sharey=True)
    # a few weights near 1 would leave the rest white, and the noise of a nearly even map is no pattern
    top = min(1.0, max(3 * even, float(np.quantile(maps, 0.99))))
    colours = ScalarMappable(Normalize(0, top), COLOURS)
    for i, layer in enumerate(layers):
        for j, head in enumerate(heads):
            grid[i, j].imshow(maps[i, j], cmap=colours.cmap, norm=colours.norm)
            grid[i, j].set_title(f"layer {layer + 1}, head {head + 1}", fontsize=13)
            _name_tokens(grid[i, j], names)
    for axes in grid[-1]:
        axes.set_xlabel("attended to (key)")
    for axes in grid[:, 0]:
        axes.set_ylabel("attending (query)")
    title = textwrap.wrap(part, int(size[0] / LETTER_INCHES / 1.6))
    figure.suptitle("\n".join(["Who attends to whom", *title]), fontsize=15, fontweight="bold")
    bar = figure.colorbar(colours, ax=grid, extend="max" if maps.max() > top else "neither", shrink=0.8, aspect=30)
    bar.set_label("attention weight")
    bar.ax.axhline(even, color=RED, linewidth=2)
    bar.ax.annotate("even\n1/T", (0, even), (-4, 0), textcoords="offset points", color=RED, ha="right", va="center")
    return figure


def _name_tokens(axes: Axes, names: list[str]) -> None:
    """Write every token at its row and column, letter for letter: $ and _ are no mathematics here."""
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=10, parse_math=False)
    axes.set_yticks(range(len(names)), names, fontsize=10, parse_math=False)
    axes.tick_params(length=0)
