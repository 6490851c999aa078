"""`check_module` and `check_model`: whole modules and models, known only by the methods that they have."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from minissl.backend import Array
from minissl.errors import InputError
from minissl.gradcheck.check import check_pair, require_names
from minissl.gradcheck.diagnosis import diagnose, diagnose_sample, diagnose_shape
from minissl.gradcheck.evidence import Evidence
from minissl.gradcheck.experiment import MOST_ENTRIES, PATIENCE_S, as_arrays, differentiable, fresh
from minissl.gradcheck.kinds import NOTES
from minissl.gradcheck.numerical import Probes, choose_probes, judge, probe
from minissl.gradcheck.purity import unchanged
from minissl.gradcheck.report import ArgumentReport, Finding, Report
from minissl.gradcheck.slips import Suspect
from minissl.gradcheck.trace import Trace
from minissl.gradcheck.uses import uses_of_parameter
from minissl.kernels import reference_ops


def check_module(module: Any, inputs: dict[str, Any], *, seed: int = 0, tolerance: float = 1e-7) -> Report:
    """Check `module.forward(**inputs)` against `module.backward(dy, cache, grads)`, inputs and parameters alike.

    `module.named_parameters()` yields (name, param), with `param.data`; `grads` has `add(param, gradient)`. Parameters
    are drawn anew as `random_values` says, and put back. Backward may use its cache up. Findings begin at the output.

    Raises InputError for a module that is not in float64, or that returns what `check` refuses.
    """
    _require(module, "check_module", "forward", "backward", "named_parameters")
    params = _parameters(module)
    require_names("forward", module.forward, inputs)
    latest: dict[str, Any] = {}

    def forward(**values: Array) -> Any:
        latest.update(values)
        for name, param in params.items():
            param.data[...] = values[name]
        result = module.forward(**{name: values[name] for name in inputs})
        show_parameters()
        return result

    def backward(dy: Array, cache: Any) -> list[Array]:
        grads = _Gradients()
        returned = as_arrays(module.backward(dy, cache, grads), differentiable(inputs))
        show_parameters()
        return [*returned.values(), *(grads[param] for param in params.values())]

    def show_parameters() -> None:
        for name, param in params.items():
            latest[name][...] = param.data  # so that the check sees a parameter that the module changed

    def follow(name: str, value: Any) -> Any:
        given = {n: value if n == name else latest[n] for n in inputs}
        with reference_ops():  # whose lines read like the formulas
            if name not in params:
                return module.forward(**given)[0]
            own, params[name].data = params[name].data, value
            try:
                return module.forward(**given)[0]
            finally:
                params[name].data = own

    with _own_values_restored(params):
        _randomise(params, np.random.default_rng(seed))
        values = {name: param.data.copy() for name, param in params.items()}
        given = {**inputs, **values}
        report = check_pair(forward, backward, given, seed, tolerance, keeps_cache=False, follow=follow)
        return _from_the_output(report, [*inputs, *params])


def check_model(
    model: Any, inputs: dict[str, Any], *, seed: int = 0, directions: int = 2, entries: int = 4,
    randomise: bool = True, tolerance: float = 1e-7,
) -> Report:  # fmt: skip
    """Check `loss, grads = model.loss_and_grads(**inputs)`, where `grads` has one gradient per parameter by name.

    Each parameter is tried at single entries (half of them where its gradient is largest) and along random directions.
    Parameters are drawn anew as `random_values` says (`randomise=False`: taken as they are), and put back.
    A name in `grads` beyond `model.named_parameters()` is a tied parameter's second name: same gradient. Entries that
    `model.untrained()` names (parameter: boolean mask) get no gradient by design, and are left out.

    Raises InputError for a model that is not in float64 and for a parameter without a gradient.
    """
    _require(model, "check_model", "loss_and_grads", "named_parameters")
    rng = np.random.default_rng(seed)
    params = _parameters(model)
    require_names("loss_and_grads", model.loss_and_grads, inputs)
    with _own_values_restored(params):
        if randomise:
            _randomise(params, rng)
        findings: list[Finding] = []
        loss, gradients = _loss_and_gradients(model, inputs, findings)
        missing = [name for name in params if name not in gradients]
        if missing:
            raise InputError(f"loss_and_grads gave no gradient for {missing[0]}; its keys are the parameters' names")
        findings += _second_names(model, gradients, params)

        def loss_now() -> Array:
            return np.asarray(model.loss_and_grads(**fresh(inputs))[0])

        probes = {}
        untrained = model.untrained() if hasattr(model, "untrained") else {}
        for name, param in params.items():
            chosen, along = choose_probes(param.data, gradients[name], entries, directions, rng)
            if name in untrained:
                chosen = chosen[~untrained[name].reshape(-1)[chosen]]
                along = [np.where(untrained[name], 0, u) for u in along]
            where = chosen, along
            probes[name] = probe(loss_now, np.ones(()), param.data, gradients[name], *where)

        def follow(param: Any, value: Any) -> Any:
            own, param.data = param.data, value
            try:
                with reference_ops():
                    return model.loss_and_grads(**fresh(inputs))[0]
            finally:
                param.data = own

        explained: list[str] = []

        def explain(record: ArgumentReport, finding: Finding) -> list[Finding]:
            """Difference every entry of the first wrong parameter; of those behind it the sample must do."""
            got, p = gradients[record.name], probes[record.name]
            expected = None if explained else _every_entry(params[record.name].data, loss_now)
            explained.append(record.name)
            if finding.kind not in ("incorrect", "wrong_shape"):
                return [finding]
            if expected is None:
                sample = finding.kind == "incorrect"
                return [diagnose_sample(record, p.of(got), p.expected, inputs) if sample else finding]
            param = params[record.name]
            uses = uses_of_parameter(param, loss_now, np.ones(()))
            evidence = Evidence(record, param.data, got, expected, {}, {}, inputs, uses=uses)
            if finding.kind == "wrong_shape":
                return diagnose_shape(record, got, expected, evidence)
            evidence.suspect = Suspect(Trace(partial(follow, param), param.data.copy()), np.ones(()), got)
            return [diagnose(evidence)]

        from_the_output = {name: gradients[name] for name in reversed(params)}
        report = judge(from_the_output, probes, abs(loss), findings, tolerance, explain)
        return _from_the_output(report, list(params))


def _every_entry(data: Array, loss: Any) -> Array | None:
    """Difference the loss with respect to every entry; None where that takes too long."""
    began = time.perf_counter()
    loss()
    if data.size > MOST_ENTRIES or 4 * data.size * (time.perf_counter() - began) > PATIENCE_S:
        return None
    nothing = np.full(data.shape, math.nan)
    p: Probes = probe(loss, np.ones(()), data, nothing, np.arange(data.size), [])
    return p.at_entries.reshape(data.shape)


def _from_the_output(report: Report, order: list[str]) -> Report:
    """Put findings in backward's order, and say which gradient goes wrong first."""
    place = {name: i for i, name in enumerate(reversed(order))}
    wrong = sorted((f for f in report.findings if f.argument in place), key=lambda f: place[f.argument])
    rest = [f for f in report.findings if f.argument not in place]
    errors = [f for f in wrong if f.kind not in NOTES and f.kind != "vacuous"]
    if errors:
        first, right = errors[0], place[errors[0].argument]
        said = f"; working from the output down, this is the first wrong one ({right} before it are right)"
        wrong[wrong.index(first)] = replace(first, message=first.message + said)
    arguments = {name: report.arguments[name] for name in order if name in report.arguments}
    return Report(arguments, rest + wrong, report.tolerance)


