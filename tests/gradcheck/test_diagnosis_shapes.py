"""A gradient of the wrong shape: what its numbers say about how it came by it."""

from types import SimpleNamespace

import numpy as np
import pytest

from minissl import ops
from minissl.gradcheck import check, check_model, check_module


def normal(seed, *shape):
    return np.random.default_rng([8, seed]).standard_normal(shape)


def linear(x, weight, bias):
    """y = x Wᵀ + b."""
    return ops.linear_forward(x, weight, bias)


def spread(x, table, column, number):
    """y (B, T, D) = x table + column + number: a table (T, D), a column (T, 1) and a single number are broadcast."""
    return x * table + column + number, (x, table)


def spread_backward(dy, cache):
    x, table = cache
    return dy * table, (dy * x).sum(axis=0), dy.sum(axis=(0, 2))[:, None], dy.sum()


def split(x):
    """(B, T, D) -> (B, H, T, K)."""
    return np.tanh(x.reshape(2, 5, 3, 4).swapaxes(1, 2)), x


def split_backward(dy, x):
    slope = 1 - np.tanh(x.reshape(2, 5, 3, 4).swapaxes(1, 2)) ** 2
    return (dy * slope).swapaxes(1, 2).reshape(x.shape)


PAIRS = {
    "linear": (
        linear,
        ops.linear_backward,
        {"x": normal(1, 2, 4, 3), "weight": normal(2, 5, 3), "bias": normal(3, 5)},
    ),
    "spread": (
        spread,
        spread_backward,
        {"x": normal(1, 3, 4, 5), "table": normal(2, 4, 5), "column": normal(3, 4, 1), "number": np.array(0.7)},
    ),
    "norm": (
        ops.layer_norm_forward,
        ops.layer_norm_backward,
        {"x": normal(1, 2, 4, 3), "gain": 1 + 0.3 * normal(2, 3), "bias": normal(3, 3), "eps": 1e-5},
    ),
    "attention": (
        ops.attention_forward,
        ops.attention_backward,
        {"q": normal(1, 2, 4, 6), "k": normal(2, 2, 5, 6), "v": normal(3, 2, 5, 3)},
    ),
    "embedding": (
        ops.embedding_forward,
        ops.embedding_backward,
        {"ids": np.array([[3, 0, 3], [6, 3, 2]]), "weight": normal(1, 7, 4)},
    ),
    "split": (split, split_backward, {"x": normal(1, 2, 5, 12)}),
}


def findings(pair, argument, change):
    """Check a pair with `change(gradient, dy, cache)` in the place of one gradient; return kinds and messages."""
    forward, backward, inputs = PAIRS[pair]
    names = [name for name, value in inputs.items() if isinstance(value, np.ndarray) and value.dtype.kind == "f"]

    def wrong(dy, cache):
        returned = backward(dy, cache)
        gradients = dict(zip(names, returned if isinstance(returned, tuple) else [returned], strict=True))
        gradients[argument] = change(gradients[argument], dy, cache)
        return list(gradients.values())

    report = check(forward, wrong, inputs)
    assert not report.ok
    assert {f.argument for f in report.findings} == {argument}
    return report.findings


@pytest.mark.parametrize("pair", PAIRS)
def test_the_right_pairs_pass(pair):
    forward, backward, inputs = PAIRS[pair]
    report = check(forward, backward, inputs)
    assert report.ok, report
    assert not report.findings


