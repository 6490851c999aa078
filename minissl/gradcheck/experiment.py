"""A pair of functions at one point, and the questions that a diagnosis may put to it."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from minissl.backend import Array
from minissl.errors import InputError
from minissl.gradcheck.numerical import COARSE_STEP, STEP, derivative, step

Forward = Callable[..., Any]
Backward = Callable[..., Any]
MOST_ENTRIES = 10_000  # of an argument, to difference each one
PATIENCE_S = 20.0  # and how long that may take
LARGEST_JACOBIAN = 4_000_000


class Differences(NamedTuple):
    """The numerical gradient for each upstream gradient, and dy/dx as (x.size, y.size) unless that is too large."""

    gradients: list[Array]
    jacobian: Array | None


class Experiment:
    """`y, cache = forward(**values)` and `backward(dy, cache)`, at `values` and at changes of them."""

    def __init__(self, forward: Forward, backward: Backward, values: dict[str, Any]):
        self.forward, self.backward, self.values = forward, backward, values
        self.names = differentiable(values)
        self.step = STEP / 64  # a kink nearby seldom comes between

    def run(self, **changes: Any) -> tuple[Array, Any]:
        """Return y and the cache, of a call on copies of the values."""
        return pair_of(self.forward(**fresh({**self.values, **changes})))

    def output(self, **changes: Any) -> Array:
        """Return y alone."""
        return self.run(**changes)[0]

    def gradients(self, dy: Array, **changes: Any) -> dict[str, Array]:
        """Call forward, then backward once; return the gradients by name."""
        _, cache = self.run(**changes)
        return as_arrays(self.backward(dy.copy(), cache), self.names)

    def cached(self) -> dict[str, Array]:
        """Return the arrays in the cache by path; a closure's are those that it closes over."""
        _, cache = self.run()
        found = dict(_arrays_in(cache, "cache", 0))
        for name, cell in zip(
            getattr(getattr(cache, "__code__", None), "co_freevars", ()),
            getattr(cache, "__closure__", None) or (),
            strict=False,
        ):
            found.update(_arrays_in(cell.cell_contents, name, 1))
        return found

    def right(self, name: str, upstreams: list[Array]) -> Differences | None:
        """Difference y by every entry of an argument; None where that takes too long."""
        x, y = self.values[name], self.output()
        if not self._affordable(name):
            return None
        flat = np.array([dy.reshape(-1) for dy in upstreams])  # (number of upstreams, y.size)
        columns = np.empty((x.size, len(flat)))
        jacobian = np.empty((x.size, y.size)) if x.size * y.size <= LARGEST_JACOBIAN else None
        for i, slopes in enumerate(self._slopes(name)):
            columns[i] = flat @ slopes
            if jacobian is not None:
                jacobian[i] = slopes
        return Differences([column.reshape(x.shape) for column in columns.T], jacobian)

    def slope(self, name: str, direction: Array, dy: Array) -> float:
        """Return d Σ dy · y along a direction of one argument."""
        x = self.values[name]
        return float((dy * derivative(lambda t: self.output(**{name: x + t * direction}), self.step)).sum())

    def _affordable(self, name: str) -> bool:
        size = self.values[name].size
        began = time.perf_counter()
        self.output()
        return bool(size <= MOST_ENTRIES and 4 * size * (time.perf_counter() - began) <= PATIENCE_S)

    def _slopes(self, name: str) -> Iterator[Array]:
        """Yield the derivative of all of y by each entry of an argument."""
        x = self.values[name]
        moved = x.copy()
        for i in range(x.size):

            def at(t: float, i: int = i) -> Array:
                moved.flat[i] = x.flat[i] + t
                return self.output(**{name: moved})

            yield derivative(at, step(x, abs(float(x.flat[i])), self.step)).reshape(-1)
            moved.flat[i] = x.flat[i]

    def roughness(self, rng: np.random.Generator) -> float:
        """Return the size of the rounding noise in y, relative to y: 1e-16 in float64, 1e-8 to 1e-7 in float32.

        A second difference over a tiny distance is noise alone, or a kink; a kink's shrinks with the distance.
        """
        y = self.output()
        if y.dtype != np.float64:
            return float(np.finfo(y.dtype).eps)
        size = float(np.abs(y).max(initial=0)) or 1.0
        moves = [
            {n: _scale(self.values[n]) * rng.standard_normal(self.values[n].shape) for n in self.names}
            for _ in range(6)
        ]

        def second_difference(h: float) -> float:
            worst = 0.0
            for move in moves:
                up, down = (self.output(**{n: self.values[n] + t * u for n, u in move.items()}) for t in (h, -h))
                worst = max(worst, float(np.abs(up - 2 * y + down).max(initial=0)) / size)
            return worst

        wide, narrow = second_difference(2.0**-16), second_difference(2.0**-18)
        return wide if narrow > wide / 3 else 0.0

    def coarsen(self) -> None:
        """Difference over larger steps from now on, as the noise of float32 demands."""
        self.step = COARSE_STEP