class _Gradients:
    """Gathers what a module's backward adds; a parameter that nothing was added to has gradient zero."""

    def __init__(self) -> None:
        self.sums: dict[int, Any] = {}

    def add(self, param: Any, gradient: Array) -> None:
        """Add to the parameter's gradient."""
        key = id(param)
        self.sums[key] = self.sums[key] + gradient if key in self.sums else np.array(gradient)

    def __getitem__(self, param: Any) -> Array:
        """Return the sum so far."""
        return np.asarray(self.sums.get(id(param), np.zeros_like(param.data)))


def random_values(data: Array, rng: np.random.Generator) -> Array:
    """Draw values of order 1 for a parameter, at which a lost factor or term cannot hide as it does at the start.

    Matrices and tables: normal, standard deviation 1.5/√fan_in. Vectors: uniform within 0.5 of 0, or of 1 where the
    present mean is above 0.5, which tells a gain from a bias. Axes of length 1 do not count.
    """
    shape = [n for n in data.shape if n > 1]
    if len(shape) > 1:
        return rng.standard_normal(data.shape) * (1.5 / math.sqrt(math.prod(shape[1:])))
    centre = 1.0 if data.mean() > 0.5 else 0.0
    return np.asarray(rng.uniform(centre - 0.5, centre + 0.5, data.shape))


