"""One slip in the backward of one call of the forward pass: which call it was, and what is left out there."""

import math
from typing import Any, NamedTuple

import numpy as np
import pytest

from minissl.gradcheck import check
from minissl.gradcheck.slips import Suspect, find_slip, uses_by_slips
from minissl.gradcheck.trace import Trace


def normal(seed, *shape):
    return np.random.default_rng([10, seed]).standard_normal(shape)


GAIN, SIGMA = 1 + 0.5 * normal(8, 5), 1.5 + np.abs(normal(9, 5))
INPUTS = {"x": normal(1, 3, 4), "w": normal(2, 4, 5), "v": normal(3, 5, 2)}


def chain(f, back):
    """y = f(x w) v, and its backward: `back(dt, h)` is that of t = f(h)."""

    def forward(x, w, v):
        h = x @ w
        t = f(h)
        return t @ v, (x, w, v, h, t)

    def backward(dy, cache):
        x, w, v, h, t = cache
        dh = back(dy @ v.T, h)
        return dh @ w.T, x.T @ dh, t.T @ dy

    return forward, backward


# ---- functions of a hidden layer, each with its backward


def tanh(h):
    return np.tanh(h)


def tanh_back(dt, h):
    return dt * (1 - np.tanh(h) ** 2)


def gained(h):
    return GAIN * h


def gained_back(dt, h):
    return dt * GAIN


def divided(h):
    return h / SIGMA


def divided_back(dt, h):
    return dt / SIGMA


def damped(h):
    return h + np.tanh(0.3 * h)


def damped_back(dt, h):
    return dt + 0.3 * dt * (1 - np.tanh(0.3 * h) ** 2)


def decay(h):
    return h + np.exp(-h)


def decay_back(dt, h):
    return dt - dt * np.exp(-h)


def slowed(h):
    return h + np.tanh(h / 4)


def slowed_back(dt, h):
    return dt + dt * (1 - np.tanh(h / 4) ** 2) / 4


def clipped(h):
    return np.clip(h, -1, 1)


def clipped_back(dt, h):
    return dt * (np.abs(h) < 1)


def rough(h):
    return h + np.exp(h)


def rough_back(dt, h):
    return dt + dt * np.exp(h)


def gate(h):
    return 1 / (1 + np.exp(-h))


def swish(h):
    g = gate(h)
    return h * g


def swish_back(dt, h):
    return dt * gate(h) + dt * h * gate(h) * (1 - gate(h))


def softmax(h):
    e = np.exp(h)
    return e / e.sum(axis=-1, keepdims=True)


def softmax_back(dt, h):
    p = softmax(h)
    return p * (dt - (p * dt).sum(axis=-1, keepdims=True))


def centred(h):
    return h - h.mean(axis=-1, keepdims=True)


def centred_back(dt, h):
    return dt - dt.mean(axis=-1, keepdims=True)


def normed(h):
    return h / np.std(h, axis=-1, keepdims=True)


def normed_back(dt, h):
    s = h.std(axis=-1, keepdims=True)
    return dt / s - centred(h) * (dt * h).mean(axis=-1, keepdims=True) / s**3


def below_highest(h):
    return h - h.max(axis=-1, keepdims=True)


def below_highest_back(dt, h):
    highest = h == h.max(axis=-1, keepdims=True)
    return dt - highest * dt.sum(axis=-1, keepdims=True)


def log_softmax(h):
    return h - np.logaddexp.reduce(h, axis=-1, keepdims=True)


def log_softmax_back(dt, h):
    return dt - softmax(h) * dt.sum(axis=-1, keepdims=True)


def difference(h):
    return h - np.exp(h)


def difference_back(dt, h):
    return dt - dt * np.exp(h)


def cubed(h):
    return h + h**3


def cubed_back(dt, h):
    return dt + dt * 3 * h**2


class Case(NamedTuple):
    f: Any
    right: Any
    wrong: Any
    kind: str
    slip: str
    said: str


