"""`check_module` and `check_model` on toys that only look like minissl's own modules and models."""

from types import SimpleNamespace

import numpy as np
import pytest

from minissl import ops
from minissl.errors import InputError
from minissl.gradcheck import check_model, check_module
from minissl.gradcheck.model import random_values


class Normed:
    """y = layer_norm(x wᵀ + b), at its initial values: gain 1, bias 0, small weights."""

    def __init__(self, spoil=lambda name, gradient: gradient):
        rng = np.random.default_rng(0)
        arrays = {
            "weight": 0.02 * rng.standard_normal((5, 3)),
            "bias": np.zeros(5),
            "gain": np.ones(5),
            "shift": np.zeros(5),
        }
        self.params = {name: SimpleNamespace(data=data) for name, data in arrays.items()}
        self.spoil = spoil

    def named_parameters(self):
        return iter(self.params.items())

    def forward(self, x):
        weight, bias, gain, shift = (p.data for p in self.params.values())
        h, linear = ops.linear_forward(x, weight, bias)
        y, norm = ops.layer_norm_forward(h, gain, shift, 1e-5)
        return y, [linear, norm]

    def backward(self, dy, cache, grads):
        norm = cache.pop()  # a module may use its cache up
        dh, dgain, dshift = ops.layer_norm_backward(dy, norm)
        dx, dweight, dbias = ops.linear_backward(dh, cache.pop())
        for name, gradient in {"weight": dweight, "bias": dbias, "gain": dgain, "shift": dshift}.items():
            grads.add(self.params[name], self.spoil(name, gradient))
        return self.spoil("x", dx)


class Grads:
    def __init__(self):
        self.sums = {}

    def add(self, param, gradient):
        self.sums[id(param)] = self.sums.get(id(param), 0) + gradient


class ToyModel(Normed):
    """Dropout after the module, then a mean squared error; the table `weight` is tied to itself under a second name."""

    def loss_and_grads(self, x, target, rng):
        h, cache = self.forward(x)
        y, dropped = ops.dropout_forward(h, 0.4, rng)
        positions = np.arange(len(y))
        loss, error = ops.masked_mse_forward(y, target, positions)
        dy, _ = ops.masked_mse_backward(np.float64(1), error)
        grads = Grads()
        self.backward(ops.dropout_backward(dy, dropped), cache, grads)
        named = {name: grads.sums[id(p)] for name, p in self.params.items()}
        return loss, named | {"tied": self.spoil("tied", named["weight"])}


def x():
    return np.random.default_rng(1).standard_normal((4, 3))


def model_inputs():
    return {"x": x(), "target": np.random.default_rng(2).standard_normal((4, 5)), "rng": np.random.default_rng(3)}


def spoilt(wanted, change):
    return lambda name, gradient: change(gradient) if name == wanted else gradient


def kinds(report):
    return [(finding.kind, finding.argument) for finding in report.findings]


def values(owner):
    return {name: p.data.copy() for name, p in owner.params.items()}


def same(owner, before):
    return all(np.array_equal(p.data, before[name]) for name, p in owner.params.items())


def test_a_right_module_passes_and_gets_its_parameters_back():
    module = Normed()
    before = values(module)
    report = check_module(module, {"x": x()})
    assert report.ok, report
    assert list(report.arguments) == ["x", "weight", "bias", "gain", "shift"]
    assert report.relative_error < 1e-9
    assert same(module, before)


@pytest.mark.parametrize("name", ["x", "weight", "bias", "gain", "shift"])
def test_an_error_in_one_gradient_of_a_module_is_found_there(name):
    report = check_module(Normed(spoilt(name, lambda g: 1.01 * g)), {"x": x()})
    assert kinds(report) == [("scale", name)]


def test_a_module_is_checked_away_from_its_initial_values():
    """At gain 1 this backward is right: only the randomised gain shows that it is forgotten."""

    class GainForgotten(Normed):
        def backward(self, dy, cache, grads):
            norm = cache.pop()
            dh, _, _ = ops.layer_norm_backward(dy, norm._replace(gain=np.ones(5)))
            _, dgain, dshift = ops.layer_norm_backward(dy, norm)
            dx, dweight, dbias = ops.linear_backward(dh, cache.pop())
            for p, gradient in zip(self.params.values(), (dweight, dbias, dgain, dshift), strict=True):
                grads.add(p, gradient)
            return dx

    assert [argument for _, argument in kinds(check_module(GainForgotten(), {"x": x()}))] == ["bias", "weight", "x"]


def test_a_parameter_whose_gradient_is_never_added_is_found():
    class Forgetful(Normed):
        def backward(self, dy, cache, grads):
            ours = Grads()
            dx = super().backward(dy, cache, ours)
            for p in list(self.params.values())[1:]:
                grads.add(p, ours.sums[id(p)])
            return dx

    report = check_module(Forgetful(), {"x": x()})
    assert kinds(report) == [("zero", "weight")]
    assert not report.arguments["weight"].gradient.any()