UNSUMMED = {
    "bias over rows": ("linear", "bias", lambda g, dy, c: dy, (0, 1), "over axis 0, 1:", "a sum is missing"),
    "bias over positions": ("linear", "bias", lambda g, dy, c: dy.sum(axis=0), (0,), "over axis 0:",
        "a sum is missing"),
    "bias over the batch": ("linear", "bias", lambda g, dy, c: dy.sum(axis=1), (0,), "over axis 0:",
        "a sum is missing"),
    "weight over the batch": (
        "linear", "weight", lambda g, dy, c: np.einsum("btf,btd->bfd", dy, c.x), (0,), "axis 0:", "a sum is missing",
    ),
    "gain over rows": (
        "norm", "gain", lambda g, dy, c: dy * c.normed, (0, 1), "is right once it is summed", "a sum is missing",
    ),
    "table over the batch": ("spread", "table", lambda g, dy, c: dy * c[0], (0,), "was broadcast", "a sum is missing"),
    "column over its own axis": (
        "spread", "column", lambda g, dy, c: dy.sum(axis=0), (1,), "over axis 1:", "a sum is missing",
    ),
    "number over everything": (
        "spread", "number", lambda g, dy, c: dy, (0, 1, 2), "over axis 0, 1, 2:", "a sum is missing",
    ),
    "and divided by what is not summed": (
        "linear", "bias", lambda g, dy, c: dy.mean(axis=0), (0,), "(and divided by 0.5)", "a sum is missing",
    ),
    "bias to a number": ("linear", "bias", lambda g, dy, c: dy.sum(), (0,), "was summed over axis 0,",
        "a sum too many"),
    "gain over features": (
        "norm", "gain", lambda g, dy, c: (dy * c.normed).sum(), (0,), "along which gain was not broadcast", "too many",
    ),
    "weight over outputs": ("linear", "weight", lambda g, dy, c: g.sum(axis=0), (0,), "summed over axis 0,",
        "too many"),
    "input over positions": ("linear", "x", lambda g, dy, c: g.sum(axis=1), (1,), "over axis 1,", "a sum too many"),
}  # fmt: skip


@pytest.mark.parametrize("case", UNSUMMED.values(), ids=UNSUMMED)
def test_a_sum_too_few_or_too_many(case):
    pair, argument, change, axes, said, short = case
    first, second = findings(pair, argument, change)
    assert (first.kind, second.kind) == ("unsummed_broadcast", "wrong_shape")
    assert first.details["axes"] == axes
    assert said in first.message
    assert second.message.endswith(short)
    assert second.details["expected"] == np.shape(PAIRS[pair][2][argument])


SWAPPED = {
    "weight": ("linear", "weight", lambda g, dy, c: g.T, (1, 0), "its axes 0 and 1 are swapped back: is a transpose"),
    "table": ("embedding", "weight", lambda g, dy, c: g.T, (1, 0), "its axes 0 and 1 are swapped back"),
    "keys": ("attention", "k", lambda g, dy, c: g.swapaxes(1, 2), (0, 2, 1), "its axes 1 and 2 are swapped back"),
    "keys, negative": ("attention", "k", lambda g, dy, c: -g.swapaxes(1, 2), (0, 2, 1), "swapped back, times -1:"),
    "all axes": ("attention", "q", lambda g, dy, c: g.transpose(2, 0, 1), (2, 0, 1), "its axes in the order (2, 0, 1)"),
    "in a batch": ("linear", "x", lambda g, dy, c: g.T, (2, 1, 0), "its axes 0 and 2 are swapped back"),
    "and counted twice": ("linear", "weight", lambda g, dy, c: 2 * g.T, (1, 0), "swapped back, times 2:"),
}  # fmt: skip


@pytest.mark.parametrize("case", SWAPPED.values(), ids=SWAPPED)
def test_swapped_axes(case):
    pair, argument, change, axes, said = case
    first, second = findings(pair, argument, change)
    assert (first.kind, second.kind) == ("transposed", "wrong_shape")
    assert first.details["axes"] == axes
    assert said in first.message
    assert second.message.endswith("its axes look swapped")


LOST = ": the numbers are right and in order, only the shape is lost (a reshape, keepdims?)"
OTHER_ORDER = "; are they returned in the wrong order?"
SWAPPED_AXES = ": the axes look swapped"
TOO_LARGE = ": is a sum over a broadcast axis missing?"
UNMERGED = ": there are as many numbers: is a reshape, or a merge of axes, left out?"
TOO_SMALL = ": is it summed over an axis too many, or taken from another argument?"
ONLY_SHAPE = {
    "keepdims": ("linear", "bias", lambda g, dy, c: g[None], LOST),
    "rows flattened": ("linear", "x", lambda g, dy, c: g.reshape(8, 3), LOST),
    "a number in brackets": ("spread", "number", lambda g, dy, c: g.reshape(1), LOST),
    "column squeezed": ("spread", "column", lambda g, dy, c: g[:, 0], LOST),
    "heads left apart": ("split", "x", lambda g, dy, c: g.reshape(2, 5, 3, 4), LOST),
    "of the weight": ("linear", "x", lambda g, dy, c: np.einsum("btf,btd->fd", dy, c.x),
                      ": it is the gradient of weight" + OTHER_ORDER),
    "of the keys": ("attention", "q", lambda g, dy, c: ops.attention_backward(dy, c)[1],
                    ": it is the gradient of k" + OTHER_ORDER),
    "not finite": ("linear", "bias", lambda g, dy, c: dy * np.nan, ""),
    "swapped and wrong": ("linear", "weight", lambda g, dy, c: np.cumsum(g.T, axis=0), SWAPPED_AXES),
    "too large and wrong": ("linear", "bias", lambda g, dy, c: dy**2, TOO_LARGE),
    "too small and wrong": ("linear", "weight", lambda g, dy, c: g[0] ** 2, TOO_SMALL),
    "dy of other positions": ("attention", "v", lambda g, dy, c: dy, TOO_SMALL),
    "as large and wrong": ("linear", "weight", lambda g, dy, c: (g**2).reshape(-1), UNMERGED),
}  # fmt: skip


