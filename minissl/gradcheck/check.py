"""`check`: a pair of functions against numerical derivatives, and what its mistakes look like."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from minissl.backend import Array
from minissl.errors import InputError
from minissl.gradcheck.diagnosis import diagnose, diagnose_sample, diagnose_shape, shape_alone
from minissl.gradcheck.evidence import Evidence
from minissl.gradcheck.experiment import Backward, Experiment, Forward, as_arrays, fresh, pair_of
from minissl.gradcheck.factors import explain_factor
from minissl.gradcheck.numerical import COARSE_STEP, STEP, VACUOUS, Probes, choose_probes, compare, judge, probe
from minissl.gradcheck.purity import unchanged
from minissl.gradcheck.report import ArgumentReport, Finding, Report
from minissl.gradcheck.slips import Suspect, uses_by_slips
from minissl.gradcheck.trace import Trace

EVERY_ENTRY = 4096  # up to this many entries of an argument each one is differenced; of more, a sample
SAMPLED_ENTRIES = 256
DIRECTIONS = 4
COARSE_TOLERANCE = 1e-3  # beside a forward that computes in float32
ROUGH = 1e-10  # rounding noise above this share of y is that of float32
NARROW_LIMIT = 1e-4  # a gradient that is off by no more may be float32's
KINKS_TRIED = 16
REPEATS = 30
UPSTREAM, OTHER_UPSTREAM = 70_368, 31_607  # seeds of streams that nobody else draws from
MOST_FOLLOWED = 6  # arguments whose forward is followed call by call; of a module, half as many
REFERENCE_TOLERANCE = 1e-8

Follow = Callable[[str, Any], Any]  # (argument, its value, to be traced) -> y


def check(
    forward: Forward, backward: Backward | None = None, inputs: dict[str, Any] | None = None, *,
    reference: Forward | None = None, dy: Array | None = None, seed: int = 0, tolerance: float = 1e-7,
) -> Report:  # fmt: skip
    """Call `y, cache = forward(**inputs)` and `backward(dy, cache)` with a random dy, and compare every gradient.

    Backward returns one gradient for each floating-point array in `inputs`, in order; a single one may come bare.
    Without `backward`, `forward` returns a closure: `y, backward = forward(**inputs)` and `backward(dy)`.
    `reference` is a forward that is known to be right, which y is compared with; `dy` replaces the random one.
    Everything runs in float64. A Generator is copied before each call, so that every call draws the same numbers.

    What is wrong is named: `report.findings`, whose kinds `minissl.gradcheck.kinds` explains.
    Raises InputError where forward or backward returns something else than that.
    """
    if not isinstance(inputs, dict):
        raise InputError(
            f"check: inputs is {type(inputs).__name__}, expected a dictionary, argument name: value; "
            "for a closure write check(f, inputs={...})"
        )
    _require_callable("forward", forward)
    if reference is not None:
        _require_callable("reference", reference)
    require_names("forward", forward, inputs)
    if backward is None:
        forward, backward = _of_closure(forward)
    else:
        _require_callable("backward", backward)
        _require_arguments("backward", backward, "(dy, cache)", 2)
    return check_pair(forward, backward, inputs, seed, tolerance, dy=dy, reference=reference)


def _of_closure(f: Forward) -> tuple[Forward, Backward]:
    def backward(dy: Array, closure: Any) -> Any:
        if not callable(closure):
            raise InputError(
                f"without a backward, forward must return (y, backward), a function of dy; the second item is "
                f"{type(closure).__name__}"
            )
        _require_arguments("the backward that forward returns", closure, "(dy)", 1)
        return closure(dy)

    return f, backward


def _require_callable(what: str, value: Any) -> None:
    if not callable(value):
        raise InputError(f"check: {what} is {type(value).__name__}, expected a function")


def _require_arguments(what: str, function: Any, expected: str, count: int) -> None:
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        raise InputError(f"check: {what} cannot be called as {expected}; is the order forward, backward?") from None
    except ValueError:  # a function that does not tell
        return


def require_names(what: str, function: Any, inputs: Any) -> None:
    """Raise InputError where `function(**inputs)` cannot be called for the names alone."""
    if not isinstance(inputs, dict) or not all(isinstance(name, str) for name in inputs):
        raise InputError(f"check: inputs is {type(inputs).__name__}, expected a dictionary, argument name: value")
    try:
        parameters = inspect.signature(function)
    except ValueError:
        return
    try:
        parameters.bind(**inputs)
    except TypeError as error:
        raise InputError(
            f"check: {what} takes {parameters}, inputs has {', '.join(inputs) or 'nothing'}: {error}"
        ) from None


def check_pair(
    forward: Forward, backward: Backward, inputs: dict[str, Any], seed: int, tolerance: float, *,
    dy: Array | None = None, reference: Forward | None = None, keeps_cache: bool = True,
    follow: Follow | None = None,
) -> Report:  # fmt: skip
    """Do what `check` does. Without `keeps_cache`, backward may use its cache up, as a module's may.

    `follow` computes y from one argument, a traced array, where that takes more than a call of `forward`.
    """
    if not isinstance(tolerance, (int, float)) or not 0 < tolerance < math.inf:
        raise InputError(f"check: tolerance {tolerance!r}, expected a small number above 0, such as 1e-7")
    rng = np.random.default_rng([seed, UPSTREAM])  # not the numbers of anybody's own default_rng(seed)
    lab = Experiment(forward, backward, fresh(inputs))
    for name in lab.names:
        if not np.isfinite(lab.values[name]).all():
            raise InputError(f"check: the input {name} holds NaN or infinity; a mask of -inf is better a boolean one")
    findings: list[Finding] = []
    attempt = _Attempt(lab, rng, dy, tolerance, keeps_cache, follow, findings)
    if any(f.kind == "nondeterministic" and not f.argument for f in findings):
        return Report({}, findings, tolerance)  # differences of a function that changes by itself mean nothing
    wrong = attempt.wrong()
    if wrong and any(lab.output().tobytes() != attempt.y.tobytes() for _ in range(REPEATS)):
        return Report({}, [_changes_by_itself()], tolerance)  # seldom, so that two calls did not show it
    if wrong and (noise := lab.roughness(rng)) > ROUGH:
        attempt.coarsen(noise)
    elif (kink := attempt.kink()) is not None:
        name, index = kink
        message = f"{name} sits on a kink, or right beside one, at {index}; the check moved off it"
        lab = Experiment(forward, backward, {**lab.values, **_moved(lab, rng)})
        findings = [Finding("nonsmooth", name, index, message)]
        attempt = _Attempt(lab, rng, dy, tolerance, keeps_cache, follow, findings)
    if reference is not None:
        attempt.compare_with(reference)
    return attempt.judge()


class _Attempt:
    """One point: the gradients there, the numerical derivatives, and what they show."""

    def __init__(
        self, lab: Experiment, rng: np.random.Generator, dy: Array | None, tolerance: float, keeps_cache: bool,
        follow: Follow | None, findings: list[Finding],
    ):  # fmt: skip
        self.lab, self.rng, self.tolerance, self.follow, self.findings = lab, rng, tolerance, follow, findings
        self.y = lab.output()
        self.dy = np.asarray(rng.standard_normal(self.y.shape)) if dy is None else _given(dy, self.y)
        size = float(np.abs(self.dy * self.y)[np.isfinite(self.y)].max(initial=0))
        self.size = max(size, 1e-4 * float(np.abs(self.dy).max(initial=0)))  # y may be nothing but rounding
        self.gradients = _analytic(lab, self.y, self.dy, keeps_cache, findings)
        self.step, self.alike = STEP, Evidence.alike
        self.reference: Experiment | None = None  # where it differs
        self.right_forward: Forward | None = None
        self.other_dy = np.asarray(np.random.default_rng(OTHER_UPSTREAM).standard_normal(self.dy.shape))
        self._followed: list[str] = []
        self.where = {name: self._choose(name) for name in lab.names}
        self.probes = self._probe()

    def _choose(self, name: str) -> tuple[Array, list[Array]]:
        x = self.lab.values[name]
        if x.size <= EVERY_ENTRY:
            return np.arange(x.size), []
        return choose_probes(x, self.gradients[name], SAMPLED_ENTRIES, DIRECTIONS, self.rng)

    def _probe(self) -> dict[str, Probes]:
        lab = self.lab
        return {
            name: probe(lab.output, self.dy, lab.values[name], self.gradients[name], *self.where[name], self.step)
            for name in lab.names
        }

    def wrong(self) -> list[str]:
        """Name the arguments whose gradient is comparable and not what the differences say."""
        largest = max((p.largest() for p in self.probes.values()), default=0.0)
        compared = (
            (n, compare(n, self.gradients[n], p, largest, self.tolerance, self.size)[1]) for n, p in self.probes.items()
        )
        return [name for name, finding in compared if finding is not None and finding.kind == "incorrect"]

    def coarsen(self, noise: float) -> None:
        """The forward computes in float32, with this much noise in y: take larger steps, and ask for less."""
        if not any(f.kind == "precision" for f in self.findings):
            message = "forward computes in float32, so that its noise hides errors below 1e-3; where is the cast?"
            self.findings.append(Finding("precision", "", None, message))
        self.step = COARSE_STEP
        self.lab.coarsen()
        self.probes = self._probe()
        in_slopes = noise * float(np.abs(self.y).max(initial=0) * np.linalg.norm(self.dy)) / COARSE_STEP
        largest = max(p.largest() for p in self.probes.values()) or 1.0
        self.tolerance = max(self.tolerance, COARSE_TOLERANCE, 10 * in_slopes / largest)
        self.alike = 3 * self.tolerance

    def kink(self) -> tuple[str, tuple[int, ...]] | None:
        """Return where the function has a corner right at the point, among the entries that look wrong."""
        for name in self.wrong():
            x, p = self.lab.values[name], self.probes[name]
            off = np.abs(self.gradients[name].reshape(-1)[p.entries] - p.at_entries)
            for i in p.entries[np.argsort(-off, kind="stable")[:KINKS_TRIED]]:
                if self._has_corner(name, int(i), float(np.abs(x).max(initial=0)) or 1.0):
                    return name, tuple(int(n) for n in np.unravel_index(i, x.shape))
        return None

    def _has_corner(self, name: str, i: int, size: float) -> bool:
        x = self.lab.values[name]

        def at(t: float) -> Array:
            moved = x.copy()
            moved.flat[i] += t
            return self.lab.output(**{name: moved})

        jumps, noises = [], []
        for h in (size * 2.0**-12, size * 2.0**-16, size * 2.0**-20, size * 2.0**-24):
            with np.errstate(invalid="ignore"):
                right, left = (at(h) - self.y) / h, (self.y - at(-h)) / h
            jumps.append(float(np.abs(right - left).max(initial=0)))
            noises.append(1e-13 * float(np.abs(self.y).max(initial=0)) / h)
        # a curve's own change of slope shrinks with h, a corner's does not until h no longer reaches it
        return any(
            n > 4 * noise and n > wider / 4 for wider, n, noise in zip(jumps, jumps[1:], noises[1:], strict=False)
        )

    def compare_with(self, reference: Forward) -> None:
        """Compare y with what a forward that is known to be right gives."""

        require_names("reference", reference, self.lab.values)

        def as_pair(**values: Any) -> Any:
            returned = reference(**values)
            y = returned[0] if isinstance(returned, tuple) and len(returned) == 2 else returned
            if not hasattr(y, "__array__") and not isinstance(y, float):
                raise InputError(f"check: the reference returned {type(y).__name__}, expected y or (y, cache)")
            return y, None

        self.right_forward = as_pair
        lab = Experiment(as_pair, self.lab.backward, self.lab.values)
        lab.step = self.lab.step
        finding = _difference(self.y, lab.output(), self.lab.values, self.step == COARSE_STEP)
        if finding is not None:
            self.findings.insert(0, finding)
            self.reference = lab

    def judge(self) -> Report:
        """Compare all gradients and explain what is wrong."""
        self._note_hiding(VACUOUS * self.size)
        names = self.lab.names if self.follow is None else self.lab.names[::-1]  # a module's, from the output down
        gradients = {name: self.gradients[name] for name in names}
        return judge(gradients, self.probes, self.size, self.findings, self.tolerance, self.explain)

    def _note_hiding(self, zero: float) -> None:
        """Add a finding for inputs behind which a wrong gradient hides: initial parameters, axes of size 1."""
        arrays = {name: self.lab.values[name] for name in self.lab.names}
        if all(p.largest() <= zero for p in self.probes.values()):
            return  # which `judge` tells
        flat = [name for name, p in self.probes.items() if p.largest() <= zero]
        constant = {n: x.flat[0] for n, x in arrays.items() if x.size and (x == x.flat[0]).all() and x.size > 1}
        constant |= {n: x.flat[0] for n, x in arrays.items() if x.size == 1 and x.flat[0] in (0, 1)}
        for name, value in constant.items():
            if value == 1 or len(arrays) == 1 or set(flat) - {name} or 1 in constant.values():
                message = (
                    f"{name} is {value:g} everywhere, as parameters are at the start, where a lost factor or term "
                    "hides; use random values of order 1"
                )
                self.findings.append(Finding("vacuous", name, None, message))
        one_row = any(x.shape[-2:-1] == (1,) for x in arrays.values())
        for name in flat:
            if one_row or arrays[name].shape[-1:] == self.y.shape[-1:] == (1,):
                message = (
                    f"the true gradient of {name} is zero because an axis has size 1 (over which a softmax is 1, and a "
                    "layer norm 0), so that a wrong one would hardly show; use sizes of 2 and more"
                )
                self.findings.append(Finding("vacuous", name, None, message))
        if arrays and all(x.size == 1 for x in arrays.values()) and any(x.ndim for x in arrays.values()):
            message = "every axis has size 1, so that a missing sum or a swapped axis hides; use sizes that all differ"
            self.findings.append(Finding("vacuous", "", None, message))

    def explain(self, record: ArgumentReport, finding: Finding) -> list[Finding]:
        """Put what the evidence shows in the place of a finding that only says that the gradient is wrong."""
        if finding.kind not in ("wrong_shape", "incorrect"):
            return [finding]
        if any(f.kind == "mutated" and f.argument in self.lab.names for f in self.findings):
            return [finding]  # the cache holds what was changed: what follows from that is not to be explained
        name, got = record.name, self.gradients[record.name]
        right = self.lab.right(name, [self.dy, self.other_dy])
        if right is None:
            if finding.kind == "wrong_shape":
                return [shape_alone(record, got)]
            p = self.probes[name]
            return [diagnose_sample(record, p.of(got), p.expected, self.lab.values)]
        expected, other = right.gradients
        most = MOST_FOLLOWED if self.follow is None else MOST_FOLLOWED // 2
        suspect = self._suspect(name, expected) if len(self._followed) < most else None
        self._followed.append(name)
        evidence = Evidence(
            record, self.lab.values[name], got, expected, self._rights(), self.gradients, self.lab.values, self.lab,
            right.jacobian, self.y, self.dy, (self.other_dy, other),
            None if suspect is None else uses_by_slips(suspect), suspect, self.alike,
        )  # fmt: skip
        if self.reference is not None and self._fits_reference(name, evidence):
            return []  # the backward is right; what is wrong is the forward
        if finding.kind == "wrong_shape":
            return diagnose_shape(record, got, expected, evidence)
        if evidence.multiple(got, expected) is None and self._is_noise(record, got):
            message = (
                f"the gradient of {name} is off by {record.relative_error:.0e}, the noise of float32, not an error"
            )
            return [Finding("precision", name, None, message)]
        return [diagnose(evidence)]

    def _suspect(self, name: str, expected: Array) -> Suspect | None:
        """The forward pass call by call; None where it cannot be followed, or where it is not this function."""
        forward = self.lab.forward if self.right_forward is None else self.right_forward

        def by_calling(value: Any) -> Any:
            return pair_of(forward(**{**fresh(self.lab.values), name: value}))[0]

        try:
            trace = Trace(by_calling if self.follow is None else partial(self.follow, name), self.lab.values[name])
            suspect = Suspect(trace, self.dy, self.gradients[name])
            u = suspect.directions[0]
            off = abs(suspect.slope(u, None) - float((expected * u).sum()))
            faithful = off <= 1e-6 * float(np.abs(expected).sum())
        except Exception:  # a forward may refuse a traced array
            return None
        return suspect if faithful and trace.calls else None

    def _rights(self) -> dict[str, Array]:
        """The numerical gradients of all arguments of which every entry was differenced."""
        whole = {n: p for n, p in self.probes.items() if len(p.entries) == self.lab.values[n].size}
        return {name: p.at_entries.reshape(self.lab.values[name].shape) for name, p in whole.items()}

    def _fits_reference(self, name: str, evidence: Evidence) -> bool:
        assert self.reference is not None
        if self.reference.output().shape != self.dy.shape:
            return False
        right = self.reference.right(name, [self.dy])
        return right is not None and evidence.same(evidence.got, right.gradients[0])

    def _is_noise(self, record: ArgumentReport, got: Array) -> bool:
        """Whether a small error is that of float32: the gradient is a float32, or not linear in dy by about as much."""
        if record.relative_error > NARROW_LIMIT:
            return False
        with np.errstate(over="ignore"):
            if np.array_equal(got, got.astype(np.float32)):
                return True

        def backward(dy: Array) -> Array:
            return self.lab.gradients(dy)[record.name]

        if not np.allclose(backward(2 * self.dy), 2 * got, rtol=1e-12, atol=0):
            return False  # rounding, whatever the precision, commutes with a factor of 2
        other = np.asarray(np.random.default_rng(OTHER_UPSTREAM + 1).standard_normal(self.dy.shape))
        whole = backward(self.dy + other)
        off = float(np.abs(whole - got - backward(other)).max(initial=0)) / float(np.abs(whole).max(initial=0) or 1)
        return off > max(1e-10, record.relative_error / 100)


def _given(dy: Array, y: Array) -> Array:
    dy = np.array(dy, np.float64)
    if dy.shape != y.shape:
        raise InputError(f"check: dy has shape {dy.shape}, expected that of y, {y.shape}")
    return dy


def _moved(lab: Experiment, rng: np.random.Generator) -> dict[str, Array]:
    """Move every floating-point entry by 2 to 10 % of the largest one."""
    moved = {}
    for name in lab.names:
        x = lab.values[name]
        size = float(np.abs(x).max(initial=0)) or 1.0
        moved[name] = x + size * rng.uniform(0.02, 0.1, x.shape) * rng.choice([-1, 1], x.shape)
    return moved


def _difference(y: Array, right: Array, values: dict[str, Any], coarse: bool) -> Finding | None:
    """Say where the forward's y differs from the right one."""
    if y.shape != right.shape:
        message = f"forward gives y of shape {y.shape}, the reference {right.shape}"
        return Finding("forward_differs", "", None, message, {"got": y.shape, "expected": right.shape})
    size = float(np.abs(right)[np.isfinite(right)].max(initial=0)) or 1.0
    with np.errstate(invalid="ignore"):
        off = np.where(y == right, 0.0, np.abs(y - right) / size)
    off = np.where(np.isnan(off) & ~(np.isnan(y) & np.isnan(right)), np.inf, np.nan_to_num(off, posinf=np.inf))
    if float(off.max(initial=0)) <= (COARSE_TOLERANCE if coarse else REFERENCE_TOLERANCE):
        return None
    index = tuple(int(i) for i in np.unravel_index(int(off.argmax()), y.shape))
    reasons: list[str] = []
    factor = float((y * right).sum() / (right * right).sum()) if np.isfinite(y).all() and (right * right).sum() else 0.0
    if abs(factor - 1) > 1e-4 and np.allclose(y, factor * right, rtol=1e-6, atol=1e-9 * size):
        reasons = explain_factor(factor, values, y, None)
        reasons = [f"it is {factor:.6g} times the right one everywhere" + (f" ({reasons[0]})" if reasons else "")]
    share = f"{(off > REFERENCE_TOLERANCE).mean():.0%} of its entries differ"
    message = (
        f"forward gives {y[index]:.6g} at {index}, the reference {right[index]:.6g}; {'; '.join([share, *reasons])}"
    )
    return Finding("forward_differs", "", index, message, {"got": float(y[index]), "expected": float(right[index])})


