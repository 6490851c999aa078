"""How each exhibit is caught by minissl's own means: the gradient checker, a comparison of forwards, plain inspections.

An op's pair is checked with the cases of its op, a layer with `check_module`, what belongs to BERT with `check_model`,
a step around the model by the inspections of `minissl.museum.steps`. The same inspections must pass for the right ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from minissl import ops
from minissl.backend import Array
from minissl.gradcheck import Finding, check, op_cases
from minissl.kernels import Pair
from minissl.museum.areas import AREAS, wrong
from minissl.museum.exhibit import Exhibit

TELLING = 2  # cases that show something: one alone may be too plain, as of a single row 1/σ is a constant


class Inspection(NamedTuple):
    """By what means something was looked at, and what was found: nothing, where it is right."""

    by: str
    findings: list[Finding]

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    @property
    def kinds(self) -> list[str]:
        """The kinds of the findings, the most frequent one first."""
        return [kind for kind, _ in Counter(f.kind for f in self.findings).most_common()]


def inspect(exhibit: Exhibit) -> Inspection:
    """Look at an exhibit as at somebody's code: its op's cases, or with it in place the area it belongs to."""
    with np.errstate(all="ignore"):
        if exhibit.op is not None:
            return inspect_op(exhibit.op, exhibit.build())
        area = AREAS[max((place for place in AREAS if exhibit.place.startswith(place)), key=len)]
        right = area.values()
        with exhibit.installed():
            kind = "pipeline" if exhibit.kind == "pipeline" else "incorrect"
            findings = _stopped(lambda: _differences(area.values(), right), "forward_differs")
            return Inspection(area.by, findings or _stopped(area.findings, kind))


def inspect_right() -> list[Inspection]:
    """Every inspection, of what is right: no finding may come out."""
    names = [name.removesuffix("_forward") for name in ops.__all__ if name.endswith("_forward")]
    pairs = {name: Pair(getattr(ops, f"{name}_forward"), getattr(ops, f"{name}_backward")) for name in names}
    areas = {area.by: area for area in AREAS.values()}
    return [inspect_op(name, pair) for name, pair in pairs.items()] + [
        Inspection(area.by, _differences(area.values(), area.values()) + area.findings()) for area in areas.values()
    ]


def inspect_op(op: str, pair: Pair) -> Inspection:
    """Check a pair against the op's forward: with the op's cases, the last of them where numbers are large.

    It ends after TELLING cases that show something.
    """
    right = getattr(ops, f"{op}_forward")
    looks = [partial(_checked, pair, case.inputs, right) for case in op_cases() if case.op == op]
    looks += [partial(_compared, pair, inputs, right) for inputs in FAR_OUT.get(op, ())]
    shown = filter(None, (_stopped(look, "incorrect") for look in looks))
    return Inspection(f"check of {op}", [finding for findings in islice(shown, TELLING) for finding in findings])


def _checked(pair: Pair, inputs: dict[str, Any], right: Callable[..., Any]) -> list[Finding]:
    return wrong(check(pair.forward, pair.backward, inputs, reference=right))


def _compared(pair: Pair, inputs: dict[str, Any], right: Callable[..., Any]) -> list[Finding]:
    return _differences([pair.forward(**inputs)[0]], [right(**inputs)[0]])


def _stopped(look: Callable[[], list[Finding]], kind: str) -> list[Finding]:
    """Look; where the wrong one cannot even be run, that is the finding, of this kind."""
    try:
        return look()
    except Exception as error:
        return [Finding(kind, "", None, f"it stops with {type(error).__name__}: {error}")]


def _differences(values: list[Array], right: list[Array]) -> list[Finding]:
    """Compare what a forward computes with what it should."""
    for value, expected in zip(values, right, strict=True):
        if value.shape != expected.shape:
            return [
                Finding("forward_differs", "", None, f"forward gives shape {value.shape}, expected {expected.shape}")
            ]
        if not np.isfinite(value).all():
            return [Finding("not_finite", "", None, "forward gives NaN or infinity, where the right one does not")]
        error = float(np.abs(value - expected).max(initial=0))
        if error > 1e-9 * float(np.abs(expected).max(initial=1)):
            return [Finding("forward_differs", "", None, f"forward differs from the right one by up to {error:.2g}")]
    return []


# ---- ops where numbers are large

FAR_OUT: dict[str, list[dict[str, Any]]] = {
    "cross_entropy": [{"logits": np.array([[900.0, 901, 902], [0, -1, -2]]), "targets": np.array([0, 2])}],
    "attention": [{"q": np.array([[0.0, 1], [2000, 1]]), "k": np.array([[-1.0, 0], [-1, 1], [-1, 2]]), "v": np.eye(3)}],
}
