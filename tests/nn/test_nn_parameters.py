"""Who owns the weights (`Param`, `Module`) and who owns their gradients (`Grads`)."""

import copy

import numpy as np
import pytest

from minissl.nn import FeedForward, Grads, Init, LayerNorm, Linear, Module, Param, TransformerLayer, XavierInit
from minissl.nn.attention import MultiHeadAttention
from minissl.nn.module import as_one, packing_order

D, F = 6, 8


def new(dtype="float64"):
    return Init(np.random.default_rng(0), dtype, std=0.5)


class Tied(Module):
    """Two layers with one weight, and a list of modules."""

    def __init__(self, dtype="float64"):
        init = new(dtype)
        self.first = Linear(D, D, init)
        self.blocks = [LayerNorm(D, 1e-5, init), Linear(D, D, init)]
        self.label = "neither a parameter nor a module"
        self.last = Linear(D, D, init)
        self.last.weight = self.first.weight


NAMES = [
    "first.weight", "first.bias", "blocks.0.gain", "blocks.0.bias", "blocks.1.weight", "blocks.1.bias", "last.bias",
]  # fmt: skip


def test_names_follow_the_attributes_and_a_tied_parameter_is_named_once():
    assert [name for name, _ in Tied().named_parameters()] == NAMES


def test_modules_are_named_innermost_first_in_forward_order():
    layer = TransformerLayer(D, 2, F, "relu", 0.0, 0.0, 1e-5, new())
    names = [name for name, _ in layer.named_modules()]
    assert names == [
        "attention.query", "attention.key", "attention.value", "attention.out", "attention", "attention_norm",
        "feed_forward.up", "feed_forward.down", "feed_forward", "output_norm", "dropout",
    ]  # fmt: skip


def test_initial_values():
    layer = Linear(40, 50, Init(np.random.default_rng(0), "float32", std=0.02))
    assert layer.weight.data.shape == (50, 40)
    assert layer.weight.data.dtype == np.float32
    assert 0.018 < layer.weight.data.std() < 0.022
    assert abs(layer.weight.data.mean()) < 0.002
    assert not layer.bias.data.any()
    norm = LayerNorm(D, 1e-5, new())
    assert (norm.gain.data == 1).all()
    assert not norm.bias.data.any()


def test_one_seed_means_one_model_in_any_precision():
    narrow, wide = (Linear(D, F, Init(np.random.default_rng(3), dtype)) for dtype in ("float32", "float64"))
    np.testing.assert_array_equal(narrow.weight.data, wide.weight.data.astype("float32"))


def test_decay_is_for_matrices_alone():
    layer = TransformerLayer(D, 2, F, "relu", 0.0, 0.0, 1e-5, new())
    for name, param in layer.named_parameters():
        assert param.decay == (param.data.ndim == 2) == name.endswith(".weight"), name


def test_pack_lays_decayed_parameters_first_and_keeps_names_and_values():
    model = Tied()
    before = {name: param.data.copy() for name, param in model.named_parameters()}
    flat = model.pack()
    after = dict(model.named_parameters())
    assert list(after) == NAMES
    for name, value in before.items():
        np.testing.assert_array_equal(after[name].data, value)
    assert flat.ndim == 1
    assert flat.size == sum(value.size for value in before.values())
    decayed = [name for name in NAMES if name.endswith("weight")]
    expected = decayed + [name for name in NAMES if name not in decayed]
    np.testing.assert_array_equal(flat, np.concatenate([before[name].ravel() for name in expected]))
    assert [p.decay for p in packing_order(model)] == [True] * 2 + [False] * 5


def test_packed_parameters_are_views():
    model = Tied()
    flat = model.pack()
    flat += 1
    assert (model.blocks[0].gain.data == 2).all()
    model.first.weight.data[0, 0] = 77
    assert 77 in flat
    assert model.last.weight.data[0, 0] == 77  # still one parameter
    flat[...] = 0
    y, _ = model.first.forward(np.ones((2, D)))
    assert not y.any()


def test_packing_twice_changes_nothing():
    model = Tied()
    first = model.pack().copy()
    np.testing.assert_array_equal(model.pack(), first)


def test_packed_neighbours_are_one_view_and_others_a_copy():
    model = Tied()
    biases = [model.first.bias, model.last.bias]
    apart = as_one(biases)
    flat = model.pack()
    neighbours = [p for p in packing_order(model) if p.data.shape == model.first.bias.data.shape][:2]
    together = as_one(neighbours)
    np.testing.assert_array_equal(together, np.concatenate([p.data for p in neighbours]))
    assert np.shares_memory(together, flat)
    assert not np.shares_memory(as_one(neighbours[::-1]), flat)
    np.testing.assert_array_equal(as_one(neighbours[::-1]), np.concatenate([p.data for p in neighbours[::-1]]))
    neighbours[1].data = neighbours[1].data + 1  # no longer the packed one
    np.testing.assert_array_equal(as_one(neighbours), np.concatenate([p.data for p in neighbours]))
    assert not np.shares_memory(as_one(neighbours), flat)
    assert apart.shape == (2 * D,)
    assert not np.shares_memory(apart, flat)


