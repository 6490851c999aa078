"""What the graders share: steps in words, from what was returned over shape, dtype and finite to value and where."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from minissl.backend import Array
from minissl.errors import InputError
from minissl.exercises.exercise import Student, StudentError, StudentRaised, Verdict
from minissl.gradcheck import check
from minissl.gradcheck.kinds import NOTES
from minissl.gradcheck.report import Finding

TOLERANCE = {"float64": 1e-7, "float32": 1e-3}  # of the largest entry, or of 1 where all are smaller
FINDINGS = 2  # a wrong gradient may have many; the first ones are read

Explain = Callable[[str, Array], list[str]]  # an output's name and its value -> what the slip probably is


class Stopped(Exception):
    """A step failed, and those after it would say nothing."""


class Steps:
    """The lines of a verdict, as they are found."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def passed(self, text: str) -> None:
        """Note a step that held."""
        self.lines.append(f"✓ {text}")

    def fail(self, text: str, more: list[str] | None = None) -> None:
        """Note the step that did not hold, with further lines below it, and stop. Raises Stopped."""
        self.lines += [f"✗ {text}", *(f"  {line}" for line in more or [])]
        raise Stopped


@dataclass(frozen=True)
class Result:
    """What one call returned, what was expected of it, and who can say what a wrong value looks like."""

    case: str
    function: str
    names: tuple[str, ...]
    returned: Any
    expected: tuple[Array, ...]
    explain: Explain = lambda name, got: []

    @property
    def outputs(self) -> list[tuple[str, Array, Array]]:
        """Name, got, expected, once `_require_arrays` has seen that they are arrays."""
        values = self.returned if len(self.names) > 1 else (self.returned,)
        return list(zip(self.names, map(np.asarray, values), self.expected, strict=True))


def graded(steps_of: Callable[[Student, Steps], None]) -> Callable[[Student], Verdict]:
    """Make a grader of a function that notes steps: it passes where none stopped it."""

    @functools.wraps(steps_of)
    def grade(student: Student) -> Verdict:
        steps = Steps()
        try:
            steps_of(student, steps)
        except Stopped:
            return Verdict(False, steps.lines, 0.0)
        return Verdict(True, steps.lines, 1.0)

    return grade


@contextmanager
def in_case(description: str, first: bool) -> Iterator[None]:
    """Add to a StudentError in which case it came; in the first one, only where the input may matter."""
    try:
        yield
    except StudentError as error:
        if first and not isinstance(error, StudentRaised):
            raise
        raise StudentError(f"{error} (in the case {description})") from None


def described(label: str, inputs: dict[str, Any]) -> str:
    """Say a case in words: its label and the shapes of its arrays."""
    shapes = [f"{name} {value.shape}" for name, value in inputs.items() if isinstance(value, np.ndarray)]
    return f"{label}: {', '.join(shapes)}"


def agrees(got: Array, expected: Array) -> bool:
    """Whether two arrays of one shape are equal, or nearly so where they are floating point."""
    return not _differs(got, expected).any()


def looks_like(*slips: tuple[str, str, Array]) -> Explain:
    """Explain a value by (output's name, message, what the slip would have given)."""

    def explain(name: str, got: Array) -> list[str]:
        return [
            message
            for output, message, wrong in slips
            if output == name and wrong.shape == got.shape and agrees(got, np.asarray(wrong))
        ][:1]

    return explain


def either(first: Explain, second: Explain) -> Explain:
    """Explain by the second where the first has nothing to say."""
    return lambda name, got: first(name, got) or second(name, got)


def gradient_findings(
    forward: Callable[..., Any],
    backward: Callable[..., Any],
    inputs: dict[str, Any],
    reference: Callable[..., Any] | None = None,
) -> Explain:
    """Explain the gradient `dx` by what `minissl.gradcheck` finds about `x`."""

    def explain(name: str, got: Array) -> list[str]:
        try:
            findings = check(forward, backward, inputs, reference=reference).findings
        except InputError:  # such as a check that outlasts the student's time: the verdict stands without it
            return []
        return [f.message for f in findings if f.argument == name[1:] and _says_more(f)][:FINDINGS]

    return explain


def _says_more(finding: Finding) -> bool:
    """Whether a finding says more than the line with where, got and expected, as a nameless `incorrect` does not."""
    named = finding.kind != "incorrect" or finding.details.keys() - {"got", "expected", "relative_error"}
    return finding.kind not in NOTES and bool(named)


def output_and_cache(steps: Steps, function: str, returned: Any) -> tuple[Any, Any]:
    """Return the pair that a forward pass returned. Raises Stopped where it is none."""
    if not isinstance(returned, tuple) or len(returned) != 2:
        steps.fail(f"returned: {function} returned {_kind(returned)}, expected the pair y, cache")
    y, cache = returned
    return y, cache


