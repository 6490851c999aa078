"""The exercises that ask for a function: its values are compared, and with those of the usual slips."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minissl import ops
from minissl.backend import Array
from minissl.exercises.exercise import Student
from minissl.exercises.graders import (
    Explain,
    Result,
    Steps,
    compare,
    described,
    graded,
    gradient_findings,
    in_case,
    looks_like,
)

B, T, S, D, V = 2, 4, 5, 12, 101  # V beyond 100: -100 can be taken for an index from the end
IGNORE = -100


@graded
def grade_numerical_derivative(student: Student, steps: Steps) -> None:
    """A large step tells a central difference from a one-sided one: of x³ it gives 3x² + h² exactly."""
    numerical_gradient = student.function("numerical_gradient")
    functions: dict[str, Callable[[Array], Any]] = {
        "sum_of_cubes": lambda x: (x**3).sum(),
        "log_sum_exp": lambda x: np.log(np.exp(x).sum()),
    }
    rng = np.random.default_rng(1)
    results: list[Result] = []
    for shape, step in (((5,), 0.5), ((2, 3), 0.25), ((2, 3, 4), 0.001)):
        for name, f in functions.items():
            x = rng.standard_normal(shape)

            def slopes(up: float, down: float, f: Any = f, x: Array = x, step: float = step) -> Array:
                moves = np.eye(x.size).reshape(x.size, *x.shape) * step
                each = [(f(x + up * move) - f(x - down * move)) / ((up + down) * step) for move in moves]
                return np.array(each).reshape(x.shape)

            case = f"{name}, x {shape}, step {step}"
            with in_case(case, first=not results):
                returned = numerical_gradient(f, x, step)
            want = slopes(1, 1)
            explain = looks_like(
                ("gradient", "these are the slopes from x to x + h; x - h is to be asked too", slopes(1, 0)),
                ("gradient", "these are the slopes from x - h to x; x + h is to be asked too", slopes(0, 1)),
                ("gradient", "twice too large: x + h and x - h are 2h apart", 2 * want),
                ("gradient", "half of what it should be: the distance is divided out twice", want / 2),
                ("gradient", "half of a one-sided slope: only one of above and below has moved", slopes(1, 0) / 2),
                ("gradient", "half of a one-sided slope: only one of above and below has moved", slopes(0, 1) / 2),
                ("gradient", "the sign: above less below, not below less above", -want),
                ("gradient", "`/ 2 * step` divides by 2 and multiplies by step: put brackets around (2 * step)",
                 want * step**2),
                ("gradient", "a whole row has moved at once: where x has more axes than one, x[i] is a row",
                 _slopes_of_rows(f, x, step)),
                ("gradient", "every entry has moved at once: only one may move for one slope",
                 np.full(shape, (f(x + step) - f(x - step)) / (2 * step))),
            )  # fmt: skip
            results.append(Result(case, "numerical_gradient", ("gradient",), returned, (want,), explain))
    compare(steps, results)


def _slopes_of_rows(f: Callable[[Array], Any], x: Array, step: float) -> Array:
    gradient = np.zeros_like(x)
    for i in range(len(x)):
        above, below = x.copy(), x.copy()
        above[i] += step
        below[i] -= step
        gradient[i] = (f(above) - f(below)) / (2 * step)
    return gradient


@graded
def grade_broadcasting_sums(student: Student, steps: Steps) -> None:
    """Axes added on the left, axes stretched from 1, both and neither."""
    unbroadcast = student.function("unbroadcast")
    rng = np.random.default_rng(3)
    results: list[Result] = []
    for large, small in (
        ((4, 7), (7,)), ((2, 4, 7), (7,)), ((2, 4, 7), (4, 1)), ((2, 4, 7), (1, 1, 7)), ((2, 4, 7), (2, 1, 1)),
        ((2, 3, 4, 7), (3, 1, 7)), ((2, 4, 7), ()), ((2, 4, 7), (2, 4, 7)), ((4, 1), (4, 1)), ((2, 3, 1, 7), (3, 1, 1)),
    ):  # fmt: skip
        for dtype in ("float64", "float32"):
            dy = rng.standard_normal(large).astype(dtype)
            case = f"dy {large}, shape {small}, {dtype}"
            with in_case(case, first=not results):
                returned = unbroadcast(dy, small)
            padded = (1,) * (len(large) - len(small)) + small
            axes = tuple(axis for axis, size in enumerate(padded) if size == 1)
            want, mean = (np.asarray(reduce(axis=axes)).reshape(small) for reduce in (dy.sum, dy.mean))
            last = tuple(range(len(small), len(large)))
            left = "summed over the last axes: broadcasting adds axes on the left, so the first ones are summed away"
            first = dy[tuple(0 if size == 1 else slice(None) for size in padded)].reshape(small)
            explain = looks_like(
                ("dx", "a mean where a sum is asked: each use adds its whole gradient", mean),
                ("dx", "the axes of size 1 are lost: keepdims=True keeps them", np.asarray(dy.sum(axis=axes))),
                ("dx", left, np.asarray(dy.sum(axis=last))),
                ("dx", "one of the uses is kept and the others are lost: sum over them", first),
            )
            results.append(Result(case, "unbroadcast", ("dx",), returned, (want,), explain))
    compare(steps, results)


@graded
def grade_masked_cross_entropy(student: Student, steps: Steps) -> None:
    """Loss and gradient come from one function; the gradient check sees it as a pair."""
    function = student.function("masked_cross_entropy")
    results: list[Result] = []
    rng = np.random.default_rng(6)
    one, few, every = rng.random((3, B, T)) < np.array([0.0, 0.4, 1.0])[:, None, None]
    one[1, 2] = few[0, 1] = few[1, 3] = True
    for label, chosen, offset, dtype in (
        ("some positions", few, 0, "float64"), ("one position", one, 0, "float64"),
        ("all positions", every, 0, "float64"), ("logits near 1000", few, 1000, "float64"),
        ("float32", few, 0, "float32"),
    ):  # fmt: skip
        logits = (2 * rng.standard_normal((B, T, V)) + offset).astype(dtype)
        inputs = {"logits": logits, "labels": np.where(chosen, rng.integers(0, V, (B, T)), IGNORE)}
        with in_case(described(label, inputs), first=not results):
            returned = function(**inputs)
        expected = _masked_cross_entropy(**inputs)
        results.append(
            Result(
                label, "masked_cross_entropy", ("loss", "dlogits"), returned, expected, _explain_loss(function, inputs)
            )
        )
    compare(steps, results)


def _masked_cross_entropy(logits: Array, labels: Array) -> tuple[Array, Array]:
    rows, targets = logits[labels != IGNORE], labels[labels != IGNORE]
    loss, cache = ops.cross_entropy_forward(rows, targets)
    dlogits = np.zeros_like(logits)
    dlogits[labels != IGNORE] = ops.cross_entropy_backward(np.ones((), logits.dtype), cache)
    return np.asarray(loss), dlogits


def _explain_loss(function: Any, inputs: dict[str, Any]) -> Explain:
    logits, labels = inputs["logits"], inputs["labels"]
    loss, dlogits = _masked_cross_entropy(**inputs)
    M, positions = int((labels != IGNORE).sum()), labels.size
    end, end_gradient = _masked_cross_entropy(logits, labels % V)  # -100 as an index from the end wraps around
    zero, zero_gradient = _masked_cross_entropy(logits, np.maximum(labels, 0))
    wraps = "positions with -100 are counted as if they had a label; leave them out first"
    nothing = "the positions with -100 get a gradient; it is 0 there"
    slips = looks_like(
        ("loss", "this is the sum over the positions; the loss is their mean, over M", loss * M),
        ("loss", "divided by B·T; the mean is over the M positions that have a label", loss * M / positions),
        ("loss", "the sign: a loss is minus the log of a probability", -loss),
        ("loss", "this is in bits; the natural logarithm gives nats", loss / math.log(2)),
        ("loss", wraps, end), ("loss", wraps, zero),
        ("loss", "the positions with -100 add to the sum; only those with a label do", zero * positions / M),
        ("loss", "the positions with -100 add to the sum; only those with a label do", end * positions / M),
        ("dlogits", nothing, zero_gradient * positions / M), ("dlogits", nothing, end_gradient * positions / M),
        ("dlogits", wraps, end_gradient), ("dlogits", wraps, zero_gradient),
        ("dlogits", "divided by B·T; the mean is over the M positions that have a label", dlogits * M / positions),
        ("dlogits", "the loss is a mean over M positions, its gradient is not: divide by M", dlogits * M),
    )  # fmt: skip
    small = {"logits": logits[:, :3, :7].astype(np.float64), "labels": np.array([[IGNORE, 5, 2], [0, IGNORE, 5]])}
    findings = gradient_findings(
        lambda logits, labels: tuple(function(logits, labels)),
        lambda dy, dlogits: dy * dlogits,
        small,  # the vocabulary of `inputs` would take seconds
        _masked_cross_entropy,
    )
    overflow = ["exp overflows for large logits: take each row's maximum off first"]
    return lambda name, got: slips(name, got) or ([] if np.isfinite(got).all() else overflow) or findings(name, got)


@graded
def grade_masks(student: Student, steps: Steps) -> None:
    """Ones and zeros of several dtypes, one text all padding; T = S as in self-attention."""
    make_mask = student.function("make_mask")
    padding = np.arange(S) < np.array([S, 3, 1, 0])[:, None]
    gap = np.array([[1, 0, 1, 1, 0, 1, 1], [0, 1, 1, 0, 1, 1, 1]])
    triangle = "causal is the wrong way round: query t sees the keys 0 … t, the lower triangle"
    results: list[Result] = []
    for attention_mask in (padding.astype(np.int64), gap, padding, gap.astype(np.int32)):
        for causal in (False, True):
            case = f"attention_mask {attention_mask.shape} {attention_mask.dtype}, causal {causal}"
            with in_case(case, first=not results):
                returned = make_mask(attention_mask, causal)
            length = attention_mask.shape[1]
            real, lower = attention_mask.astype(bool), np.tri(length, dtype=bool)
            allowed = lower if causal else np.ones((1, length), bool)
            want = real[:, None, None, :] & allowed
            explain = looks_like(
                ("mask", "upside down: True means may attend, and padding may not be attended to", ~want),
                ("mask", "upside down: True means may attend, and padding may not be attended to",
                 ~real[:, None, None, :] & allowed),
                ("mask", triangle, real[:, None, None, :] & allowed.T),
                ("mask", triangle, real[:, None, None, :] & ~lower),
                ("mask", "a query also sees its own position: the triangle has its diagonal",
                 real[:, None, None, :] & np.tri(length, k=-1, dtype=bool)),
                ("mask", "padding hides keys (the last axis), not queries", real[:, None, :, None] & allowed),
                ("mask", "padding is lost: with `causal` both must allow a pair",
                 (real | True)[:, None, None, :] & lower),
                ("mask", "a pair may attend where both allow it (and), not where one does (or)",
                 real[:, None, None, :] | lower),
            )  # fmt: skip
            results.append(Result(case, "make_mask", ("mask",), returned, (want,), explain))
    compare(steps, results)


@graded
def grade_heads(student: Student, steps: Steps) -> None:
    """Several numbers of heads, T = S and T ≠ S."""
    multi_head = student.function("multi_head")
    rng = np.random.default_rng(12)
    results: list[Result] = []
    for heads, keys, dtype in ((3, S, "float64"), (4, T, "float64"), (1, S, "float64"), (6, T, "float32")):
        q, k, v = (rng.standard_normal((B, length, D)).astype(dtype) for length in (T, keys, keys))
        case = f"{heads} heads, q {q.shape}, k {k.shape}, {dtype}"
        with in_case(case, first=not results):
            returned = multi_head(q, k, v, heads)
        want = np.concatenate(
            [_attend(*each) for each in zip(*(np.split(x, heads, -1) for x in (q, k, v)), strict=True)], -1
        )
        explain = looks_like(*(("y", message, wrong) for message, wrong in _wrong_heads(q, k, v, heads)))
        results.append(Result(case, "multi_head", ("y",), returned, (want,), explain))
    compare(steps, results)


def _attend(q: Array, k: Array, v: Array) -> Array:
    y, _ = ops.attention_forward(q, k, v)
    return y


def _wrong_heads(q: Array, k: Array, v: Array, heads: int) -> list[tuple[str, Array]]:
    def split(x: Array) -> Array:
        return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)

    def cut(x: Array) -> Array:
        return x.reshape(len(x), heads, x.shape[1], -1)

    def interleaved(x: Array) -> Array:
        return x.reshape(*x.shape[:2], -1, heads).transpose(0, 3, 1, 2)

    right = _attend(split(q), split(k), split(v))
    mixed = "the reshape to (B, H, T, K) mixes positions and features; reshape to (B, T, H, K), then swap axes 1 and 2"
    kept = "the heads are not put back side by side: swap axes 1 and 2 before the reshape to (B, T, D)"
    strided = "head h took the features h, h + H, …; its features are neighbours: h·K … (h+1)·K - 1"
    cut_y = _attend(cut(q), cut(k), cut(v))
    return [
        (kept, right.reshape(q.shape)),
        (mixed, cut_y.reshape(q.shape)),
        (mixed, cut_y.swapaxes(1, 2).reshape(q.shape)),
        (strided, _attend(*map(interleaved, (q, k, v))).transpose(0, 2, 3, 1).reshape(q.shape)),
        ("this is one head of width D: split the features first", _attend(q, k, v)),
        ("the heads attend to each other: H and T have changed places, swap axes 1 and 2",
         _attend(*(x.swapaxes(1, 2) for x in map(split, (q, k, v)))).reshape(q.shape) if k.shape == q.shape else right),
    ]  # fmt: skip
