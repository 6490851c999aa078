"""Whether a call left alone what belongs to its caller."""

from __future__ import annotations

import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from minissl.gradcheck.report import Finding

DEEPEST = 100  # what is nested more deeply is not looked at


@contextmanager
def unchanged(who: str, watched: dict[str, Any], findings: list[Finding]) -> Iterator[None]:
    """Add a finding for every watched value in which an array is changed before the block ends."""
    before = {name: fingerprint(value, name) for name, value in watched.items()}
    yield
    for name, value in watched.items():
        after = fingerprint(value, name)
        changed = [path for path, bits in before[name].items() if after.get(path) != bits]
        if changed:
            message = f"{who} changed {', '.join(changed)}; others still need it, so work on a copy"
            findings.append(Finding("mutated", name, None, message))


def fingerprint(value: Any, name: str) -> dict[str, bytes]:
    """Return a path, such as `cache.weights`, and the bits of every array in a container or an object."""
    return dict(_arrays(value, name, set()))


def _arrays(value: Any, path: str, seen: set[int], depth: int = 0) -> Iterator[tuple[str, bytes]]:
    if isinstance(value, (np.ndarray, np.generic)):
        yield path, f"{value.shape} {value.dtype}".encode() + value.tobytes()
        return
    if isinstance(value, (type, types.ModuleType)) or id(value) in seen or depth > DEEPEST:
        return
    seen.add(id(value))  # an object may refer back to its owner
    for child_path, child in _children(value, path):
        yield from _arrays(child, child_path, seen, depth + 1)


def _children(value: Any, path: str) -> list[tuple[str, Any]]:
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return [(f"{path}.{field}", item) for field, item in zip(value._fields, value, strict=True)]
    if isinstance(value, (tuple, list)):
        return [(f"{path}[{i}]", item) for i, item in enumerate(value)]
    if isinstance(value, dict):
        return [(f"{path}[{key!r}]", item) for key, item in value.items()]
    return [(f"{path}.{key}", item) for key, item in getattr(value, "__dict__", {}).items()]