def compare(steps: Steps, results: list[Result]) -> None:
    """Compare all results, one kind of mistake after the other. Raises Stopped at the first."""
    require_form(steps, results)
    for result in results:
        for name, got, want in result.outputs:
            wrong = _differs(got, want)
            if wrong.any():
                count = f"wrong in {int(wrong.sum())} of {wrong.size} entries" if want.ndim else "wrong"
                more = [*result.explain(name, got), _where(name, got, want)]
                steps.fail(f"value: {name} is {count} ({result.case})", more)
    steps.passed("value: every entry agrees")


def require_form(steps: Steps, results: list[Result]) -> None:
    """Compare what can be said without the values: how many were returned, shapes, dtypes, and that all are finite."""
    for result in results:
        _require_arrays(steps, result)
    steps.passed(f"returned: {', '.join(dict.fromkeys(name for result in results for name in result.names))}")
    outputs = [(result, *output) for result in results for output in result.outputs]
    for result, name, got, want in outputs:
        if got.shape != want.shape:
            text = f"shape: {name} has shape {got.shape}, expected {want.shape} ({result.case})"
            steps.fail(text, result.explain(name, got))
    steps.passed("shape: as it should be" + (f" in {len(results)} cases" if len(results) > 1 else ""))
    for result, name, got, want in outputs:
        if want.ndim and got.dtype != want.dtype:
            widened = got.dtype == "float64" and want.dtype == "float32"
            more = [
                "np.zeros, a boolean that is divided, scalars such as np.sqrt(2) and counts from .sum() make float64; "
                "float32 is to stay: int(…) of a count, math.sqrt of a number"
            ]
            text = f"dtype: {name} has dtype {got.dtype}, expected {want.dtype} ({result.case})"
            steps.fail(text, more if widened else [])
    steps.passed(f"dtype: {' and '.join(dict.fromkeys(str(want.dtype) for *_, want in outputs if want.ndim))}")
    for result, name, got, _ in outputs:
        if got.dtype.kind == "f" and not np.isfinite(got).all():
            first = tuple(np.argwhere(~np.isfinite(got))[0].tolist())
            at = f" at {first}" if first else ""
            steps.fail(f"finite: {name} is {got[first]}{at} ({result.case})", result.explain(name, got))
    if any(got.dtype.kind == "f" for _, _, got, _ in outputs):
        steps.passed("finite: no NaN, no infinity")


def _require_arrays(steps: Steps, result: Result) -> None:
    """Refuse anything but one array for each name, in a tuple where there are several."""
    names, returned = result.names, result.returned
    wanted = f"expected {names[0]}, an array" if len(names) == 1 else f"expected {', '.join(names)}"
    if returned is None:
        steps.fail(f"returned: {result.function} returned None, {wanted}; is the `return` missing?")
    if len(names) == 1:
        returned = (returned,)
    elif not isinstance(returned, (tuple, list)) or len(returned) != len(names):
        count = f"{len(returned)} values" if isinstance(returned, (tuple, list)) else _kind(returned)
        steps.fail(f"returned: {result.function} returned {count}, {wanted}, in this order")
    for name, value, want in zip(names, returned, result.expected, strict=True):
        number = want.ndim == 0 and isinstance(value, (int, float))
        if not (number or isinstance(value, (np.ndarray, np.generic))):
            wanted = "an array of numbers" if want.ndim else "a number"
            steps.fail(f"returned: {name} is {_kind(value)}, expected {wanted}")
        if np.asarray(value).dtype.kind not in "fiub":
            steps.fail(f"returned: {name} is an array of dtype {np.asarray(value).dtype}, expected numbers")


def _kind(value: Any) -> str:
    if value is None or isinstance(value, np.ndarray):
        return "None" if value is None else "one array"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return " ".join(repr(value).split())[:80]


def _differs(got: Array, expected: Array) -> Array:
    if expected.dtype.kind != "f":
        return np.asarray(got != expected)
    allowed = TOLERANCE[str(expected.dtype)] * max(1.0, float(np.abs(expected).max(initial=0)))
    return np.asarray(~(np.abs(got - expected) <= allowed))


def _where(name: str, got: Array, want: Array) -> str:
    if want.ndim == 0:
        return f"where: {name} is {got:.6g}, expected {want:.6g}"
    distance = np.abs(got.astype(float) - want.astype(float))
    worst = tuple(int(i) for i in np.unravel_index(int(distance.argmax()), want.shape))
    form = ".6g" if want.dtype.kind == "f" else ""
    return f"where: most at {worst}: {got[worst]:{form}}, expected {want[worst]:{form}}"
