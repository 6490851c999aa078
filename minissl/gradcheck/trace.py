"""Follows a forward pass call by call, and lets one of its calls pretend to another derivative.

A backward pass with one slip computes the right gradient of a slightly different function: one in which an input of a
call is held still, or in which a call lets changes through as they are. Differencing that function tells which it was.
"""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from minissl.backend import Array

MOST_CALLS = 250
STRUCTURAL = {"transpose", "swapaxes", "moveaxis", "expand_dims", "squeeze", "reshape", "ravel", "broadcast_to"}
REPETITIONS = {"repeat", "tile", "take"}


@dataclass
class Call:
    """One NumPy call of the forward pass, as it was at the point itself."""

    name: str
    inputs: list[Array]
    moves: list[bool]  # which inputs depend on the argument
    is_argument: list[bool]  # which inputs are the argument itself
    output: Array
    line: str
    is_last: Array | None = None  # of a lookup or a repetition, the last place at which each entry is read
    is_first: Array | None = None


@dataclass(frozen=True, eq=False)
class Slip:
    """What call number `call` pretends of one of its inputs.

    freeze: it does not move; flip, double: it moves the other way, or twice as far; pass: its change is the output's;
    shortcut: it moves as the argument itself does; last, first: of entries read several times only one moves;
    branch: the output moves as this input does, whatever was chosen; turn: the output's change is transposed;
    turned: its change meets the other input transposed; chain: the output moves as `factor` times what call and
    operand `base` read. `also` are further calls, of a loop, that pretend the same.
    """

    call: int
    how: str
    operand: int
    also: tuple[int, ...] = ()
    base: tuple[int, int] | None = None
    factor: Array | float = 1.0


