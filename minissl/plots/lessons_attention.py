"""The figures of lessons 4 to 6: scaled scores, attention's backward pass, masks, heads, and the masked-LM ablation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import FancyBboxPatch, Rectangle

from minissl.backend import Array
from minissl.ops import softmax_backward, softmax_forward
from minissl.plots import BLUE, GREY, PALE, RED, save, style
from minissl.plots.loss import spread

WIDTHS = 2 ** np.arange(2, 11)  # d_k of lesson 4
KEYS, QUERIES = 16, 1000
SENTENCE = ["the", "dog", "saw", "the", "cat", "and", "the", "cat", "ran"]
CLASSES = {"the": "article", "dog": "noun", "cat": "noun", "saw": "verb", "ran": "verb", "and": "conjunction"}
SHARP = 6.0  # how much larger a score is where a head made by hand looks


def score_statistics(width: int, scaled: bool, seed: int = 4) -> tuple[float, float, float]:
    """The scores' standard deviation, the median largest weight, and the median length of the scores' gradient.

    Queries and keys are standard normal, QUERIES and KEYS of them, and so is the gradient that reaches the weights.
    """
    rng = np.random.default_rng(seed)
    q, k = rng.standard_normal((QUERIES, width)), rng.standard_normal((KEYS, width))
    scores = q @ k.T / (math.sqrt(width) if scaled else 1.0)
    weights, cache = softmax_forward(scores)
    dscores = softmax_backward(rng.standard_normal(weights.shape), cache)
    lengths = np.linalg.norm(dscores, axis=-1)
    return float(scores.std()), float(np.median(weights.max(axis=-1))), float(np.median(lengths))


def lesson_4_scores(folder: Path) -> None:
    """What becomes of the scores, the weights and the gradient as keys grow wider, with and without 1/√d_k."""
    panels = [
        ("The scores spread", "standard deviation of a score"),
        ("One weight takes all", "median largest weight"),
        ("The gradient dies", "median length of $dZ$"),
    ]
    lines = [(False, RED, "o", r"$q \cdot k$"), (True, BLUE, "s", r"$q \cdot k\,/\sqrt{d_k}$")]
    with style():
        figure = Figure(figsize=(13.5, 4.9), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08))
        for i, (axes, (title, label)) in enumerate(zip(figure.subplots(1, 3), panels, strict=True)):
            for scaled, colour, marker, name in lines:
                values = [score_statistics(int(width), scaled)[i] for width in WIDTHS]
                axes.plot(WIDTHS, values, marker + "-", color=colour, linewidth=2.5, label=name)
            axes.set_xscale("log", base=2)
            axes.set_xticks([4, 16, 64, 256, 1024], ["4", "16", "64", "256", "1024"])
            axes.minorticks_off()
            axes.set_xlabel("width of the keys, $d_k$")
            axes.set_ylabel(label)
            axes.set_title(title, loc="left", fontweight="bold")
            axes.grid(axis="y", alpha=0.3)
        figure.axes[1].set_ylim(0, 1.05)
        figure.axes[2].set_yscale("log")
        handles, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False, fontsize=15)
        save(figure, folder / "lesson-4-scores.png")


# The diagram of attention: each array's place, its shape, how forward makes it, and its gradient.
BOXES = {
    "Q": (1.3, 5.1, "$Q$", r"$(T, d_k)$", r"$dQ = dZ\,K\,/\sqrt{d_k}$"),
    "K": (1.3, 3.0, "$K$", r"$(S, d_k)$", r"$dK = dZ^\top Q\,/\sqrt{d_k}$"),
    "V": (1.3, 0.9, "$V$", r"$(S, d_v)$", r"$dV = W^\top dY$"),
    "Z": (5.6, 4.05, r"$Z = QK^\top/\sqrt{d_k}$", "$(T, S)$", r"$dZ = W \odot (dW - \Sigma_s\, W \odot dW)$"),
    "W": (9.9, 4.05, r"$W = \mathrm{softmax}(Z)$", "$(T, S)$", r"$dW = dY\,V^\top$"),
    "Y": (13.4, 2.2, "$Y = WV$", r"$(T, d_v)$", "$dY$ arrives"),
}
ARROWS = [("Q", "Z"), ("K", "Z"), ("Z", "W"), ("W", "Y"), ("V", "Y")]
BOX = {"Q": 1.5, "K": 1.5, "V": 1.5, "Z": 2.9, "W": 2.9, "Y": 1.9}  # widths
BOX_HEIGHT = 0.85


def lesson_4_backward(folder: Path) -> None:
    """Attention forward from left to right, and under each array the gradient that comes back to it."""
    with style():
        figure = Figure(figsize=(13.5, 5.9))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_xlim(0, 14.7)
        axes.set_ylim(-0.2, 6.6)
        axes.set_axis_off()
        for name, (x, y, label, shape, gradient) in BOXES.items():
            corner, width = (x - BOX[name] / 2, y - BOX_HEIGHT / 2), BOX[name]
            axes.add_patch(
                FancyBboxPatch(corner, width, BOX_HEIGHT, boxstyle="round,pad=0.05", facecolor=PALE, edgecolor=BLUE)
            )
            axes.text(x, y + 0.15, label, ha="center", va="center", fontsize=18)
            axes.text(x, y - 0.24, shape, ha="center", va="center", fontsize=14, color=GREY)
            axes.text(x, y - 0.79, gradient, ha="center", va="center", fontsize=18, color=RED)
        for start, end in ARROWS:
            (x0, y0), (x1, y1) = BOXES[start][:2], BOXES[end][:2]
            left, right = (x0 + BOX[start] / 2 + 0.12, y0), (x1 - BOX[end] / 2 - 0.12, y1)
            axes.annotate("", right, left, arrowprops={"arrowstyle": "-|>", "color": BLUE, "linewidth": 2.5})
        axes.text(5.6, 5.9, "forward", color=BLUE, fontsize=16, fontweight="bold", ha="center")
        axes.annotate("", (7.6, 5.55), (3.6, 5.55), arrowprops={"arrowstyle": "-|>", "color": BLUE, "linewidth": 2.5})
        axes.text(7.3, 0.35, "backward", color=RED, fontsize=16, fontweight="bold", ha="center")
        axes.annotate("", (5.3, 0.1), (9.3, 0.1), arrowprops={"arrowstyle": "-|>", "color": RED, "linewidth": 2.5})
        save(figure, folder / "lesson-4-backward.png")


def lesson_5_masks(folder: Path) -> None:
    """Padding, causal, and both with the padding on the left, where two queries may attend to nothing."""
    right, left = ["the", "cat", "sat", "[PAD]", "[PAD]"], ["[PAD]", "[PAD]", "the", "cat", "sat"]
    T = len(right)
    words, causal = (np.array([word != "[PAD]" for word in text]) for text in (right, left)), np.tri(T, dtype=bool)
    padded_right, padded_left = (np.broadcast_to(visible, (T, T)) for visible in words)
    panels = [
        ("padding", right, padded_right),
        ("causal", ["the", "cat", "sat", "down", "."], causal),
        ("causal, padded on the left", left, causal & padded_left),
    ]
    with style():
        figure = Figure(figsize=(13.5, 5.2), layout=ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.08))
        for axes, (title, text, mask) in zip(figure.subplots(1, 3), panels, strict=True):
            axes.imshow(mask, cmap=ListedColormap(["white", BLUE]), vmin=0, vmax=1)
            _cells(axes, text, text)
            axes.set_title(title, fontweight="bold", pad=10)
            axes.set_xlabel("may be attended to (key)")
            for row in np.flatnonzero(~mask.any(axis=1)):
                axes.add_patch(Rectangle((-0.45, row - 0.45), T - 0.1, 0.9, fill=False, edgecolor=RED, linewidth=3))
                axes.text(
                    (T - 1) / 2, row, "sees nothing: zeros", color=RED, ha="center", va="center", fontweight="bold",
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 2},
                )  # fmt: skip
        figure.axes[0].set_ylabel("attending (query)")
        names = [Rectangle((0, 0), 1, 1, facecolor=BLUE), Rectangle((0, 0), 1, 1, facecolor="white", edgecolor=GREY)]
        figure.legend(names, ["True: may attend", "False: hidden"], loc="outside lower center", ncols=2, frameon=False)
        save(figure, folder / "lesson-5-masks.png")


def heads_by_hand() -> dict[str, Array]:
    """Attention weights (T, T) of three heads set by hand, and of one head that adds up their scores."""
    T = len(SENTENCE)
    words, classes = sorted(set(SENTENCE)), sorted(set(CLASSES.values()))
    word = np.array([[name == w for w in words] for name in SENTENCE], float)
    kind = np.array([[CLASSES[name] == c for c in classes] for name in SENTENCE], float)
    verb_to_noun = np.zeros((len(classes), len(classes)))
    verb_to_noun[classes.index("verb"), classes.index("noun")] = 1
    heads = {
        "the word before": (np.eye(T, k=-1), np.eye(T)),
        "the same word": (word, word),
        "a verb looks for nouns": (kind @ verb_to_noun, kind),
    }
    scores = {name: SHARP * q @ k.T for name, (q, k) in heads.items()}
    scores["one head for all three"] = np.sum(list(scores.values()), axis=0)
    return {name: softmax_forward(score)[0] for name, score in scores.items()}


def lesson_5_heads(folder: Path) -> None:
    """Three heads, each with a job of its own, beside one head that has to do all three."""
    with style():
        figure = Figure(figsize=(13.5, 4.3), layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.08, compress=True))
        grid = figure.subplots(1, 4, sharey=True)
        for axes, (title, weights) in zip(grid, heads_by_hand().items(), strict=True):
            image = axes.imshow(weights, cmap="Blues", vmin=0, vmax=1)
            _cells(axes, SENTENCE, SENTENCE)
            axes.set_title(title, fontsize=14, fontweight="bold", color=RED if title.startswith("one") else "black")
        grid[0].set_ylabel("attending (query)")
        bar = figure.colorbar(image, ax=grid, shrink=0.95, aspect=25)
        bar.set_label("attention weight")
        figure.supxlabel("attended to (key)", fontsize=13)
        save(figure, folder / "lesson-5-heads.png")


def _cells(axes: Axes, rows: Sequence[str], columns: Sequence[str]) -> None:
    """Name the rows and columns of a map, and rule thin lines between its cells."""
    axes.set_xticks(range(len(columns)), columns, rotation=90)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0)
    for i in range(1, len(rows)):
        axes.axhline(i - 0.5, color=GREY, linewidth=0.6)
    for i in range(1, len(columns)):
        axes.axvline(i - 0.5, color=GREY, linewidth=0.6)
    for side in axes.spines.values():
        side.set(visible=True, color=GREY)


class Masked(NamedTuple):
    """A [MASK] in its sentence: the words around it, the word that stood there, and two answers."""

    words: list[str]
    truth: int
    exact: Array  # (W,)
    model: Array  # (W,)


def plot_posteriors(panels: Sequence[Masked], names: Sequence[str], path: str | Path) -> None:
    """The probability of every word at a [MASK]: the best possible answer beside a model's."""
    with style():
        figure = Figure(figsize=(13.5, 3.6 * len(panels)), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
        at = np.arange(len(names))
        for axes, (words, truth, exact, model) in zip(figure.subplots(len(panels), 1), panels, strict=True):
            axes.bar(at - 0.2, exact, 0.4, color=GREY, label="exact")
            axes.bar(at + 0.2, model, 0.4, color=BLUE, label="model")
            axes.set_xticks(at, names, rotation=90)
            axes.get_xticklabels()[truth].set(color=RED, fontweight="bold")
            axes.set_xlim(-0.7, len(names) - 0.3)
            axes.set_ylabel("probability")
            axes.set_title(" ".join(words), loc="left")
            axes.set_title("in red: the word that stood there", loc="right", fontsize=13, color=RED)
            axes.grid(axis="y", alpha=0.3)
            axes.set_axisbelow(True)
        figure.axes[0].legend(frameon=False, fontsize=14)
        save(figure, path)


Curve = tuple[str, Sequence[int], Sequence[float]]


def plot_ablation(panels: Sequence[tuple[str, Sequence[Curve], Mapping[str, float]]], path: str | Path) -> None:
    """Held-out losses of both corruptions, one panel for each place asked: (title, curves, landmarks)."""
    colours = {"80/10/10": BLUE, "all [MASK]": RED}
    top = max(value for _, curves, marks in panels for value in (*marks.values(), *(v for c in curves for v in c[2])))
    with style():
        figure = Figure(figsize=(13.5, 5.8), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08))
        for axes, (title, curves, marks) in zip(figure.subplots(1, len(panels)), panels, strict=True):
            drawn: dict[str, Any] = {}
            for corruption, steps, losses in curves:
                line = {"80/10/10": "o-", "all [MASK]": "s--"}[corruption]
                (drawn[corruption],) = axes.plot(
                    steps, losses, line, color=colours[corruption], linewidth=2, markersize=5, clip_on=False
                )
            axes.set_ylim(0, 1.05 * top)
            axes.set_xlim(0, max(curves[0][1]))
            axes.set_xlabel("step")
            axes.set_ylabel("held-out loss (nats)")
            axes.set_title(title, loc="left", fontweight="bold", pad=12)
            axes.grid(axis="y", alpha=0.3)
            ordered = sorted(marks.items(), key=lambda mark: mark[1])
            heights = spread([value / (1.05 * top) for _, value in ordered], 0.075)
            for (name, value), height in zip(ordered, heights, strict=True):
                axes.axhline(value, color=GREY, linestyle=(0, (5, 3)), linewidth=1.5)
                axes.annotate(
                    f"{value:.2f} {name}", (1, value), (1.04, height), xycoords=axes.get_yaxis_transform(),
                    textcoords="axes fraction", color=GREY, va="center", annotation_clip=False,
                    arrowprops={"arrowstyle": "-", "color": GREY, "shrinkA": 2, "shrinkB": 0, "relpos": (0, 0.5)},
                )  # fmt: skip
        figure.legend(
            list(drawn.values()), [f"trained on {name}" for name in drawn], loc="outside lower center",
            ncols=len(drawn), frameon=False, fontsize=15,
        )  # fmt: skip
        save(figure, path)


FIGURES: dict[str, Callable[[Path], None]] = {
    "lesson-4-scores": lesson_4_scores,
    "lesson-4-backward": lesson_4_backward,
    "lesson-5-masks": lesson_5_masks,
    "lesson-5-heads": lesson_5_heads,
}
