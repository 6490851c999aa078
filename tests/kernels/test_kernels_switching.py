"""Which pair runs: the twin, the reference, or one's own."""

import os
import subprocess
import sys

import numpy as np
import pytest

import minissl
from minissl import ops
from minissl.errors import InputError
from minissl.kernels import chain, cpu, enabled, op, reference_ops, replace_op, twins
from minissl.models import BertConfig, BertForPreTraining

CONFIG = BertConfig(
    vocab_size=29, hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=17,
    max_position_embeddings=11,
)  # fmt: skip
WITH_TWINS = pytest.mark.skipif(not enabled(), reason="MINISSL_KERNELS=off")


def batch(seed=0):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 29, (5, 7))
    mask = np.arange(7) < np.array([7, 5, 7, 3, 6])[:, None]
    return {
        "input_ids": np.where(mask, ids, 0),
        "attention_mask": mask.astype(int),
        "token_type_ids": rng.integers(0, 2, (5, 7)),
        "labels": np.where(mask & (rng.random((5, 7)) < 0.4), rng.integers(0, 29, (5, 7)), -100),
        "next_sentence_label": rng.integers(0, 2, 5),
    }


def order_one(model, seed=0):
    """Weights of order 1, at which a lost factor shows."""
    rng = np.random.default_rng(seed)
    for _, param in model.named_parameters():
        spread = 1.5 / np.sqrt(param.data.shape[-1]) if param.data.ndim == 2 else 0.5
        param.data[...] = param.data.mean() + spread * rng.standard_normal(param.data.shape)
    return model


def chosen(name="layer_norm"):
    """The backward that op `name` would use now."""
    x = np.ones((2, 3))
    _, called = op(name).forward(x, *{"layer_norm": (np.ones(3), np.ones(3), 1e-12), "tanh": ()}[name])
    return called.backward


@WITH_TWINS
def test_twins_are_used_where_there_is_one():
    assert chosen() is cpu.layer_norm_backward
    assert chosen("tanh") is ops.tanh_backward


@WITH_TWINS
def test_reference_ops_switches_off_and_back():
    with reference_ops():
        assert not enabled()
        assert chosen() is ops.layer_norm_backward
        with minissl.reference_ops():
            assert chosen() is ops.layer_norm_backward
        assert chosen() is ops.layer_norm_backward
    assert enabled()
    assert chosen() is cpu.layer_norm_backward


@WITH_TWINS
def test_reference_ops_switches_back_after_an_exception():
    with pytest.raises(ZeroDivisionError), reference_ops():
        1 / 0  # noqa: B018
    assert chosen() is cpu.layer_norm_backward


@pytest.mark.parametrize(("value", "expected"), [("off", "False"), ("on", "True"), (None, "True")])
def test_the_environment_switches_twins_off(value, expected):
    environment = {name: v for name, v in os.environ.items() if name != "MINISSL_KERNELS"}
    if value is not None:
        environment["MINISSL_KERNELS"] = value
    code = (
        "import numpy as np; from minissl import kernels\n"
        "called = kernels.op('layer_norm').forward(np.ones((2, 3)), np.ones(3), np.ones(3), 1e-12)[1]\n"
        "print(kernels.enabled(), 'cpu' in called.backward.__module__)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [expected, expected]


def test_twins_returns_a_copy():
    twins().clear()
    assert twins()


def mine(y):
    return (lambda *args: (y, None)), (lambda dy, cache: y)


def test_replace_op_puts_ones_own_pair_in_place():
    before, (forward, backward) = chosen(), mine("mine")
    with replace_op("layer_norm", forward, backward):
        assert op("layer_norm").forward(np.ones((2, 3)))[0] == "mine"
        assert chosen() is backward
        assert chosen("tanh") is ops.tanh_backward
        with reference_ops():
            assert chosen() is backward
    assert chosen() is before


def test_replace_op_nests():
    before, outer, inner = chosen(), mine("outer"), mine("inner")
    with replace_op("layer_norm", *outer):
        with replace_op("layer_norm", *inner):
            assert chosen() is inner[1]
            with replace_op("tanh", *inner):
                assert chosen("tanh") is inner[1]
        assert chosen() is outer[1]
    assert chosen() is before
    assert chosen("tanh") is ops.tanh_backward


def test_replace_op_restores_after_an_exception():
    before = chosen()
    with pytest.raises(ZeroDivisionError), replace_op("layer_norm", *mine("mine")):
        1 / 0  # noqa: B018
    assert chosen() is before


@pytest.mark.parametrize("name", ["layernorm", "erf", ""])
def test_an_unknown_op_is_named_with_those_that_exist(name):
    with pytest.raises(InputError, match=f"no op named {name!r}.*attention, binary_cross_entropy"):
        op(name)
    with pytest.raises(InputError, match=f"no op named {name!r}"), replace_op(name, *mine(0)):
        pass


@WITH_TWINS
@pytest.mark.parametrize("forward_on_twins", [True, False])
def test_a_backward_fits_the_forward_that_ran(forward_on_twins):
    """Attention's caches differ between the twin and the reference, so mixing them up would fail."""
    rng = np.random.default_rng(0)
    q, k, v, dy = (rng.standard_normal((2, 4, 6)) for _ in range(4))
    attention = op("attention")
    if forward_on_twins:
        _, called = attention.forward(q, k, v)
        with reference_ops():
            got = attention.backward(dy, called)
    else:
        with reference_ops():
            _, called = attention.forward(q, k, v)
        got = attention.backward(dy, called)
    expected = ops.attention_backward(dy, ops.attention_forward(q, k, v)[1])
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)


