"""Hypotheses about what backward reads from its cache: another array than the due one, or not turned, or bare."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from minissl.backend import Array
from minissl.gradcheck.evidence import Evidence, functions_of
from minissl.gradcheck.experiment import as_arrays
from minissl.gradcheck.report import Finding

MOST_TRIED = 300
DEEPEST = 3

Rebuild = Callable[[Any], Any]


def reads_another_array(e: Evidence) -> Finding | None:
    """Right once backward finds something else in one place of its cache."""
    if e.lab is None or e.dy is None or e.other is None:
        return None
    others = {n: v for n, v in e.values.items() if isinstance(v, np.ndarray) and v.dtype.kind == "f"}
    y, cache = e.lab.run()
    arrays = {path: array for path, array, _ in leaves(cache) if array.dtype.kind == "f" and array.size > 1}
    known = others | {"y": y} | arrays
    tried = 0
    for path, array in arrays.items():
        for kind, said, new in _instead(path, array, known):
            tried += 1
            if tried > MOST_TRIED:
                return None
            if _is_right_with(e, path, new):
                return e.finding(kind, said, cache=path)
    return None


def _instead(path: str, array: Array, known: dict[str, Array]) -> Iterator[tuple[str, str, Array]]:
    if array.ndim > 1 and array.shape[-1] == array.shape[-2]:
        yield "transposed", f"is right where {path} is transposed before it is used", array.swapaxes(-1, -2)
    for other, new in known.items():
        if other != path and new.shape == array.shape and not np.array_equal(new, array):
            kind = "missing_factor" if _is_factor(new, array, known) else "incorrect"
            yield kind, f"is right where {other} is used in place of {path}: which of the two is due?", new
    with np.errstate(all="ignore"):
        yield "missing_factor", f"is right where exp({path}) is used in place of {path}", np.exp(array)
        for _, formula, new in functions_of({path: array}):
            if formula != path:
                yield "missing_factor", f"is right where {formula} is used in place of {path}", np.asarray(new, float)


def _is_factor(new: Array, old: Array, known: dict[str, Array]) -> bool:
    """Whether one is the other times an array at hand, or times one number for each row or column."""
    with np.errstate(all="ignore"):
        ratio = new / old
    if not np.isfinite(ratio).all():
        return False
    if any(np.allclose(ratio, ratio.take([0], axis=axis)) for axis in range(ratio.ndim)):
        return True
    return any(a.shape == ratio.shape and (np.allclose(a, ratio) or np.allclose(a * ratio, 1)) for a in known.values())


def _is_right_with(e: Evidence, path: str, new: Array) -> bool:
    assert e.lab is not None
    assert e.dy is not None
    assert e.other is not None
    for dy, right in ((e.dy, e.expected), e.other):
        _, cache = e.lab.run()
        rebuild = next((r for p, _, r in leaves(cache) if p == path), None)
        if rebuild is None:
            return False
        try:
            with np.errstate(all="ignore"):
                got = as_arrays(e.lab.backward(dy.copy(), rebuild(new.copy())), e.lab.names)[e.name]
        except Exception:  # what is put in need not fit
            return False
        if not e.same(got, right):
            return False
    return True


def leaves(
    value: Any, path: str = "cache", rebuild: Rebuild = lambda new: new, depth: int = 0
) -> Iterator[tuple[str, Array, Rebuild]]:
    """Yield every array in a cache: path, array, and the function that gives the cache with another array there.

    A closure's are those that it closes over.
    """
    if isinstance(value, np.ndarray):
        yield path, value, rebuild
    if isinstance(value, np.ndarray) or depth > DEEPEST:
        return
    for name, child, put in _children(value):
        inner = f"{path}.{name}" if path != "closure" else name

        yield from leaves(child, inner, partial(_inside, rebuild, put), depth + 1)


def _inside(rebuild: Rebuild, put: Rebuild, new: Any) -> Any:
    return rebuild(put(new))


def _children(value: Any) -> Iterator[tuple[str, Any, Rebuild]]:
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        fields: tuple[str, ...] = value._fields
        for i, field in enumerate(fields):
            yield field, value[i], partial(_with_item, value, i)
    elif isinstance(value, (tuple, list)):
        for i, child in enumerate(value):
            yield str(i), child, partial(_with_item, value, i)
    elif isinstance(value, dict):
        for key, child in value.items():
            yield str(key), child, partial(_with_key, value, key)
    elif isinstance(value, types.FunctionType) and value.__closure__:
        for i, (name, cell) in enumerate(zip(value.__code__.co_freevars, value.__closure__, strict=True)):
            yield name, cell.cell_contents, partial(_with_cell, value, i)


def _with_item(value: Any, i: int, new: Any) -> Any:
    items = [*value[:i], new, *value[i + 1 :]]
    return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)


def _with_key(value: dict[Any, Any], key: Any, new: Any) -> dict[Any, Any]:
    return {**value, key: new}


def _with_cell(function: types.FunctionType, i: int, content: Any) -> types.FunctionType:
    assert function.__closure__ is not None
    cells = [*function.__closure__[:i], types.CellType(content), *function.__closure__[i + 1 :]]
    return types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, tuple(cells)
    )
