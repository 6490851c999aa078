"""Why a gradient is wrong: hypotheses, tried in order, the plainest first.

Each looks at what backward returned (`got`) beside the numerical gradient (`expected`), may ask the experiment for
more, and returns a finding where everything that was seen follows from one slip. The first one that does is reported.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minissl.backend import Array
from minissl.gradcheck.evidence import Evidence, listed, subsets
from minissl.gradcheck.misread import reads_another_array
from minissl.gradcheck.missing_factors import elementwise_slope, lacks_factor, right_at_neutral_values
from minissl.gradcheck.missing_terms import (
    drops_outputs,
    keeps_one_output,
    keeps_one_row,
    keeps_one_step,
    lacks_structured_term,
    loses_a_use,
    makes_a_rarer_slip,
    makes_one_slip,
    skips_an_addend,
    sums_over_the_wrong_axis,
)
from minissl.gradcheck.numerical import incorrect
from minissl.gradcheck.positions import (
    excluded_get_gradient,
    is_zero_in_part,
    misses_one_entry_a_row,
    repeats_are_lost,
)
from minissl.gradcheck.report import ArgumentReport, Finding
from minissl.gradcheck.whole import (
    applies_the_forward,
    holds_the_same_numbers,
    is_dy,
    is_exchanged,
    is_multiple,
    is_of_another,
    is_shifted,
    is_summed_too_far,
    is_transposed,
    is_zero,
    lacks_upstream,
    permuted,
    reads_dy_elsewhere,
    should_be_zero,
    should_be_zero_in_part,
)

HYPOTHESES: list[Callable[[Evidence], Finding | None]] = [
    is_zero,
    should_be_zero,
    lacks_upstream,
    is_multiple,
    is_transposed,
    is_exchanged,
    is_shifted,
    repeats_are_lost,
    excluded_get_gradient,
    elementwise_slope,
    should_be_zero_in_part,
    lacks_factor,
    is_summed_too_far,
    reads_dy_elsewhere,
    skips_an_addend,
    lacks_structured_term,
    sums_over_the_wrong_axis,
    misses_one_entry_a_row,
    keeps_one_row,
    drops_outputs,
    keeps_one_output,
    loses_a_use,
    makes_one_slip,
    is_of_another,
    right_at_neutral_values,
    applies_the_forward,
    reads_another_array,
    makes_a_rarer_slip,
    keeps_one_step,
    holds_the_same_numbers,
    is_zero_in_part,
    is_dy,
]


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
    for axes in subsets(got.ndim):
        summed = got.sum(axis=axes)
        factor = e.multiple(summed.reshape(-1), expected.reshape(-1)) if summed.size == expected.size else None
        if factor is not None and _keeps_order(summed.shape, shape) and any(got.shape[a] > 1 for a in axes):
            times = "" if abs(factor - 1) <= e.alike else f" (and divided by {factor:.6g})"
            said = f"the gradient of {name} is right once it is summed over axis {listed(list(axes))}{times}: "
            said += f"{name} was broadcast over it, and what is copied forward is summed backward"
            return [Finding("unsummed_broadcast", name, None, said, {"axes": axes}), wrong_shape(": a sum is missing")]
    for axes in subsets(expected.ndim):
        summed = expected.sum(axis=axes)
        if summed.size == got.size and e.multiple(got.reshape(-1), summed.reshape(-1)) is not None:
            over = listed(list(axes))
            said = f"the gradient of {name} was summed over axis {over}, along which {name} was not broadcast"
            return [Finding("unsummed_broadcast", name, None, said, {"axes": axes}), wrong_shape(": a sum too many")]
    turned = permuted(got, expected, e) if got.size == expected.size else None
    if turned is not None:
        said = f"the gradient of {name} {turned[0]}"
        return [Finding("transposed", name, None, said, {"axes": turned[1]}), wrong_shape(": its axes look swapped")]
    for other, right in e.rights.items():
        if other != name and e.same(got, right):
            return [wrong_shape(f": it is the gradient of {other}; are they returned in the wrong order?")]
    return [shape_alone(record, got)]


def shape_alone(record: ArgumentReport, got: Array) -> Finding:
    """Say what the two shapes alone suggest."""
    name, shape = record.name, record.shape
    if sorted(got.shape) == sorted(shape):
        hint = "the axes look swapped"
    elif got.size == math.prod(shape):
        hint = "there are as many numbers: is a reshape, or a merge of axes, left out?"
    elif got.size > math.prod(shape):
        hint = "is a sum over a broadcast axis missing?"
    else:
        hint = "is it summed over an axis too many, or taken from another argument?"
    message = f"the gradient of {name} has shape {got.shape}; {name} has {shape}: {hint}"
    return Finding("wrong_shape", name, None, message, {"got": got.shape, "expected": shape})


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