def _analytic(
    lab: Experiment, y: Array, upstream: Array, keeps_cache: bool, findings: list[Finding]
) -> dict[str, Array]:
    """Return the gradients by name; note what is changed, not repeatable or not in float64."""
    names, given, dy = lab.names, fresh(lab.values), upstream.copy()
    with unchanged("forward", given, findings):
        again, cache = pair_of(lab.forward(**given))
    if y.dtype != np.float64:
        message = f"forward returned {y.dtype} for float64 inputs; where is the cast?"
        findings.append(Finding("precision", "", None, message))
    if again.tobytes() != y.tobytes():
        findings.append(_changes_by_itself())

    watched = given | {"dy": dy} | ({"cache": cache} if keeps_cache else {})
    with unchanged("backward", watched, findings):
        first = as_arrays(lab.backward(dy, cache), names)
    for name, gradient in first.items():
        if gradient.dtype != np.float64:
            message = f"backward returned {gradient.dtype} for {name}, whose dtype is float64; where is the cast?"
            findings.append(Finding("precision", name, None, message))

    def repeat() -> dict[str, Array]:
        return as_arrays(lab.backward(upstream.copy(), cache), names) if keeps_cache else lab.gradients(upstream)

    _note_repetition(lab, first, repeat, upstream, findings)
    return first


