"""`check_module` and `check_model`: whole modules and models, known only by the methods that they have."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from minissl.backend import Array
from minissl.errors import InputError
from minissl.gradcheck.check import as_arrays, check_pair, differentiable, fresh
from minissl.gradcheck.numerical import choose_probes, judge, probe
from minissl.gradcheck.purity import unchanged
from minissl.gradcheck.report import Finding, Report


def check_module(module: Any, inputs: dict[str, Any], *, seed: int = 0, tolerance: float = 1e-7) -> Report:
    """Check `module.forward(**inputs)` against `module.backward(dy, cache, grads)`, inputs and parameters alike.

    `module.named_parameters()` yields (name, param), with `param.data`; `grads` has `add(param, gradient)`. Parameters
    are drawn anew as `random_values` says, and put back. Backward may use its cache up.

    Raises InputError for a module that is not in float64, or that returns what `check` refuses.
    """
    params = _parameters(module)
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

    with _own_values_restored(params):
        _randomise(params, np.random.default_rng(seed))
        values = {name: param.data.copy() for name, param in params.items()}
        return check_pair(forward, backward, {**inputs, **values}, seed, tolerance, keeps_cache=False)


def check_model(
    model: Any, inputs: dict[str, Any], *, seed: int = 0, directions: int = 2, entries: int = 4,
    randomise: bool = True, tolerance: float = 1e-7,
) -> Report:  # fmt: skip
    """Check `loss, grads = model.loss_and_grads(**inputs)`, where `grads` has one gradient per parameter by name.

    Each parameter is tried at single entries (half of them where its gradient is largest) and along random directions.
    Parameters are drawn anew as `random_values` says (`randomise=False`: taken as they are), and put back.
    A name in `grads` beyond `model.named_parameters()` is a tied parameter's second name: same gradient.

    Raises InputError for a model that is not in float64 and for a parameter without a gradient.
    """
    rng = np.random.default_rng(seed)
    params = _parameters(model)
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
        for name, param in params.items():
            where = choose_probes(param.data, gradients[name], entries, directions, rng)
            probes[name] = probe(loss_now, np.ones(()), param.data, gradients[name], *where)
        return judge({name: gradients[name] for name in params}, probes, abs(loss), findings, tolerance)


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


def _parameters(owner: Any) -> dict[str, Any]:
    """Name every parameter; a tied one has its first name only."""
    named: dict[str, Any] = {}
    for name, param in owner.named_parameters():
        if param.data.dtype != np.float64:
            raise InputError(
                f'{name} is {param.data.dtype}; a gradient check needs float64: call model.astype("float64") first'
            )
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
        findings.append(Finding("nondeterministic", "", message))
    return float(loss), gradients


def _second_names(model: Any, gradients: dict[str, Array], params: dict[str, Any]) -> Iterator[Finding]:
    """Yield a finding for every further name whose gradient is not that of its parameter (of none, if not listed)."""
    listed = dict(model.named_parameters())
    for alias in (name for name in gradients if name not in params):
        firsts = [name for name, param in params.items() if listed.get(alias, param) is param]
        if not any(np.array_equal(gradients[alias], gradients[name]) for name in firsts):
            message = f"{alias} does not have the gradient of its parameter; all names of a tied one must have the same"
            yield Finding("incorrect", alias, message)
