"""Numerical derivatives by central differences, and their comparison with a gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from minissl.backend import Array
from minissl.gradcheck.report import ArgumentReport, Finding, Report

STEP = 2.0**-12  # h = 2.4e-4: truncation ~ h⁴/30 = 1e-16, rounding ~ 1e-16/h = 5e-13
COARSE_STEP = 2.0**-5  # for forwards that compute in float32: rounding 6e-8/h = 2e-6, truncation at most about as much
FLOOR = 1e-3  # a gradient that is zero in theory (a key bias) is compared with this share of the largest one
ROUNDING = 1e-15  # of a sum that is differenced, relative to its largest term
VACUOUS = 1e-9  # derivatives below this share of what is differentiated are zero but for rounding


@dataclass
class Probes:
    """Numerical derivatives with respect to one array: at single entries and along whole random directions."""

    shape: tuple[int, ...]
    entries: Array  # (n,) flat indices
    at_entries: Array  # (n,)
    directions: list[Array]  # each of `shape`
    along_directions: Array  # (len(directions),)
    finest: float = STEP  # the smallest step

    def noise(self, size: float) -> float:
        """How far the derivatives may be off by rounding, where what was differenced is of this size."""
        return ROUNDING * size / self.finest

    @property
    def expected(self) -> Array:
        """All derivatives in one vector, entries first."""
        return np.concatenate([self.at_entries, self.along_directions])

    def of(self, gradient: Array) -> Array:
        """What `gradient` says about the same derivatives."""
        along = [float(np.vdot(gradient, u)) for u in self.directions]
        return np.concatenate([gradient.reshape(-1)[self.entries], along])

    def largest(self) -> float:
        """The size of the largest finite derivative."""
        return float(np.abs(self.expected[np.isfinite(self.expected)]).max(initial=0))


def choose_probes(
    x: Array, gradient: Array, entries: int, directions: int, rng: np.random.Generator
) -> tuple[Array, list[Array]]:
    """Choose the entries where the gradient is largest, as many at random, and directions over the whole of x."""
    chosen = rng.choice(x.size, min(x.size, entries - entries // 2), replace=False)
    if gradient.size == x.size:
        steepest = np.argsort(-np.abs(gradient), axis=None, kind="stable")[: entries // 2]
        chosen = np.concatenate([steepest, chosen])
    return np.unique(chosen), [rng.standard_normal(x.shape) for _ in range(directions)]


def step(x: Array, size: float, normal: float = STEP) -> float:
    """Choose h for moving an entry of x of the given size: `normal`; less where all of x is small, more if it is huge.

    A power of two, so that x + h is exact and no rounding of x enters the quotient.
    """
    typical = min(4 * float(np.abs(x).max(initial=0)), 1.0) or 1.0
    _, exponent = math.frexp(max(typical, 2.0**-10, 2.0**-10 * size))
    return float(normal * 2.0 ** (exponent - 1))


def derivative(f: Callable[[float], Array], h: float) -> Array:
    """f'(0) ≈ (8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12h, whose error is h⁴/30 · f⁽⁵⁾ (Fornberg 1988, table 1)."""
    with np.errstate(invalid="ignore"):  # ∞ - ∞ becomes NaN, and the comparison reports it
        return np.asarray((8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h))


def closest_derivative(f: Callable[[float], Array], upstream: Array, h: float, got: float) -> float:
    """Differentiate Σ upstream · f(t) at 0 with step h, and with smaller ones while it is not `got`; keep the closest.

    Beside a kink, or where f varies fast, only a small step gives the derivative. A wrong gradient meets it at none.
    """
    closest = math.nan
    for size in (h, h / 16, h / 256, h / 4096) if math.isfinite(got) else (h,):
        # the outputs are subtracted before they are summed: what x does not move adds no rounding error
        value = float((upstream * derivative(f, size)).sum())
        if math.isnan(closest) or abs(value - got) < abs(closest - got):
            closest = value
        if abs(closest - got) <= 1e-8 * abs(got):
            break
    return closest


def probe(
    f: Callable[[], Array], upstream: Array, x: Array, gradient: Array, entries: Array, directions: list[Array],
    normal_step: float = STEP,
) -> Probes:  # fmt: skip
    """Differentiate Σ upstream · f() with respect to x, which f reads and which is moved in place and put back.

    `gradient` is the one to be judged; it only tells where a smaller step is worth trying.
    """
    start = x.copy()
    claimed = gradient if gradient.shape == x.shape else np.full(x.shape, math.nan)

    def moved(flat_index: int, t: float) -> Array:
        x.flat[flat_index] = start.flat[flat_index] + t
        return f()

    def moved_along(direction: Array, t: float) -> Array:
        x[...] = start + t * direction
        return f()

    finest = normal_step
    at_entries = np.zeros(len(entries))
    for n, i in enumerate(entries):
        h = step(start, abs(float(start.flat[i])), normal_step)
        finest = min(finest, h)
        at_entries[n] = closest_derivative(partial(moved, i), upstream, h, float(claimed.flat[i]))
        x.flat[i] = start.flat[i]
    along = np.zeros(len(directions))
    for n, u in enumerate(directions):
        h = step(start, float(np.median(np.abs(start))), normal_step)
        finest = min(finest, h)
        along[n] = closest_derivative(partial(moved_along, u), upstream, h, float(np.vdot(claimed, u)))
        x[...] = start
    return Probes(x.shape, entries, at_entries, directions, along, finest)


