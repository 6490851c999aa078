"""`check`: a pair of functions against numerical derivatives."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from minissl.backend import Array
from minissl.errors import InputError
from minissl.gradcheck.numerical import choose_probes, judge, probe
from minissl.gradcheck.purity import unchanged
from minissl.gradcheck.report import Finding, Report

EVERY_ENTRY = 4096  # up to this many entries of an argument each one is differenced; of more, a sample
SAMPLED_ENTRIES = 256
DIRECTIONS = 4

Forward = Callable[..., Any]
Backward = Callable[..., Any]


def check(
    forward: Forward, backward: Backward, inputs: dict[str, Any], *, seed: int = 0, tolerance: float = 1e-7
) -> Report:
    """Call `y, cache = forward(**inputs)` and `backward(dy, cache)` with a random dy, and compare every gradient.

    Backward returns one gradient for each floating-point array in `inputs`, in order; a single one may come bare.
    Everything runs in float64. A Generator is copied before each call, so that every call draws the same numbers.

    Raises InputError where forward or backward returns something else than that.
    """
    return check_pair(forward, backward, inputs, seed, tolerance, keeps_cache=True)


def check_pair(
    forward: Forward, backward: Backward, inputs: dict[str, Any], seed: int, tolerance: float, keeps_cache: bool
) -> Report:
    """Do what `check` does. Without `keeps_cache`, backward may use its cache up, as a module's may."""
    rng = np.random.default_rng(seed)
    values = fresh(inputs)
    names = differentiable(values)
    findings: list[Finding] = []
    y = output_of(forward, values)
    upstream = np.asarray(rng.standard_normal(y.shape))
    gradients = _analytic(forward, backward, values, y, upstream, keeps_cache, findings)
    probes = {}
    for name in names:
        x = values[name]
        where: tuple[Array, list[Array]] = np.arange(x.size), []
        if x.size > EVERY_ENTRY:
            where = choose_probes(x, gradients[name], SAMPLED_ENTRIES, DIRECTIONS, rng)
        probes[name] = probe(lambda: output_of(forward, values), upstream, x, gradients[name], *where)
    scale = float(np.abs(upstream * y)[np.isfinite(y)].max(initial=0))
    return judge(gradients, probes, scale, findings, tolerance)


def _analytic(
    forward: Forward, backward: Backward, values: dict[str, Any], y: Array, upstream: Array, keeps_cache: bool,
    findings: list[Finding],
) -> dict[str, Array]:  # fmt: skip
    """Return the gradients by name; note what is changed, not repeatable or not in float64."""
    names = differentiable(values)
    given, dy = fresh(values), upstream.copy()
    with unchanged("forward", given, findings):
        again, cache = pair_of(forward(**given))
    if y.dtype != np.float64:
        findings.append(Finding("precision", "", f"forward returned {y.dtype} for float64 inputs; where is the cast?"))
    if again.tobytes() != y.tobytes():
        message = "two equal calls of forward differ; does it draw from np.random, not from an rng among its inputs?"
        findings.append(Finding("nondeterministic", "", message))

    watched = given | {"dy": dy} | ({"cache": cache} if keeps_cache else {})
    with unchanged("backward", watched, findings):
        first = as_arrays(backward(dy, cache), names)
    for name, gradient in first.items():
        if gradient.dtype != np.float64:
            message = f"backward returned {gradient.dtype} for {name}, whose dtype is float64; where is the cast?"
            findings.append(Finding("precision", name, message))
    if not keeps_cache:
        _, cache = pair_of(forward(**fresh(values)))
    second = as_arrays(backward(upstream.copy(), cache), names)
    mutated = any(f.kind == "mutated" for f in findings)  # which explains a second result that differs
    for name in names:
        if first[name].tobytes() != second[name].tobytes() and not mutated:
            message = f"a second backward on the same cache gives another gradient of {name}"
            findings.append(Finding("nondeterministic", name, message))
    return first


def fresh(inputs: dict[str, Any]) -> dict[str, Any]:
    """Copy the inputs; floating-point arrays become float64."""
    return {name: _fresh(value) for name, value in inputs.items()}


def _fresh(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return np.array(value, np.float64 if value.dtype.kind == "f" else value.dtype)
    return copy.deepcopy(value)


def differentiable(inputs: dict[str, Any]) -> list[str]:
    """Name the inputs that backward owes a gradient: the floating-point arrays."""
    return [name for name, value in inputs.items() if isinstance(value, np.ndarray) and value.dtype.kind == "f"]


def output_of(forward: Forward, values: dict[str, Any]) -> Array:
    """Return y of `forward`, called on copies of the values."""
    return pair_of(forward(**fresh(values)))[0]


def pair_of(returned: Any) -> tuple[Array, Any]:
    """Return y as an array, and the cache. Raises InputError where forward did not return such a pair."""
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise InputError(f"forward returned {type(returned).__name__}, expected the pair (y, cache)")
    y = np.asarray(returned[0])
    if y.dtype.kind != "f":
        raise InputError(f"forward returned a y of dtype {y.dtype}, expected floating point; is the order (y, cache)?")
    return y, returned[1]


def as_arrays(returned: Any, names: list[str]) -> dict[str, Array]:
    """Return copies of the gradients that backward returned, by name.

    Raises InputError for any other number of them than `names`, and for what is no array of numbers.
    """
    gradients = list(returned) if isinstance(returned, (tuple, list)) else [] if returned is None else [returned]
    if len(gradients) != len(names):
        raise InputError(
            f"backward returned {len(gradients)} gradients, expected {len(names)} ({', '.join(names) or 'none'}): "
            "one for each floating-point array, in order; integers, booleans and scalars get none"
        )
    for name, gradient in zip(names, gradients, strict=True):
        if not (isinstance(gradient, (np.generic, float)) or hasattr(gradient, "__array__")):
            raise InputError(f"backward returned {type(gradient).__name__} for {name}, expected an array of its shape")
    return {name: np.array(gradient) for name, gradient in zip(names, gradients, strict=True)}
