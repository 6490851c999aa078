"""Every module's backward against numerical differences, with the rest of the module's promises."""

from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import numpy as np
import pytest

from minissl.backend import beside, to_host
from minissl.errors import InputError
from minissl.gradcheck import check_module
from minissl.nn import (
    Dropout,
    Embedding,
    FeedForward,
    Grads,
    Init,
    LayerNorm,
    Linear,
    Module,
    MultiHeadAttention,
    PatchEmbedding,
    TransformerLayer,
    activation,
)
from minissl.nn.feed_forward import ACTIVATIONS

B, T, S, D, H, F, V = 4, 5, 7, 6, 2, 8, 11
PADDING = np.arange(T) < np.array([T, 3, 1, 4])[:, None, None, None]  # (B, 1, 1, T)
BLIND = np.ones((B, 1, T, T), bool)
BLIND[2, 0, 3] = False  # one query that may attend to nothing


def new(seed=0):
    return Init(np.random.default_rng(seed), "float64", std=0.5)


def normal(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape)


def rng():
    return np.random.default_rng(7)


def floating(x):
    return isinstance(x, np.ndarray) and x.dtype.kind == "f"


def attention(dropout=0.0):
    return MultiHeadAttention(D, H, dropout, new())


def layer(act="gelu", dropout=0.0, attention_dropout=0.0, pre_norm=False):
    return TransformerLayer(D, H, F, act, dropout, attention_dropout, 1e-12, new(), pre_norm)


MODULES = {
    "linear, 2-D": (lambda: Linear(D, F, new()), {"x": normal(T, D)}),
    "linear, 4-D": (lambda: Linear(D, F, new()), {"x": normal(B, 2, T, D)}),
    "linear without a bias": (lambda: Linear(D, F, new(), bias=False), {"x": normal(T, D)}),
    "patch embedding": (lambda: PatchEmbedding(3, 2, D, new()), {"images": normal(B, 3, 4, 10)}),
    "embedding": (lambda: Embedding(V, D, new()), {"ids": np.array([[3, 0, 3], [10, 3, 1]])}),
    "layer norm": (lambda: LayerNorm(D, 1e-12, new()), {"x": normal(B, T, D)}),
    "layer norm, large eps": (lambda: LayerNorm(D, 0.5, new()), {"x": normal(B, T, D)}),
    "dropout": (lambda: Dropout(0.3), {"x": normal(B, T, D), "rng": rng()}),
    "dropout, evaluation": (lambda: Dropout(0.3), {"x": normal(B, T, D)}),
    "attention": (attention, {"x": normal(B, T, D)}),
    "attention, mask, dropout": (lambda: attention(0.3), {"x": normal(B, T, D), "mask": PADDING & BLIND, "rng": rng()}),
    "attention without biases": (lambda: MultiHeadAttention(D, H, 0.0, new(), qkv_bias=False), {"x": normal(B, T, D)}),
    "cross-attention, mask": (
        attention,
        {
            "x": normal(B, T, D),
            "mask": np.arange(S) < np.array([S, 3, 1, 4])[:, None, None, None],
            "memory": normal(B, S, D, seed=2),
        },
    ),
    **{f"feed-forward, {a}": (lambda a=a: FeedForward(D, F, a, new()), {"x": normal(T, D)}) for a in ACTIVATIONS},
    "post-norm layer, mask": (layer, {"x": normal(B, T, D), "mask": PADDING & BLIND}),
    "post-norm layer, dropout": (lambda: layer("relu", 0.4, 0.2), {"x": normal(2, 3, D), "rng": rng()}),
    "pre-norm layer, mask, dropout": (
        lambda: layer("tanh", 0.4, 0.2, pre_norm=True),
        {"x": normal(B, T, D), "mask": PADDING & BLIND, "rng": rng()},
    ),
}
every_module = pytest.mark.parametrize("label", MODULES)


@every_module
def test_gradients(label):
    make, inputs = MODULES[label]
    report = check_module(make(), inputs)
    assert report.ok, report
    assert report.relative_error < 1e-8


@every_module
def test_parameter_gradients_are_added_and_the_input_is_left_alone(label):
    make, inputs = MODULES[label]
    module = make()
    run = {name: value.copy() if isinstance(value, np.ndarray) else rng() for name, value in inputs.items()}
    y, cache = module.forward(**run)
    dy = normal(*y.shape, seed=3)
    grads = Recorder()
    module.backward(dy.copy(), cache, grads)
    assert sorted(grads.touched) == sorted(id(param) for _, param in module.named_parameters())
    for name, value in run.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(value, inputs[name])


