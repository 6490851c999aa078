"""Hypotheses about a whole gradient: none, a multiple, a transpose, another argument's, numbers at wrong places."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from minissl.backend import Array
from minissl.gradcheck.evidence import Evidence, listed, slope_of, subsets
from minissl.gradcheck.factors import explain_factor
from minissl.gradcheck.report import Finding

MOST_MOVED = 2000  # entries of dy


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
    said = f"should be zero, because y does not change with {e.name}; it is up to {np.abs(e.got).max():.3g}"
    return e.finding("incorrect", said, got=e.record.got, expected=0.0)


def should_be_zero_in_part(e: Evidence) -> Finding | None:
    """Entries of a vector that y does not depend on, such as the key part of a joint bias, are given a gradient."""
    size = np.abs(e.expected).max()
    dead = np.abs(e.expected) <= 1e-9 * size
    wrong = np.abs(e.got - e.expected) > 1e-6 * size
    if e.x.ndim != 1 or not wrong.any() or (wrong & ~dead).any() or slope_of(e) is not None:
        return None
    at = np.flatnonzero(wrong)
    said = f"should be zero at entries {listed(at.tolist())}, which y does not depend on, and is not"
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
    if abs(factor - 1) <= 1e-4:
        return e.finding("scale", f"is off by a factor of 1 {factor - 1:+.2g} everywhere", factor=factor, reasons=[])
    reasons = explain_factor(factor, e.values, e.y, e.dy)
    sign = " and its sign is wrong" if factor < 0 else ""
    probably = f" (that is {' or '.join(reasons)})" if reasons else ""
    said = f"is {abs(factor):.6g} times the right one everywhere{sign}{probably}"
    return e.finding("scale", said, factor=factor, reasons=reasons)


def is_transposed(e: Evidence) -> Finding | None:
    """Right after a permutation of axes that leaves the shape as it is."""
    said = permuted(e.got, e.expected, e)
    if said is None and e.y is not None and e.y.size == e.x.size:
        for p in itertools.permutations(range(e.y.ndim)):
            in_the_layout_of_y = e.expected.reshape([e.y.shape[a] for a in p]).transpose(np.argsort(p))
            if e.same(e.got, in_the_layout_of_y.reshape(e.x.shape)):
                said = "holds the right numbers in the wrong order: a reshape where axes must be swapped first?", p
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


def is_exchanged(e: Evidence) -> Finding | None:
    """It is the gradient of another argument, which is wrong as well."""
    for name, right in e.rights.items():
        if name != e.name and right.size > 1 and e.same(e.got, right) and not e.same(e.gots[name], right):
            said = f"is the gradient of {name}: are the two returned in the wrong order, or multiplied the wrong way?"
            return e.finding("incorrect", said, gradient_of=name)
    return None


def is_of_another(e: Evidence) -> Finding | None:
    """It is the gradient of another argument, which is right itself."""
    for name, right in e.rights.items():
        if name == e.name or right.size < 2 or not e.same(e.got, right):
            continue
        if e.dy is not None and e.same(right, _summed_to(e.dy, right.shape)):
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


def applies_the_forward(e: Evidence) -> Finding | None:
    """Backward multiplies by dy/dx itself, where its transpose is due: a rotation the same way round, w for wᵀ."""
    if e.jacobian is None or e.dy is None or e.dy.shape != e.x.shape or e.x.size < 2:
        return None
    if not e.same(e.got, (e.jacobian.T @ e.dy.reshape(-1)).reshape(e.x.shape)):
        return None
    said = "is what the forward pass would make of dy: on the way back the transpose is due (a rotation turns back)"
    return e.finding("transposed", said, axes=None)


def reads_dy_elsewhere(e: Evidence) -> Finding | None:
    """It is right for a dy that is moved along an axis: slices taken in the wrong order, a shift by one."""
    if e.jacobian is None or e.dy is None or e.dy.size > MOST_MOVED:
        return None
    for axis, n in enumerate(e.dy.shape):
        for moved, how in [(np.flip(e.dy, axis), "in reverse"), *_rolled(e.dy, axis, n)]:
            if e.same(e.got, (e.jacobian @ moved.reshape(-1)).reshape(e.x.shape)):
                said = f"is right for another dy, read along axis {axis} {how}: are its parts taken in the wrong order?"
                return e.finding("incorrect", said, axis=axis)
    return None


def holds_the_same_numbers(e: Evidence) -> Finding | None:
    """The numbers are right, and stand in another order."""
    if e.x.ndim < 2 or len(np.unique(e.expected)) < e.x.size / 2 or e.x.size < 4:
        return None
    if not e.same(np.sort(e.got, axis=None), np.sort(e.expected, axis=None)):
        return None
    for axis in range(e.x.ndim):
        if e.same(np.sort(e.got, axis), np.sort(e.expected, axis)):
            said = f"holds the right numbers at wrong places along axis {axis}: np.tile for np.repeat, a wrong index?"
            return e.finding("incorrect", said, axis=axis)
    said = "holds the right numbers in the wrong order: an axis split or swapped in another order than in forward?"
    return e.finding("transposed", said, axes=None)


def is_dy(e: Evidence) -> Finding | None:
    """dy comes back as it went in."""
    if e.dy is None or e.x.size < 2 or not e.same(e.got, e.dy):
        return None
    return e.finding("missing_factor", "is dy itself, as if y were a copy: the derivative is left out", factor=None)


def is_summed_too_far(e: Evidence) -> Finding | None:
    """Summed over an axis of the argument itself, and spread over it again."""
    for axes in subsets(e.x.ndim):
        summed = np.broadcast_to(e.expected.sum(axis=axes, keepdims=True), e.x.shape)
        summed = np.where(e.expected.any(axis=-1, keepdims=True) if e.x.ndim > 1 else True, summed, 0)  # rows in use
        if any(e.x.shape[a] > 1 for a in axes) and e.same(e.got, summed):
            said = f"was summed over axis {listed(list(axes))}, along which {e.name} was not broadcast"
            return e.finding("unsummed_broadcast", said, axes=axes)
    return None