@pytest.mark.parametrize("case", ONLY_SHAPE.values(), ids=ONLY_SHAPE)
def test_only_the_shape(case):
    pair, argument, change, hint = case
    (finding,) = findings(pair, argument, change)
    got, expected = finding.details["got"], np.shape(PAIRS[pair][2][argument])
    assert finding.details["expected"] == expected
    assert finding.kind == "wrong_shape"
    assert finding.message == f"the gradient of {argument} has shape {got}; {argument} has {expected}{hint}"


def wide(change):
    """Check a product whose weight has 5,400 entries, of which a first look takes a sample only."""
    inputs = {"x": normal(1, 3, 90), "w": normal(2, 90, 60)}
    return check(
        lambda x, w: (x @ w, (x, w)), lambda dy, c: (dy @ c[1].T, change(c[0].T @ dy, dy, c[0])), inputs
    ).findings


def test_a_large_gradient_of_the_wrong_shape_is_explained_too():
    assert not wide(lambda g, dy, x: g)
    assert [f.kind for f in wide(lambda g, dy, x: g.T)] == ["transposed", "wrong_shape"]
    unsummed, shape = wide(lambda g, dy, x: x[:, :, None] * dy[:, None, :])
    assert (unsummed.kind, unsummed.details["axes"]) == ("unsummed_broadcast", (0,))
    assert shape.details["got"] == (3, 90, 60)


def test_of_a_very_large_gradient_the_shapes_alone_give_a_hint():
    inputs = {"x": normal(1, 3, 150), "w": normal(2, 150, 80)}
    report = check(lambda x, w: (x @ w, (x, w)), lambda dy, c: (dy @ c[1].T, dy.T @ c[0]), inputs)
    assert report.findings[-1].message.endswith(": the axes look swapped")


def test_heads_that_were_not_merged_again_miss_no_sum():
    for finding in findings("split", "x", lambda g, dy, c: g.reshape(2, 5, 3, 4).swapaxes(1, 2)):
        assert "sum over a broadcast axis" not in finding.message


class Linear:
    """A module and a model in one: the loss is half the squared length of its output."""

    def __init__(self, change):
        self.change = change
        self.weight, self.bias = SimpleNamespace(data=normal(2, 5, 3)), SimpleNamespace(data=normal(3, 5))

    def named_parameters(self):
        return iter([("weight", self.weight), ("bias", self.bias)])

    def forward(self, x):
        return ops.linear_forward(x, self.weight.data, self.bias.data)

    def backward(self, dy, cache, grads):
        dx, dweight, dbias = ops.linear_backward(dy, cache)
        grads.add(self.weight, self.change(dweight, dy, cache))
        grads.add(self.bias, dbias)
        return dx

    def loss_and_grads(self, x):
        y, cache = self.forward(x)
        _, dweight, dbias = ops.linear_backward(y, cache)
        return (y * y).sum() / 2, {"weight": self.change(dweight, y, cache), "bias": dbias}


@pytest.mark.parametrize("checked", [check_module, check_model])
def test_shapes_in_modules_and_models(checked):
    def kinds(change):
        report = checked(Linear(change), {"x": normal(1, 2, 4, 3)})
        assert {f.argument for f in report.findings} <= {"weight"}
        return [f.kind for f in report.findings]

    assert kinds(lambda g, dy, c: g) == []
    assert kinds(lambda g, dy, c: g.T) == ["transposed", "wrong_shape"]
    assert kinds(lambda g, dy, c: np.einsum("btf,btd->bfd", dy, c.x)) == ["unsummed_broadcast", "wrong_shape"]
    assert kinds(lambda g, dy, c: g.reshape(-1)) == ["wrong_shape"]
