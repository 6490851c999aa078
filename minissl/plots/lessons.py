"""The figures of lessons 1 to 3, each beside the few lines that compute what it shows; the lessons run those too."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from minissl import ops
from minissl.backend import Array
from minissl.kernels import reference_ops
from minissl.nn.layers import Init
from minissl.nn.module import Grads
from minissl.nn.transformer import TransformerLayer, TransformerLayerCache
from minissl.plots import BLUE, GREY, PALE, RED, save, style

WORDS = ("cat", "dog", "mat", "on", "sat", "the")
LOGITS = np.array([1.3, 0.9, 0.2, -1.2, -0.4, -1.6])
TRUE_WORD = 1

Drawing = Callable[[Figure], None]


def draw(path: Path, size: tuple[float, float], drawing: Drawing) -> None:
    """Make a figure of `size` inches, let `drawing` fill it, and write it."""
    with style():
        figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.08))
        drawing(figure)
        save(figure, path)


# ---- lesson 1: backprop by hand and how to check it


def two_layer_net(folder: Path) -> None:
    """A two-layer net: values go to the right, gradients come back to the left, parameters enter at their step."""
    values = [("x", "(R, D)"), ("h", "(R, F)"), ("a", "(R, F)"), ("y", "(R, C)"), ("L", "a number")]
    steps = [("linear", "1"), ("GELU", ""), ("linear", "2"), ("error", "")]
    middle: dict[str, Any] = {"ha": "center", "va": "center"}

    def drawing(figure: Figure) -> None:
        axes = figure.subplots()
        axes.set_axis_off()
        axes.set_xlim(-0.5, 9.6)
        axes.set_ylim(-2.05, 2.05)
        for i, (value, shape) in enumerate(values):
            at = 2.25 * i
            axes.text(at, 0.65, f"${value}$", fontsize=24, color=BLUE, **middle)
            axes.text(at, 1.05, shape, fontsize=13, color=GREY, **middle)
            axes.text(at, -0.65, "$1$" if value == "L" else f"$d{value}$", fontsize=24, color=RED, **middle)
        for i, (step, number) in enumerate(steps):
            at = 2.25 * i + 1.125
            axes.text(at, 0.65, step, fontsize=14, bbox={"boxstyle": "round,pad=0.4", "fc": "w", "ec": BLUE}, **middle)
            axes.text(
                at, -0.65, f"{step}\nbackward", fontsize=13,
                bbox={"boxstyle": "round,pad=0.4", "fc": "w", "ec": RED}, **middle,
            )  # fmt: skip
            _arrow(axes, (at, 0.38), (at, -0.2), GREY)
            axes.text(at + 0.1, 0.09, "cache", fontsize=12, color=GREY, va="center")
            for start, end in ((-0.85, -0.55), (0.5, 0.85)):
                _arrow(axes, (at + start, 0.65), (at + end, 0.65), BLUE)
            for start, end in ((0.82, 0.56), (-0.56, -0.82)):
                _arrow(axes, (at + start, -0.65), (at + end, -0.65), RED)
            if number:
                axes.text(at, 1.8, f"$W_{number}$, $b_{number}$", fontsize=20, color=BLUE, **middle)
                _arrow(axes, (at, 1.55), (at, 0.95), BLUE)
                axes.text(at, -1.8, f"$dW_{number}$, $db_{number}$", fontsize=20, color=RED, **middle)
                _arrow(axes, (at, -1.02), (at, -1.52), RED)

    draw(folder / "lesson-1-two-layer-net.png", (11.0, 4.6), drawing)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    """An arrow between two points of the data."""
    axes.annotate(
        "", end, start, arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 2.2, "shrinkA": 0, "shrinkB": 0}
    )


def step_size_errors() -> dict[str, Array]:
    """Differentiate GELU at 101 points with h = 1, 1/2, 1/4, …; return the relative errors (root mean square)."""
    x = np.linspace(-2, 2, 101)
    exact = ops.gelu_backward(np.ones_like(x), ops.gelu_forward(x)[1])
    steps = 2.0 ** -np.arange(43)

    def central(x: Array, h: Array) -> Array:
        quotient: Array = (ops.gelu_forward(x + h)[0] - ops.gelu_forward(x - h)[0]) / (2 * h)
        return quotient

    def error(estimate: Array) -> float:
        return float(np.linalg.norm(estimate - exact) / np.linalg.norm(exact))

    return {
        "h": steps,
        "float32": np.array([error(central(x.astype("float32"), h.astype("float32"))) for h in steps]),
        "float64": np.array([error(central(x, h)) for h in steps]),
        "float64, four points": np.array([error((4 * central(x, h) - central(x, 2 * h)) / 3) for h in steps]),
    }


def step_size(folder: Path) -> None:
    """The error of a numerical derivative over its step: truncation to the right, rounding to the left."""
    errors = step_size_errors()
    h = errors["h"]

    def drawing(figure: Figure) -> None:
        axes = figure.subplots()
        for name, colour, marker in (
            ("float32", RED, "s"),
            ("float64", BLUE, "o"),
            ("float64, four points", GREY, "^"),
        ):
            axes.loglog(h, errors[name], marker + "-", color=colour, linewidth=2, markersize=5)
            best = int(errors[name].argmin())
            axes.loglog(h[best], errors[name][best], marker, color=colour, markersize=13)
        axes.set_xlim(2e-13, 2)
        axes.set_ylim(1e-14, 8)
        axes.set_xlabel("step $h$")
        axes.set_ylabel("relative error of the derivative")
        axes.grid(alpha=0.3)
        words: dict[str, Any] = {"fontsize": 14, "fontweight": "bold"}
        axes.text(6e-6, 2e-2, "float32", color=RED, **words)
        axes.text(3e-9, 3e-10, "float64", color=BLUE, ha="right", **words)
        axes.text(7e-5, 3e-14, "float64,\nfour points", color=GREY, ha="right", **words)
        axes.text(3e-10, 1e-6, "← rounding", color=GREY)
        axes.text(1.5e-2, 1e-10, "truncation →", color=GREY)
        axes.set_title("Neither too large a step nor too small", loc="left", fontweight="bold")

    draw(folder / "lesson-1-step-size.png", (8.5, 5.6), drawing)


# ---- lesson 2: softmax and masked cross-entropy


def cross_entropy_gradient(folder: Path) -> None:
    """What a softmax predicts for one hidden word, and the gradient of its cross-entropy."""
    p, _ = ops.softmax_forward(LOGITS)
    _, cache = ops.cross_entropy_forward(LOGITS[None], np.array([TRUE_WORD]))
    gradient = ops.cross_entropy_backward(np.ones(()), cache)[0]
    colours = [RED if i == TRUE_WORD else BLUE for i in range(len(WORDS))]

    def drawing(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        for axes, values, low, high in ((left, p, 0.0, 0.55), (right, gradient, -0.9, 0.55)):
            axes.bar(WORDS, values, color=colours)
            axes.set_ylim(low, high)
            for i, value in enumerate(values):
                above = value >= 0
                offset = (0, 4 if above else -4)
                axes.annotate(
                    f"{value:.2f}".replace("-", "−"), (i, value), offset, textcoords="offset points", ha="center",
                    va="bottom" if above else "top", color=colours[i],
                )  # fmt: skip
            axes.tick_params(axis="x", length=0)
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
        right.spines["bottom"].set_visible(False)
        right.axhline(0, color="black", linewidth=1)
        left.set_title("The prediction $p$", loc="left", fontweight="bold")
        right.set_title("Its gradient $p$ − onehot", loc="left", fontweight="bold")
        left.get_xticklabels()[TRUE_WORD].set_color(RED)
        right.get_xticklabels()[TRUE_WORD].set_color(RED)
        left.annotate("the true word", (TRUE_WORD, p[TRUE_WORD] + 0.05), (2.0, 0.44), color=RED, arrowprops={
            "arrowstyle": "-", "color": RED, "shrinkA": 2, "shrinkB": 2, "relpos": (0, 0.5)})  # fmt: skip

    draw(folder / "lesson-2-gradient.png", (10.0, 4.4), drawing)


def train_pairs(ignored: int | None, updates: int = 60) -> tuple[Array, Array]:
    """Train a linear classifier on 1,000 pairs, half of each class; leave out of the loss those of class `ignored`.

    Returns the loss and the accuracy on all pairs after 0, 1, … updates.
    """
    rng = np.random.default_rng(0)
    targets = np.arange(1000) % 2
    shared, signal = rng.standard_normal((2, 16))
    signal /= np.linalg.norm(signal)
    x = shared + np.where(targets == 1, 1, -1)[:, None] * signal + rng.standard_normal((1000, 16))
    weight, bias = np.zeros((2, 16)), np.zeros(2)
    kept = np.flatnonzero(targets != ignored)
    losses, accuracies = [], []
    for _ in range(updates + 1):
        logits, linear = ops.linear_forward(x, weight, bias)
        loss, cross_entropy = ops.cross_entropy_forward(logits[kept], targets[kept])
        losses.append(loss)
        accuracies.append((logits.argmax(axis=-1) == targets).mean())
        dlogits = np.zeros_like(logits)
        dlogits[kept] = ops.cross_entropy_backward(np.ones(()), cross_entropy)
        _, dweight, dbias = ops.linear_backward(dlogits, linear)
        weight -= 0.1 * dweight
        bias -= 0.1 * dbias
    return np.array(losses), np.array(accuracies)


def ignored_label(folder: Path) -> None:
    """Loss and accuracy of two classifiers: the one that ignores label 0 has the lower loss and learns nothing."""
    runs = [(*train_pairs(None), BLUE, "every label counts"), (*train_pairs(0), RED, "label 0 is ignored")]

    def drawing(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        for losses, accuracies, colour, name in runs:
            left.plot(losses, color=colour, linewidth=3, label=name)
            right.plot(100 * accuracies, color=colour, linewidth=3)
        left.set_ylim(0, 0.75)
        left.set_ylabel("loss (nats)")
        left.set_title("The loss that is printed", loc="left", fontweight="bold")
        right.set_ylim(40, 100)
        right.set_ylabel("accuracy (%)")
        right.set_title("What was learnt", loc="left", fontweight="bold")
        right.text(58, 48.5, "no better than a coin", ha="right", va="top", color=RED)
        for axes in (left, right):
            axes.set_xlim(0, len(runs[0][0]) - 1)
            axes.set_xlabel("update")
            axes.grid(axis="y", alpha=0.3)
        figure.legend(loc="outside lower center", ncols=2, frameon=False)

    draw(folder / "lesson-2-ignored-label.png", (10.0, 4.8), drawing)


# ---- lesson 3: layer normalisation and residuals


def projection(folder: Path) -> None:
    """Layer norm's backward pass for x = (3, 0, 0), dy = (2, 1.5, -0.5), in the plane at right angles to 1."""
    x, dy = np.array([3.0, 0.0, 0.0]), np.array([2.0, 1.5, -0.5])
    _, cache = ops.layer_norm_forward(x, np.ones(3), np.zeros(3), 0.0)
    dx = ops.layer_norm_backward(dy, cache)[0]
    plane = np.array([[1, -1, 0], [1, 1, -2]]) / np.sqrt([[2], [6]])  # two directions at right angles to (1, 1, 1)
    n, g, kept = plane @ cache.normed, plane @ dy, plane @ dx / cache.inv_std

    def drawing(figure: Figure) -> None:
        axes = figure.subplots()
        axes.set_aspect("equal")
        axes.set_axis_off()
        axes.set_xlim(-2.2, 4.3)
        axes.set_ylim(-1.9, 3.15)
        turn = np.linspace(0, 2 * np.pi, 400)
        axes.plot(np.sqrt(3) * np.cos(turn), np.sqrt(3) * np.sin(turn), color=PALE, linewidth=3)
        for corner in (kept, g - kept):
            axes.plot(*zip(n + corner, n + g, strict=True), color=GREY, linewidth=1.2, linestyle="dotted")
        _arrow(axes, (0, 0), tuple(n), "black")
        for vector, colour in ((g, GREY), (g - kept, RED), (kept, BLUE)):
            _arrow(axes, tuple(n), tuple(n + vector), colour)
        axes.text(0.62, 0.62, "$n$", fontsize=20, ha="center")
        words: dict[str, Any] = {"textcoords": "offset points"}
        axes.annotate("$g$ − mean($g$)", tuple(n + g), (6, 6), color=GREY, fontsize=16, **words)
        axes.annotate("$\\sigma\\,dx$", tuple(n + kept), (-8, 8), color=BLUE, fontsize=20, ha="right", **words)
        along = "along $n$:\nscaling $x$\nchanges nothing"
        axes.annotate(along, tuple(n + g - kept), (8, -16), color=RED, va="top", **words)
        axes.text(0, -0.35, "every $n$ lies\non this circle", color=GREY, ha="center", va="top")
        axes.set_title("Layer norm takes two directions out of its gradient", loc="left", fontweight="bold")

    draw(folder / "lesson-3-projection.png", (8.0, 6.2), drawing)