def test_a_parameter_used_twice_needs_both_gradients():
    class Squared:
        def __init__(self, uses):
            self.w = SimpleNamespace(data=np.ones(3))
            self.uses = uses

        def named_parameters(self):
            return iter([("w", self.w), ("w again", self.w)])

        def forward(self, x):
            return x * self.w.data * self.w.data, x

        def backward(self, dy, x, grads):
            for _ in range(self.uses):
                grads.add(self.w, (dy * x * self.w.data).sum(axis=0))
            return dy * self.w.data * self.w.data

    assert check_module(Squared(uses=2), {"x": x()}).ok
    assert kinds(check_module(Squared(uses=1), {"x": x()})) == [("scale", "w")]


def test_a_module_that_changes_its_parameters_is_found():
    class Learner(Normed):
        def backward(self, dy, cache, grads):
            dx = super().backward(dy, cache, grads)
            self.params["bias"].data -= 1e-3
            return dx

    module = Learner()
    before = values(module)
    assert ("mutated", "bias") in kinds(check_module(module, {"x": x()}))
    assert same(module, before)


def test_a_module_without_inputs_to_differentiate_returns_nothing():
    class Table:
        def __init__(self):
            self.weight = SimpleNamespace(data=np.zeros((7, 3)))

        def named_parameters(self):
            return iter([("weight", self.weight)])

        def forward(self, ids):
            return ops.embedding_forward(ids, self.weight.data)

        def backward(self, dy, cache, grads):
            grads.add(self.weight, ops.embedding_backward(dy, cache))

    report = check_module(Table(), {"ids": np.array([[1, 6], [1, 0]])})
    assert report.ok
    assert list(report.arguments) == ["weight"]


def test_a_right_model_passes_and_gets_its_parameters_back():
    model = ToyModel()
    before = values(model)
    report = check_model(model, model_inputs())
    assert report.ok, report
    assert list(report.arguments) == ["weight", "bias", "gain", "shift"]
    assert report.relative_error < 1e-9
    assert same(model, before)


@pytest.mark.parametrize("name", ["weight", "bias", "gain", "shift"])
def test_an_error_planted_in_one_parameter_is_found_there(name):
    report = check_model(ToyModel(spoilt(name, lambda g: -g)), model_inputs())
    assert [f for f in kinds(report) if f[1] != "tied"] == [("sign", name)]


def test_one_wrong_entry_shows_along_a_direction():
    def one_entry(gradient):
        changed = gradient.copy()
        changed.flat[np.abs(gradient).argmin()] += 1e-3  # the entry least likely to be tried alone
        return changed

    report = check_model(ToyModel(spoilt("weight", one_entry)), model_inputs(), entries=2)
    assert ("incorrect", "weight") in kinds(report)


def test_a_tied_parameter_has_one_gradient_under_all_its_names():
    report = check_model(ToyModel(spoilt("tied", lambda g: 0.5 * g)), model_inputs())
    assert kinds(report) == [("incorrect", "tied")]


def test_parameters_come_back_even_after_an_error():
    class Broken(ToyModel):
        def loss_and_grads(self, x, target, rng):
            raise RuntimeError("broken")

    model = Broken()
    before = values(model)
    with pytest.raises(RuntimeError, match="broken"):
        check_model(model, model_inputs())
    assert same(model, before)


def test_a_model_can_be_checked_where_it_stands():
    seen = []

    class Watched(ToyModel):
        def loss_and_grads(self, x, target, rng):
            seen.append(self.params["gain"].data.copy())
            return super().loss_and_grads(x, target, rng)

    assert check_model(Watched(), model_inputs(), randomise=False).ok
    np.testing.assert_array_equal(seen[0], np.ones(5))
    seen.clear()
    check_model(Watched(), model_inputs())
    assert (seen[0] != 1).all()


def test_a_model_that_differs_from_call_to_call_is_found():
    own = np.random.default_rng(0)

    class Restless(ToyModel):
        def loss_and_grads(self, x, target, rng):
            return super().loss_and_grads(x, target, own)

    assert ("nondeterministic", "") in kinds(check_model(Restless(), model_inputs()))


def test_a_model_without_effect_is_vacuous():
    class Deaf(ToyModel):
        def loss_and_grads(self, x, target, rng):
            return np.float64(3), {name: np.zeros_like(p.data) for name, p in self.params.items()}

    assert kinds(check_model(Deaf(), model_inputs())) == [("vacuous", "")]


def test_float32_and_missing_gradients_are_refused():
    module = Normed()
    module.params["gain"].data = np.ones(5, np.float32)
    with pytest.raises(InputError, match=r'gain is float32.*model.astype\("float64"\)'):
        check_module(module, {"x": x()})

    class Silent(ToyModel):
        def loss_and_grads(self, x, target, rng):
            loss, gradients = super().loss_and_grads(x, target, rng)
            del gradients["shift"]
            return loss, gradients

    with pytest.raises(InputError, match="no gradient for shift"):
        check_model(Silent(), model_inputs())


def test_random_values_are_of_order_one():
    rng = np.random.default_rng(0)
    matrix = random_values(np.zeros((400, 100)), rng)
    assert matrix.std() == pytest.approx(0.15, rel=0.02)
    gain = random_values(np.ones(1000), rng)
    assert 0.5 <= gain.min() < 0.6 < 1.4 < gain.max() <= 1.5
    bias = random_values(np.zeros((1, 1, 1000)), rng)
    assert bias.shape == (1, 1, 1000)
    assert -0.5 <= bias.min() < -0.4 < 0.4 < bias.max() <= 0.5