@WITH_TWINS
@pytest.mark.parametrize("dropout", [False, True])
def test_a_whole_model_is_the_same_with_twins_and_without(dropout):
    model, inputs = order_one(BertForPreTraining(CONFIG, dtype="float64")), batch()

    def run():
        rng = np.random.default_rng(1) if dropout else None
        loss, gradients = model.loss_and_grads(**inputs, rng=rng)
        return loss, {key: gradient.copy() for key, gradient in gradients.items()}, model(**inputs)

    loss, gradients, out = run()
    with reference_ops():
        reference_loss, reference_gradients, reference_out = run()
    assert loss == pytest.approx(reference_loss, rel=1e-13)
    largest = max(np.abs(gradient).max() for gradient in reference_gradients.values())
    for key, expected in reference_gradients.items():
        scale = max(np.abs(expected).max(), 1e-3 * largest)  # the gradient of a key bias is zero but for rounding
        assert np.abs(gradients[key] - expected).max() <= 1e-12 * scale, key
    for name, expected in reference_out.items():
        np.testing.assert_allclose(out[name], expected, rtol=1e-11, atol=1e-12)


def students_layer_norm():
    """A pair with a cache of its own kind, that counts how often it was called."""
    calls = {"forward": 0, "backward": 0}

    def forward(x, gain, bias, eps):
        calls["forward"] += 1
        mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        normed = (x - mean) / np.sqrt(variance + eps)
        return gain * normed + bias, {"normed": normed, "variance": variance + eps, "gain": gain}

    def backward(dy, cache):
        calls["backward"] += 1
        n, d = cache["normed"], dy * cache["gain"]
        dx = (d - d.mean(-1, keepdims=True) - n * (d * n).mean(-1, keepdims=True)) / np.sqrt(cache["variance"])
        leading = tuple(range(dy.ndim - 1))
        return dx, (dy * n).sum(leading), dy.sum(leading)

    return calls, forward, backward


def train(model, inputs, steps=12):
    losses = []
    for _ in range(steps):
        loss, gradients = model.loss_and_grads(**inputs)
        losses.append(loss)
        for key, param in model.named_parameters():
            param.data -= 0.1 * gradients[key]
    return losses


def test_a_whole_model_trains_with_a_pair_of_ones_own():
    expected = train(BertForPreTraining(CONFIG, dtype="float64"), batch())
    calls, forward, backward = students_layer_norm()
    with replace_op("layer_norm", forward, backward):
        losses = train(BertForPreTraining(CONFIG, dtype="float64"), batch())
    np.testing.assert_allclose(losses, expected, rtol=1e-9)
    assert losses[-1] < losses[0] - 0.5
    assert calls["forward"] == calls["backward"] == 12 * (1 + 2 * CONFIG.num_hidden_layers + 1)


@WITH_TWINS
def test_neighbouring_ops_run_as_one_until_a_part_is_replaced():
    rng = np.random.default_rng(0)
    x, weight, bias = rng.standard_normal((3, 4)), rng.standard_normal((5, 4)), rng.standard_normal(5)
    fused = chain(op("linear"), op("gelu"))

    def mine(h):
        return np.tanh(h), h

    y, called = fused.forward(x, weight, bias)
    assert called.backward is cpu.linear_gelu_backward
    with reference_ops():
        plain, plain_called = fused.forward(x, weight, bias)
    np.testing.assert_allclose(y, plain, rtol=1e-12)
    dy = rng.standard_normal(y.shape)
    for ours, theirs in zip(fused.backward(dy, called), fused.backward(dy, plain_called), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    with replace_op("gelu", mine, lambda dy, h: dy / np.cosh(h) ** 2):
        replaced, called = fused.forward(x, weight, bias)
        dx, _, dbias = fused.backward(dy, called)
    h = x @ weight.T + bias
    np.testing.assert_allclose(replaced, np.tanh(h), rtol=1e-12)
    np.testing.assert_allclose(dbias, (dy / np.cosh(h) ** 2).sum(axis=0), rtol=1e-12)
    np.testing.assert_allclose(dx, dy / np.cosh(h) ** 2 @ weight, rtol=1e-12)


def test_an_activation_without_a_twin_of_its_own_follows_the_linear_layer():
    rng = np.random.default_rng(0)
    x, weight, bias = rng.standard_normal((3, 4)), rng.standard_normal((5, 4)), rng.standard_normal(5)
    y, _ = chain(op("linear"), op("tanh")).forward(x, weight, bias)
    np.testing.assert_allclose(y, np.tanh(x @ weight.T + bias), rtol=1e-12)


def test_a_wrong_pair_of_ones_own_shows():
    _, forward, _ = students_layer_norm()
    with replace_op("layer_norm", forward, lambda dy, cache: (dy, 0 * cache["gain"], 0 * cache["gain"])):
        _, gradients = BertForPreTraining(CONFIG).loss_and_grads(**batch())
    assert not gradients["bert.embeddings.LayerNorm.weight"].any()


def test_evaluation_with_an_attention_whose_cache_is_a_plain_tuple():
    model = order_one(BertForPreTraining(CONFIG, dtype="float64"))
    expected = model(**batch())

    def forward(q, k, v, mask=None, rate=0.0, rng=None):
        y, cache = ops.attention_forward(q, k, v, mask, rate, rng)
        return y, (cache,)

    with replace_op("attention", forward, lambda dy, cache: ops.attention_backward(dy, *cache)):
        out = model(**batch())
        loss, _ = model.loss_and_grads(**batch())
    np.testing.assert_allclose(out.prediction_logits, expected.prediction_logits, rtol=1e-11, atol=1e-12)
    assert loss == pytest.approx(float(expected.loss), rel=1e-12)