def _require(owner: Any, what: str, *methods: str) -> None:
    for method in methods:
        if isinstance(owner, type) or not callable(getattr(owner, method, None)):
            given = owner.__name__ + " itself, a class" if isinstance(owner, type) else type(owner).__name__
            raise InputError(f"{what}: given {given}, expected an object with {', '.join(methods)}")


def _parameters(owner: Any) -> dict[str, Any]:
    """Name every parameter; a tied one has its first name only."""
    named: dict[str, Any] = {}
    try:
        listed = [(str(name), param) for name, param in owner.named_parameters()]
        data = [param.data.dtype for _, param in listed]
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"named_parameters must yield pairs (name, parameter with .data): {error}") from None
    for (name, param), dtype in zip(listed, data, strict=True):
        if dtype != np.float64:
            raise InputError(f'{name} is {dtype}; a gradient check needs float64: call model.astype("float64") first')
        if not any(param is other for other in named.values()):
            named[name] = param
    return named


@contextmanager
def _own_values_restored(params: dict[str, Any]) -> Iterator[None]:
    before = {name: param.data.copy() for name, param in params.items()}
    try:
        yield
    finally:
        for name, param in params.items():
            param.data[...] = before[name]


def _randomise(params: dict[str, Any], rng: np.random.Generator) -> None:
    for param in params.values():
        param.data[...] = random_values(param.data, rng)


def _loss_and_gradients(model: Any, inputs: dict[str, Any], findings: list[Finding]) -> tuple[float, dict[str, Array]]:
    """Call the model twice with equal inputs; note what is changed, not repeatable or not in float64."""
    given = fresh(inputs)
    with unchanged("loss_and_grads", given, findings):
        loss, returned = model.loss_and_grads(**given)
    gradients = {name: np.array(gradient) for name, gradient in returned.items()}
    again, repeated = model.loss_and_grads(**fresh(inputs))
    if loss != again or any(gradients[name].tobytes() != repeated[name].tobytes() for name in gradients):
        message = "two equal calls of loss_and_grads differ; does a part draw from np.random, not from the rng given?"
        findings.append(Finding("nondeterministic", "", None, message))
    return float(loss), gradients


def _second_names(model: Any, gradients: dict[str, Array], params: dict[str, Any]) -> Iterator[Finding]:
    """Yield a finding for every further name whose gradient is not that of its parameter (of none, if not listed)."""
    listed = dict(model.named_parameters())
    for alias in (name for name in gradients if name not in params):
        firsts = [name for name, param in params.items() if listed.get(alias, param) is param]
        if not any(np.array_equal(gradients[alias], gradients[name]) for name in firsts):
            message = f"{alias} does not have the gradient of its parameter; all names of a tied one must have the same"
            yield Finding("incorrect", alias, None, message)
