"""Which single slip in the backward pass of a forward's calls gives the gradient that came back."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minissl.backend import Array
from minissl.gradcheck.chains import chains, detours
from minissl.gradcheck.numerical import STEP, derivative
from minissl.gradcheck.trace import Call, Slip, Trace

MOST_SLIPS = 400
MOST_CHAINS = 600
SUMS = {"add.reduce", "sum", "mean", "maximum.reduce", "amax", "max", "var", "std", "logaddexp.reduce"}
MAXIMA = {"maximum.reduce", "amax", "max"}
LINEAR = {"add", "subtract", "matmul", "dot", "einsum", "tensordot", "concatenate", "stack", "pad", "inner", "outer"}
PRODUCTS = {"matmul", "dot", "einsum", "tensordot"}
BILINEAR = {"multiply", "divide", "matmul", "dot", "einsum", "tensordot", "inner", "outer"}


class Suspect:
    """The forward pass of one argument, and the gradient that came back."""

    def __init__(self, trace: Trace, dy: Array, got: Array):
        self.trace, self.dy, self.got = trace, dy, got
        rng = np.random.default_rng(31_609)
        self.directions = [rng.standard_normal(got.shape) for _ in range(3)]
        self._hold_shifts()

    def _hold_shifts(self) -> None:
        """Hold a maximum still that is subtracted for safety alone, as in a softmax: no derivation follows it."""
        u = self.directions[0]
        whole = self.slope(u, None)
        for number, call in enumerate(self.trace.calls):
            if call.name in MAXIMA and abs(self.slope(u, Slip(number, "freeze", 0)) - whole) <= 1e-9 * abs(whole):
                self.trace.tape.still.add(number)

    def slope(self, direction: Array, slip: Slip | None) -> float:
        """Σ dy · dy/dx along a direction, with a slip."""
        x = self.trace.x
        return float((self.dy * derivative(lambda t: self.trace.output(x + t * direction, slip), STEP)).sum())

    def rough_slope(self, direction: Array, slip: Slip | None) -> float:
        """The same by two calls, good to about 1e-6."""
        x = self.trace.x
        above, below = (self.trace.output(x + t * direction, slip) for t in (STEP, -STEP))
        return float((self.dy * (above - below)).sum() / (2 * STEP))

    def explains(self, slip: Slip, tolerance: float) -> bool:
        """Whether a backward with this slip returns what came back."""
        wanted = [float((self.got * u).sum()) for u in self.directions]
        size = max(map(abs, wanted))
        if abs(self.rough_slope(self.directions[0], slip) - wanted[0]) > 1e-2 * size:
            return False
        return all(
            abs(self.slope(u, slip) - w) <= tolerance * size for u, w in zip(self.directions, wanted, strict=True)
        )


Found = tuple[str, str, Slip]  # kind, what to say, slip


def find_slip(suspect: Suspect, tolerance: float) -> Found | None:
    """Return the first slip in a single call that explains the gradient."""
    return _first(suspect, tolerance, itertools.islice(_slips(suspect.trace.calls), MOST_SLIPS))


def find_rarer_slip(suspect: Suspect, tolerance: float) -> Found | None:
    """Return the first slip of the rarer families: a lost transpose, a loop's every round, several calls at once."""
    calls = suspect.trace.calls
    chained = itertools.islice(_along(calls), MOST_CHAINS)
    return _first(suspect, tolerance, itertools.chain(_turned(calls), _in_loops(calls), chained))


def _first(suspect: Suspect, tolerance: float, slips: Iterator[Found]) -> Found | None:
    for kind, said, slip in slips:
        try:
            if suspect.explains(slip, tolerance):
                return kind, said, slip
        except Exception:  # shapes need not fit what a slip pretends
            continue
    return None


def uses_by_slips(suspect: Suspect) -> Callable[[Array], list[float]]:
    """Return the function of a direction that gives each use of the argument its part of the derivative."""
    uses = [
        Slip(n, "freeze", i)
        for n, call in enumerate(suspect.trace.calls)
        for i, own in enumerate(call.is_argument)
        if own
    ]

    def along(direction: Array) -> list[float]:
        whole = suspect.slope(direction, None)
        return [whole - suspect.slope(direction, use) for use in uses]

    return along


def _slips(calls: list[Call]) -> Iterator[Found]:
    """Yield every slip that is tried, the likelier families first."""
    moving = _moving(calls)
    for n, call, i in moving:
        if _elementwise(call, i):
            yield *_passed(call, i), Slip(n, "pass", i)
            if not call.is_argument[i]:
                inner = f"lacks the inner derivative, of what np.{call.name} is applied to in {_where(call)}"
                yield "missing_factor", inner, Slip(n, "shortcut", i)
    for n, call, i in moving:
        if call.name in SUMS:
            said = f"lacks what comes back through the {_plainly(call)} in {_where(call)}: one entry changes the others"
            yield "missing_term", said, Slip(n, "freeze", i)
        if call.is_last is not None:
            said = (
                f"keeps one of the places that {_where(call)} looks up more than once, and all add up "
                "(np.add.at; `=` and `+=` through an index keep one)"
                if call.name == "getitem"
                else f"keeps one of the copies that {_where(call)} makes, and the gradients of all add up"
            )
            yield "accumulation", said, Slip(n, "last", i)
            yield "accumulation", said, Slip(n, "first", i)
    for n, call, i in moving:
        if call.is_argument[i]:
            yield "accumulation", f"lacks the use of it in {_where(call)}; all its uses add up", Slip(n, "freeze", i)
    for n, call, i in moving:
        if call.name not in SUMS and not call.is_argument[i]:
            yield *_frozen(call, calls[:n]), Slip(n, "freeze", i)
    for n, call, i in moving:
        if call.name in LINEAR | BILINEAR and sum(call.moves) > 1:
            yield "incorrect", f"has the wrong sign on one of the paths through {_where(call)}", Slip(n, "flip", i)
            yield "accumulation", f"counts one of the paths through {_where(call)} twice", Slip(n, "double", i)