# fmt: off
CASES = [
    # an elementwise call that lets changes through as they are
    Case(tanh, tanh_back, lambda dt, h: dt, "missing_factor", "pass",
        "lacks the derivative of np.tanh in `return np.tanh(h)`"),
    Case(clipped, clipped_back, lambda dt, h: dt, "missing_factor", "pass",
        "the derivative of np.clip in `return np.clip(h, -1, 1)`"),
    Case(gained, gained_back, lambda dt, h: dt, "missing_factor", "pass",
        "the factor that `return GAIN * h` multiplies it by"),
    Case(divided, divided_back, lambda dt, h: dt, "missing_factor", "pass",
        "the factor that `return h / SIGMA` divides it by"),
    Case(damped, damped_back, lambda dt, h: dt + dt * (1 - np.tanh(0.3 * h) ** 2), "scale", "pass",
        "lacks the factor 0.3 of `return h + np.tanh(0.3 * h)`"),
    Case(slowed, slowed_back, lambda dt, h: dt + dt * (1 - np.tanh(h / 4) ** 2), "scale", "pass",
        "lacks the division by 4 of `return h + np.tanh(h / 4)`"),
    Case(decay, decay_back, lambda dt, h: dt + dt * np.exp(-h), "incorrect", "pass",
        "lacks the minus of `return h + np.exp(-h)`"),
    # a function of the whole row
    Case(softmax, softmax_back, lambda dt, h: softmax(h) * dt, "missing_term", "freeze",
        "the sum in `return e / e.sum(axis=-1, keepdims=True)`"),
    Case(centred, centred_back, lambda dt, h: dt, "missing_term", "freeze",
        "the sum in `return h - h.mean(axis=-1, keepdims=True)`"),
    Case(normed, normed_back, lambda dt, h: dt / h.std(axis=-1, keepdims=True), "missing_term", "freeze",
        "the std in `return h / np.std("),
    Case(below_highest, below_highest_back, lambda dt, h: dt, "missing_term", "freeze",
        "the maximum in `return h - h.max("),
    Case(log_softmax, log_softmax_back, lambda dt, h: dt, "missing_term", "freeze",
        "the logaddexp.reduce in `return h - np.logaddexp"),
    # another path
    Case(rough, rough_back, lambda dt, h: dt, "missing_term", "freeze",
        "lacks what comes back through np.exp in `return h + np.exp(h)`"),
    Case(rough, rough_back, lambda dt, h: dt * np.exp(h), "accumulation", "freeze",
        "one of the two paths that meet in `return h + np.exp(h)`"),
    Case(difference, difference_back, lambda dt, h: -dt * np.exp(h), "missing_term", "freeze",
        "one of the two paths that meet in `return h - np.exp(h)`"),
    Case(swish, swish_back, lambda dt, h: dt * h * gate(h) * (1 - gate(h)), "missing_term", "freeze",
        "one half of the product rule in `return h * g`"),
    Case(swish, swish_back, lambda dt, h: dt * gate(h), "missing_term", "freeze", "lacks "),
    # a path taken the wrong way, or twice
    Case(rough, rough_back, lambda dt, h: dt - dt * np.exp(h), "incorrect", "flip",
        "the wrong sign on one of the paths through `return h + np.exp(h)`"),
    Case(centred, centred_back, lambda dt, h: dt + dt.mean(axis=-1, keepdims=True), "incorrect", "flip",
        "through `return h - h.mean("),
    Case(swish, swish_back, lambda dt, h: dt * gate(h) * (1 - h * (1 - gate(h))), "incorrect", "pass",
        "the minus of `return 1 / (1 + np.exp(-h))`"),
    Case(cubed, cubed_back, lambda dt, h: dt + 2 * dt * 3 * h**2, "accumulation", "double",
        "counts one of the paths through `return h + h**3` twice"),
    Case(centred, centred_back, lambda dt, h: dt - 2 * dt.mean(axis=-1, keepdims=True), "accumulation", "double",
        "through `return h - h.mean("),
]
# fmt: on


def at_x(report):
    """The only finding, of x."""
    (finding,) = report.findings
    assert finding.argument == "x"
    return finding


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.slip}-{case.f.__name__}")
def test_a_slip_is_named_with_the_line_of_the_forward(case):
    forward, right = chain(case.f, case.right)
    assert check(forward, right, INPUTS).findings == []
    _, wrong = chain(case.f, case.wrong)
    finding = at_x(check(forward, lambda dy, c: (wrong(dy, c)[0], *right(dy, c)[1:]), INPUTS))
    assert finding.kind == case.kind
    assert case.said in finding.message
    assert finding.details["slip"] == case.slip
    assert finding.details["line"] in finding.message


