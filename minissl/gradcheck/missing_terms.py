"""Hypotheses about a term that is missing: a mean, a path, an example, a use."""

from __future__ import annotations

import itertools

import numpy as np

from minissl.backend import Array
from minissl.gradcheck.evidence import Evidence, listed, slope_of
from minissl.gradcheck.report import Finding
from minissl.gradcheck.slips import SUMS, find_rarer_slip, find_slip
from minissl.gradcheck.trace import Slip

MOST_USES = 8
FEWEST_LEFT = 4  # numbers of a matrix that a row's part and a column's part do not explain


def skips_an_addend(e: Evidence) -> Finding | None:
    """What is missing is dy itself: the path of a residual connection."""
    if e.dy is None or e.dy.shape != e.x.shape or e.x.size < 2:
        return None
    share = e.multiple(e.expected - e.got, e.dy)
    if share is None or slope_of(e) is not None:
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
        much = "lacks" if share > 0 else "has too much of"
        said = f"{much} {abs(share):.6g} {e.name}, a term along the argument itself: a regulariser, a square?"
        return e.finding("missing_term", said, axis=None, along=e.name)
    for constant_too in (False, True):
        for axis in reversed(range(e.x.ndim)):
            for name, array in arrays.items():
                if e.x.shape[axis] > 2 + constant_too and _spans(e, missing, array, axis, constant_too):
                    return e.finding("missing_term", _along(name, axis, constant_too), axis=axis, along=name)
    if e.jacobian is not None and e.dy is not None and e.dy.shape == e.x.shape:
        own = (np.diagonal(e.jacobian) * e.dy.reshape(-1)).reshape(e.x.shape)
        if e.same(e.got, own):
            said = "is the diagonal of the Jacobian alone: each entry of x also changes the other entries of y"
            return e.finding("missing_term", said, axis=None, along="diagonal")
    return None


