"""Hypotheses about an elementwise factor that is missing: a derivative, a gain, a mask."""

from __future__ import annotations

import numpy as np

from minissl.backend import Array
from minissl.gradcheck.evidence import Evidence, functions_of, masks, right_with, slope_of
from minissl.gradcheck.report import Finding

VAGUE = "an elementwise factor that does not depend on dy: a derivative, a gain or a mask is left out"


def elementwise_slope(e: Evidence) -> Finding | None:
    """Of an elementwise function: which factor or term of its slope is missing."""
    other = e.again()
    slope = slope_of(e)
    if slope is None or other is None or e.dy is None or e.y is None:
        return None
    ours = e.got / e.dy
    if not e.same(other[1] / other[0], ours):
        return None
    known = e.known()
    if e.same(ours, np.full_like(ours, ours.flat[0])):
        with np.errstate(all="ignore"):
            named = [formula for _, formula, factor in functions_of(known) if e.same(ours * factor, slope)]
        which = f", {named[0]}," if named else ""
        said = f"is dy times a constant: the derivative of the function{which} is left out"
        return e.finding("missing_factor", said, factor=named[0] if named else None)
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
    with np.errstate(all="ignore"):
        gate = np.where(e.x != 0, e.y / e.x, ours)
        if e.same(gate, ours) or e.same(gate, missing):
            said = "is one half of a product rule: y = x · g(x) has the derivative g(x) + x g'(x)"
            return e.finding("missing_term", said, axis=None, along="x")
        for name, formula, factor in functions_of(known):
            if e.same(ours * factor, slope):
                return e.finding("missing_factor", f"lacks the factor {formula}", factor=formula, array=name)
        for name, formula, term in functions_of(known):
            if e.multiple(missing, term) is not None:
                said = f"lacks a term of the derivative, a multiple of {formula}"
                return e.finding("missing_term", said, axis=None, along=name)
    return None


def lacks_factor(e: Evidence) -> Finding | None:
    """Right after multiplying by something that does not depend on dy: a gain, 1/σ, a mask, a slope."""
    other = e.again()
    if other is None or e.dy is None or slope_of(e) is not None:
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
        for name, formula, factor in functions_of(e.known()):
            if e.same(np.where(whole, factor, 0), ratio):
                return e.finding("missing_factor", f"lacks the factor {formula}", factor=formula, array=name)
            if e.same(np.where(whole, 1 / factor, 0), ratio):
                said = f"has the factor {formula} once too often"
                return e.finding("missing_factor", said, factor=formula, array=name)
    described = _described(ratio, e)
    if e.dy.size == 1 or (described == VAGUE and not _meets_several_outputs(e) and not _is_mask(ratio)):
        return None  # a ratio always exists; that it does not depend on dy says nothing
    if (np.abs(ratio - 1) <= e.alike).mean() > 0.5 and ratio.all():
        return None  # most entries are right as they are
    return e.finding("missing_factor", f"lacks {described}", factor=None)


def _meets_several_outputs(e: Evidence) -> bool:
    """Whether most entries reach more than one entry of y: only then could a ratio depend on dy."""
    if e.jacobian is None:
        return True
    reaches = np.abs(e.jacobian) > 1e-9 * np.abs(e.jacobian).max()
    return bool((reaches.sum(axis=1) > 1).mean() > 0.5)


def _is_mask(ratio: Array) -> bool:
    kept = ratio[ratio != 0]
    return bool(len(kept) < ratio.size and np.allclose(kept, kept[:1]))


def _described(ratio: Array, e: Evidence) -> str:
    """Say on which axes a factor depends."""
    depends = [a for a in range(ratio.ndim) if ratio.shape[a] > 1 and not e.same(ratio, _flattened(ratio, a))]
    if depends == [ratio.ndim - 1] and ratio.ndim > 1:
        return "a factor that has one value for each entry of the last axis, as a gain has"
    if depends and ratio.ndim - 1 not in depends:
        return "a factor that has one value for each row, as 1/σ, 1/‖x‖ or 1/count have"
    return VAGUE


def _flattened(a: Array, axis: int) -> Array:
    return np.broadcast_to(a.take([0], axis=axis), a.shape)


def right_at_neutral_values(e: Evidence) -> Finding | None:
    """Right once dropout is off, a mask lets everything through, or a gain is 1: that is where the slip is."""
    for name, value in e.values.items():
        if name == e.name or not isinstance(name, str):
            continue
        if isinstance(value, np.random.Generator) and right_with(e, {name: None}):
            said = f"is right without dropout ({name}=None): is the mask of what was kept left out, or used once only?"
            return e.finding("missing_factor", said, factor="dropout")
        if isinstance(value, float) and 0 < value < 1 and right_with(e, {name: 0.0}):
            said = f"is right at {name} = 0: is a mask of what was kept, or a factor with {name} in it, left out?"
            return e.finding("missing_factor", said, factor=name)
        if not isinstance(value, np.ndarray) or value.size < 2:
            continue
        if name in masks(e) and (value >= 0).all() and right_with(e, {name: np.ones_like(value)}):
            said = f"is right where {name} lets everything through: is the mask forgotten on the way back?"
            return e.finding("missing_factor", said, factor=name)
        if value.dtype.kind != "f":
            continue
        if value.ndim == 1 and right_with(e, {name: (value + value[::-1]) / 2}):
            return e.finding(
                "incorrect", f"is right where {name} is its own mirror image: it must be reversed", of=name
            )
        if max(value.shape) == value.size and right_with(e, {name: np.ones_like(value)}):
            said = f"is right at {name} = 1: {name} is left out, or pulled out of a sum that it belongs in"
            return e.finding("missing_factor", said, factor=name)
        square = value.ndim > 1 and value.shape[-1] == value.shape[-2]
        if square and right_with(e, {name: (value + value.swapaxes(-1, -2)) / 2}):
            said = f"is right where {name} is symmetric: {name} must be transposed on the way back"
            return e.finding("transposed", said, of=name)
    return None