def _moving(calls: list[Call]) -> list[tuple[int, Call, int]]:
    return [(n, c, i) for n, c in enumerate(calls) for i, m in enumerate(c.moves) if m and c.output.dtype.kind == "f"]


def _turned(calls: list[Call]) -> Iterator[Found]:
    """Yield slips that take one branch for both, and that forget a transpose."""
    for n, call, i in _moving(calls):
        if call.name in ("where", "maximum", "minimum") and sum(call.moves) > 1:
            said = f"takes one branch of {_where(call)} everywhere: is the comparison left out?"
            yield "missing_factor", said, Slip(n, "branch", i)
        if call.name in PRODUCTS and len(call.inputs) == 2 and _square(call.output):
            said = f"lacks a transpose of what comes back to {_where(call)}"
            yield "transposed", said, Slip(n, "turn", i)
        if call.name in PRODUCTS and len(call.inputs) == 2 and _square(call.inputs[1 - i]):
            said = f"lacks a transpose of what {_where(call)} multiplies it with"
            yield "transposed", said, Slip(n, "turned", i)


def _in_loops(calls: list[Call]) -> Iterator[Found]:
    """Yield slips that a loop makes in every round: the same call, from the same line."""
    rounds: dict[tuple[Any, ...], list[int]] = {}
    for n, call in enumerate(calls):
        for i, moves in enumerate(call.moves):
            if moves and call.line and call.output.dtype.kind == "f":
                rounds.setdefault((call.line, call.name, call.output.shape, i, call.is_argument[i]), []).append(n)
    for (*_, i, own), (n, *also) in rounds.items():
        call, rest = calls[n], tuple(also)
        if not rest:
            continue
        if _elementwise(call, i):
            yield *_passed(call, i), Slip(n, "pass", i, rest)
        if not own:
            yield *_frozen(calls[rest[-1]], calls[:n]), Slip(n, "freeze", i, rest)
        if call.name in PRODUCTS and len(call.inputs) == 2 and _square(call.inputs[1 - i]):
            said = f"lacks a transpose of what {_where(call)} multiplies it with"
            yield "transposed", said, Slip(n, "turned", i, rest)


def _along(calls: list[Call]) -> Iterator[Found]:
    """Yield slips about several calls at once: an activation, a softmax, a normalisation, written out."""
    for base, n, formula, factor in chains(calls):
        slip = Slip(n, "chain", base[1], base=base, factor=factor)
        if formula is None:
            said = f"lacks the derivative of {_where(calls[n])} by what goes into {_where(calls[base[0]])}"
        else:
            said = f"takes {formula} for the derivative of {_where(calls[n])}, and a factor of it is missing or wrong"
        yield "missing_factor", said, slip
    for base, n in detours(calls):
        said = f"skips all that happens from {_where(calls[base[0]])} to {_where(calls[n])}: its derivative is left out"
        yield "missing_factor", said, Slip(n, "chain", base[1], base=base)


def _square(a: Array) -> bool:
    return a.ndim > 1 and a.shape[-1] == a.shape[-2] > 1


def _elementwise(call: Call, i: int) -> bool:
    elementwise = isinstance(getattr(np, call.name, None), np.ufunc) or call.name in ("where", "clip")
    return (
        elementwise
        and call.name not in LINEAR
        and call.output.dtype.kind == "f"
        and call.output.shape == call.inputs[i].shape
    )


def _passed(call: Call, i: int) -> tuple[str, str]:
    others = [a for j, a in enumerate(call.inputs) if j != i]
    if call.name == "negative":
        return "incorrect", f"lacks the minus of {_where(call)}"
    if call.name in ("multiply", "divide", "true_divide") and others:
        if others[0].size == 1 and not any(m for j, m in enumerate(call.moves) if j != i):
            what = "factor" if call.name == "multiply" else "division by"
            return "scale", f"lacks the {what} {others[0].item():.6g} of {_where(call)}"
        return "missing_factor", f"lacks the factor that {_where(call)} {_plainly(call)} it by"
    return "missing_factor", f"lacks the derivative of np.{call.name} in {_where(call)}"


def _frozen(call: Call, before: list[Call]) -> tuple[str, str]:
    if call.name in ("add", "subtract") and sum(call.moves) > 1:
        residual = call.name == "add" and any(_is_input(array, before) for array in call.inputs)
        kind = "accumulation" if residual or any(call.is_argument) else "missing_term"
        return kind, f"lacks one of the two paths that meet in {_where(call)}; their gradients add up"
    if call.name in BILINEAR and sum(call.moves) > 1:
        return "missing_term", f"lacks one half of the product rule in {_where(call)}: both factors depend on it"
    return "missing_term", f"lacks what comes back through np.{call.name} in {_where(call)}"


def _is_input(array: Array, calls: list[Call]) -> bool:
    """Whether an earlier call reads the same array, in whatever shape: it has another use."""
    return bool(array.ndim) and any(
        array.size == other.size and np.array_equal(array.reshape(-1), other.reshape(-1))
        for call in calls
        for other in call.inputs
    )


def _where(call: Call) -> str:
    return f"`{call.line}`" if call.line else f"a call of np.{call.name}"


def _plainly(call: Call) -> str:
    names = {"add.reduce": "sum", "maximum.reduce": "maximum", "multiply": "multiplies", "divide": "divides"}
    return names.get(call.name, call.name)
