"""Correct cases drawn at random, on which the checker must not raise a false alarm."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minissl import ops
from minissl.backend import Array, array_module
from minissl.errors import InputError
from minissl.gradcheck.cases import Case, Inputs
from minissl.ops.dropout import draw_keep

DTYPES = ("float64", "float32", "float16")
ID_DTYPES = ("int64", "int32", "uint8", "uint16", "uint32")
LAYOUTS = ("contiguous", "Fortran", "strided", "reversed")
MASKS = ("none", "padding", "causal", "random", "rows hidden")


def random_cases(n: int, seed: int = 0) -> Iterator[Case]:
    """Yield n cases, the ops of `minissl.ops` in turn; case number i depends on `seed` and i alone.

    Drawn for each: 1 to 4 axes of 2 to 7, now and then of 1 (images are larger); float64, float32 or float16; C or
    Fortran order, every second entry of a larger array, or one read backwards; values of order 1, 1e-3 or 1e3; the
    integer type of ids, which may repeat; masks (none, padding, causal, random, whole rows hidden); dropout; eps; count
    given or not. ReLU and L1 come near their kinks, and onto them. A check proves nothing where a true gradient is zero
    throughout, so that is not drawn: no softmax over one entry, no layer norm over two (always ±1 but for eps), no tanh
    saturated everywhere.

    Raises InputError for n < 1.
    """
    if n < 1:
        raise InputError(f"random cases: {n} asked for, expected 1 or more")
    for number, op in zip(range(n), itertools.cycle(DRAW)):
        draw = Draw(np.random.default_rng([seed, number]))
        inputs = DRAW[op](draw)
        shape = next(v.shape for v in inputs.values() if isinstance(v, np.ndarray) and v.dtype.kind == "f")
        label = f"random {number}: {shape}, {draw.dtype}, {draw.layout}, order {draw.order:g}"
        yield Case(op, label, getattr(ops, f"{op}_forward"), getattr(ops, f"{op}_backward"), inputs)


class Draw:
    """The generator of one case, and what all its arrays have in common: dtype, layout and order of magnitude."""

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.dtype = str(rng.choice(DTYPES, p=(0.5, 0.3, 0.2)))
        self.layout = str(rng.choice(LAYOUTS, p=(0.4, 0.2, 0.2, 0.2)))
        self.order = float(rng.choice((1.0, 1e-3, 1e3), p=(0.6, 0.2, 0.2)))

    def chance(self, p: float) -> bool:
        """Return True with probability p."""
        return bool(self.rng.random() < p)

    def size(self, low: int = 2, high: int = 7) -> int:
        """Draw the length of an axis, both ends included."""
        return int(self.rng.integers(low, high + 1))

    def leading(self, most: int = 3, fewest: int = 0) -> tuple[int, ...]:
        """Draw the leading axes: the more of them, the shorter; one in ten has length 1."""
        axes = self.size(fewest, most)
        return tuple(1 if self.chance(0.1) else self.size(2, (7, 7, 4, 3)[axes]) for _ in range(axes))

    def width(self, beside: int) -> int:
        """Draw the length of an axis on which nothing is normalised: not 1 where there is one entry `beside` it."""
        return 1 if self.chance(0.1) and beside > 1 else self.size()

    def shape(self) -> tuple[int, ...]:
        """Draw leading axes and a last one."""
        leading = self.leading()
        return *leading, self.width(math.prod(leading))

    def normal(self, *shape: int, order: float | None = None) -> Array:
        """Draw normal values of the case's order, or of another."""
        return self.lay_out(self.rng.standard_normal(shape) * (self.order if order is None else order))

    def gain(self, size: int) -> Array:
        """Draw a gain away from its initial 1."""
        return self.lay_out(self.rng.uniform(0.5, 1.5, size))

    def lay_out(self, values: Array) -> Array:
        """Return the values in the case's dtype and layout."""
        values = values.astype(self.dtype)
        if values.ndim == 0 or self.layout == "contiguous":
            return values
        if self.layout == "Fortran":
            return np.asfortranarray(values)
        if self.layout == "reversed":
            return np.ascontiguousarray(values[::-1])[::-1]
        wide = np.zeros((*values.shape[:-1], 2 * values.shape[-1]), values.dtype)
        wide[..., ::2] = values
        return wide[..., ::2]

    def ids(self, size: int, *shape: int) -> Array:
        """Draw ids of one of the integer types; half of the time from few, so that they repeat."""
        few = min(size, 2) if self.chance(0.5) else size
        ids = self.rng.permutation(size)[self.rng.integers(0, few, shape)]
        return np.asarray(ids).astype(str(self.rng.choice(ID_DTYPES)))

    def count(self, rows: int) -> int | None:
        """Draw what a loss divides by: nothing given, or the count of a batch of which this is a share."""
        return None if self.chance(0.5) else rows + self.size(0, 20)

    def rng_that_keeps(self, needed: Array, rate: float) -> np.random.Generator:
        """Draw a generator for dropout, such that one of the `needed` entries survives."""
        while True:
            seed = int(self.rng.integers(2**31))
            kept = draw_keep(needed.shape, rate, np.random.default_rng(seed), array_module(needed)).keep
            if (kept & needed).any():
                return np.random.default_rng(seed)


