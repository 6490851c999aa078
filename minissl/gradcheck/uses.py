"""The derivative of each use of an argument that enters a computation several times.

An argument's gradient is the sum over its uses. To tell them apart, an argument is moved while one use reads it, and is
back in place for all others. Uses of an array are the NumPy calls it enters; uses of a parameter, the reads of its data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from minissl.backend import Array
from minissl.gradcheck.experiment import Experiment, fresh
from minissl.gradcheck.numerical import STEP, derivative

COPYING = ("reshape", "ravel", "flatten", "copy", "astype", "dot", "take", "repeat", "__getitem__")


class Uses:
    """Counts the uses of one array, and moves it during the chosen one."""

    def __init__(self, data: Array):
        self.data = data
        self.count = 0
        self.chosen = -1
        self.move: Array | float = 0.0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Around each use."""
        mine = self.count == self.chosen
        self.count += 1
        if mine:
            kept = self.data.copy()
            self.data += self.move
        try:
            yield
        finally:
            if mine:
                self.data[...] = kept


class WatchedArray(np.ndarray):
    """An array that tells its `Uses` of every NumPy call it enters; its views are the same array."""

    uses: Uses | None

    def __array_finalize__(self, parent: Any) -> None:
        self.uses = getattr(parent, "uses", None)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if "out" in kwargs:
            kwargs["out"] = tuple(_plain(a) for a in kwargs["out"])
        with self._used():
            return getattr(ufunc, method)(*map(_plain, inputs), **{k: _plain(v) for k, v in kwargs.items()})

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if func in (np.transpose, np.swapaxes, np.moveaxis, np.expand_dims, np.squeeze):
            return func(_plain(args[0]), *args[1:], **kwargs).view(WatchedArray)._watch(self.uses)
        with self._used():
            return func(*_plain(args), **_plain(kwargs))

    def _used(self) -> Any:
        assert self.uses is not None
        return self.uses.one()

    def _watch(self, uses: Uses | None) -> WatchedArray:
        self.uses = uses
        return self


def _copying(name: str) -> Callable[..., Any]:
    method = getattr(np.ndarray, name)

    def call(self: WatchedArray, *args: Any, **kwargs: Any) -> Any:
        plain = _plain(self)
        result = method(plain, *_plain(args), **kwargs)
        if isinstance(result, np.ndarray) and np.shares_memory(result, plain):
            return result.view(WatchedArray)._watch(self.uses)
        with self._used():
            return method(plain, *_plain(args), **kwargs)

    return call


for _name in COPYING:
    setattr(WatchedArray, _name, _copying(_name))


def _plain(value: Any) -> Any:
    if isinstance(value, WatchedArray):
        return value.view(np.ndarray)
    if isinstance(value, (tuple, list)):
        return type(value)(map(_plain, value))
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def uses_of_array(lab: Experiment, name: str, dy: Array) -> Callable[[Array], list[float]]:
    """Return the function of a direction that gives d Σ dy·y along it, use by use of the argument `name`."""

    def run(chosen: int, move: Array | float) -> tuple[Array, int]:
        data = lab.values[name].copy()
        uses = Uses(data)
        uses.chosen, uses.move = chosen, move
        watched = data.view(WatchedArray)._watch(uses)
        values = {n: watched if n == name else v for n, v in fresh(lab.values).items()}
        y = np.asarray(_plain(lab.forward(**values)[0]))
        return y, uses.count

    return _by_use(run, dy)


def uses_of_parameter(param: Any, output: Callable[[], Array], dy: Array) -> Callable[[Array], list[float]]:
    """The same for a parameter, of which each read of `param.data` is a use; `output` computes y."""

    def run(chosen: int, move: Array | float) -> tuple[Array, int]:
        own, data = param.__class__, param.data
        reads = 0

        class Watched(own):  # type: ignore[misc, valid-type]
            @property
            def data(self) -> Array:
                nonlocal reads
                reads += 1
                return np.asarray(data + move if reads - 1 == chosen else data)

        param.__class__ = Watched
        try:
            return output(), reads
        finally:
            param.__class__ = own

    return _by_use(run, dy)


def _by_use(run: Callable[[int, Array | float], tuple[Array, int]], dy: Array) -> Callable[[Array], list[float]]:
    def along(direction: Array) -> list[float]:
        try:
            _, count = run(-1, 0.0)
            return [_slope(run, use, direction, dy) for use in range(count)]
        except Exception:  # a forward may refuse a watched array; then nothing is known of its uses
            return []

    return along


def _slope(run: Callable[[int, Array | float], tuple[Array, int]], use: int, direction: Array, dy: Array) -> float:
    return float((dy * derivative(lambda t: run(use, t * direction)[0], STEP)).sum())