def _changes_by_itself() -> Finding:
    message = "two equal calls of forward differ; does it draw from np.random, not from an rng among its inputs?"
    return Finding("nondeterministic", "", None, message)


def _note_repetition(
    lab: Experiment, first: dict[str, Array], repeat: Callable[[], dict[str, Array]], upstream: Array,
    findings: list[Finding],
) -> None:  # fmt: skip
    """Call backward again: a gradient that differs is random, or shows that something was kept between the calls."""
    if any(f.kind == "mutated" for f in findings):
        return  # which explains a second result that differs
    second = repeat()
    differ = [name for name in lab.names if first[name].tobytes() != second[name].tobytes()]
    if not differ:
        return
    third, anew = repeat(), lab.gradients(upstream)
    for name in differ:
        a, b, c = first[name], second[name], third[name]
        grows = a.shape == b.shape == c.shape and np.allclose(b - a, c - b, rtol=1e-6, atol=0) and np.any(b - a)
        settled = b.tobytes() == c.tobytes()  # nothing is drawn, so the first call left something behind
        if grows or settled or (name in anew and anew[name].tobytes() == a.tobytes()):
            message = (
                f"a second backward gives another gradient of {name}: the first changed something that is kept between "
                "calls (a buffer that is added to, a cache that is used up)"
            )
            findings.append(Finding("mutated", name, None, message))
        else:
            message = f"a second backward on the same cache gives another gradient of {name}; is something drawn in it?"
            findings.append(Finding("nondeterministic", name, None, message))
