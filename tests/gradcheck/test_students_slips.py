"""Slips that students make and the museum does not hold, each with the kind and the words that name it."""

from typing import Any, NamedTuple

import numpy as np
import pytest

from minissl.gradcheck import check
from minissl.gradcheck.misread import leaves


def normal(seed, *shape):
    return np.random.default_rng([8, seed]).standard_normal(shape)


def swiglu(x, wg, wu):
    g, u = x @ wg, x @ wu
    s = 1 / (1 + np.exp(-g))
    act = g * s
    return act * u, {"x": x, "wg": wg, "wu": wu, "g": g, "u": u, "s": s, "act": act}


def swiglu_backward(dy, c, slope=lambda c: c["s"] + c["g"] * c["s"] * (1 - c["s"]), up="act"):
    dg, du = dy * c["u"] * slope(c), dy * c[up]
    return dg @ c["wg"].T + du @ c["wu"].T, c["x"].T @ dg, c["x"].T @ du


SWIGLU = {"x": normal(1, 5, 4), "wg": normal(2, 4, 3), "wu": normal(3, 4, 3)}


def named(report):
    return [(f.kind, f.argument) for f in report.findings]


def test_an_activation_written_out_is_one_step_of_the_derivation():
    assert check(swiglu, swiglu_backward, SWIGLU).findings == []
    report = check(swiglu, lambda dy, c: swiglu_backward(dy, c, lambda c: np.ones_like(c["s"])), SWIGLU)
    assert named(report) == [("missing_factor", "x"), ("missing_factor", "wg")]
    assert all("lacks the derivative of `act = g * s`" in f.message for f in report.findings)


def test_a_factor_of_its_derivative_is_wrong():
    report = check(swiglu, lambda dy, c: swiglu_backward(dy, c, lambda c: c["g"] ** 2), SWIGLU)
    assert named(report) == [("missing_factor", "x"), ("missing_factor", "wg")]
    assert all("for the derivative of `act = g * s`" in f.message for f in report.findings)


def mixture(xs, alpha):
    e = np.exp(alpha - alpha.max())
    a = e / e.sum()
    return np.einsum("i,itd->td", a, xs), (xs, a)


def test_a_softmax_is_skipped():
    def backward(dy, cache, skipped=True):
        xs, a = cache
        da = np.einsum("td,itd->i", dy, xs)
        return a[:, None, None] * dy, da if skipped else a * (da - a @ da)

    inputs = {"xs": normal(4, 3, 4, 5), "alpha": normal(5, 3)}
    assert check(mixture, lambda dy, c: backward(dy, c, False), inputs).findings == []
    report = check(mixture, backward, inputs)
    assert named(report) == [("missing_factor", "alpha")]
    assert "to `a = e / e.sum()`: its derivative is left out" in report.findings[0].message


def convolve(x, w):
    steps = x.shape[1] - len(w) + 1
    return np.stack([np.einsum("bki,kio->bo", x[:, t : t + len(w)], w) for t in range(steps)], axis=1), (x, w)


@pytest.mark.parametrize("wrong", ["", "x", "w"])
def test_a_loop_assigns_where_it_must_add(wrong):
    def backward(dy, cache):
        x, w = cache
        dx, dw = np.zeros_like(x), np.zeros_like(w)
        for t in range(dy.shape[1]):
            window = slice(t, t + len(w))
            step = np.einsum("bo,kio->bki", dy[:, t], w)
            dx[:, window] = step if wrong == "x" else dx[:, window] + step
            step = np.einsum("bki,bo->kio", x[:, window], dy[:, t])
            dw = step if wrong == "w" else dw + step
        return dx, dw

    report = check(convolve, backward, {"x": normal(6, 2, 6, 3), "w": normal(7, 3, 3, 4)})
    assert named(report) == ([("accumulation", wrong)] if wrong else [])


def recurrent(x, w):
    states = [np.zeros((len(x), 4))]
    for t in range(x.shape[1]):
        states.append(np.tanh(x[:, t] + states[-1] @ w))
    return np.stack(states[1:], axis=1), (states, w)


@pytest.mark.parametrize(("how", "kind"), [("right", None), ("cut", "missing_term"), ("turned", "transposed")])
def test_a_loop_slips_in_every_round(how, kind):
    def backward(dy, cache):
        states, w = cache
        dx, dw, dh = np.zeros_like(dy), np.zeros_like(w), np.zeros_like(dy[:, 0])
        for t in reversed(range(dy.shape[1])):
            dh = dy[:, t] if how == "cut" else dh + dy[:, t]
            dx[:, t] = dh * (1 - states[t + 1] ** 2)
            dw += states[t].T @ dx[:, t]
            dh = dx[:, t] @ (w if how == "turned" else w.T)
        return dx, dw

    report = check(recurrent, backward, {"x": normal(8, 3, 5, 4), "w": 0.6 * normal(9, 4, 4)})
    assert named(report) == ([(kind, "x"), (kind, "w")] if kind else [])


