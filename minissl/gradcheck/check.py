"""`check`: a pair of functions against numerical derivatives."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from minissl.backend import Array
from minissl.errors import InputError
from minissl.gradcheck.numerical import Probes, compare, probe
from minissl.gradcheck.purity import changed_arrays, fingerprint
from minissl.gradcheck.report import ArgumentReport, Finding, Report

EVERY_ENTRY = 4096  # up to this many entries of an argument, every one is differenced; above, a sample of them
SAMPLED_ENTRIES = 256
DIRECTIONS = 4
VACUOUS = 1e-9  # derivatives below this share of upstream · output are zero but for rounding

Forward = Callable[..., Any]
Backward = Callable[..., Any]


def check(
    forward: Forward, backward: Backward, inputs: dict[str, Any], *, seed: int = 0, tolerance: float = 1e-7
) -> Report:
    """Call `y, cache = forward(**inputs)` and `backward(dy, cache)` with a random dy, and compare every gradient.

    Backward returns one gradient for each floating-point array in `inputs`, in order; a single one may come bare.
    Everything runs in float64. Generators are copied before each call, so that every call draws the same numbers.

    Raises InputError where forward or backward does not return what this needs.
    """
    return check_pair(forward, backward, inputs, seed, tolerance, keeps_cache=True)


def check_pair(
    forward: Forward, backward: Backward, inputs: dict[str, Any], seed: int, tolerance: float, keeps_cache: bool
) -> Report:
    """Do what `check` does. Without `keeps_cache`, backward may use its cache up, as a module's may."""
    rng = np.random.default_rng(seed)
    values = {name: in_float64(value) for name, value in inputs.items()}
    names = [name for name, value in values.items() if is_differentiable(value)]
    y = output_of(forward, values)
    upstream = np.asarray(rng.standard_normal(y.shape))
    gradients, findings = _run_twice(forward, backward, values, upstream, keeps_cache)

    probes = {}
    for name, gradient in zip(names, gradients, strict=True):
        entries, directions = choose_probes(values[name], gradient, rng)
        probes[name] = probe(lambda: output_of(forward, values), upstream, values[name], entries, directions)
    scale = float(np.abs(upstream * y).max(initial=0))
    shapes = {name: values[name].shape for name in names}
    return judge(dict(zip(names, gradients, strict=True)), shapes, probes, scale, findings, tolerance)


def judge(
    gradients: dict[str, Array],
    shapes: dict[str, tuple[int, ...]],
    probes: dict[str, Probes],
    scale: float,
    findings: list[Finding],
    tolerance: float,
) -> Report:
    """Compare each gradient with its probes; `scale` is the size of the quantity that was differentiated."""
    largest = max((p.largest() for p in probes.values()), default=0.0)
    arguments: dict[str, ArgumentReport] = {}
    for name, gradient in gradients.items():
        arguments[name], finding = compare(name, gradient, shapes[name], probes[name], largest, tolerance)
        if finding is not None:
            findings.append(finding)
    if not arguments:
        findings.append(Finding("vacuous", "", "there is no floating-point array among the inputs: nothing was checked"))
    elif largest <= VACUOUS * scale:
        message = "every true gradient is zero here, so a wrong backward pass could not show; choose other inputs"
        findings.append(Finding("vacuous", "", message))
    return Report(arguments, findings, tolerance)


def in_float64(value: Any) -> Any:
    """Copy a value; floating-point arrays become float64."""
    if isinstance(value, np.ndarray):
        return np.array(value, np.float64 if value.dtype.kind == "f" else value.dtype)
    return copy.deepcopy(value)


def is_differentiable(value: Any) -> bool:
    """Whether backward owes this input a gradient."""
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def gradient_list(returned: Any, names: list[str]) -> list[Any]:
    """Bring what backward returned into one form: a list with a gradient for each of `names`.

    Raises InputError for any other number of gradients.
    """
    gradients = list(returned) if isinstance(returned, (tuple, list)) else [] if returned is None else [returned]
    if len(gradients) != len(names):
        raise InputError(
            f"backward returned {len(gradients)} gradients, expected {len(names)} ({', '.join(names) or 'none'}): "
            "one for each floating-point array, in order; integers, booleans and scalars get none"
        )
    return gradients


def output_of(forward: Forward, values: dict[str, Any]) -> Array:
    """Return y of `forward` on fresh copies of the values."""
    return split(forward(**{name: in_float64(value) for name, value in values.items()}))[0]


def split(returned: Any) -> tuple[Array, Any]:
    """Return y as an array, and the cache. Raises InputError where forward returned something else than a pair."""
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise InputError(f"forward returned {type(returned).__name__}, expected the pair (y, cache)")
    y = np.asarray(returned[0])
    if y.dtype.kind != "f":
        raise InputError(f"forward returned y with dtype {y.dtype}, expected floating point")
    return y, returned[1]


def choose_probes(x: Array, gradient: Any, rng: np.random.Generator) -> tuple[Array, list[Array]]:
    """Choose every entry of a small array; of a large one the largest of the gradient, a sample, and directions."""
    if x.size <= EVERY_ENTRY:
        return np.arange(x.size), []
    return sample_probes(x, gradient, SAMPLED_ENTRIES, DIRECTIONS, rng)