@every_module
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-12)])
def test_on_the_device(cupy, label, dtype, tolerance):
    """Outputs and every gradient against the host's in float64, from numbers that float32 holds."""
    make, inputs = MODULES[label]

    def run(dtype, where):
        module = make()
        for _, param in module.named_parameters():
            param.data = where(param.data.astype("float32").astype(dtype))
        given = {
            name: value.astype("float32").astype(dtype) if floating(value) else deepcopy(value)
            for name, value in inputs.items()
        }
        y, cache = module.forward(**where(given))
        grads = Grads(module) if list(module.named_parameters()) else None
        dx = module.backward(where(normal(*y.shape, seed=3).astype("float32").astype(dtype)), cache, grads)
        named = {name: grads[param] for name, param in module.named_parameters()}
        return {"y": y, **named} | ({} if dx is None else dict(enumerate(dx if isinstance(dx, tuple) else [dx])))

    expected, found = run("float64", lambda value: value), run(dtype, lambda value: beside(value, cupy.zeros(1)))
    assert list(found) == list(expected)
    for name, one in found.items():
        assert isinstance(one, cupy.ndarray)
        assert one.dtype == dtype
        assert np.abs(to_host(one) - expected[name]).max() <= tolerance * max(1, np.abs(expected[name]).max()), name


@pytest.mark.parametrize("there", ["the weights", "the input"])
@pytest.mark.parametrize("label", ["linear, 2-D", "layer norm", "feed-forward, gelu"])
def test_host_and_device_do_not_mix(cupy, label, there):
    make, inputs = MODULES[label]
    module, x = make(), inputs["x"]
    for _, param in module.named_parameters():
        param.data = beside(param.data, cupy.zeros(1)) if there == "the weights" else param.data
    with pytest.raises(InputError, match=r"some of its arrays are on the host and some on the GPU; move the model"):
        module.forward(x if there == "the weights" else cupy.asarray(x))


class Recorder:
    """Stands in for Grads: notes what is added, each parameter once."""

    def __init__(self):
        self.touched = []

    def add(self, param, gradient):
        assert np.shape(gradient) == param.data.shape
        self.touched.append(id(param))


class Twice(Module):
    """f(f(x)): one module used twice before backward."""

    def __init__(self, inner):
        self.inner = inner

    def forward(self, x):
        h, first = self.inner.forward(x)
        y, second = self.inner.forward(h)
        return y, (first, second)

    def backward(self, dy, cache, grads):
        first, second = cache
        return self.inner.backward(self.inner.backward(dy, second, grads), first, grads)


SQUARE = {
    "linear": lambda: Linear(D, D, new()),
    "layer norm": lambda: LayerNorm(D, 1e-12, new()),
    "attention": attention,
    "feed-forward": lambda: FeedForward(D, F, "gelu", new()),
    "layer": layer,
}


@pytest.mark.parametrize("make", SQUARE.values(), ids=SQUARE)
def test_a_module_used_twice_gets_the_sum_of_both_gradients(make):
    module = Twice(make())
    x, dy = normal(B, T, D), normal(B, T, D, seed=3)
    _, (first, second) = module.forward(x)
    one, other, both = Grads(module), Grads(module), Grads(module)
    dh = module.inner.backward(dy, second, one)
    module.inner.backward(dh, first, other)
    module.backward(dy, (first, second), both)
    np.testing.assert_array_equal(both.collect(), one.collect() + other.collect())


def test_gradients_of_a_module_used_twice():
    report = check_module(Twice(attention()), {"x": normal(2, 3, D)})
    assert report.ok, report


class At(Module):
    """A pre-norm layer of which only some positions are asked."""

    def __init__(self, inner):
        self.inner = inner

    def forward(self, x, asked, rng=None):
        return self.inner.forward_at(x, asked, rng)

    def backward(self, dy, cache, grads):
        return self.inner.backward_at(dy, cache, grads)


ASKED = np.array([[4, 1], [0, 2], [3, 0], [2, 4]])


@pytest.mark.parametrize("dropout", [{}, {"rng": rng()}])
def test_gradients_of_a_layer_at_the_positions_asked(dropout):
    report = check_module(At(layer("tanh", 0.4, 0.2, pre_norm=True)), {"x": normal(B, T, D), "asked": ASKED, **dropout})
    assert report.ok, report


def test_a_layer_at_the_positions_asked_is_that_part_of_the_layer():
    module, x, rows = layer(pre_norm=True), normal(B, T, D), np.arange(B)[:, None]
    whole, cache = module.forward(x)
    part, part_cache = module.forward_at(x, ASKED)
    np.testing.assert_allclose(part, whole[rows, ASKED], rtol=1e-12)
    dy, grads, part_grads = np.zeros_like(x), Grads(module), Grads(module)
    dy[rows, ASKED] = normal(*ASKED.shape, D, seed=2)
    dx = module.backward(dy, cache, grads)
    np.testing.assert_allclose(module.backward_at(dy[rows, ASKED], part_cache, part_grads), dx, atol=1e-12)
    np.testing.assert_allclose(part_grads.collect(), grads.collect(), atol=1e-12)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_without_an_rng_there_is_no_dropout(pre_norm):
    x = normal(B, T, D)
    dropped, plain = layer(dropout=0.5, attention_dropout=0.5, pre_norm=pre_norm), layer(pre_norm=pre_norm)
    y = dropped.forward(x, PADDING)[0]
    np.testing.assert_array_equal(y, plain.forward(x, PADDING)[0])
    np.testing.assert_array_equal(y, dropped.forward(x, PADDING)[0])
    assert not np.array_equal(y, dropped.forward(x, PADDING, rng())[0])