def shared_keys(q, k):
    return q @ np.repeat(k, 2, axis=0).swapaxes(-1, -2), (q, k)


@pytest.mark.parametrize("kept", [None, 0, 1])
def test_one_of_several_copies_is_kept(kept):
    def backward(dy, cache):
        q, k = cache
        dk = (dy.swapaxes(-1, -2) @ q).reshape(len(k), 2, *k.shape[1:])
        return dy @ np.repeat(k, 2, axis=0), dk.sum(axis=1) if kept is None else dk[:, kept]

    report = check(shared_keys, backward, {"q": normal(10, 4, 5, 3), "k": normal(11, 2, 6, 3)})
    assert named(report) == ([] if kept is None else [("accumulation", "k")])


def rotate(x):
    c, s = np.cos(np.arange(5.0))[:, None], np.sin(np.arange(5.0))[:, None]
    even, odd = x[..., ::2], x[..., 1::2]
    return np.stack([even * c - odd * s, even * s + odd * c], axis=-1).reshape(x.shape), ()


def test_a_rotation_must_turn_back():
    report = check(rotate, lambda dy, cache: rotate(dy)[0], {"x": normal(12, 2, 5, 6)})
    assert named(report) == [("transposed", "x")]
    assert "a rotation turns back" in report.findings[0].message


def similarity(a, b):
    g = a @ b.T
    return np.tanh(g), (a, b, np.tanh(g))


def test_what_comes_back_to_a_product_is_not_transposed():
    def backward(dy, cache):
        a, b, t = cache
        dg = dy * (1 - t**2)
        return dg @ b, dg @ a

    report = check(similarity, backward, {"a": normal(13, 4, 3), "b": normal(14, 4, 3)})
    assert named(report) == [("transposed", "b")]
    assert "what comes back to `g = a @ b.T`" in report.findings[0].message


class Cache(NamedTuple):
    a: Any
    b: Any


def test_the_cache_holds_a_log_where_its_exponential_is_due():
    def log_softmax(x):
        y = x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
        return y, Cache(y, None)

    report = check(log_softmax, lambda dy, c: dy - c.a * dy.sum(axis=-1, keepdims=True), {"x": normal(15, 3, 5)})
    assert named(report) == [("missing_factor", "x")]
    assert "exp(cache.a) is used in place of cache.a" in report.findings[0].message


def test_every_place_of_a_cache_can_be_exchanged():
    one, two, new = np.zeros(2), np.ones(2), np.full(2, 7.0)
    x = one

    def closure():
        return x

    cache = Cache([one, {"k": two}], (two, closure))
    found = {path: rebuild(new) for path, _, rebuild in leaves(cache)}
    assert list(found) == ["cache.a.0", "cache.a.1.k", "cache.b.0", "cache.b.1.x"]
    assert found["cache.a.0"].a[0] is new
    assert found["cache.a.1.k"].a[1]["k"] is new
    assert found["cache.b.0"].b[0] is new
    assert found["cache.b.1.x"].b[1]() is new
    assert cache.a[0] is one
    assert closure() is one


def test_an_inverted_mask():
    keep = np.array([True, False, True, True, False, False])
    report = check(lambda x: (x * keep, None), lambda dy, c: dy * ~keep, {"x": normal(16, 3, 6)})
    assert named(report) == [("ignored_positions", "x")]
    assert "is the mask inverted?" in report.findings[0].message


def test_rows_left_out_are_no_lost_repeats():
    def backward(dy, cache):
        ids, shape = cache
        dtable = np.zeros(shape)
        np.add.at(dtable, ids[ids != 0], dy[ids != 0])
        return dtable

    inputs = {"table": normal(17, 5, 3), "ids": np.array([[0, 2, 0], [1, 2, 4]])}
    report = check(lambda table, ids: (table[ids], (ids, table.shape)), backward, inputs)
    assert named(report) == [("zero", "table")]
    assert "exactly zero at index 0 of axis 0, and right elsewhere" in report.findings[0].message


def test_heads_merged_in_another_order():
    def forward(x):
        return x.reshape(4, 3, 2).swapaxes(0, 1), None

    report = check(forward, lambda dy, c: dy.transpose(2, 0, 1).reshape(4, 6), {"x": normal(18, 4, 6)})
    assert named(report) == [("transposed", "x")]


@pytest.mark.parametrize("axis", [-1, 0])
def test_a_sum_over_the_wrong_axis(axis):
    def softmax(x):
        e = np.exp(x)
        y = e / e.sum(axis=-1, keepdims=True)
        return y, y

    report = check(softmax, lambda dy, y: y * (dy - (dy * y).sum(axis=axis, keepdims=True)), {"x": normal(19, 3, 5)})
    assert named(report) == ([("missing_term", "x")] if axis == 0 else [])
    assert axis == -1 or "over the wrong one of the two" in report.findings[0].message