def compare(
    name: str, gradient: Array, probes: Probes, largest: float, tolerance: float, size: float
) -> tuple[ArgumentReport, Finding | None]:
    """Compare the gradient of the argument `name` with its numerical derivatives, of something of the given size.

    The relative error is max|got - expected| / max(max|expected|, max|got|, FLOOR · largest over all arguments).
    """
    shape = probes.shape
    numerical = np.full(shape, math.nan)
    numerical.flat[probes.entries] = probes.at_entries

    def record(error: float, cosine: float, index: tuple[int, ...] | None, got: float, want: float) -> ArgumentReport:
        return ArgumentReport(name, shape, error, cosine, index, got, want, gradient, numerical)

    def not_comparable(kind: str, index: tuple[int, ...], message: str) -> tuple[ArgumentReport, Finding]:
        return record(math.inf, math.nan, index, math.nan, math.nan), Finding(kind, name, index or None, message)

    if gradient.shape != shape:
        message = f"the gradient of {name} has shape {gradient.shape}; {name} has {shape}"
        return not_comparable("wrong_shape", (), message)
    bad = np.argwhere(~np.isfinite(gradient))
    if len(bad):
        first = tuple(bad[0].tolist())
        many = f", the first of {len(bad)} such entries" if len(bad) > 1 else ""
        message = (
            f"the gradient of {name} is {gradient[first]} at {first}{many}: a division by 0, a log or exp too far?"
        )
        return not_comparable("not_finite", first, message)
    got, expected = probes.of(gradient), probes.expected
    if not np.isfinite(expected).all():
        return not_comparable("not_finite", (), f"the forward pass is not finite where {name} is moved a little")
    if len(expected) == 0:
        return record(0.0, math.nan, (), math.nan, math.nan), None

    difference = np.abs(got - expected)
    worst = int(difference.argmax())
    scale = max(float(np.abs(expected).max()), float(np.abs(got).max()), FLOOR * largest)
    error = float(difference[worst]) / scale if scale else 0.0
    norms = float(np.linalg.norm(got) * np.linalg.norm(expected))
    cosine = float(got @ expected) / norms if norms else math.nan
    index = None
    if worst < len(probes.entries):
        index = tuple(int(i) for i in np.unravel_index(probes.entries[worst], shape))
    compared = record(error, cosine, index, float(got[worst]), float(expected[worst]))
    return compared, None if error * scale <= tolerance * scale + probes.noise(size) else incorrect(compared)


def incorrect(record: ArgumentReport, where: str = "") -> Finding:
    """Say where got and expected differ most."""
    at = "along a random direction" if record.index is None else f"at {record.index}"
    message = (
        f"the gradient of {record.name} is {record.got:.6g} {at}, expected {record.expected:.6g}; "
        f"relative error {record.relative_error:.1e}{where}"
    )
    details = {"got": record.got, "expected": record.expected, "relative_error": record.relative_error}
    return Finding("incorrect", record.name, record.index, message, details)


Explain = Callable[[ArgumentReport, Finding], list[Finding]]


def judge(
    gradients: dict[str, Array], probes: dict[str, Probes], scale: float, findings: list[Finding], tolerance: float,
    explain: Explain,
) -> Report:  # fmt: skip
    """Compare every gradient and add to what was found before; `scale` is the size of what was differentiated.

    `explain` puts better findings in the place of one that only says that a gradient is wrong.
    """
    largest = max((p.largest() for p in probes.values()), default=0.0)
    all_zero = largest <= VACUOUS * scale and all(np.isfinite(p.expected).all() for p in probes.values())
    if all_zero:
        largest = scale  # what is left is rounding, which is not to be called wrong as well
    arguments = {}
    for name, gradient in gradients.items():
        arguments[name], finding = compare(name, gradient, probes[name], largest, tolerance, scale)
        if finding is not None:
            findings += [finding] if all_zero else explain(arguments[name], finding)
    if not arguments:
        message = "no floating-point array among the inputs, so nothing was checked"
        findings.append(Finding("vacuous", "", None, message))
    elif all_zero:
        message = (
            "every true gradient is zero here, so that a wrong backward would hardly show: y does not depend on these "
            "inputs, or not along this dy (dy = 1 behind a softmax or a layer norm); choose others"
        )
        findings.append(Finding("vacuous", "", None, message))
    return Report(arguments, findings, tolerance)