def _linear(draw: Draw) -> Inputs:
    *leading, d = draw.shape()
    f = draw.width(d)
    return {"x": draw.normal(*leading, d), "weight": draw.normal(f, d), "bias": draw.normal(f)}


def _embedding(draw: Draw) -> Inputs:
    size = draw.size(2, 9)
    return {"ids": draw.ids(size, *draw.leading(fewest=1)), "weight": draw.normal(size, draw.width(size))}


def _take_positions(draw: Draw) -> Inputs:
    x = draw.normal(*draw.shape())
    return {"x": x, "positions": draw.ids(x.size // x.shape[-1], draw.size(1))}


def _layer_norm(draw: Draw) -> Inputs:
    d, eps = draw.size(3), float(draw.rng.choice((1e-12, 1e-6, 1e-5, 0.3)))
    x = draw.rng.standard_normal((*draw.leading(), d)) + draw.size(0, 2)
    return {"x": draw.lay_out(draw.order * x), "gain": draw.gain(d), "bias": draw.normal(d), "eps": eps}


def _activation(draw: Draw) -> Inputs:
    x = draw.rng.standard_normal(draw.shape()) * draw.order
    x.flat[0] = abs(x.flat[0])  # where all is far below 0, a GELU is flat
    return {"x": draw.lay_out(x)}


def _relu(draw: Draw) -> Inputs:
    x = draw.rng.standard_normal(draw.shape()) * draw.order
    x[draw.rng.random(x.shape) < draw.rng.choice((0, 0, 0.2))] *= draw.rng.choice((0, 1e-4))
    x.flat[0] = draw.order
    return {"x": draw.lay_out(x)}


def _tanh(draw: Draw) -> Inputs:
    x = draw.rng.standard_normal(draw.shape()) * min(draw.order, 2)
    x.flat[1:][draw.rng.random(x.size - 1) < 0.1] = 1e3 * draw.order
    return {"x": draw.lay_out(x)}


def _scores(draw: Draw, *shape: int) -> Array:
    """Draw logits: spread over 1e-3 or a few nats, now and then all far from zero, or one of each row out of reach."""
    x = draw.rng.standard_normal(shape) * min(draw.order, 3)
    if shape[-1] > 2 and draw.chance(0.2):
        x[..., 0] -= 1e3
    if draw.dtype != "float16":  # which holds no fractions at 1000
        x += draw.rng.choice((0, 0, 1e3, -1e3))
    return draw.lay_out(x)


def _softmax(draw: Draw) -> Inputs:
    return {"x": _scores(draw, *draw.leading(), draw.size())}


def _attention(draw: Draw) -> Inputs:
    leading, s = draw.leading(2), draw.size(2, 6)
    t, k = draw.width(s), draw.width(s)
    kind = str(draw.rng.choice(MASKS))
    if kind == "causal":
        t = s
    visible = np.ones((*leading, t, s), bool)
    if kind == "padding":
        visible &= np.arange(s) < draw.rng.integers(2, s + 1, (*leading, 1, 1))
    elif kind == "causal":
        visible &= np.tri(t, dtype=bool)
    elif kind != "none":
        visible &= draw.rng.random((*leading, t, s)) < 0.6
        visible[..., -1, :] = True  # a query that sees one key alone has no gradient, and one must have
    if kind == "rows hidden" and t > 1:
        visible[..., 0, :] = False
    order = min(draw.order, 1.5 / k**0.25)  # scores of a few nats
    inputs: dict[str, Any] = {
        "q": draw.normal(*leading, t, k, order=order),
        "k": draw.normal(*leading, s, k, order=order),
        "v": draw.normal(*leading, s, draw.width(s)),
    }
    if kind != "none":
        inputs["mask"] = visible if kind != "padding" else visible[..., :1, :]  # broadcast over the queries
    if draw.chance(0.4):
        needed = visible & (visible.sum(axis=-1, keepdims=True) > 1)
        rate = float(draw.rng.choice((0, 0.1, 0.5)))
        inputs |= {"rate": rate, "rng": draw.rng_that_keeps(needed, rate)}
    return inputs


def _dropout(draw: Draw) -> Inputs:
    x = draw.normal(*draw.shape())
    rate = float(draw.rng.choice((0, 0.1, 0.3, 0.5, 0.9)))
    return {"x": x, "rate": rate, "rng": draw.rng_that_keeps(np.ones(x.shape, bool), rate)}


def _cross_entropy(draw: Draw) -> Inputs:
    classes = draw.size()
    rows = draw.width(classes)
    inputs = {"logits": _scores(draw, rows, classes), "targets": draw.ids(classes, rows)}
    return {**inputs, "count": draw.count(rows)}


def _binary_cross_entropy(draw: Draw) -> Inputs:
    classes = draw.size()
    rows = draw.width(classes)
    inputs = {"logits": _scores(draw, rows, classes), "targets": draw.lay_out(draw.rng.random((rows, classes)))}
    return {**inputs, "count": draw.count(rows)}


def _masked_cross_entropy(draw: Draw) -> Inputs:
    classes = draw.size()
    rows, d = draw.width(classes), draw.width(classes)
    order = min(draw.order, 1.5)
    arrays = {"h": draw.normal(rows, d, order=order), "weight": draw.normal(classes, d, order=order)}
    bias, targets = draw.normal(classes, order=order), draw.ids(classes, rows)
    return {**arrays, "bias": bias, "targets": targets, "count": draw.count(rows)}


def _masked_error(draw: Draw) -> Inputs:
    target = draw.rng.standard_normal(draw.shape())
    difference = draw.rng.standard_normal(target.shape)
    difference[draw.rng.random(target.shape) < draw.rng.choice((0, 0, 0.2))] *= draw.rng.choice((0, 1e-4))
    rows = target.size // target.shape[-1]
    positions = draw.ids(rows, draw.size(1))
    difference.reshape(rows, -1)[positions[0], 0] = 1
    arrays = {
        "prediction": draw.lay_out(draw.order * (target + difference)),
        "target": draw.lay_out(draw.order * target),
        "positions": positions,
    }
    return {**arrays, "count": draw.count(len(positions))}


def _grid(draw: Draw) -> tuple[int, tuple[int, int]]:
    """Draw the side of a patch, and the size of an image that divides into some."""
    side = draw.size(2, 3)
    return side, (side * draw.size(1, 3), side * draw.size(1, 3))


def _patchify(draw: Draw) -> Inputs:
    side, size = _grid(draw)
    return {"images": draw.normal(*draw.leading(2), draw.size(1, 4), *size), "side": side}


def _patches(draw: Draw) -> Inputs:
    side, (height, width) = _grid(draw)
    shape = *draw.leading(2), height // side * (width // side), side**2 * draw.size(1, 4)
    return {"patches": draw.normal(*shape), "side": side, "size": (height, width)}


def _pixel_shuffle(draw: Draw) -> Inputs:
    inputs = _patches(draw)
    return {"x": inputs.pop("patches"), **inputs}


def _patch_embedding(draw: Draw) -> Inputs:
    inputs, d = _patchify(draw), draw.size()
    weight = draw.normal(d, inputs["images"].shape[-3], inputs["side"], inputs["side"])
    return {"images": inputs["images"], "weight": weight, "bias": draw.normal(d)}


def _permutations(draw: Draw, rows: int, number: int) -> Array:
    ids = np.argsort(draw.rng.random((rows, number)), axis=1)
    return np.asarray(ids).astype(str(draw.rng.choice(ID_DTYPES)))


def _gather_patches(draw: Draw) -> Inputs:
    rows, number = draw.size(1, 4), draw.size()
    kept = _permutations(draw, rows, number)[:, : draw.size(1, number)]
    return {"x": draw.normal(rows, number, draw.size()), "ids": kept}


def _restore_patches(draw: Draw) -> Inputs:
    rows, number, d = draw.size(1, 4), draw.size(), draw.size()
    visible = draw.normal(rows, draw.size(1, number - 1), d)
    return {"visible": visible, "mask_token": draw.normal(d), "ids": _permutations(draw, rows, number)}


def _mask_patches(draw: Draw) -> Inputs:
    shape, d = (*draw.leading(2), draw.size()), draw.size()
    mask = draw.rng.random(shape) < 0.6
    mask.flat[0], mask.flat[-1] = True, False  # one hidden and one not: neither gradient is zero throughout
    return {"x": draw.normal(*shape, d), "mask_token": draw.normal(d), "mask": mask}


def _normalise_patches(draw: Draw) -> Inputs:
    x = draw.rng.standard_normal((*draw.leading(), draw.size(3))) + draw.size(0, 2)
    return {"patches": draw.lay_out(draw.order * x), "eps": float(draw.rng.choice((1e-6, 1e-5, 0.3)))}


def _interpolate_positions(draw: Draw) -> Inputs:
    grid, new_grid = ((draw.size(1, 5), draw.size(1, 5)) for _ in range(2))
    return {"table": draw.normal(1 + grid[0] * grid[1], draw.size()), "grid": grid, "new_grid": new_grid}


DRAW: dict[str, Callable[[Draw], Inputs]] = {
    "linear": _linear,
    "embedding": _embedding,
    "take_positions": _take_positions,
    "layer_norm": _layer_norm,
    "gelu": _activation,
    "gelu_tanh": _activation,
    "quick_gelu": _activation,
    "relu": _relu,
    "silu": _activation,
    "tanh": _tanh,
    "softmax": _softmax,
    "attention": _attention,
    "dropout": _dropout,
    "cross_entropy": _cross_entropy,
    "binary_cross_entropy": _binary_cross_entropy,
    "masked_cross_entropy": _masked_cross_entropy,
    "masked_mse": _masked_error,
    "masked_l1": _masked_error,
    "patchify": _patchify,
    "unpatchify": _patches,
    "pixel_shuffle": _pixel_shuffle,
    "patch_embedding": _patch_embedding,
    "gather_patches": _gather_patches,
    "restore_patches": _restore_patches,
    "mask_patches": _mask_patches,
    "normalise_patches": _normalise_patches,
    "interpolate_positions": _interpolate_positions,
}