def deep(x, w):
    h = np.tanh(x @ w)
    return np.exp(h) @ w, (x, w, h)


def deep_backward(dy, cache):
    x, w, h = cache
    da = (dy @ w.T) * np.exp(h) * (1 - h * h)
    return da @ w.T, x.T @ da + np.exp(h).T @ dy


@pytest.mark.parametrize(
    ("keep", "said"),
    [
        (lambda dt, h: dt * np.exp(h) * (1 - h * h), "np.tanh is applied to in `h = np.tanh(x @ w)`"),
        (lambda dt, h: dt * np.exp(h), "np.exp is applied to in `return np.exp(h) @ w, (x, w, h)`"),
    ],
)
def test_an_inner_derivative_that_is_left_out(keep, said):
    inputs = {"x": normal(1, 3, 4), "w": normal(2, 4, 4)}

    def short(dy, cache):
        return keep(dy @ cache[1].T, cache[2]), deep_backward(dy, cache)[1]

    assert check(deep, deep_backward, inputs).findings == []
    finding = at_x(check(deep, short, inputs))
    assert (finding.kind, finding.details["slip"]) == ("missing_factor", "shortcut")
    assert f"lacks the inner derivative, of what {said}" in finding.message


DISTANCE = np.array([[2, 1, 0], [3, 2, 1], [4, 3, 2]])


def looked_up(bias, v):
    """Attention whose scores depend on the distance alone."""
    e = np.exp(bias[DISTANCE])
    p = e / e.sum(axis=-1, keepdims=True)
    return p @ v, (p, v)


def looked_up_backward(dy, cache, add=np.add.at):
    p, v = cache
    dp = dy @ v.T
    dbias = np.zeros(5)
    add(dbias, DISTANCE, p * (dp - (p * dp).sum(axis=-1, keepdims=True)))
    return dbias, p.T @ dy


def assign(dbias, where, values):
    dbias[where] = values


def add_once(dbias, where, values):
    dbias[where] += values


@pytest.mark.parametrize("add", [assign, add_once])
def test_of_places_looked_up_twice_the_last_is_kept(add):
    inputs = {"bias": normal(1, 5), "v": normal(2, 3, 4)}
    assert check(looked_up, looked_up_backward, inputs).findings == []
    (finding,) = check(looked_up, lambda dy, c: looked_up_backward(dy, c, add), inputs).findings
    assert (finding.kind, finding.argument, finding.details["slip"]) == ("accumulation", "bias", "last")
    assert "`e = np.exp(bias[DISTANCE])` looks up more than once" in finding.message


def recurrent(x, w):
    h = np.zeros(4)
    states = [h]
    for row in x:
        h = np.tanh(row + h @ w)
        states.append(h)
    return h, (states, w)


def recurrent_backward(dy, cache, skipped=None):
    states, w = cache
    dx, dw, dh = np.zeros((len(states) - 1, 4)), np.zeros((4, 4)), dy
    for t in reversed(range(len(dx))):
        dx[t] = dh * (1 - states[t + 1] ** 2)
        if t != skipped:
            dw += np.outer(states[t], dx[t])
        dh = w @ dx[t]
    return dx, dw


@pytest.mark.parametrize(
    ("steps", "said"), [(4, "lacks use 2 of 3"), (12, "lacks the use of it in `h = np.tanh(row + h @")]
)
def test_one_use_of_many_is_lost(steps, said):
    """Up to eight uses are told apart by number; of more, the line of the lost one is named."""
    inputs = {"x": normal(1, steps, 4), "w": normal(2, 4, 4)}
    assert check(recurrent, recurrent_backward, inputs).findings == []
    (finding,) = check(recurrent, lambda dy, c: recurrent_backward(dy, c, skipped=2), inputs).findings
    assert (finding.kind, finding.argument) == ("accumulation", "w")
    assert said in finding.message


def test_a_comparison_has_no_derivative_to_lack():
    def leaky(h):
        return np.where(h > 0, h, 0.1 * h)

    forward, right = chain(leaky, lambda dt, h: np.where(h > 0, dt, 0.1 * dt))
    finding = at_x(check(forward, lambda dy, c: (dy @ c[2].T @ c[1].T, *right(dy, c)[1:]), INPUTS))
    assert "lacks the factor 0.1 of `return np.where(h > 0, h, 0.1 * h)`" in finding.message


