"""The checker, checked: it passes what is right and fails everything else."""

import math
from typing import NamedTuple

import numpy as np
import pytest

from minissl import ops
from minissl.errors import InputError
from minissl.gradcheck import check
from minissl.gradcheck.kinds import NOTES


class Cache(NamedTuple):
    t: np.ndarray
    w: np.ndarray


def forward(x, w):
    """y = tanh(x) wᵀ, x (B, D), w (F, D)."""
    t = np.tanh(x)
    return t @ w.T, Cache(t, w)


def backward(dy, cache):
    return dy @ cache.w * (1 - cache.t**2), dy.T @ cache.t


def inputs(*sizes):
    b, d, f = sizes or (2, 3, 4)
    rng = np.random.default_rng(0)
    return {"x": rng.standard_normal((b, d)), "w": rng.standard_normal((f, d))}


def kinds(report):
    assert report.ok == all(finding.kind in NOTES for finding in report.findings)
    return [(finding.kind, finding.argument) for finding in report.findings]


def test_a_right_pair_passes():
    report = check(forward, backward, inputs())
    assert report.ok
    assert report.relative_error < 1e-11
    assert list(report.arguments) == ["x", "w"]
    x = report.arguments["x"]
    assert x.shape == (2, 3)
    assert x.cosine == pytest.approx(1, abs=1e-12)
    assert x.got == x.gradient[x.index]
    assert x.expected == x.numerical[x.index]
    np.testing.assert_allclose(x.gradient, x.numerical, rtol=1e-9)


WRONG = {
    "zero": ("zero", lambda dx, dw: (0 * dx, dw)),
    "sign": ("sign", lambda dx, dw: (-dx, dw)),
    "scale": ("scale", lambda dx, dw: (dx * (1 + 1e-6), dw)),
    "one entry": ("incorrect", lambda dx, dw: (dx + 1e-6 * (np.arange(dx.size) == 4).reshape(dx.shape), dw)),
    "constant": ("missing_term", lambda dx, dw: (dx + 1e-6, dw)),
    "one row lost": ("missing_term", lambda dx, dw: (dx * [[1], [0]], dw)),
}


@pytest.mark.parametrize(("kind", "spoil"), WRONG.values(), ids=WRONG)
def test_a_wrong_gradient_fails_and_the_right_one_beside_it_does_not(kind, spoil):
    report = check(forward, lambda dy, cache: spoil(*backward(dy, cache)), inputs())
    assert kinds(report) == [(kind, "x")]
    assert report.arguments["x"].relative_error > 1e-7
    assert report.arguments["w"].relative_error < 1e-11


def test_a_transposed_gradient_fails_even_where_its_shape_fits():
    def transposed(dy, cache):
        dx, dw = backward(dy, cache)
        return dx, dw.T

    report = check(forward, transposed, inputs(2, 3, 3))
    assert kinds(report) == [("transposed", "w")]
    report = check(forward, transposed, inputs())
    assert kinds(report) == [("transposed", "w"), ("wrong_shape", "w")]
    assert "(3, 4)" in report.findings[1].message
    assert "(4, 3)" in report.findings[1].message
    assert report.relative_error == math.inf


def test_relative_error_cosine_and_worst_index_are_as_documented():
    def spoilt(dy, cache):
        dx, dw = backward(dy, cache)
        dx[1, 2] += 5
        return -2 * dx, dw

    x = check(forward, spoilt, inputs()).arguments["x"]
    difference = np.abs(x.gradient - x.numerical)
    assert x.index == np.unravel_index(difference.argmax(), difference.shape)
    assert x.relative_error == pytest.approx(
        difference.max() / max(np.abs(x.gradient).max(), np.abs(x.numerical).max())
    )
    a, b = x.gradient.ravel(), x.numerical.ravel()
    assert x.cosine == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    assert x.cosine < 0


def test_swapped_arguments_fail():
    report = check(forward, lambda dy, cache: backward(dy, cache)[::-1], inputs())
    assert kinds(report) == [("wrong_shape", "x"), ("wrong_shape", "w")]
    assert "it is the gradient of w" in report.findings[0].message


def test_the_wrong_number_of_gradients_is_named():
    for returned in ((), None, np.zeros((2, 3)), (1.0, 2.0, 3.0)):
        with pytest.raises(InputError, match=r"expected 2 \(x, w\)"):
            check(forward, lambda dy, cache, returned=returned: returned, inputs())
    with pytest.raises(InputError, match="NoneType for x"):
        check(forward, lambda dy, cache: (None, dy), inputs())