class Tape:
    """Counts the calls of a run; the first run is recorded, later ones may hold a slip."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.recording = True
        self.slip: Slip | None = None
        self.count = 0
        self.change: Array | float = 0.0  # of the argument, in this run
        self.still: set[int] = set()  # calls whose first input never moves
        self.base: Array | float = 0.0  # in this run, the change of what a chain begins with

    def start(self, slip: Slip | None, change: Array) -> None:
        """Begin another run, in which the argument has moved by `change`."""
        self.recording, self.slip, self.count, self.change = False, slip, 0, change

    def run(
        self, name: str, function: Callable[..., Any], inputs: list[Any],
        places: tuple[Array, Array] | tuple[None, None] = (None, None),
    ) -> Any:  # fmt: skip
        """Make one call on plain arrays."""
        number, self.count = self.count, self.count + 1
        plain = [_plain(i) for i in inputs]
        if self.recording:
            output = function(*plain)
            if number < MOST_CALLS:
                arrays = [np.array(p) for p in plain]
                moves = [isinstance(i, TracedArray) for i in inputs]
                own = [isinstance(i, TracedArray) and i.is_argument for i in inputs]
                self.calls.append(Call(name, arrays, moves, own, np.array(output), _line(), *places))
            return output
        if number in self.still:
            plain[0] = self.calls[number].inputs[0]
        slip = self.slip
        if slip is None or number >= len(self.calls):
            return function(*plain)
        if slip.base is not None and slip.base[0] == number:
            self.base = plain[slip.base[1]] - self.calls[number].inputs[slip.base[1]]
        if number != slip.call and number not in slip.also:
            return function(*plain)
        return self._slipped(slip, self.calls[number], function, plain)

    def _slipped(self, slip: Slip, call: Call, function: Callable[..., Any], plain: list[Any]) -> Any:
        i = slip.operand
        still = call.inputs[i]
        if slip.how in ("last", "first"):
            kept = np.asarray(call.is_last if slip.how == "last" else call.is_first)
            return np.where(kept, function(*plain), call.output)
        if slip.how == "chain":
            return call.output + slip.factor * self.base
        if slip.how == "branch":
            return call.output + (plain[i] - still)
        if slip.how == "turn":
            return call.output + (function(*plain) - call.output).swapaxes(-1, -2)
        if slip.how == "turned":
            other = call.inputs[1 - i].swapaxes(-1, -2)
            above, below = ([moved, other] if i == 0 else [other, moved] for moved in (plain[i], still))
            return call.output + (function(*above) - function(*below))
        if slip.how == "shortcut":
            return function(*plain[:i], still + self.change, *plain[i + 1 :])
        if slip.how == "pass":
            held = [*plain[:i], still, *plain[i + 1 :]]
            return function(*held) + (plain[i] - still)
        factor = {"freeze": 0.0, "flip": -1.0, "double": 2.0}[slip.how]
        moved = still + factor * (plain[i] - still)
        return function(*plain[:i], moved, *plain[i + 1 :])


class TracedArray(np.ndarray):
    """An array that depends on the argument in question; what is computed from it is one too."""

    tape: Tape | None
    is_argument: bool

    def __array_finalize__(self, parent: Any) -> None:
        self.tape = getattr(parent, "tape", None)
        self.is_argument = getattr(parent, "is_argument", False)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **kwargs: Any) -> Any:
        if method not in ("__call__", "reduce"):
            return getattr(ufunc, method)(*map(_plain, inputs), **kwargs)
        name = ufunc.__name__ if method == "__call__" else f"{ufunc.__name__}.{method}"
        kwargs = {key: _plain(value) for key, value in kwargs.items()}
        tape = next(i.tape for i in inputs if isinstance(i, TracedArray)) if _any_traced(inputs) else self.tape
        assert tape is not None
        result = tape.run(name, lambda *plain: getattr(ufunc, method)(*plain, **kwargs), list(inputs))
        if out is None:
            return traced(result, tape)
        _plain(out[0])[...] = result
        return out[0]

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        leaves: list[Any] = []
        shape = _flatten((args, kwargs), leaves)
        tape = next(i.tape for i in leaves if isinstance(i, TracedArray))
        assert tape is not None

        def call(*plain: Any) -> Any:
            args, kwargs = _rebuild(shape, iter(plain))
            return func(*args, **kwargs)

        if func.__name__ in STRUCTURAL:
            result = call(*map(_plain, leaves))
            return traced(result, tape, leaves[0].is_argument)
        places: tuple[Array, Array] | tuple[None, None] = (None, None)
        if func.__name__ in REPETITIONS and len(leaves) == 1:
            places = _places(np.asarray(call(np.arange(leaves[0].size).reshape(leaves[0].shape))))
        return traced(tape.run(func.__name__, call, leaves, places), tape)

    def __getitem__(self, index: Any) -> Any:
        plain = _plain(self)
        result = plain[index]
        if self.tape is None or not isinstance(result, np.ndarray) or np.shares_memory(result, plain):
            return super().__getitem__(index)
        flat = np.arange(plain.size).reshape(plain.shape)[index]
        looked_up = self.tape.run("getitem", lambda a: a[index], [self], _places(flat))
        return traced(looked_up, self.tape, self.is_argument)

    def dot(self, other: Any, out: Any = None) -> Any:
        """As `@`, which the tape sees."""
        return np.dot(self, other)


def traced(value: Any, tape: Tape, is_argument: bool = False) -> Any:
    """Return floating-point results as traced arrays, everything else as it is."""
    if isinstance(value, tuple):
        return tuple(traced(v, tape, is_argument) for v in value)
    if not isinstance(value, (np.ndarray, np.floating)) or value.dtype.kind != "f":
        return value
    array = np.asarray(value).view(TracedArray)
    array.tape, array.is_argument = tape, is_argument
    return array


def _places(read: Array) -> tuple[Array, Array] | tuple[None, None]:
    """Mark the last and the first place at which each entry is read; None where none is read twice."""
    flat = read.reshape(-1)
    first, last = np.zeros((2, flat.size), bool)
    first[np.unique(flat, return_index=True)[1]] = True
    last[flat.size - 1 - np.unique(flat[::-1], return_index=True)[1]] = True
    return (None, None) if first.all() else (last.reshape(read.shape), first.reshape(read.shape))


def _any_traced(values: Any) -> bool:
    return any(isinstance(v, TracedArray) for v in values)


def _plain(value: Any) -> Any:
    return value.view(np.ndarray) if isinstance(value, TracedArray) else value


def _flatten(value: Any, leaves: list[Any]) -> Any:
    """Take the traced arrays out of nested arguments, in order; return what `_rebuild` puts others into."""
    if isinstance(value, TracedArray):
        leaves.append(value)
        return _Hole()
    if isinstance(value, (tuple, list)):
        return type(value)(_flatten(v, leaves) for v in value)
    if isinstance(value, dict):
        return {k: _flatten(v, leaves) for k, v in value.items()}
    return value


class _Hole:
    """Where an array goes."""


def _rebuild(shape: Any, plain: Iterator[Any]) -> Any:
    if isinstance(shape, _Hole):
        return next(plain)
    if isinstance(shape, (tuple, list)):
        return type(shape)(_rebuild(s, plain) for s in shape)
    if isinstance(shape, dict):
        return {k: _rebuild(s, plain) for k, s in shape.items()}
    return shape


def _line() -> str:
    """The line of source that made the call, outside NumPy and this file."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        path = frame.f_code.co_filename
        if path != __file__ and "numpy" not in path.replace("\\", "/").split("/"):
            return linecache.getline(path, frame.f_lineno).strip()
        frame = frame.f_back
    return ""


class Trace:
    """The forward pass as a function of one argument, with or without a slip."""

    def __init__(self, forward: Callable[[Any], Any], x: Array):
        """`forward` takes the argument alone, a traced array, and returns y."""
        self.forward, self.x = forward, x
        self.tape = Tape()
        self._run(self.x)

    @property
    def calls(self) -> list[Call]:
        """The calls of the forward pass that the argument reaches."""
        return self.tape.calls

    def output(self, x: Array, slip: Slip | None = None) -> Array:
        """Return y at x, with one call slipping."""
        self.tape.start(slip, x - self.x)
        return self._run(x)

    def _run(self, x: Array) -> Array:
        with np.errstate(all="ignore"):
            return np.array(_plain(self.forward(traced(x.copy(), self.tape, is_argument=True))))
