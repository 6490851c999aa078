"""What is known of one argument whose gradient is wrong, and what may still be asked about it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from minissl.backend import Array
from minissl.gradcheck.experiment import Experiment
from minissl.gradcheck.report import ArgumentReport, Finding
from minissl.gradcheck.slips import Suspect

ALIKE = 1e-5  # of the larger one: numerical gradients are good to 1e-8 and better


@dataclass
class Evidence:
    """What is known of one argument. `lab` is None where only a loss and its gradients can be had, as of a model."""

    record: ArgumentReport
    x: Array
    got: Array
    expected: Array  # of x's shape, every entry
    rights: dict[str, Array]  # the numerical gradients of all arguments, as far as they are known
    gots: dict[str, Array]  # and what backward returned for them
    values: dict[str, Any]
    lab: Experiment | None = None
    jacobian: Array | None = None  # (x.size, y.size)
    y: Array | None = None
    dy: Array | None = None
    other: tuple[Array, Array] | None = None  # another upstream gradient, and what is right for it
    uses: Callable[[Array], list[float]] | None = None  # the derivative along a direction, use by use
    suspect: Suspect | None = None  # the forward pass call by call
    alike: float = ALIKE

    def __post_init__(self) -> None:
        # a small error must not vanish in what counts as alike
        self.alike = min(self.alike, max(self.record.relative_error / 30, 1e-9))

    @property
    def name(self) -> str:
        """The argument."""
        return self.record.name

    def same(self, a: Array, b: Array) -> bool:
        """Whether two arrays agree but for the noise of differences."""
        size = max(float(np.abs(a).max(initial=0)), float(np.abs(b).max(initial=0)))
        if a.shape != b.shape or not math.isfinite(size):
            return False
        noise = 1e-9 * float(np.abs(self.expected).max(initial=0))  # of the differences, whatever their result's size
        return float(np.abs(a - b).max(initial=0)) <= self.alike * size + min(noise, 0.03 * size)

    def multiple(self, a: Array, b: Array) -> float | None:
        """Return c where a = c b, None where no c does that."""
        if a.shape != b.shape or not (b * b).sum():
            return None
        c = float((a * b).sum() / (b * b).sum())
        return c if c and self.same(a, c * b) else None

    def vanishes(self, a: Array) -> bool:
        """Whether an array is zero beside the gradient."""
        return float(np.abs(a).max(initial=0)) <= self.alike * float(np.abs(self.expected).max(initial=0))

    def vanishes_at(self, a: Array) -> Array:
        """Where an array is zero beside the gradient."""
        return np.asarray(np.abs(a) <= self.alike * np.abs(self.expected).max(initial=0))

    def finding(self, kind: str, said: str, **details: Any) -> Finding:
        """Say what is wrong with this argument's gradient."""
        message = f"the gradient of {self.name} {said}"
        return Finding(kind, self.name, self.record.index or None, message, details)

    def again(self) -> tuple[Array, Array, Array] | None:
        """Another upstream gradient, with what backward returns for it and what is right."""
        if self.lab is None or self.other is None:
            return None
        dy, right = self.other
        return dy, self.lab.gradients(dy)[self.name], right

    def known(self) -> dict[str, Array]:
        """Arrays at hand that have the argument's shape: inputs, the output, what the cache holds."""
        arrays = {n: v for n, v in self.values.items() if isinstance(v, np.ndarray) and v.dtype.kind == "f"}
        if self.y is not None:
            arrays["y"] = self.y
        if self.lab is not None:
            arrays |= {n: a for n, a in self.lab.cached().items() if a.dtype.kind in "fb"}
        found: dict[str, Array] = {}
        for name, array in arrays.items():
            if array.ndim <= self.x.ndim and array.size > 1:
                try:
                    found[name] = np.broadcast_to(array, self.x.shape).astype(np.float64)
                except ValueError:
                    continue
        return found


def listed(items: list[int]) -> str:
    """The first few, with commas."""
    return ", ".join(map(str, items[:6])) + (", …" if len(items) > 6 else "")


def subsets(n: int) -> Iterator[tuple[int, ...]]:
    """Every choice of one or more of n axes, the small ones first."""
    for size in range(1, n + 1):
        yield from itertools.combinations(range(n), size)


def right_with(e: Evidence, changes: dict[str, Any]) -> bool:
    """Whether the gradient is right, and not zero, with some inputs replaced: three directions tell."""
    if e.lab is None or e.dy is None:
        return False
    lab = Experiment(e.lab.forward, e.lab.backward, {**e.lab.values, **changes})
    rng = np.random.default_rng(31_610)
    try:
        with np.errstate(all="ignore"):
            got = lab.gradients(e.dy)[e.name]
            directions = [rng.standard_normal(e.x.shape) for _ in range(3)]
            right = np.array([lab.slope(e.name, u, e.dy) for u in directions])
    except Exception:  # a forward need not accept what was replaced
        return False
    return bool(np.abs(right).min() > 0) and e.same(np.array([(got * u).sum() for u in directions]), right)


def masks(e: Evidence) -> list[str]:
    """Name the inputs that can exclude positions: booleans, zeros and ones, negative labels."""
    arrays = {n: v for n, v in e.values.items() if isinstance(v, np.ndarray) and v.size}
    return [
        n
        for n, v in arrays.items()
        if v.dtype.kind == "b" or (v.dtype.kind in "iu" and ((v < 0).any() or set(np.unique(v).tolist()) == {0, 1}))
    ]


def slope_of(e: Evidence) -> Array | None:
    """The derivative of y_i by x_i, where no other x enters y_i; None otherwise."""
    if e.jacobian is None or e.y is None or e.y.shape != e.x.shape or e.x.size < 2:
        return None
    slope = np.diagonal(e.jacobian)
    if np.abs(e.jacobian - np.diag(slope)).max() > 1e-7 * np.abs(slope).max():
        return None
    slope = np.where(np.abs(slope) > 1e-9 * np.abs(slope).max(), slope, 0)
    return slope.reshape(e.x.shape)


def functions_of(arrays: dict[str, Array]) -> Iterator[tuple[str, str, Array]]:
    """Simple functions of arrays at hand: (name, formula, values)."""
    for name, c in arrays.items():
        yield name, name, c
        yield name, f"(1 - {name})", 1 - c
        yield name, f"(1 - {name}²)", 1 - c * c
        yield name, f"(1 + {name})", 1 + c
        yield name, f"{name} (1 - {name})", c * (1 - c)
        yield name, f"1/{name}", 1 / c
        yield name, f"{name}²", c * c
        yield name, f"({name} > 0)", c > 0
        yield name, f"2 {name}", 2 * c