def sums_over_the_wrong_axis(e: Evidence) -> Finding | None:
    """What is off is a sum along one axis for one along another, by itself or times an array at hand."""
    missing = e.expected - e.got
    arrays = {"": np.ones_like(missing), **e.known()}
    if "y" in arrays:
        with np.errstate(over="ignore"):
            arrays["exp(y)"] = np.exp(arrays["y"])
    for axis, other in itertools.combinations(range(e.x.ndim), 2):
        n, m = e.x.shape[axis], e.x.shape[other]
        if (n - 1) * (m - 1) * (e.x.size // max(n * m, 1)) < FEWEST_LEFT:
            continue  # a sum of a row's and a column's part would fit anything
        for name, array in arrays.items():
            if np.abs(array).min() <= 1e-9 * np.abs(array).max():
                continue
            share = missing / array
            across = share - share.mean(axis=axis, keepdims=True)
            left = across - across.mean(axis=other, keepdims=True)
            if e.same(missing, missing - left * array):
                times = f", times {name}," if name else ""
                said = (
                    f"is off by something along axis {axis}{times} less something along axis {other}: is a sum, or a "
                    "mean, taken over the wrong one of the two?"
                )
                return e.finding("missing_term", said, axes=(axis, other), along=name or "constant")
    return None


def _sum_invariant(e: Evidence, axis: int) -> str:
    sums = e.expected.sum(axis=axis)
    if np.abs(sums).max() > 1e-7 * np.abs(e.expected).max():
        return ""
    worst = e.got.sum(axis=axis).flat[np.abs(e.got.sum(axis=axis)).argmax()]
    return f"; the right gradient sums to 0 over that axis, this one to {worst:.3g}"


def _along(name: str, axis: int, constant_too: bool) -> str:
    mean = ", and by a constant (a mean term)" if constant_too else ""
    return (
        f"is off, in each row of axis {axis}, by a multiple of {name}{mean}: that is the term through which one entry "
        "changes all others of its row (softmax's sum, layer norm's variance); it is missing or wrong"
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
                if i == n - 1 and _is_overwritten(e, part):
                    said += ": a loop that keeps the last (`=` for `+=`)?"
                    return e.finding("accumulation", said, axis=axis, index=i)
                return e.finding("missing_term", said, axis=axis, index=i)
    return None


def _is_overwritten(e: Evidence, part: Array) -> bool:
    """Whether the forward uses the argument several times, and its entries get more than this part."""
    several = e.uses is not None and len(e.uses(e.got)) > 1
    return several and not e.vanishes(np.where(e.vanishes_at(part), 0, e.expected - part))


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
    return _keeps_one(e, e.jacobian * e.dy.reshape(-1), "outputs")


def keeps_one_step(e: Evidence) -> Finding | None:
    """Each entry keeps what comes back from one index of an axis of y, as from one step of a loop."""
    if e.jacobian is None or e.dy is None or e.dy.ndim < 2:
        return None
    terms = (e.jacobian * e.dy.reshape(-1)).reshape(-1, *e.dy.shape)
    for axis, n in enumerate(e.dy.shape):
        by_step = terms.sum(axis=tuple(a + 1 for a in range(e.dy.ndim) if a != axis))
        found = _keeps_one(e, by_step, f"steps along axis {axis} of y") if n > 1 else None
        if found is not None:
            return found
    return None


def _keeps_one(e: Evidence, terms: Array, which: str) -> Finding | None:
    """`terms`: (x.size, number of parts), what each part sends to each entry."""
    size = np.abs(e.expected).max()
    wrong = np.abs(e.got - e.expected).reshape(-1) > e.alike * size
    nearest = np.abs(terms - e.got.reshape(-1, 1)).min(axis=1)
    several = (np.abs(terms) > 1e-9 * size).sum(axis=1) > 1
    kept = np.abs(e.got.reshape(-1)) > 1e-6 * size
    if wrong.any() and kept[wrong].mean() > 0.5 and (nearest[wrong] <= e.alike * size).all() and several[wrong].all():
        said = (
            f"keeps the gradient from one of several {which}, where all add up: `=` for `+=`, or `+=` through an index?"
        )
        return e.finding("accumulation", said, uses=None)
    return None


def loses_a_use(e: Evidence) -> Finding | None:
    """The argument enters several times, and the gradient of some of these uses only comes back."""
    if e.uses is None:
        return None
    rng = np.random.default_rng(31_611)
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
            return _uses_said(e, n, counts, matters)
    return None


def _uses_said(e: Evidence, n: int, counts: tuple[int, ...], matters: Array) -> Finding:
    if slope_of(e) is not None:
        said = f"lacks a term: {e.name} enters its formula {n} times, and the product rule has a term for each"
        return e.finding("missing_term", said, axis=None, along=e.name)
    calls = [] if e.suspect is None else [c for c in e.suspect.trace.calls for own in c.is_argument if own]
    if len(calls) == len(matters):  # seen call by call
        used = [call for call, m in zip(calls, matters, strict=True) if m]
        lost_calls = [call for call, c in zip(used, counts, strict=True) if c == 0]
        if 2 not in counts and lost_calls and all(call.name in SUMS for call in lost_calls):
            call = lost_calls[0]
            said = f"lacks what comes back through the {call.name} in `{call.line}`: one entry changes the others"
            return e.finding("missing_term", said, axis=None, along=None)
    lost = [i + 1 for i, c in enumerate(counts) if c == 0]
    twice = [i + 1 for i, c in enumerate(counts) if c == 2]
    parts = []
    if lost:
        parts.append(f"lacks {'use' if len(lost) == 1 else 'uses'} {listed(lost)} of {n}")
    if twice:
        parts.append(f"counts {'use' if len(twice) == 1 else 'uses'} {listed(twice)} of {n} twice")
    said = f"{' and '.join(parts)}: {e.name} enters {n} times, and the gradients of all its uses add up (`+=`, not `=`)"
    return e.finding("accumulation", said, uses=n, counts=counts)


def makes_one_slip(e: Evidence) -> Finding | None:
    """Some call of the forward pass is differentiated wrongly, and all others rightly."""
    if e.suspect is None:
        return None
    found = find_slip(e.suspect, max(e.alike, 1e-7))
    return None if found is None else _slip_said(e, found)


def makes_a_rarer_slip(e: Evidence) -> Finding | None:
    """So does a loop in every round, or a step of the derivation that takes several calls."""
    if e.suspect is None:
        return None
    found = find_rarer_slip(e.suspect, max(e.alike, 1e-7))
    return None if found is None else _slip_said(e, found)


def _slip_said(e: Evidence, found: tuple[str, str, Slip]) -> Finding:
    assert e.suspect is not None
    kind, said, slip = found
    call = e.suspect.trace.calls[slip.call]
    return e.finding(kind, said, call=call.name, line=call.line, slip=slip.how)
