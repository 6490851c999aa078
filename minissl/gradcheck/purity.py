"""Fingerprints of arrays inside any nest of containers, to see whether a call changed what it was given."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minissl.gradcheck.report import Finding


def fingerprint(value: Any, name: str) -> dict[str, bytes]:
    """Return a path (`cache.weights`) and the bits of every array in `value`: itself, a container or an object."""
    return dict(_walk(value, name, set()))


def _walk(value: Any, path: str, seen: set[int]) -> Iterator[tuple[str, bytes]]:
    if isinstance(value, (np.ndarray, np.generic)):
        yield path, str((value.shape, value.dtype)).encode() + value.tobytes()
        return
    if isinstance(value, (type, types.ModuleType)) or id(value) in seen:
        return
    seen.add(id(value))  # an object may refer back to its owner
    children: list[tuple[str, Any]] = []
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        children = [(f"{path}.{field}", item) for field, item in zip(value._fields, value, strict=True)]
    elif isinstance(value, (tuple, list)):
        children = [(f"{path}[{i}]", item) for i, item in enumerate(value)]
    elif isinstance(value, dict):
        children = [(f"{path}[{key!r}]", item) for key, item in value.items()]
    elif hasattr(value, "__dict__"):
        children = [(f"{path}.{key}", item) for key, item in vars(value).items()]
    for child_path, child in children:
        yield from _walk(child, child_path, seen)


def call_unchanged(
    function: Callable[..., Any], who: str, watched: dict[str, Any], findings: list[Finding], **arguments: Any
) -> Any:
    """Call `function(**arguments)` and add a finding for every watched array that the call changed."""
    before = {name: fingerprint(value, name) for name, value in watched.items()}
    result = function(**arguments)
    for name, value in watched.items():
        after = fingerprint(value, name)
        changed = [path for path in before[name] if after.get(path) != before[name][path]]
        if changed:
            message = f"{who} changed {', '.join(changed)}, which belongs to its caller; work on a copy"
            findings.append(Finding("mutated", name, message))
    return result