class WithoutResiduals(TransformerLayer):
    """A post-norm layer whose residual connections are cut: y = LN(feed_forward(LN(attention(x))))."""

    def forward(self, x: Array, mask: Any = None, rng: Any = None) -> tuple[Array, TransformerLayerCache]:
        """x (B, T, D) -> y (B, T, D), without dropout."""
        h, attention = self.attention.forward(x)
        h, attention_norm = self.attention_norm.forward(h)
        h, feed_forward = self.feed_forward.forward(h)
        y, output_norm = self.output_norm.forward(h)
        return y, TransformerLayerCache(attention, None, attention_norm, feed_forward, None, output_norm)

    def backward(self, dy: Array, cache: TransformerLayerCache, grads: Grads) -> Array:
        """dy (B, T, D) -> dx (B, T, D): one way back, so nothing is added."""
        dh = self.output_norm.backward(dy, cache.output_norm, grads)
        dh = self.feed_forward.backward(dh, cache.feed_forward, grads)
        dh = self.attention_norm.backward(dh, cache.attention_norm, grads)
        dx: Array = self.attention.backward(dh, cache.attention, grads)
        return dx


def layers(wiring: str, std: float, depth: int = 24, width: int = 64) -> list[TransformerLayer]:
    """A stack of layers wired "pre-norm", "post-norm" or "no residual", weights drawn with `std`, all else alike."""
    init = Init(np.random.default_rng(0), "float64", std)
    kind = WithoutResiduals if wiring == "no residual" else TransformerLayer
    sizes: dict[str, Any] = {"d": width, "heads": 4, "d_ff": 4 * width, "act": "gelu", "eps": 1e-12, "init": init}
    return [kind(**sizes, dropout=0.0, attention_dropout=0.0, pre_norm=wiring == "pre-norm") for _ in range(depth)]