def test_dropout_without_an_rng_passes_x_on():
    x = normal(B, D)
    y, cache = Dropout(0.5).forward(x)
    assert y is x
    assert Dropout(0.5).backward(x, cache) is x


def test_an_rng_of_the_same_seed_drops_the_same():
    x, module = normal(B, T, D), layer(dropout=0.5, attention_dropout=0.5)
    np.testing.assert_array_equal(module.forward(x, None, rng())[0], module.forward(x, None, rng())[0])
    other = module.forward(x, None, np.random.default_rng(8))[0]
    assert not np.array_equal(module.forward(x, None, rng())[0], other)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_attention_and_both_residuals_draw_their_own_dropout(pre_norm):
    module = layer(dropout=0.4, attention_dropout=0.3, pre_norm=pre_norm)
    _, cache = module.forward(normal(B, T, D), None, rng())
    assert cache.attention.attention.cache.kept is not None
    keeps = [getattr(c, "cache", c).keep for c in (cache.attention_dropout.cache, cache.output_dropout.cache)]
    assert not np.array_equal(*keeps)


def test_what_is_hidden_has_no_influence():
    module = layer()
    x = normal(B, T, D)
    changed = np.where(PADDING[:, 0, 0, :, None], x, 99.0)
    seen = np.broadcast_to(PADDING[:, 0, 0, :, None], x.shape)
    y, y_changed = module.forward(x, PADDING)[0], module.forward(changed, PADDING)[0]
    np.testing.assert_array_equal(y[seen], y_changed[seen])
    assert not np.allclose(module.forward(x)[0], module.forward(changed)[0])


def test_documented_shapes():
    q = attention().forward(normal(B, T, D), memory=normal(B, S, D))[0]
    assert q.shape == (B, T, D)
    assert layer().forward(normal(B, T, D))[0].shape == (B, T, D)
    assert Embedding(V, D, new()).forward(np.zeros((B, T), int))[0].shape == (B, T, D)
    assert Linear(D, F, new()).forward(normal(B, T, D))[0].shape == (B, T, F)


def test_several_threads_on_one_module_give_the_same_bits_as_one():
    module = layer(dropout=0.3, attention_dropout=0.3)
    inputs = [normal(3, 64, D, seed=seed) for seed in range(8)]

    def step(i):
        grads = Grads(module)
        y, cache = module.forward(inputs[i], None, np.random.default_rng(i))
        dx = module.backward(inputs[-1 - i], cache, grads)
        return y.tobytes() + dx.tobytes() + grads.collect().tobytes()

    alone = [step(i) for i in range(8)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(step, range(8))) == alone
    assert len(set(alone)) == 8


def test_heads_must_divide_the_width():
    with pytest.raises(InputError, match="width 6 does not divide into 4 heads"):
        MultiHeadAttention(6, 4, 0.0, new())


def test_the_names_of_activations():
    names = {name: activation(name).name for name in ACTIVATIONS}
    assert names == {
        "gelu": "gelu", "gelu_python": "gelu", "gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh",
        "gelu_accurate": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "quick_gelu": "quick_gelu", "relu": "relu",
        "silu": "silu", "swish": "silu", "tanh": "tanh",
    }  # fmt: skip


def test_an_unknown_activation_is_named_with_those_that_exist():
    with pytest.raises(InputError, match=r"'mish' is not known.*gelu, gelu_python, gelu_new"):
        FeedForward(D, F, "mish", new())
    with pytest.raises(InputError, match="hidden_act"):
        activation("GELU")


@pytest.mark.parametrize("rate", [1.0, -0.1, 1.5])
def test_a_dropout_rate_outside_0_to_1_is_refused(rate):
    with pytest.raises(InputError, match="rate"):
        Dropout(rate).forward(normal(B, D), rng())


def test_an_id_outside_the_table_is_refused():
    for bad in (-1, V):
        with pytest.raises(InputError, match=f"{bad} is outside 0 … {V - 1}"):
            Embedding(V, D, new()).forward(np.array([[0, bad]]))


def test_an_unknown_attribute_raises():
    with pytest.raises(AttributeError):
        layer().atention  # noqa: B018