def _scale(x: Array) -> float:
    return float(np.abs(x).max(initial=0)) or 1.0


def _arrays_in(value: Any, path: str, depth: int) -> Iterator[tuple[str, Array]]:
    if isinstance(value, np.ndarray):
        yield path, value
    elif depth < 4:
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            children = zip(value._fields, value, strict=True)
        elif isinstance(value, (tuple, list)):
            children = zip(map(str, range(len(value))), value, strict=True)
        elif isinstance(value, dict):
            children = zip(map(str, value), value.values(), strict=True)
        else:
            return
        for key, child in children:
            yield from _arrays_in(child, f"{path}.{key}", depth + 1)


def fresh(inputs: dict[str, Any]) -> dict[str, Any]:
    """Copy the inputs; floating-point arrays become float64."""
    try:
        return {name: _fresh(value) for name, value in inputs.items()}
    except TypeError as error:  # a generator, a file: what cannot be copied cannot be given twice
        raise InputError(f"check: an input cannot be copied ({error}); give arrays, numbers and Generators") from None


def _fresh(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return np.array(value, np.float64 if value.dtype.kind == "f" else value.dtype)
    return copy.deepcopy(value)


def differentiable(inputs: dict[str, Any]) -> list[str]:
    """Name the inputs that backward owes a gradient: the floating-point arrays."""
    return [name for name, value in inputs.items() if isinstance(value, np.ndarray) and value.dtype.kind == "f"]


def pair_of(returned: Any) -> tuple[Array, Any]:
    """Return y as an array, and the cache. Raises InputError where forward did not return such a pair."""
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise InputError(f"forward returned {type(returned).__name__}, expected the pair (y, cache)")
    if not (isinstance(returned[0], (np.generic, float)) or hasattr(returned[0], "__array__")):
        raise InputError(
            f"forward returned {type(returned[0]).__name__} as y, expected an array; the order is (y, cache)"
        )
    y = np.asarray(returned[0])
    if y.dtype.kind != "f":
        raise InputError(
            f"forward returned a y of dtype {y.dtype}, expected floating point; are the inputs integers "
            "(np.arange(3.0) are not), or is the order (y, cache)?"
        )
    return y, returned[1]


def as_arrays(returned: Any, names: list[str]) -> dict[str, Array]:
    """Return copies of the gradients that backward returned, by name.

    Raises InputError for any other number of them than `names`, and for what is no array of numbers.
    """
    gradients = list(returned) if isinstance(returned, (tuple, list)) else [] if returned is None else [returned]
    if len(gradients) != len(names):
        raise InputError(
            f"backward returned {len(gradients)} gradients, expected {len(names)} ({', '.join(names) or 'none'}): "
            "one for each floating-point array, in order; integers, booleans and plain numbers get none"
        )
    for name, gradient in zip(names, gradients, strict=True):
        if not (isinstance(gradient, (np.generic, float)) or hasattr(gradient, "__array__")):
            raise InputError(f"backward returned {type(gradient).__name__} for {name}, expected an array of its shape")
        if np.asarray(gradient).dtype.kind not in "fiu":
            raise InputError(
                f"backward returned an array of dtype {np.asarray(gradient).dtype} for {name}, expected numbers"
            )
    return {name: np.array(gradient) for name, gradient in zip(names, gradients, strict=True)}