def test_what_forward_returns_is_looked_at():
    with pytest.raises(InputError, match="expected the pair"):
        check(lambda x, w: x, backward, inputs())
    with pytest.raises(InputError, match="dtype int64"):
        check(lambda x, w: (x.astype(np.int64), None), backward, inputs())


def test_only_floating_point_arrays_are_owed_a_gradient():
    def lookup(ids, keep, table, scale, mode, nothing):
        assert mode == "rows"
        assert nothing is None
        return table[ids] * keep[:, None] * scale, (ids, keep, table.shape, scale)

    def lookup_backward(dy, cache):
        ids, keep, shape, scale = cache
        dtable = np.zeros(shape)
        np.add.at(dtable, ids, dy * keep[:, None] * scale)
        return dtable  # bare: it is the only one

    given = {
        "ids": np.array([2, 0, 2]),
        "keep": np.array([True, False, True]),
        "table": np.random.default_rng(0).standard_normal((4, 5)),
        "scale": 0.5,
        "mode": "rows",
        "nothing": None,
    }
    report = check(lookup, lookup_backward, given)
    assert report.ok
    assert list(report.arguments) == ["table"]
    assert check(lookup, lambda dy, cache: [lookup_backward(dy, cache)], given).ok


def test_a_scalar_loss_and_its_upstream_gradient():
    def loss(x):
        return (x * x).sum(), x

    assert check(loss, lambda dy, x: 2 * x * dy, {"x": np.arange(4.0)}).ok
    without_upstream = check(loss, lambda dy, x: 2 * x, {"x": np.arange(4.0)})
    assert kinds(without_upstream) == [("missing_factor", "x")]
    assert check(lambda x: (float(x @ x), x), lambda dy, x: 2 * x * dy, {"x": np.arange(4.0)}).ok


def test_inputs_are_converted_to_float64_and_left_alone():
    given = {name: value.astype(np.float32) for name, value in inputs().items()}
    before = {name: value.copy() for name, value in given.items()}
    seen = []

    def watching(x, w):
        seen.append((x.dtype, w.dtype))
        y, cache = forward(x.copy(), w)
        x *= 0
        return y, cache

    report = check(watching, backward, given)
    assert set(seen) == {(np.dtype(np.float64),) * 2}
    assert report.relative_error < 1e-11  # though forward destroys x every time
    assert kinds(report) == [("mutated", "x")]
    for name in given:
        np.testing.assert_array_equal(given[name], before[name])


def test_changing_what_belongs_to_others_is_found():
    def overwrites_dy(dy, cache):
        gradients = backward(dy, cache)
        dy *= 2
        return gradients

    def overwrites_cache(dy, cache):
        gradients = backward(dy, cache)
        cache.t[...] = 0
        return gradients

    report = check(forward, overwrites_dy, inputs())
    assert kinds(report) == [("mutated", "dy")]
    report = check(forward, overwrites_cache, inputs())
    assert kinds(report) == [("mutated", "cache")]
    assert "cache.t" in report.findings[0].message


def test_a_second_backward_must_give_the_same_bits():
    calls = []

    def drifting(dy, cache):
        calls.append(1)
        dx, dw = backward(dy, cache)
        return dx, dw * (1 + 1e-12 * len(calls))

    assert kinds(check(forward, drifting, inputs())) == [("nondeterministic", "w")]


def test_a_forward_that_draws_its_own_numbers_is_found():
    own = np.random.default_rng(0)

    def noisy(x, w):
        y, cache = forward(x, w)
        return y + 1e-12 * own.standard_normal(y.shape), cache

    assert ("nondeterministic", "") in kinds(check(noisy, backward, inputs()))


def test_a_generator_is_copied_before_every_call():
    rng = np.random.default_rng(5)
    x = np.random.default_rng(0).standard_normal((3, 4))
    assert check(ops.dropout_forward, ops.dropout_backward, {"x": x, "rate": 0.5, "rng": rng}).ok
    assert rng.random() == np.random.default_rng(5).random()


def test_values_that_are_not_finite_fail():
    def poisoned(dy, cache):
        dx, dw = backward(dy, cache)
        dx[1, 0] = np.nan
        dw[2, 1] = np.inf
        return dx, dw

    report = check(forward, poisoned, inputs())
    assert kinds(report) == [("not_finite", "x"), ("not_finite", "w")]
    assert "nan at (1, 0)" in report.findings[0].message
    with np.errstate(invalid="ignore"):
        report = check(lambda x: (np.sqrt(x), x), lambda dy, x: dy, {"x": np.array([1.0, 0.0])})
    assert kinds(report) == [("not_finite", "x")]
    assert "forward" in report.findings[0].message
    infinite = check(lambda x: (x + np.inf, x), lambda dy, x: dy, {"x": np.arange(3.0)})
    assert kinds(infinite) == [("not_finite", "x")]