# ---- the search itself


def suspect_of(forward, x, dy, got):
    return Suspect(Trace(forward, x), dy, got)


def test_paths_that_meet_the_argument_itself_are_its_uses():
    x, w = INPUTS["x"], INPUTS["w"]
    dsum = normal(4, 3, 5) @ w.T
    for got, said in [
        (dsum * (1 + np.exp(x) * np.cos(x)), "lacks the use of it in `wave = np.exp(x) * np.sin(x)`"),
        (dsum, "lacks one of the two paths that meet in `return (x + wave) @ w`"),
    ]:

        def forward(x):
            wave = np.exp(x) * np.sin(x)
            return (x + wave) @ w

        found = find_slip(suspect_of(forward, x, normal(4, 3, 5), got), 1e-7)
        assert found is not None
        assert found[0] == "accumulation"
        assert said in found[1]


def test_a_right_gradient_and_an_arbitrary_one_have_no_slip():
    x, dy = INPUTS["x"], normal(4, 3, 4)
    right = softmax_back(dy, x)
    assert find_slip(suspect_of(softmax, x, dy, normal(5, 3, 4)), 1e-7) is None
    assert find_slip(suspect_of(softmax, x, dy, right + 1e-4 * normal(5, 3, 4)), 1e-7) is None


def test_the_uses_of_an_argument_share_its_derivative():
    x, dy, u = INPUTS["x"], normal(4, 3, 3), normal(5, 3, 4)
    along = uses_by_slips(suspect_of(lambda x: np.exp(x) @ x.T, x, dy, x))
    first, second = along(u)
    assert first == pytest.approx((dy * ((np.exp(x) * u) @ x.T)).sum(), rel=1e-9)
    assert second == pytest.approx((dy * (np.exp(x) @ u.T)).sum(), rel=1e-9)


# ---- forwards that are hard to follow, or cannot be followed


def in_place(x, w):
    h = x @ w
    h *= 0.5
    np.tanh(h, out=h)
    h += 1
    return h @ w.T, (x, w, h)


def in_place_backward(dy, cache):
    x, w, h = cache
    da = 0.5 * (dy @ w) * (1 - (h - 1) ** 2)
    return da @ w.T, x.T @ da + dy.T @ h


def test_a_forward_that_works_in_place_is_followed():
    inputs = {"x": INPUTS["x"], "w": INPUTS["w"]}

    def wrong(dy, cache):
        return 0.5 * (dy @ cache[1]) @ cache[1].T, in_place_backward(dy, cache)[1]

    assert check(in_place, in_place_backward, inputs).findings == []
    finding = at_x(check(in_place, wrong, inputs))
    assert "the derivative of np.tanh in `np.tanh(h, out=h)`" in finding.message


def by_element(x, w):
    return np.vectorize(math.tanh)(x @ w) @ w.T


def refusing(x, w):
    if type(x) is not np.ndarray or type(w) is not np.ndarray:
        raise TypeError("a plain array, please")
    return np.tanh(x @ w) @ w.T


def by_list(x, w):
    return np.tanh(np.array(x.tolist()) @ w) @ w.T


def converting(x, w):
    return np.tanh(np.asarray(x) @ np.asarray(w)) @ w.T


def branching(x, w):
    h = x @ w
    return np.tanh(h if float(h[0, 0]) != 0 else -h) @ w.T


@pytest.mark.parametrize("f", [by_element, refusing, by_list, converting, branching])
def test_what_cannot_be_followed_is_still_checked(f):
    """A wrong gradient of x, with no slip in it that a trace could find."""

    def forward(x, w):
        return f(x, w), (x, w)

    def backward(dy, cache, wrong=0):
        x, w = cache
        t = np.tanh(x @ w)
        da = (dy @ w) * (1 - t * t)
        return da @ w.T + wrong * np.sin(x @ w) @ w.T, x.T @ da + dy.T @ t

    inputs = {"x": INPUTS["x"], "w": INPUTS["w"]}
    assert check(forward, backward, inputs).findings == []
    finding = at_x(check(forward, lambda dy, c: backward(dy, c, wrong=1), inputs))
    assert finding.kind == "incorrect"
    assert "relative error" in finding.message