def test_a_copy_of_a_packed_model_joins_its_own_arrays():
    model = Tied()
    model.pack()
    copied = copy.deepcopy(model)
    neighbours = [p for p in packing_order(copied) if p.data.shape == model.first.bias.data.shape][:2]
    for param in neighbours:
        param.data += 1
    np.testing.assert_array_equal(as_one(neighbours), np.concatenate([p.data for p in neighbours]))
    assert copied.last.weight is copied.first.weight


def test_matrices_as_one_are_one_under_the_other():
    attention = MultiHeadAttention(D, 1, 0.0, new())
    layers = [attention.query, attention.key, attention.value]
    expected = np.concatenate([layer.weight.data for layer in layers])
    flat = attention.pack()
    joined = as_one([layer.weight for layer in layers])
    np.testing.assert_array_equal(joined, expected)
    assert np.shares_memory(joined, flat)


def test_grads_add_and_zero_for_what_nothing_reached():
    model = Tied()
    grads = Grads(model)
    one, two = np.full((D, D), 1.5), np.arange(D * D, dtype=float).reshape(D, D)
    grads.add(model.first.weight, one)
    grads.add(model.last.weight, two)  # the same parameter under its other name
    np.testing.assert_array_equal(grads[model.first.weight], one + two)
    assert not grads[model.blocks[1].weight].any()
    np.testing.assert_array_equal(one, np.full((D, D), 1.5))


def test_reading_does_not_stop_later_additions():
    model = Tied()
    grads = Grads(model)
    assert not grads[model.first.bias].any()
    grads.add(model.first.bias, np.ones(D))
    grads.add(model.first.bias, np.ones(D))
    assert (grads[model.first.bias] == 2).all()


def test_collect_is_laid_out_as_pack_and_starts_afresh():
    model = Tied()
    model.pack()
    grads = Grads(model)
    for number, (_, param) in enumerate(model.named_parameters(), start=1):
        grads.add(param, np.full(param.data.shape, float(number)))
    expected = np.concatenate([grads[param].ravel() for param in packing_order(model)])
    assert set(expected) == set(range(1, len(NAMES) + 1))
    np.testing.assert_array_equal(grads.collect(), expected)


def test_collect_fills_in_zeros_and_forgets_the_step_before():
    model = Tied()
    grads = Grads(model)
    for _, param in model.named_parameters():
        grads.add(param, np.full(param.data.shape, 5.0))
    assert (grads.collect() == 5).all()
    grads.add(model.first.bias, np.ones(D))
    flat = grads.collect()
    assert flat.sum() == D
    assert set(np.unique(flat)) == {0.0, 1.0}
    assert not grads.collect().any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_grads_have_the_parameters_dtype(dtype):
    model = Tied(dtype)
    assert model.pack().dtype == dtype
    grads = Grads(model)
    grads.add(model.first.bias, np.ones(D))
    assert grads[model.first.bias].dtype == dtype
    assert grads.collect().dtype == dtype


def test_grads_of_two_owners_do_not_meet():
    model = FeedForward(D, F, "relu", new())
    mine, yours = Grads(model), Grads(model)
    mine.add(model.up.bias, np.ones(F))
    assert not yours[model.up.bias].any()


def test_a_parameter_of_another_module_is_refused():
    with pytest.raises(KeyError):
        Grads(Tied()).add(Param(np.zeros(3), decay=False), np.zeros(3))


def test_xavier_matrices_are_uniform_and_a_filter_counts_as_a_matrix():
    init = XavierInit(np.random.default_rng(0), "float64")
    for shape, bound in (((30, 50), (6 / 80) ** 0.5), ((20, 3, 4, 5), (6 / 80) ** 0.5)):
        data = init.weight(*shape).data
        assert 0.99 * bound < np.abs(data).max() <= bound
        assert abs(data.std() - bound / 3**0.5) < 6 * bound / data.size**0.5
    assert not init.weight(5, 4, zero_row=2).data[2].any()


def test_tokens_and_fixed_tables_have_no_weight_decay():
    init = new()
    assert not init.token(1, 1, D).decay
    table = init.fixed((1, 2, 3), lambda: np.arange(6))
    assert not table.decay
    np.testing.assert_array_equal(table.data, [[[0, 1, 2], [3, 4, 5]]])
    assert table.data.dtype == np.float64
