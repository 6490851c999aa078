"""What a constant factor probably is: a size, its root, a count, a rate, 2."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from minissl.backend import Array

EXACT = 1e-5  # a factor is measured to about 1e-9
MOST_REASONS = 2


def explain_factor(factor: float, values: dict[str, Any], y: Array | None, dy: Array | None) -> list[str]:
    """Return what `factor` = got/expected may come from, the likeliest first; nothing where nothing fits."""
    size = abs(factor)
    if not size:
        return []
    sizes = _sizes(values, y)
    reasons = [text for value, text in _candidates(sizes, values, dy) if abs(value - size) <= EXACT * size]
    if not reasons:  # any two sizes make a ratio, so this says the least
        reasons = [text for value, text in _ratios(sizes) if abs(value - size) <= EXACT * size]
    return list(dict.fromkeys(reasons))[:MOST_REASONS]


def _candidates(sizes: dict[int, str], values: dict[str, Any], dy: Array | None) -> Iterator[tuple[float, str]]:
    """Yield (value of got/expected, what it means)."""
    yield 2.0, "2: it is counted twice"
    yield 0.5, "1/2: a 2 is lost, or it is counted once instead of twice"
    for n, what in sizes.items():
        if n > 1 and what.startswith("the size of"):
            yield math.sqrt(n), f"√{n}, and {n} is {what}: is the factor 1/√{n} left out?"
            yield 1 / math.sqrt(n), f"1/√{n}, and {n} is {what}: is that factor there twice?"
    for name, value in values.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            yield from _of_number(name, float(value))
    for n, what in sizes.items():
        if n > 1:
            root = f" (or √{n} a factor where it divides)" if what.startswith("the size of the last axis") else ""
            yield float(n), f"{n}, {what}: is a division by it left out{root}?"
            yield 1 / n, f"1/{n}, and {n} is {what}: is it divided by once too often, a mean where a sum is due?"
    if dy is not None and dy.size == 1 and dy.item():
        yield abs(1 / dy.item()), "1/dy: is the upstream gradient left out?"
        yield abs(dy.item()), "dy: does the upstream gradient enter twice?"


def _ratios(sizes: dict[int, str]) -> Iterator[tuple[float, str]]:
    for n, m in itertools.permutations((n for n in sizes if n > 1), 2):
        yield m / n, f"{m}/{n}: divided by {n} ({sizes[n]}) where {m} ({sizes[m]}) is right?"


def _of_number(name: str, value: float) -> Iterator[tuple[float, str]]:
    if value <= 0 or value == 1:
        return
    if value < 1:
        yield 1 - value, f"1 - {name}, the share that is kept: is the division by it left out?"
        yield 1 / (1 - value), f"1/(1 - {name}): is the share that is kept divided by twice?"
    yield value, f"{name} itself: does it enter twice, or as a factor where it divides?"
    yield 1 / value, f"1/{name}: is the factor {name} left out?"
    yield value * value, f"{name}²: does it multiply where it divides?"
    yield 1 / (value * value), f"1/{name}²: does it divide where it multiplies?"


def _sizes(values: dict[str, Any], y: Array | None) -> dict[int, str]:
    """Sizes and counts that a factor may come from, each with where it stands; the first mention wins."""
    named: dict[int, list[str]] = {}
    axes: dict[int, dict[str, list[str]]] = {}
    arrays = [(name, value) for name, value in values.items() if isinstance(value, np.ndarray)]
    if y is not None and y.ndim:
        arrays.append(("y", y))
    for name, value in arrays:
        if value.dtype.kind == "b":
            named.setdefault(int(value.sum()), []).append(f"the number of true entries of {name}")
        elif value.dtype.kind in "iu" and value.size and (value < 0).any():
            named.setdefault(int((value >= 0).sum()), []).append(f"the number of entries of {name} that count")
        elif value.dtype.kind in "iu" and value.size and set(np.unique(value).tolist()) == {0, 1}:
            named.setdefault(int(value.sum()), []).append(f"the number of ones in {name}")
    for name, value in arrays:
        for axis, n in enumerate(value.shape):
            last = axis == value.ndim - 1 and value.ndim > 1
            axes.setdefault(n, {}).setdefault("the last axis" if last else f"axis {axis}", []).append(name)
    for n, places in axes.items():
        where, names = next(iter(places.items()))
        named.setdefault(n, []).append(f"the size of {where} of {' and '.join(names[:2])}")
    for name, value in arrays:
        if value.ndim > 1:
            rows = math.prod(value.shape[:-1])
            named.setdefault(rows, []).append(f"the number of rows of {name}")
            named.setdefault(value.size, []).append(f"the number of entries of {name}")
    return {n: places[0] for n, places in named.items()}
