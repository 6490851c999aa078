"""Hypotheses about positions: rows that are looked up twice, and positions that a mask or a loss leaves out."""

from __future__ import annotations

import numpy as np

from minissl.backend import Array
from minissl.gradcheck.evidence import Evidence, listed, masks, right_with
from minissl.gradcheck.report import Finding


def repeats_are_lost(e: Evidence) -> Finding | None:
    """Rows of a table that are looked up more than once, or also used otherwise, keep one gradient."""
    if not e.x.ndim or not e.x.size:
        return None
    got, expected = e.got.reshape(len(e.x), -1), e.expected.reshape(len(e.x), -1)
    wrong = np.flatnonzero(np.abs(got - expected).max(axis=1) > e.alike * np.abs(e.expected).max())
    if not got[wrong].any():
        return None  # rows that get nothing at all are left out, not overwritten
    if got.shape[1] > 1 and all(e.multiple(got[row], expected[row]) is not None for row in wrong):
        return None  # each is the right row times something: a mean
    for name, ids in e.values.items():
        if not (isinstance(ids, np.ndarray) and ids.dtype.kind in "iu" and ids.size) or ids.max() >= len(e.x):
            continue
        if e.suspect is not None and not _is_looked_up(e):
            continue
        rows, counts = np.unique(ids, return_counts=True)
        if got.shape[1] == 1 and e.same(got[rows, 0] * counts, expected[rows, 0]):
            continue
        if set(wrong) <= set(rows[counts > 1]):
            what = f"the rows that {name} holds more than once"
        elif (
            set(wrong) <= set(rows)
            and _is_looked_up(e)
            and _keeps_one_use(e, rows[counts == 1])
            and np.delete(expected, rows[rows >= 0], axis=0).any()
        ):
            what = f"the rows that {name} looks up, which also have another use"
        else:
            continue
        said = (
            f"is wrong at {what} ({listed(wrong.tolist())}) and right elsewhere: every use must be added "
            "(np.add.at; `=` keeps one, and so does `+=` through an index)"
        )
        return e.finding("accumulation", said, rows=wrong.tolist())
    return None


def _keeps_one_use(e: Evidence, rows: Array) -> bool:
    """Whether rows that are looked up once hold what one use of the table gives, seen along directions."""
    if e.uses is None or not len(rows):
        return True
    rng = np.random.default_rng(31_612)
    directions = [rng.standard_normal(e.x.shape) for _ in range(3)]
    looked_up = np.zeros(e.x.shape)
    looked_up[rows] = 1
    parts = np.array([e.uses(u * looked_up) for u in directions])
    got = np.array([(e.got * u * looked_up).sum() for u in directions])
    return parts.ndim == 2 and any(e.same(part, got) for part in parts.T)


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
    if touched[dead].mean() > 0.9 and not e.got[~dead].any() and dead.sum() > 1:
        first = tuple(int(i) for i in np.argwhere(touched)[0])
        said = f"is zero where it should not be, and not zero where it should be, as at {first}: is the mask inverted?"
        return Finding(
            "ignored_positions", e.name, first, f"the gradient of {e.name} {said}", {"excluded_by": excluded}
        )
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


def _excluded_by(e: Evidence, dead: Array) -> str | None:
    """Name the input whose false, zero or negative entries are just where the true gradient is zero."""
    for name in masks(e):
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
    for name in masks(e):
        mask = e.values[name]
        if mask.dtype.kind == "b" or not (mask < 0).any():
            changes[name] = np.ones_like(mask)
    return bool(changes) and right_with(e, changes)


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
            elif _is_looked_up(e):
                continue
            else:
                one = np.isin(np.arange(classes), ids).reshape(-1, *(1,) * (e.x.ndim - 1 - axis))
                named = np.broadcast_to(one, e.x.shape)
            if named.shape == off.shape and not (off & ~named).any():
                said = f"is wrong only at the entries that {name} names: is the -1 of p - onehot({name}) right?"
                return e.finding("missing_term", said, axis=None, along=name)
    return None


def is_zero_in_part(e: Evidence) -> Finding | None:
    """Whole slices of the gradient are exactly zero, and all the rest is right."""
    wrong = np.abs(e.got - e.expected) > e.alike * np.abs(e.expected).max()
    if not wrong.any() or e.got[wrong].any():
        return None
    for axis, n in enumerate(e.x.shape):
        rows = np.flatnonzero(wrong.any(axis=tuple(a for a in range(e.x.ndim) if a != axis)))
        if len(rows) < n and not e.got.take(rows, axis=axis).any():
            said = f"is exactly zero at index {listed(rows.tolist())} of axis {axis}, and right elsewhere: "
            return e.finding("zero", said + "is this part left out?", axis=axis, indices=rows.tolist())
    return None