def test_float32_inside_is_found():
    def narrow(x, w):
        y, cache = forward(x, w)
        return y.astype(np.float32), cache

    def narrow_backward(dy, cache):
        dx, dw = backward(dy, cache)
        return dx, dw.astype(np.float32)

    assert ("precision", "") in kinds(check(narrow, backward, inputs()))
    assert ("precision", "w") in kinds(check(forward, narrow_backward, inputs()))


def test_a_check_that_could_not_fail_is_vacuous():
    assert kinds(check(lambda ids: (np.ones(3), None), lambda dy, cache: None, {"ids": np.arange(3)})) == [
        ("vacuous", "")
    ]
    # the rows of a softmax sum to 1 whatever x is: a wrong gradient of zero would pass
    total = check(
        lambda x: (ops.softmax_forward(x)[0].sum(axis=-1), x),
        lambda dy, x: np.zeros_like(x),
        {"x": np.random.default_rng(0).standard_normal((3, 4))},
    )
    assert kinds(total) == [("vacuous", "")]
    assert "zero" in str(total)
    hidden = np.zeros((2, 5), bool)
    rng = np.random.default_rng(0)
    qkv = {name: rng.standard_normal(shape) for name, shape in (("q", (2, 3)), ("k", (5, 3)), ("v", (5, 4)))}
    report = check(ops.attention_forward, ops.attention_backward, {**qkv, "mask": hidden})
    assert kinds(report) == [("vacuous", "")]
    assert kinds(check(forward, backward, {name: value[:0] for name, value in inputs().items()})) == [("vacuous", "")]


def test_a_gradient_that_is_zero_in_theory_is_held_against_the_others():
    def shifted_softmax(x, shift):
        return ops.softmax_forward(x + shift)

    def shifted_backward(dy, cache):
        dx = ops.softmax_backward(dy, cache)
        return dx, dx.sum(axis=-1, keepdims=True)

    rng = np.random.default_rng(0)
    given = {"x": rng.standard_normal((3, 4)), "shift": rng.standard_normal((3, 1))}
    assert check(shifted_softmax, shifted_backward, given).ok
    wrong = check(shifted_softmax, lambda dy, cache: (shifted_backward(dy, cache)[0], np.full((3, 1), 1e-5)), given)
    assert kinds(wrong) == [("incorrect", "shift")]


def test_a_large_argument_is_sampled_and_one_wrong_entry_still_shows():
    def spoilt(dy, cache):
        dx, dw = backward(dy, cache)
        dw[17, 31] += 1e-3
        return dx, dw

    given = inputs(2, 90, 60)  # w has 5400 entries
    report = check(forward, backward, given)
    assert report.ok
    differenced = np.isfinite(report.arguments["w"].numerical).sum()
    assert 100 < differenced < 1000
    report = check(forward, spoilt, given)
    assert kinds(report) == [("incorrect", "w")]
    assert report.arguments["w"].index in (None, (17, 31))


def test_small_and_large_inputs_raise_no_false_alarm():
    rng = np.random.default_rng(0)
    for size in (1e-3, 1.0, 1e3):
        x, gain = size * rng.standard_normal((3, 7)), rng.uniform(0.5, 1.5, 7)
        given = {"x": x, "gain": gain, "bias": rng.standard_normal(7), "eps": 1e-12}
        assert check(ops.layer_norm_forward, ops.layer_norm_backward, given).ok, size
        assert check(ops.softmax_forward, ops.softmax_backward, {"x": 1e3 + size * x}).ok or size == 1e3


def test_the_seed_chooses_the_upstream_gradient():
    first, same, other = (check(forward, backward, inputs(), seed=seed).arguments["x"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.gradient, same.gradient)
    assert (first.gradient != other.gradient).all()


def test_the_report_reads_as_a_table():
    text = str(check(forward, lambda dy, cache: (-backward(dy, cache)[0], backward(dy, cache)[1]), inputs()))
    lines = text.splitlines()
    assert lines[0].split() == ["argument", "shape", "rel.", "error", "cosine", "worst", "at", "got", "expected"]
    assert lines[1].startswith("x ")
    assert lines[2].startswith("w ")
    assert lines[3].startswith("sign: the gradient of x is right but for its sign")
    assert lines[-1].startswith("FAILED: worst relative error 2.0e+00")
    assert str(check(forward, backward, inputs())).splitlines()[-1].startswith("ok: ")
