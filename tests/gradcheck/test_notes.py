"""What is said beside the gradients: kinks, float32, checks that cannot fail, calls that differ, a wrong forward."""

import numpy as np
import pytest

from minissl import ops
from minissl.errors import InputError
from minissl.gradcheck import check
from minissl.gradcheck.kinds import NOTES


def normal(seed, *shape):
    return np.random.default_rng([9, seed]).standard_normal(shape)


def kinds(report):
    assert report.ok == all(finding.kind in NOTES for finding in report.findings)
    return [(finding.kind, finding.argument) for finding in report.findings]


X = normal(1, 3, 4)
AT_ZERO = np.where(np.arange(12).reshape(3, 4) == 6, 0, X)
TANH = (ops.tanh_forward, ops.tanh_backward)
PRODUCT = {"x": X, "w": normal(2, 4, 5)}


def product(x, w):
    return x @ w, (x, w)


def product_backward(dy, cache):
    x, w = cache
    return dy @ w.T, x.T @ dy


# ---- nonsmooth


def clip(x):
    return np.clip(x, -1, 1), x


def maximum(x):
    return x.max(axis=-1), x


def maximum_backward(dy, x):
    return dy[:, None] * (x == x.max(axis=-1, keepdims=True))


def relu_layer(x, w):
    return np.maximum(x @ w, 0), (x, w)


def relu_layer_backward(dy, cache):
    x, w = cache
    da = dy * (x @ w > 0)
    return da @ w.T, x.T @ da