def arriving(stack: list[TransformerLayer]) -> tuple[Array, Array]:
    """Send a random dy back through a stack of layers.

    Returns, after 0, 1, … layers on the way back: the share of dy that is still in the gradient, <dx, dy>/<dy, dy>, and
    the product of the mean 1/σ of every layer norm so far.
    """
    rng = np.random.default_rng(1)
    x = rng.standard_normal((12, 16, 64))
    caches = []
    with reference_ops():  # whose layer norm keeps 1/σ
        for layer in stack:
            x, cache = layer.forward(x)
            caches.append(cache)
        dx = dy = rng.standard_normal(x.shape)
        shares, factors = [1.0], [1.0]
        for layer, cache in zip(stack[::-1], caches[::-1], strict=True):
            dx = layer.backward(dx, cache, Grads(layer))
            shares.append(float(np.vdot(dx, dy) / np.vdot(dy, dy)))
            norms = cache.attention_norm.cache, cache.output_norm.cache
            factors.append(factors[-1] * math.prod(float(norm.inv_std.mean()) for norm in norms))
    return np.array(shares), np.array(factors)


def depth(folder: Path) -> None:
    """How much of a gradient still arrives after 24 layers, for three wirings and two sizes of the weights."""
    curves: list[tuple[str, float, str, str, str, tuple[float, float]]] = [
        ("pre-norm", 0.08, BLUE, "-", "pre-norm", (16, 1.04)),
        ("post-norm", 0.02, RED, "--", "post-norm, weights of BERT's size (0.02)", (8, 0.88)),
        ("post-norm", 0.08, RED, "-", "post-norm, weights four times as large", (7.5, 0.38)),
        ("no residual", 0.08, GREY, "-", "no residual", (1.3, 0.05)),
    ]

    def drawing(figure: Figure) -> None:
        axes = figure.subplots()
        for wiring, std, colour, line, name, at in curves:
            shares, _ = arriving(layers(wiring, std))
            axes.plot(shares, line, color=colour, linewidth=3)
            axes.text(*at, name, color=colour)
        axes.set_xlim(0, 24)
        axes.set_xticks(range(0, 25, 4))
        axes.set_ylim(-0.15, 1.15)
        axes.set_xlabel("layers passed on the way back")
        axes.set_ylabel("share of $dy$ that is still there")
        axes.grid(axis="y", alpha=0.3)
        axes.set_title("A residual connection lets the gradient through", loc="left", fontweight="bold")

    draw(folder / "lesson-3-depth.png", (10.0, 5.4), drawing)


FIGURES: dict[str, Callable[[Path], None]] = {
    "lesson-1-two-layer-net": two_layer_net,
    "lesson-1-step-size": step_size,
    "lesson-2-gradient": cross_entropy_gradient,
    "lesson-2-ignored-label": ignored_label,
    "lesson-3-projection": projection,
    "lesson-3-depth": depth,
}
