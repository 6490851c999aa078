"""Why a gradient is wrong: hypotheses, tried in order, the plainest first.

Each looks at what backward returned (`got`) beside the numerical gradient (`expected`), may ask the experiment for
more, and returns a finding where everything that was seen follows from one slip. The first one that does is reported.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from minissl.backend import Array
from minissl.gradcheck.experiment import Experiment
from minissl.gradcheck.factors import explain_factor
from minissl.gradcheck.numerical import incorrect
from minissl.gradcheck.report import ArgumentReport, Finding
from minissl.gradcheck.slips import Suspect, find_slip

ALIKE = 1e-5  # of the larger one: numerical gradients are good to 1e-8 and better
MOST_USES = 8


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


def diagnose(evidence: Evidence) -> Finding:
    """Return the first hypothesis that explains a gradient of the right shape, or say that none does."""
    for hypothesis in HYPOTHESES:
        finding = hypothesis(evidence)
        if finding is not None:
            return finding
    return incorrect(evidence.record, where_wrong(evidence))


def where_wrong(e: Evidence) -> str:
    """Say which part of an axis holds all the error, if only a part does."""
    wrong = np.abs(e.got - e.expected) > 10 * e.alike * np.abs(e.expected).max(initial=0)
    if not wrong.any():
        return ""
    parts = []
    for axis, n in enumerate(e.x.shape):
        at = np.flatnonzero(wrong.any(axis=tuple(a for a in range(e.x.ndim) if a != axis)))
        if len(at) < n:
            shown = ", ".join(map(str, at[:5])) + (", …" if len(at) > 5 else "")
            parts.append(f"index {shown} of axis {axis}")
    return f"; wrong only at {' and '.join(parts)}" if parts else ""


# ---- the whole gradient at once


def is_zero(e: Evidence) -> Finding | None:
    """Nothing comes back at all."""
    if e.got.any():
        return None
    return e.finding("zero", "is exactly zero everywhere, and it should not be: does anything reach this argument?")


def should_be_zero(e: Evidence) -> Finding | None:
    """y does not depend on the argument at all, as attention does not on a bias of its keys."""
    largest = max((float(np.abs(right).max(initial=0)) for right in e.rights.values()), default=0.0)
    if not largest or np.abs(e.expected).max(initial=0) > 1e-8 * largest:
        return None
    said = f"should be zero, because y does not change with {e.name}; it is {e.record.got:.3g} at {e.record.index}"
    return e.finding("incorrect", said, got=e.record.got, expected=0.0)


def should_be_zero_in_part(e: Evidence) -> Finding | None:
    """Entries of a vector that y does not depend on, such as the key part of a joint bias, are given a gradient."""
    size = np.abs(e.expected).max()
    dead = np.abs(e.expected) <= 1e-9 * size
    wrong = np.abs(e.got - e.expected) > 1e-6 * size
    if e.x.ndim != 1 or not wrong.any() or (wrong & ~dead).any() or _elementwise_slope(e) is not None:
        return None
    at = np.flatnonzero(wrong)
    said = f"should be zero at entries {_listed(at.tolist())}, which y does not depend on, and is not"
    return Finding("incorrect", e.name, (int(at[0]),), f"the gradient of {e.name} {said}", {"entries": at.tolist()})


def lacks_upstream(e: Evidence) -> Finding | None:
    """Backward returns the same whatever dy is."""
    other = e.again()
    if other is None or not e.same(other[1], e.got):
        return None
    said = "does not depend on the upstream gradient dy: is the factor dy left out? (It shows wherever dy is not 1.)"
    return e.finding("missing_factor", said, factor="dy")


def is_multiple(e: Evidence) -> Finding | None:
    """Right but for a constant."""
    factor = e.multiple(e.got, e.expected)
    if factor is None:
        return None
    if abs(factor + 1) <= e.alike:
        return e.finding("sign", "is right but for its sign: a minus is lost or one too many")
    reasons = explain_factor(factor, e.values, e.y, e.dy)
    sign = " and its sign is wrong" if factor < 0 else ""
    probably = f" (that is {' or '.join(reasons)})" if reasons else ""
    said = f"is {abs(factor):.6g} times the right one everywhere{sign}{probably}"
    return e.finding("scale", said, factor=factor, reasons=reasons)


def is_transposed(e: Evidence) -> Finding | None:
    """Right after a permutation of axes that leaves the shape as it is."""
    said = permuted(e.got, e.expected, e)
    return None if said is None else e.finding("transposed", said[0], axes=said[1])


def permuted(got: Array, expected: Array, e: Evidence) -> tuple[str, tuple[int, ...]] | None:
    """Say by which permutation `got` becomes `expected`, a transpose or a reshape that stands for one."""
    axes = range(expected.ndim)
    for p in itertools.permutations(axes):
        if p == tuple(axes):
            continue
        turned = expected.transpose(p)
        swapped = [a for a in axes if p[a] != a]
        which = " and ".join(map(str, swapped)) if len(swapped) == 2 else f"in the order {p}"
        if turned.shape == got.shape and e.multiple(got, turned) is not None:
            factor = e.multiple(got, turned) or 1.0
            times = "" if abs(factor - 1) <= e.alike else f", times {factor:.6g}"
            return (
                f"is right after its axes {which} are swapped back{times}: is a transpose missing or one too many?",
                p,
            )
        if turned.size == got.size and e.same(got.reshape(-1), turned.reshape(-1)):
            return f"holds the right numbers in the wrong order: a reshape where axes {which} must be swapped?", p
    return None


def is_of_another(e: Evidence) -> Finding | None:
    """It is the gradient of another argument."""
    for name, right in e.rights.items():
        if name == e.name or right.size < 2 or not e.same(e.got, right):
            continue
        if e.dy is not None and e.same(e.gots[name], right) and e.same(right, _summed_to(e.dy, right.shape)):
            said = f"is that of {name}, a plain sum of dy: what {e.name} was multiplied with is left out"
            return e.finding("missing_factor", said, factor=None)
        said = f"is the gradient of {name}: are the two returned in the wrong order, or multiplied the wrong way?"
        return e.finding("incorrect", said, gradient_of=name)
    return None


def _summed_to(a: Array, shape: tuple[int, ...]) -> Array:
    """Sum the leading axes away that `shape` does not have."""
    return a.sum(axis=tuple(range(a.ndim - len(shape)))) if a.ndim >= len(shape) else a


def is_shifted(e: Evidence) -> Finding | None:
    """The numbers are right, but moved along an axis, or in reverse."""
    for axis, n in enumerate(e.x.shape):
        for moved, how in [(np.flip(e.expected, axis), "in reverse"), *_rolled(e.expected, axis, n)]:
            if e.same(e.got, moved):
                said = f"holds the right numbers at wrong places: along axis {axis} they come {how}"
                return e.finding("incorrect", said, axis=axis)
    return None


def _rolled(a: Array, axis: int, n: int) -> Iterator[tuple[Array, str]]:
    return ((np.roll(a, k, axis), f"{k} of {n} places too late") for k in range(1, n))


def is_summed_too_far(e: Evidence) -> Finding | None:
    """Summed over an axis of the argument itself, and spread over it again."""
    for axes in _subsets(e.x.ndim):
        summed = np.broadcast_to(e.expected.sum(axis=axes, keepdims=True), e.x.shape)
        if any(e.x.shape[a] > 1 for a in axes) and e.same(e.got, summed):
            said = f"was summed over axis {_listed(list(axes))}, along which {e.name} was not broadcast"
            return e.finding("unsummed_broadcast", said, axes=axes)
    return None


# ---- positions


def repeats_are_lost(e: Evidence) -> Finding | None:
    """Rows of a table that are looked up more than once, or also used otherwise, keep one gradient."""
    if not e.x.ndim or not e.x.size:
        return None
    got, expected = e.got.reshape(len(e.x), -1), e.expected.reshape(len(e.x), -1)
    wrong = np.flatnonzero(np.abs(got - expected).max(axis=1) > e.alike * np.abs(e.expected).max())
    if got.shape[1] > 1 and all(e.multiple(got[row], expected[row]) is not None for row in wrong):
        return None  # each is the right row times something: a mean
    for name, ids in e.values.items():
        if not (isinstance(ids, np.ndarray) and ids.dtype.kind in "iu" and ids.size) or ids.max() >= len(e.x):
            continue
        rows, counts = np.unique(ids, return_counts=True)
        if got.shape[1] == 1 and e.same(got[rows, 0] * counts, expected[rows, 0]):
            continue
        if set(wrong) <= set(rows[counts > 1]):
            what = f"the rows that {name} holds more than once"
        elif set(wrong) <= set(rows) and _is_looked_up(e) and np.delete(expected, rows[rows >= 0], axis=0).any():
            what = f"the rows that {name} looks up, which also have another use"
        else:
            continue
        said = (
            f"is wrong at {what} ({_listed(wrong.tolist())}) and right elsewhere: every use must be added "
            "(np.add.at; `=` keeps one, and so does `+=` through an index)"
        )
        return e.finding("accumulation", said, rows=wrong.tolist())
    return None


def _is_looked_up(e: Evidence) -> bool:
    """Whether the forward pass reads rows of the argument by index."""
    calls = [] if e.suspect is None else e.suspect.trace.calls
    return any(call.name in ("getitem", "take") and any(call.is_argument) for call in calls)


def excluded_get_gradient(e: Evidence) -> Finding | None:
    """Positions that the mask or the loss leaves out, whose true gradient is zero, are given one."""
    size = np.abs(e.expected).max()
    dead = np.abs(e.expected) <= 1e-9 * size
    touched = dead & (np.abs(e.got) > 1e-6 * size)
    if not touched.any() or dead.all():
        return None
    excluded = _excluded_by(e, dead)
    whole_rows = e.x.ndim > 1 and e.x.shape[-1] > 1 and bool((dead == dead.all(axis=-1, keepdims=True)).all())
    if excluded is None and not whole_rows:
        return None
    rest_right = e.multiple(e.got[~dead], e.expected[~dead]) is not None
    if not rest_right and not _right_without_masks(e):
        return None
    first = tuple(int(i) for i in np.argwhere(touched)[0])
    by = f"{excluded} excludes" if excluded else "the mask or the loss excludes"
    said = f"is not zero at positions that {by}, the first at {first}: what is hidden or ignored gets no gradient"
    return Finding("ignored_positions", e.name, first, f"the gradient of {e.name} {said}", {"excluded_by": excluded})


def _masks(e: Evidence) -> list[str]:
    """Name the inputs that can exclude positions: booleans, zeros and ones, negative labels."""
    arrays = {n: v for n, v in e.values.items() if isinstance(v, np.ndarray) and v.size}
    return [
        n
        for n, v in arrays.items()
        if v.dtype.kind == "b" or (v.dtype.kind in "iu" and ((v < 0).any() or set(np.unique(v).tolist()) == {0, 1}))
    ]


def _excluded_by(e: Evidence, dead: Array) -> str | None:
    """Name the input whose false, zero or negative entries are just where the true gradient is zero."""
    for name in _masks(e):
        mask = e.values[name]
        hidden = ~mask if mask.dtype.kind == "b" else (mask < 0 if (mask < 0).any() else mask == 0)
        for shown in (hidden, np.squeeze(hidden)):
            for trailing in range(e.x.ndim - shown.ndim + 1):
                lined_up = shown.reshape(*shown.shape, *(1,) * trailing)
                try:
                    same = bool((np.broadcast_to(lined_up, dead.shape) == dead).all())
                except ValueError:
                    continue
                if same and (trailing or e.x.ndim == 1 or shown.shape == dead.shape):
                    return name
    return None


def _right_without_masks(e: Evidence) -> bool:
    """Whether the gradient is right once every mask lets everything through."""
    changes = {}
    for name in _masks(e):
        mask = e.values[name]
        if mask.dtype.kind == "b" or not (mask < 0).any():
            changes[name] = np.ones_like(mask)
    return bool(changes) and _right_with(e, changes)


def _right_with(e: Evidence, changes: dict[str, Any]) -> bool:
    """Whether the gradient is right, and not zero, with some inputs replaced: three directions tell."""
    if e.lab is None or e.dy is None:
        return False
    lab = Experiment(e.lab.forward, e.lab.backward, {**e.lab.values, **changes})
    rng = np.random.default_rng(5)
    try:
        with np.errstate(all="ignore"):
            got = lab.gradients(e.dy)[e.name]
            directions = [rng.standard_normal(e.x.shape) for _ in range(3)]
            right = np.array([lab.slope(e.name, u, e.dy) for u in directions])
    except Exception:  # a forward need not accept what was replaced
        return False
    return bool(np.abs(right).min() > 0) and e.same(np.array([(got * u).sum() for u in directions]), right)


# ---- factors


def elementwise_slope(e: Evidence) -> Finding | None:
    """Of an elementwise function: which factor or term of its slope is missing."""
    other = e.again()
    slope = _elementwise_slope(e)
    if slope is None or other is None or e.dy is None or e.y is None:
        return None
    ours = e.got / e.dy
    if not e.same(other[1] / other[0], ours):
        return None
    if e.same(ours, np.full_like(ours, ours.flat[0])):
        return e.finding("missing_factor", "is dy times a constant: the derivative of the function is left out")
    if e.same(np.where(slope == 0, 0, ours), slope):
        return e.finding(
            "missing_factor", "is not zero where the function is flat: is a mask, or a comparison, left out?"
        )
    missing = slope - ours
    for where, side in ((e.x < 0, "x < 0"), (e.x > 0, "x > 0")):
        if where.any() and not where.all() and e.same(np.where(where, 0, ours), np.where(where, 0, slope)):
            return e.finding(
                "missing_factor", f"is wrong where {side} and right elsewhere: is that branch's slope left out?"
            )
    if e.same(missing, np.full_like(missing, missing.flat[0])):
        said = f"lacks a constant, {missing.flat[0]:.6g}, in the function's derivative"
        return e.finding("missing_term", said, axis=None, along=None)
    known = e.known()
    with np.errstate(all="ignore"):
        gate = np.where(e.x != 0, e.y / e.x, ours)
        if e.same(gate, ours) or e.same(gate, missing):
            said = "is one half of a product rule: y = x · g(x) has the derivative g(x) + x g'(x)"
            return e.finding("missing_term", said, axis=None, along="x")
        for name, formula, factor in _functions_of(known):
            if e.same(ours * factor, slope):
                return e.finding("missing_factor", f"lacks the factor {formula}", factor=formula, array=name)
        for name, formula, term in _functions_of(known):
            if e.multiple(missing, term) is not None:
                said = f"lacks a term of the derivative, a multiple of {formula}"
                return e.finding("missing_term", said, axis=None, along=name)
    return None


def _elementwise_slope(e: Evidence) -> Array | None:
    """The derivative of y_i by x_i, where no other x enters y_i; None otherwise."""
    if e.jacobian is None or e.y is None or e.y.shape != e.x.shape or e.x.size < 2:
        return None
    slope = np.diagonal(e.jacobian)
    if np.abs(e.jacobian - np.diag(slope)).max() > 1e-7 * np.abs(slope).max():
        return None
    slope = np.where(np.abs(slope) > 1e-9 * np.abs(slope).max(), slope, 0)
    return slope.reshape(e.x.shape)


def _functions_of(arrays: dict[str, Array]) -> Iterator[tuple[str, str, Array]]:
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


def lacks_factor(e: Evidence) -> Finding | None:
    """Right after multiplying by something that does not depend on dy: a gain, 1/σ, a mask, a slope."""
    other = e.again()
    if other is None or e.dy is None or _elementwise_slope(e) is not None:
        return None
    _, got, expected = other
    tiny = 1e-9 * np.abs(e.expected).max()
    if (np.abs(e.expected[np.abs(e.got) <= tiny]) > 1e-6 * np.abs(e.expected).max()).any():
        return None  # what is lost altogether, no factor brings back
    with np.errstate(all="ignore"):
        ratio = np.where(np.abs(e.got) > tiny, e.expected / e.got, 0)
        if not e.same(got * ratio, expected):
            return None
        whole = ratio != 0
        for name, formula, factor in _functions_of(e.known()):
            if e.same(np.where(whole, factor, 0), ratio):
                return e.finding("missing_factor", f"lacks the factor {formula}", factor=formula, array=name)
            if e.same(np.where(whole, 1 / factor, 0), ratio):
                said = f"has the factor {formula} once too often"
                return e.finding("missing_factor", said, factor=formula, array=name)
    if e.dy.size == 1:
        return None  # a ratio always exists; that it does not depend on dy says nothing
    return e.finding("missing_factor", f"lacks {_described(ratio, e)}", factor=None)


def _described(ratio: Array, e: Evidence) -> str:
    """Say on which axes a factor depends."""
    depends = [a for a in range(ratio.ndim) if ratio.shape[a] > 1 and not e.same(ratio, _flattened(ratio, a))]
    if depends == [ratio.ndim - 1]:
        return "a factor that has one value for each entry of the last axis, as a gain has"
    if depends and ratio.ndim - 1 not in depends:
        return "a factor that has one value for each row, as 1/σ, 1/‖x‖ or 1/count have"
    return "an elementwise factor that does not depend on dy: a derivative, a gain or a mask is left out"


def _flattened(a: Array, axis: int) -> Array:
    return np.broadcast_to(a.take([0], axis=axis), a.shape)


def right_at_neutral_values(e: Evidence) -> Finding | None:
    """Right once dropout is off, a mask lets everything through, or a gain is 1: that is where the slip is."""
    for name, value in e.values.items():
        if name == e.name or not isinstance(name, str):
            continue
        if isinstance(value, np.random.Generator) and _right_with(e, {name: None}):
            said = f"is right without dropout ({name}=None): is the mask of what was kept left out, or used once only?"
            return e.finding("missing_factor", said, factor="dropout")
        if isinstance(value, float) and 0 < value < 1 and _right_with(e, {name: 0.0}):
            said = f"is right at {name} = 0: is a mask of what was kept, or a factor with {name} in it, left out?"
            return e.finding("missing_factor", said, factor=name)
        if not isinstance(value, np.ndarray) or value.size < 2:
            continue
        if name in _masks(e) and (value >= 0).all() and _right_with(e, {name: np.ones_like(value)}):
            said = f"is right where {name} lets everything through: is the mask forgotten on the way back?"
            return e.finding("missing_factor", said, factor=name)
        if value.dtype.kind != "f":
            continue
        if value.ndim == 1 and _right_with(e, {name: (value + value[::-1]) / 2}):
            return e.finding(
                "incorrect", f"is right where {name} is its own mirror image: it must be reversed", of=name
            )
        if max(value.shape) == value.size and _right_with(e, {name: np.ones_like(value)}):
            said = f"is right at {name} = 1: {name} is left out, or pulled out of a sum that it belongs in"
            return e.finding("missing_factor", said, factor=name)
        square = value.ndim > 1 and value.shape[-1] == value.shape[-2]
        if square and _right_with(e, {name: (value + value.swapaxes(-1, -2)) / 2}):
            said = f"is right where {name} is symmetric: {name} must be transposed on the way back"
            return e.finding("transposed", said, of=name)
    return None


# ---- terms


def skips_an_addend(e: Evidence) -> Finding | None:
    """What is missing is dy itself: the path of a residual connection."""
    if e.dy is None or e.dy.shape != e.x.shape or e.x.size < 2:
        return None
    share = e.multiple(e.expected - e.got, e.dy)
    if share is None or _elementwise_slope(e) is not None:
        return None
    if e.uses is not None and len(e.uses(e.dy)) == 1:
        return e.finding("missing_term", f"is off by {share:.6g} dy", axis=None, along="dy")
    if share > 0:
        said = f"lacks dy itself: {e.name} also reaches y directly (a residual connection), and both paths add up"
    else:
        said = "has dy once too often: is the path around the layer added twice?"
    return e.finding("accumulation", said, missing="dy", factor=share)


def lacks_structured_term(e: Evidence) -> Finding | None:
    """What is missing is constant along an axis, or along an array at hand within each row."""
    missing = e.expected - e.got
    for axis in reversed(range(e.x.ndim)):
        n = e.x.shape[axis]
        if n > 2 and e.same(missing, np.broadcast_to(missing.mean(axis=axis, keepdims=True), missing.shape)):
            said = (
                f"is off by something constant along axis {axis}: a mean term, such as layer norm and softmax subtract"
                + _sum_invariant(e, axis)
            )
            return e.finding("missing_term", said, axis=axis, along="constant")
    arrays = e.known()
    if "y" in arrays:
        with np.errstate(over="ignore"):
            arrays["exp(y)"] = np.exp(arrays["y"])
    share = e.multiple(missing, e.x)
    if share is not None:
        said = f"lacks {share:.6g} {e.name}, a term along the argument itself: a regulariser, a square?"
        return e.finding("missing_term", said, axis=None, along=e.name)
    for constant_too in (False, True):
        for axis in reversed(range(e.x.ndim)):
            for name, array in arrays.items():
                if e.x.shape[axis] > 2 + constant_too and _spans(e, missing, array, axis, constant_too):
                    return e.finding("missing_term", _along(e, name, axis, missing), axis=axis, along=name)
    if e.jacobian is not None and e.dy is not None and e.dy.shape == e.x.shape:
        own = (np.diagonal(e.jacobian) * e.dy.reshape(-1)).reshape(e.x.shape)
        if e.same(e.got, own):
            said = "is the diagonal of the Jacobian alone: each entry of x also changes the other entries of y"
            return e.finding("missing_term", said, axis=None, along="diagonal")
    return None


def _sum_invariant(e: Evidence, axis: int) -> str:
    sums = e.expected.sum(axis=axis)
    if np.abs(sums).max() > 1e-7 * np.abs(e.expected).max():
        return ""
    worst = e.got.sum(axis=axis).flat[np.abs(e.got.sum(axis=axis)).argmax()]
    return f"; the right gradient sums to 0 over that axis, this one to {worst:.3g}"


def _along(e: Evidence, name: str, axis: int, missing: Array) -> str:
    what = "itself" if name == e.name else "at hand"
    both = np.abs(missing.mean(axis=axis)).max() > 1e-3 * np.abs(missing).max()
    mean = ", with a part that is constant (a mean term)" if both and name == e.name else ""
    return (
        f"is off by a multiple of {name} {what} in each row of axis {axis}{mean}: the term by which one entry changes "
        "all others, such as layer norm's variance or softmax's sum"
    )


def _spans(e: Evidence, missing: Array, array: Array, axis: int, constant_too: bool) -> bool:
    """Whether in each row along `axis`, `missing` is a multiple of `array` (plus a constant)."""
    rows, basis = np.moveaxis(missing, axis, -1), np.moveaxis(array, axis, -1)
    rows, basis = rows.reshape(-1, rows.shape[-1]), basis.reshape(-1, basis.shape[-1])
    if constant_too:
        basis = basis - basis.mean(axis=1, keepdims=True)
        mean = rows.mean(axis=1, keepdims=True)
    else:
        mean = np.zeros((len(rows), 1))
    squares = (basis * basis).sum(axis=1, keepdims=True)
    if not (squares > 1e-12 * squares.max(initial=0)).any():
        return False
    share = ((rows - mean) * basis).sum(axis=1, keepdims=True) / np.where(squares > 0, squares, 1)
    return e.same(rows, mean + share * basis)


def misses_one_entry_a_row(e: Evidence) -> Finding | None:
    """The gradient is right but at the places that an integer input names: the -1 of p - onehot(target)."""
    off = np.abs(e.got - e.expected) > 10 * e.alike * np.abs(e.expected).max()
    for name, ids in e.values.items():
        if not (isinstance(ids, np.ndarray) and ids.dtype.kind in "iu" and ids.size) or not off.any():
            continue
        for axis in {0, e.x.ndim - 1} if e.x.ndim else ():
            classes = e.x.shape[axis]
            if classes < 3 or ids.max() >= classes or len(np.unique(ids[ids >= 0])) == classes:
                continue
            if ids.shape == e.x.shape[:-1] and e.x.ndim > 1:
                named = (np.arange(classes) == ids[..., None]) & (ids >= 0)[..., None]
            else:
                one = np.isin(np.arange(classes), ids).reshape(-1, *(1,) * (e.x.ndim - 1 - axis))
                named = np.broadcast_to(one, e.x.shape)
            if named.shape == off.shape and not (off & ~named).any():
                said = f"is wrong only at the entries that {name} names: is the -1 of p - onehot({name}) right?"
                return e.finding("missing_term", said, axis=None, along=name)
    return None


def drops_outputs(e: Evidence) -> Finding | None:
    """What one example or position sends back is missing, or is all that there is."""
    if e.jacobian is None or e.dy is None or e.dy.size < 2:
        return None
    for axis, n in enumerate(e.dy.shape):
        for i in range(n if n > 1 else 0):
            alone = np.zeros_like(e.dy)
            at = (slice(None),) * axis + (i,)
            alone[at] = e.dy[at]
            part = (e.jacobian @ alone.reshape(-1)).reshape(e.x.shape)
            if e.vanishes(part):
                continue
            if e.same(e.got, e.expected - part):
                said = (
                    f"lacks what comes back from index {i} of axis {axis} of y: is that example or position left out?"
                )
                return e.finding("missing_term", said, axis=axis, index=i)
            if n > 2 and e.same(e.got, part):
                said = f"comes from index {i} of axis {axis} of y alone, and all {n} add up"
                return e.finding("missing_term", said, axis=axis, index=i)
    return None


def keeps_one_row(e: Evidence) -> Finding | None:
    """A vector that was broadcast over rows gets one row of dy for the sum of all."""
    if e.dy is not None and e.dy.ndim and e.dy.shape[-1:] == e.x.shape and e.x.size > 1:
        rows = e.dy.reshape(-1, e.x.size)
        for i, row in enumerate(rows):
            if e.same(e.got, row) and e.same(e.expected, rows.sum(axis=0)) and len(rows) > 1:
                said = f"is row {i} of dy alone: {e.name} was broadcast over {len(rows)} rows, so their sum is due"
                return e.finding("unsummed_broadcast", said, row=i)
    return None


def keeps_one_output(e: Evidence) -> Finding | None:
    """Each entry keeps what comes back from one output, where several add up: `=` for `+=` through an index."""
    if e.jacobian is None or e.dy is None or e.dy.size < 2:
        return None
    terms = e.jacobian * e.dy.reshape(-1)  # (x.size, y.size): what each output sends to each entry
    size = np.abs(e.expected).max()
    wrong = np.abs(e.got - e.expected).reshape(-1) > e.alike * size
    nearest = np.abs(terms - e.got.reshape(-1, 1)).min(axis=1)
    several = (np.abs(terms) > 1e-9 * size).sum(axis=1) > 1
    if wrong.any() and (nearest[wrong] <= e.alike * size).all() and several[wrong].all():
        said = (
            "keeps the gradient from one of several outputs, where all add up: `=` for `+=`, or `+=` through an index?"
        )
        return e.finding("accumulation", said, uses=None)
    return None


def loses_a_use(e: Evidence) -> Finding | None:
    """The argument enters several times, and the gradient of some of these uses only comes back."""
    if e.uses is None:
        return None
    rng = np.random.default_rng(2)
    directions = [rng.standard_normal(e.x.shape) for _ in range(4)]
    table = np.array([e.uses(u) for u in directions])  # (directions, uses)
    if table.ndim != 2 or not 2 <= table.shape[1] <= MOST_USES:
        return None
    got = np.array([(e.got * u).sum() for u in directions])
    expected = np.array([(e.expected * u).sum() for u in directions])
    if not e.same(table.sum(axis=1), expected):
        return None  # a use was not seen
    matters = np.abs(table).max(axis=0) > 1e-9 * np.abs(table).max()
    n = int(matters.sum())
    for counts in itertools.product((1, 0, 2), repeat=n):
        if len(set(counts)) == 1 and counts[0] == 1:
            continue
        if n and e.same(table[:, matters] @ np.array(counts), got):
            return _uses_said(e, n, counts)
    return None


def _uses_said(e: Evidence, n: int, counts: tuple[int, ...]) -> Finding:
    if _elementwise_slope(e) is not None:
        said = f"lacks a term: {e.name} enters its formula {n} times, and the product rule has a term for each"
        return e.finding("missing_term", said, axis=None, along=e.name)
    lost = [i + 1 for i, c in enumerate(counts) if c == 0]
    twice = [i + 1 for i, c in enumerate(counts) if c == 2]
    parts = []
    if lost:
        parts.append(f"lacks {'use' if len(lost) == 1 else 'uses'} {_listed(lost)} of {n}")
    if twice:
        parts.append(f"counts {'use' if len(twice) == 1 else 'uses'} {_listed(twice)} of {n} twice")
    said = f"{' and '.join(parts)}: {e.name} enters {n} times, and the gradients of all its uses add up (`+=`, not `=`)"
    return e.finding("accumulation", said, uses=n, counts=counts)


def _listed(items: list[int]) -> str:
    return ", ".join(map(str, items[:6])) + (", …" if len(items) > 6 else "")


def makes_one_slip(e: Evidence) -> Finding | None:
    """Some call of the forward pass is differentiated wrongly, and all others rightly."""
    if e.suspect is None:
        return None
    found = find_slip(e.suspect, max(e.alike, 1e-7))
    if found is None:
        return None
    kind, said, slip = found
    call = e.suspect.trace.calls[slip.call]
    return e.finding(kind, said, call=call.name, line=call.line, slip=slip.how)


HYPOTHESES: list[Callable[[Evidence], Finding | None]] = [
    is_zero,
    should_be_zero,
    lacks_upstream,
    is_multiple,
    is_transposed,
    is_of_another,
    is_shifted,
    repeats_are_lost,
    excluded_get_gradient,
    elementwise_slope,
    should_be_zero_in_part,
    lacks_factor,
    is_summed_too_far,
    skips_an_addend,
    lacks_structured_term,
    misses_one_entry_a_row,
    keeps_one_row,
    drops_outputs,
    keeps_one_output,
    loses_a_use,
    makes_one_slip,
    right_at_neutral_values,
]


# ---- a gradient of another shape, or seen at a sample of its entries only


def diagnose_shape(record: ArgumentReport, got: Array, expected: Array, e: Evidence) -> list[Finding]:
    """Explain a gradient whose shape is not its argument's: what is known of its values first, then the shape."""
    name, shape = record.name, record.shape
    plain = f"the gradient of {name} has shape {got.shape}; {name} has {shape}"
    details = {"got": got.shape, "expected": shape}

    def wrong_shape(hint: str) -> Finding:
        return Finding("wrong_shape", name, None, plain + hint, details)

    if not np.isfinite(expected).all() or not np.isfinite(got).all():
        return [wrong_shape("")]
    if got.size == expected.size and e.same(got.reshape(-1), expected.reshape(-1)):
        return [wrong_shape(": the numbers are right and in order, only the shape is lost (a reshape, keepdims?)")]
    for axes in _subsets(got.ndim):
        summed = got.sum(axis=axes)
        factor = e.multiple(summed.reshape(-1), expected.reshape(-1)) if summed.size == expected.size else None
        if factor is not None and _keeps_order(summed.shape, shape):
            times = "" if abs(factor - 1) <= e.alike else f" (and divided by {factor:.6g})"
            said = f"the gradient of {name} is right once it is summed over axis {_listed(list(axes))}{times}: "
            said += f"{name} was broadcast over it, and what is copied forward is summed backward"
            return [Finding("unsummed_broadcast", name, None, said, {"axes": axes}), wrong_shape(": a sum is missing")]
    for axes in _subsets(expected.ndim):
        summed = expected.sum(axis=axes)
        if summed.size == got.size and e.multiple(got.reshape(-1), summed.reshape(-1)) is not None:
            over = _listed(list(axes))
            said = f"the gradient of {name} was summed over axis {over}, along which {name} was not broadcast"
            return [Finding("unsummed_broadcast", name, None, said, {"axes": axes}), wrong_shape(": a sum too many")]
    turned = permuted(got, expected, e) if got.size == expected.size else None
    if turned is not None:
        said = f"the gradient of {name} {turned[0]}"
        return [Finding("transposed", name, None, said, {"axes": turned[1]}), wrong_shape(": its axes look swapped")]
    for other, right in e.rights.items():
        if other != name and e.same(got, right):
            return [wrong_shape(f": it is the gradient of {other}; are they returned in the wrong order?")]
    hint = ""
    if sorted(got.shape) == sorted(shape):
        hint = ": the axes look swapped"
    elif got.ndim > len(shape) or got.size > math.prod(shape):
        hint = ": is a sum over a broadcast axis missing?"
    elif got.size < math.prod(shape):
        hint = ": is it summed over an axis too many, or taken from another argument?"
    return [wrong_shape(hint)]


def _subsets(n: int) -> Iterator[tuple[int, ...]]:
    for size in range(1, n + 1):
        yield from itertools.combinations(range(n), size)


def _keeps_order(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return [n for n in a if n > 1] == [n for n in b if n > 1]


def diagnose_sample(record: ArgumentReport, got: Array, expected: Array, values: dict[str, Any]) -> Finding:
    """Explain a gradient of which only some derivatives are known."""
    e = Evidence(record, got, got, expected, {}, {}, values)
    for hypothesis in (is_zero, is_multiple):
        finding = hypothesis(e)
        if finding is not None:
            return finding
    return incorrect(record)