KINKS = {
    "relu, 0 there": (ops.relu_forward, ops.relu_backward, {"x": AT_ZERO}, (1, 2)),
    "relu, 1 there": (ops.relu_forward, lambda dy, x: dy * (x >= 0), {"x": AT_ZERO}, (1, 2)),
    "abs": (lambda x: (np.abs(x), x), lambda dy, x: np.where(x > 0, dy, -dy), {"x": AT_ZERO}, (1, 2)),
    "clip": (clip, lambda dy, x: dy * (np.abs(x) < 1), {"x": np.array([0.3, 1.0, -0.4, 2.0])}, (1,)),
    "two equal maxima": (maximum, maximum_backward, {"x": np.array([[1.0, 2, 2], [0.5, 3, 1]])}, (0, 1)),
    "L1 without an error": (
        lambda x: (np.abs(x).mean(), x), lambda dy, x: dy * np.where(x >= 0, 1, -1) / x.size, {"x": AT_ZERO}, (1, 2),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("forward", "backward", "inputs", "index"), KINKS.values(), ids=KINKS)
def test_a_kink_is_noted_and_left(forward, backward, inputs, index):
    report = check(forward, backward, inputs)
    assert report.ok
    (note,) = report.findings
    assert (note.kind, note.index) == ("nonsmooth", index)
    assert str(index) in note.message
    assert "moved off it" in note.message
    assert report.relative_error < 1e-9


def test_a_kink_behind_a_layer_is_noted_too():
    x = np.vstack([X, np.zeros(4)])  # its last row sends zeros into the relu
    report = check(relu_layer, relu_layer_backward, {**PRODUCT, "x": x})
    assert kinds(report) == [("nonsmooth", "x")]
    assert report.findings[0].index[0] == 3


def test_an_error_beside_a_kink_is_still_named():
    report = check(ops.relu_forward, lambda dy, x: 3 * dy * (x > 0), {"x": AT_ZERO})
    assert kinds(report) == [("nonsmooth", "x"), ("scale", "x")]


@pytest.mark.parametrize("distance", [1e-3, -1e-4, 1e-5, -1e-6, 3e-7, -1e-7, 1e-8, -1e-12])
def test_beside_a_kink_right_is_right_and_wrong_is_wrong(distance):
    x = np.where(AT_ZERO == 0, distance, X)
    assert check(ops.relu_forward, ops.relu_backward, {"x": x}).ok
    wrong = check(ops.relu_forward, lambda dy, x: dy, {"x": x})
    assert [f for f in kinds(wrong) if f[0] not in NOTES] == [("missing_factor", "x")]


def test_where_slopes_from_both_sides_have_the_returned_one_as_their_mean_nothing_is_said():
    assert kinds(check(ops.relu_forward, lambda dy, x: dy * (np.sign(x) + 1) / 2, {"x": AT_ZERO})) == []


# ---- precision


def tanh_of_float32(x):
    y = np.tanh(x.astype(np.float32)).astype(np.float64)
    return y, y


def tanh_to_float32(x):
    y = np.tanh(x).astype(np.float32)
    return y, y


ERRORS = {
    "none": (lambda dy, y: dy * (1 - y * y), []),
    "sign": (lambda dy, y: dy * (y * y - 1), [("sign", "x")]),
    "scale": (lambda dy, y: 2 * dy * (1 - y * y), [("scale", "x")]),
    "factor": (lambda dy, y: dy * (1 - y), [("missing_factor", "x")]),
    "entry": (lambda dy, y: dy * (1 - y * y) + 0.01 * (X.max() == X), [("incorrect", "x")]),
    "zero": (lambda dy, y: 0 * dy, [("zero", "x")]),
}


@pytest.mark.parametrize("forward", [tanh_of_float32, tanh_to_float32])
@pytest.mark.parametrize(("backward", "errors"), ERRORS.values(), ids=ERRORS)
def test_errors_are_named_through_the_noise_of_float32(forward, backward, errors):
    report = check(forward, backward, {"x": X})
    assert kinds(report) == [("precision", ""), *errors]
    assert "where is the cast?" in report.findings[0].message


def test_a_backward_in_float32_is_noted():
    narrow = check(TANH[0], lambda dy, y: (dy * (1 - y * y)).astype(np.float32), {"x": X})
    assert kinds(narrow) == [("precision", "x")]
    assert "float32 for x" in narrow.findings[0].message


def test_float32_noise_above_the_tolerance_is_no_error_but_a_small_error_is():
    def rounded(dy, cache):
        x, w = cache
        return (dy.astype(np.float16) @ w.T.astype(np.float16)).astype(np.float64), x.T @ dy

    report = check(product, rounded, PRODUCT, tolerance=1e-9)
    assert kinds(report) in ([("precision", "x")], [("incorrect", "x")])  # float16 is beyond what counts as noise
    single = check(
        product, lambda dy, c: ((dy.astype("f4") @ c[1].T.astype("f4")).astype(float), c[0].T @ dy), PRODUCT,
        tolerance=1e-9,
    )  # fmt: skip
    assert kinds(single) == [("precision", "x")]
    assert "the noise of float32, not an error" in single.findings[0].message
    small = check(product, lambda dy, c: (dy @ c[1].T * (1 + 1e-6), c[0].T @ dy), PRODUCT)
    assert kinds(small) == [("scale", "x")]


# ---- vacuous

NORM = {"x": X, "gain": 1 + 0.3 * normal(3, 4), "bias": normal(4, 4), "eps": 1e-5}
LAYER_NORM = (ops.layer_norm_forward, ops.layer_norm_backward)
SOFTMAX = (ops.softmax_forward, ops.softmax_backward)
ATTENTION = (ops.attention_forward, ops.attention_backward)
VACUOUS = {
    "gain 1": (*LAYER_NORM, {**NORM, "gain": np.ones(4)}, {"gain": "gain is 1 everywhere"}),
    "gain 1, bias 0": (
        *LAYER_NORM, {**NORM, "gain": np.ones(4), "bias": np.zeros(4)}, {"gain": "gain is 1", "bias": "bias is 0"},
    ),
    "weight 0": (product, product_backward, {**PRODUCT, "w": np.zeros((4, 5))}, {"w": "w is 0 everywhere"}),
    "all of x alike": (*TANH, {"x": np.full((3, 4), 0.5)}, {"x": "use random values of order 1"}),
    "one feature": (
        *LAYER_NORM, {"x": X[:, :1], "gain": np.array([1.3]), "bias": np.array([0.2]), "eps": 1e-5},
        {"x": "the true gradient of x is zero because an axis has size 1", "gain": "use sizes of 2 and more"},
    ),
    "one key": (
        *ATTENTION, {"q": normal(1, 3, 4), "k": normal(2, 1, 4), "v": normal(3, 1, 5)},
        {"q": "because an axis has size 1", "k": "because an axis has size 1"},
    ),
    "every axis 1": (product, product_backward, {"x": X[:1, :1], "w": X[1:2, :1]}, {"": "every axis has size 1"}),
    "a softmax over one": (*SOFTMAX, {"x": X[:, :1]}, {"": "every true gradient is zero"}),
    "saturated": (*TANH, {"x": 30 + X}, {"": "every true gradient is zero"}),
    "steps": (lambda x: (np.round(x), x), lambda dy, x: 0 * dy, {"x": X}, {"": "y does not depend on these inputs"}),
}  # fmt: skip


@pytest.mark.parametrize(("forward", "backward", "inputs", "said"), VACUOUS.values(), ids=VACUOUS)
def test_a_check_that_cannot_fail_says_so(forward, backward, inputs, said):
    report = check(forward, backward, inputs)
    assert kinds(report) == [("vacuous", name) for name in said]
    for finding, words in zip(report.findings, said.values(), strict=True):
        assert words in finding.message
    assert not report.ok


def test_a_given_dy_is_used_and_may_make_the_check_vacuous():
    dy = np.arange(12).reshape(3, 4)  # integers will do
    report = check(*TANH, {"x": X}, dy=dy)
    assert report.ok
    np.testing.assert_allclose(report.arguments["x"].gradient, dy * (1 - np.tanh(X) ** 2))
    for useless in (np.ones((3, 4)), np.zeros((3, 4))):
        for backward in (ops.softmax_backward, lambda dy, y: 0 * dy):
            assert kinds(check(ops.softmax_forward, backward, {"x": X}, dy=useless)) == [("vacuous", "")]
    with pytest.raises(InputError, match=r"dy has shape \(4,\), expected that of y, \(3, 4\)"):
        check(*TANH, {"x": X}, dy=np.ones(4))


def test_dy_of_ones_hides_what_a_random_one_shows():
    def square(x):
        return x * x, x

    def upstream_forgotten(dy, x):
        return 2 * x

    assert check(square, upstream_forgotten, {"x": X}, dy=np.ones((3, 4))).ok
    assert kinds(check(square, upstream_forgotten, {"x": X})) == [("missing_factor", "x")]


def test_dy_is_not_what_people_draw():
    """With x from default_rng(0), as in the README, dy must not be x itself: what it replaces would not be missed."""
    x = np.random.default_rng(0).standard_normal((3, 4))
    assert not check(lambda x: (x * x / 2, x), lambda dy, x: x * x, {"x": x}).ok
    for seed in range(3):
        x = np.random.default_rng(seed).standard_normal((3, 4))
        report = check(lambda x: (x + 0.0, x), lambda dy, x: dy, {"x": x}, seed=seed)
        assert not np.array_equal(report.arguments["x"].gradient, x)


# ---- nondeterministic, mutated


def dropout_again():
    """Backward draws its own mask."""
    own = np.random.default_rng(0)
    return lambda dy, cache: dy * (own.random(dy.shape) > 0.5) * 2


def summed_elsewhere():
    total = np.zeros((4, 5))

    def backward(dy, cache):
        dx, dw = product_backward(dy, cache)
        total[...] += dw
        return dx, total

    return backward


def cache_used_up(dy, cache):
    w, x = cache.pop(), cache.pop()
    return dy @ w.T, x.T @ dy


def dy_in_place(dy, x):
    dy[x <= 0] = 0
    return dy


def softmax_in_place(x):
    x -= x.max(axis=-1, keepdims=True)
    return ops.softmax_forward(x)


def labels_in_place(logits, targets):
    targets[targets < 0] = 0
    return ops.cross_entropy_forward(logits, targets)


def log_probs_in_place(dy, cache):
    p = np.exp(cache.log_probs, out=cache.log_probs)
    p[np.arange(len(p)), cache.targets] -= 1
    return p * dy / cache.divisor


LOSS = {"logits": normal(1, 5, 7), "targets": np.array([3, 0, 6, 2, 2])}
CHANGED = {
    "drawn in backward": (
        lambda x, rng: ops.dropout_forward(x, 0.5, rng), dropout_again(), {"x": X, "rng": np.random.default_rng(1)},
        "nondeterministic", "x", "is something drawn in it?",
    ),
    "a sum kept outside": (product, summed_elsewhere(), PRODUCT, "mutated", "w", "a buffer that is added to"),
    "a list emptied": (
        lambda x, w: (x @ w, [x, w]), cache_used_up, PRODUCT, "mutated", "cache", "changed cache[0], cache[1]",
    ),
    "dy": (ops.relu_forward, dy_in_place, {"x": X}, "mutated", "dy", "backward changed dy"),
    "x": (softmax_in_place, ops.softmax_backward, {"x": X}, "mutated", "x", "forward changed x"),
    "labels": (
        labels_in_place, ops.cross_entropy_backward, {**LOSS, "targets": np.array([3, 0, -100, 2, 2])},
        "mutated", "targets", "forward changed targets",
    ),
    "the cache": (
        ops.cross_entropy_forward, log_probs_in_place, LOSS, "mutated", "cache", "backward changed cache.log_probs",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CHANGED.values(), ids=CHANGED)
def test_what_changes_between_calls_is_named(case):
    forward, backward, inputs, kind, argument, said = case
    report = check(forward, backward, inputs)
    assert kinds(report)[0] == (kind, argument)
    assert said in report.findings[0].message
    if kind == "mutated":
        assert len(report.findings) == 1  # the gradients of the first call are right


def test_of_a_forward_that_changes_by_itself_nothing_else_is_said():
    own = np.random.default_rng(0)
    report = check(lambda x: (x * (own.random(x.shape) > 0.5), x), lambda dy, x: dy, {"x": X})
    assert kinds(report) == [("nondeterministic", "")]
    assert "an rng among its inputs" in report.findings[0].message
    assert not report.arguments


def test_state_that_changes_nothing_is_nobodys_business():
    calls = []

    def forward(x):
        calls.append(x)
        return 2 * x, None

    assert kinds(check(forward, lambda dy, cache: 2 * dy, {"x": X})) == []


# ---- forward_differs


def norm_of_the_sample(x, gain, bias, eps):
    """Divides by D - 1."""
    centred = x - x.mean(axis=-1, keepdims=True)
    std = np.sqrt((centred * centred).sum(axis=-1, keepdims=True) / (x.shape[-1] - 1) + eps)
    return gain * centred / std + bias, (centred / std, std, gain)


def norm_of_the_sample_backward(dy, cache):
    normed, std, gain = cache
    dn = dy * gain
    variance_part = normed * (dn * normed).sum(axis=-1, keepdims=True) / (dy.shape[-1] - 1)
    return (dn - dn.mean(axis=-1, keepdims=True) - variance_part) / std, (dy * normed).sum(axis=0), dy.sum(axis=0)


def unscaled_attention(q, k, v):
    weights, _ = ops.softmax_forward(q @ k.T)
    return weights @ v, (q, k, v, weights)


def unscaled_attention_backward(dy, cache):
    q, k, v, weights = cache
    ds = ops.softmax_backward(dy @ v.T, weights)
    return ds @ k, ds.T @ q, weights.T @ dy


QKV = {"q": normal(1, 4, 6), "k": normal(2, 5, 6), "v": normal(3, 5, 3)}
DIFFERS = {
    "nothing": (*TANH, {"x": X}, ops.tanh_forward, None, []),
    "nothing, from y alone": (*TANH, {"x": X}, lambda x: np.tanh(x), None, []),
    "rounding": (lambda x: (x * (1 + 1e-12), 0), lambda dy, c: dy, {"x": X}, lambda x: x, None, []),
    "D - 1": (
        norm_of_the_sample, norm_of_the_sample_backward, NORM, ops.layer_norm_forward,
        "100% of its entries differ", [],
    ),
    "1/√K": (
        unscaled_attention, unscaled_attention_backward, QKV, ops.attention_forward, "100% of its entries differ", [],
    ),
    "the forward alone, with the reference's backward": (
        lambda q, k, v: (unscaled_attention(q, k, v)[0], ops.attention_forward(q, k, v)[1]), ops.attention_backward,
        QKV, ops.attention_forward, "forward gives", [],
    ),
    "and backward is wrong too": (
        unscaled_attention, lambda dy, c: (*unscaled_attention_backward(dy, c)[:2], -c[3].T @ dy), QKV,
        ops.attention_forward, "forward gives", [("sign", "v")],
    ),
    "a sum for a mean": (
        lambda p, q: (((p - q) ** 2).sum(), p - q), lambda dy, d: (2 * d * dy, -2 * d * dy), {"p": X, "q": X + X**2},
        lambda p, q: ((p - q) ** 2).mean(), "12 times the right one everywhere (12, the number of entries of p", [],
    ),
    "an axis": (
        lambda x: (x.mean(axis=0), x), lambda dy, x: np.broadcast_to(dy / 3, x.shape), {"x": X},
        lambda x: x.mean(axis=1), "y of shape (4,), the reference (3,)", [],
    ),
    "keepdims": (
        lambda x: (x.mean(axis=1, keepdims=True), x), lambda dy, x: np.broadcast_to(dy / 4, x.shape), {"x": X},
        lambda x: x.mean(axis=1), "y of shape (3, 1), the reference (3,)", [],
    ),
    "one entry": (
        lambda x: (x + (x == x[1, 2]), x), lambda dy, x: dy, {"x": X}, lambda x: x, "8% of its entries differ", [],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DIFFERS.values(), ids=DIFFERS)
def test_a_wrong_forward_is_told_from_a_wrong_backward(case):
    forward, backward, inputs, reference, said, others = case
    report = check(forward, backward, inputs, reference=reference)
    assert kinds(report) == ([("forward_differs", "")] if said else []) + others
    if said:
        assert said in report.findings[0].message
        assert report.findings[0].details["got"] != report.findings[0].details["expected"]


def test_where_the_forward_differs_most_is_named():
    report = check(lambda x: (x + (x == x[1, 2]), x), lambda dy, x: dy, {"x": X}, reference=lambda x: x)
    assert report.findings[0].index == (1, 2)
    assert report.findings[0].details == {"got": X[1, 2] + 1, "expected": X[1, 2]}
    hole = check(lambda x: (np.where(x == x[1, 2], np.nan, x), x), lambda dy, x: dy, {"x": X}, reference=lambda x: x)
    assert hole.findings[0].index == (1, 2)
    assert kinds(hole) == [("forward_differs", ""), ("not_finite", "x")]


# ---- closures


def layer(wrong=None):
    """y = tanh(x w) as a closure, with one slip in its backward."""

    def forward(x, w):
        t = np.tanh(x @ w)
        kept = np.zeros_like(w)

        def backward(dy):
            da = dy if wrong == "slope" else dy * (1 - t * t)
            dx = da @ w.T
            if wrong == "sign":
                return -dx, x.T @ da
            if wrong == "kept":
                kept[...] += x.T @ da
                return dx, kept
            return dx, x.T @ da

        return t, backward

    return forward


def test_closures_are_checked_as_pairs_are():
    report = check(layer(), inputs=PRODUCT)
    assert kinds(report) == []
    assert list(report.arguments) == ["x", "w"]
    assert kinds(check(layer("sign"), inputs=PRODUCT)) == [("sign", "x")]
    assert kinds(check(layer("kept"), inputs=PRODUCT)) == [("mutated", "w")]
    slope = check(layer("slope"), inputs=PRODUCT)
    assert kinds(slope) == [("missing_factor", "x"), ("missing_factor", "w")]
    assert "np.tanh in `t = np.tanh(x @ w)`" in slope.findings[0].message


def test_what_a_closure_keeps_is_at_hand_for_the_diagnosis():
    def sigmoid(x):
        s = 1 / (1 + np.exp(-x))
        y = s + 1

        def backward(dy):
            return dy * s

        return y, backward

    (finding,) = check(sigmoid, inputs={"x": X}).findings
    assert (finding.kind, finding.details["factor"]) == ("missing_factor", "(1 - s)")


def test_wrong_use_is_answered_in_one_line():
    with pytest.raises(InputError, match="second item is ndarray"):
        check(ops.tanh_forward, inputs={"x": X})
    for inputs in ([X], None, X):
        with pytest.raises(InputError, match="expected a dictionary"):
            check(*TANH, inputs)
