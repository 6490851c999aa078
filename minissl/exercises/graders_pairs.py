"""The exercises that ask for a backward pass: its gradients are compared with the library's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minissl import ops
from minissl.backend import Array
from minissl.exercises.exercise import Student, Verdict
from minissl.exercises.graders import (
    Result,
    Steps,
    agrees,
    compare,
    described,
    either,
    graded,
    gradient_findings,
    in_case,
    looks_like,
    output_and_cache,
)
from minissl.gradcheck import op_cases

B, T, D, V = 2, 4, 7, 11

Inputs = dict[str, Any]
Function = Callable[..., Any]
Slips = Callable[[Array, Any], list[tuple[str, str, Array]]]  # dy, the reference's cache -> as `looks_like` takes them


def grade_op(op: str, slips: Slips | None = None) -> Callable[[Student], Verdict]:
    """Grade the pair of an op of the library, on the cases that the op itself is checked with."""
    cases = [(case.label, case.inputs) for case in op_cases() if case.op == op and "rng" not in case.inputs]
    cases.sort(key=lambda case: case[0].startswith("1-D"))  # rows first: what is wrong reads better there
    return grade_pair(op, getattr(ops, f"{op}_forward"), getattr(ops, f"{op}_backward"), cases, slips)


def grade_pair(
    name: str,
    reference_forward: Function,
    reference_backward: Function,
    cases: list[tuple[str, Inputs]],
    slips: Slips | None = None,
) -> Callable[[Student], Verdict]:
    """Grade `name_backward`, whose forward is given; the widest case comes once more in float32.

    A wrong gradient is explained by `slips` where one of them gives the same, else by the gradient check.
    """
    widest = max(cases, key=lambda case: sum(np.size(value) for value in case[1].values()))
    every = [*cases, (f"{widest[0]}, float32", as_float32(widest[1]))]

    @graded
    def grade(student: Student, steps: Steps) -> None:
        forward, backward = student.pair(name)
        rng = np.random.default_rng(0)
        results: list[Result] = []
        again: list[Result] = []
        for label, inputs in every:
            case = described(label, inputs)
            want_y, reference_cache = reference_forward(**inputs)
            dy = np.asarray(rng.standard_normal(want_y.shape), want_y.dtype)
            with in_case(case, first=not results):
                y, cache = output_and_cache(steps, f"{name}_forward", forward(**inputs))
                if not (isinstance(y, np.ndarray) and y.shape == want_y.shape and agrees(y, want_y)):
                    steps.fail(f"forward: the given {name}_forward was changed and is no longer right")
                returned, second = backward(dy, cache), backward(dy, cache)
            want = reference_backward(dy, reference_cache)
            names = tuple(f"d{argument}" for argument, value in inputs.items() if is_float(value))
            findings = gradient_findings(forward, backward, inputs, reference_forward)
            explain = either(looks_like(*(slips(dy, reference_cache) if slips else [])), findings)
            want = want if isinstance(want, tuple) else (want,)
            results.append(Result(case, f"{name}_backward", names, returned, want, explain))
            again.append(Result(case, f"{name}_backward", names, second, want))
        compare(steps, results)
        require_same_again(steps, results, again)

    return grade


def require_same_again(steps: Steps, results: list[Result], again: list[Result]) -> None:
    """Refuse a second backward on the same cache that gives something else than the first."""
    for first, second in zip(results, again, strict=True):
        for (name, got, _), (_, got_again, _) in zip(first.outputs, second.outputs, strict=True):
            if not np.array_equal(got, got_again):
                steps.fail(
                    f"again: a second backward on the same cache gives another {name} ({first.case}); "
                    "an array of the cache is changed in place: `a *= b` changes a, `a = a * b` makes a new one"
                )
    steps.passed("again: a second backward on the same cache gives the same")


def is_float(value: Any) -> bool:
    """Whether backward owes this input a gradient."""
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def as_float32(inputs: Inputs) -> Inputs:
    """Copy the inputs, floating-point arrays in float32."""
    return {name: value.astype(np.float32) if is_float(value) else value for name, value in inputs.items()}


def residual_forward(x: Array, weight: Array, gain: Array, bias: Array, eps: float) -> tuple[Array, Any]:
    """y = layer_norm(x + tanh(x Wᵀ)), of the library's ops."""
    u, linear_cache = ops.linear_forward(x, weight, np.zeros(len(weight), x.dtype))
    h, tanh_cache = ops.tanh_forward(u)
    y, norm_cache = ops.layer_norm_forward(x + h, gain, bias, eps)
    return y, (linear_cache, tanh_cache, norm_cache)


def residual_backward(dy: Array, cache: Any) -> tuple[Array, ...]:
    """dx (both ways added), dweight, dgain, dbias."""
    linear_cache, tanh_cache, norm_cache = cache
    dsum, dgain, dbias = ops.layer_norm_backward(dy, norm_cache)
    dx, dweight, _ = ops.linear_backward(ops.tanh_backward(dsum, tanh_cache), linear_cache)
    return dsum + dx, dweight, dgain, dbias


def residual_slips(dy: Array, cache: Any) -> list[tuple[str, str, Array]]:
    """The layer norm left out on one of the two ways."""
    linear_cache, tanh_cache, norm_cache = cache
    dsum, *_ = ops.layer_norm_backward(dy, norm_cache)
    through_f, _, _ = ops.linear_backward(ops.tanh_backward(dsum, tanh_cache), linear_cache)
    early, early_weight, _ = ops.linear_backward(ops.tanh_backward(dy, tanh_cache), linear_cache)
    straight = "the straight way goes past the layer norm; the layer norm comes after the sum, so both ways pass it"
    inner = "f_backward got dy; the layer norm comes after the sum, so f_backward is given the gradient of the sum"
    return [
        ("dx", straight, dy + through_f), ("dx", inner, dsum + early), ("dweight", inner, early_weight),
        ("dx", "the layer norm is left out of both ways", dy + early),
    ]  # fmt: skip


def residual_cases() -> list[tuple[str, Inputs]]:
    """Gains away from 1, so that the order of the two gradients shows."""
    rng = np.random.default_rng(13)
    return [
        (
            f"{len(leading) + 1}-D",
            {
                "x": rng.standard_normal((*leading, D)),
                "weight": rng.standard_normal((D, D)),
                "gain": rng.uniform(0.5, 1.5, D),
                "bias": rng.standard_normal(D),
                "eps": 1e-5,
            },
        )
        for leading in ((T,), (B, T), (B, 3, T))
    ]


def tied_forward(ids: Array, weight: Array, bias: Array) -> tuple[Array, Any]:
    """logits = tanh(weight[ids]) weightᵀ + bias, of the library's ops."""
    rows, lookup = ops.embedding_forward(ids, weight)
    h, tanh_cache = ops.tanh_forward(rows)
    logits, linear_cache = ops.linear_forward(h, weight, bias)
    return logits, (lookup, tanh_cache, linear_cache)


def tied_backward(dlogits: Array, cache: Any) -> tuple[Array, Array]:
    """dweight (the table's two uses added), dbias."""
    lookup, tanh_cache, linear_cache = cache
    dh, dweight, dbias = ops.linear_backward(dlogits, linear_cache)
    return dweight + ops.embedding_backward(ops.tanh_backward(dh, tanh_cache), lookup), dbias


def tied_slips(dlogits: Array, cache: Any) -> list[tuple[str, str, Array]]:
    """One use of the table left out, or the tanh between them."""
    lookup, tanh_cache, linear_cache = cache
    dh, dweight, _ = ops.linear_backward(dlogits, linear_cache)
    reading = ops.embedding_backward(ops.tanh_backward(dh, tanh_cache), lookup)
    return [
        ("dweight", "this is the decoder's part alone; the table was also read, at the ids", dweight),
        ("dweight", "this is the embedding's part alone; the table was also the decoder", reading),
        ("dweight", "the slope of tanh, 1 - h², is missing on the way to the embedding",
         dweight + ops.embedding_backward(dh, lookup)),
    ]  # fmt: skip


def gelu_slips(dy: Array, cache: Any) -> list[tuple[str, str, Array]]:
    """The density φ without its constant or with the wrong sign."""
    x, phi = cache
    bell, upwards = np.exp(-0.5 * x * x), np.exp(0.5 * x * x)
    density = bell / math.sqrt(2 * math.pi)
    return [
        ("dx", "φ has lost its 1/√(2π)", dy * (phi + x * bell)),
        ("dx", "π belongs under the root, √(2π): here it is √2·π", dy * (phi + x * bell / (math.sqrt(2) * math.pi))),
        ("dx", "the exponent of φ has lost its minus", dy * (phi + x * upwards / math.sqrt(2 * math.pi))),
        ("dx", "the two halves of the product rule are added, not subtracted", dy * (phi - x * density)),
        ("dx", "the factor x of x φ(x) is missing", dy * (phi + density)),
    ]


def layer_norm_slips(dy: Array, cache: Any) -> list[tuple[str, str, Array]]:
    """The two means over other entries than the row's, or not means; wrong signs; the wrong scale."""
    normed, inv_std, gain = cache
    dnormed = dy * gain
    D = dy.shape[-1]
    mean = dnormed.mean(axis=-1, keepdims=True)
    along = normed * (dnormed * normed).mean(axis=-1, keepdims=True)
    sums = "sums over the row where means are asked: both are divided by D"
    signs = "both parts, the mean's and the variance's, are taken off; here a sign is wrong"
    one_less = "divided by D - 1; this variance is a mean over all D entries, and so is its gradient"
    rows = "the means belong to one row each, over the last axis; rows do not know of one another"
    return [
        ("dx", rows, inv_std * (dnormed - dnormed.mean(axis=a, keepdims=True)
                                - normed * (dnormed * normed).mean(axis=b, keepdims=True)))
        for a, b in ((0, -1), (-1, 0), (0, 0), (None, None), (None, -1))
    ] + [
        ("dx", message, inv_std * (dnormed - a * mean - b * along))
        for message, factors in (
            (sums, ((D, D), (D, 1), (1, D))), (signs, ((1, -1), (-1, 1), (-1, -1))),
            (one_less, ((1, D / (D - 1)), (D / (D - 1), 1), (D / (D - 1), D / (D - 1))) if D > 1 else ()),
        )
        for a, b in factors
    ] + [
        ("dx", "divided by 1/√(σ² + eps); the cache holds the inverse already, so multiply",
         (dnormed - mean - along) / inv_std),
    ]  # fmt: skip


def softmax_slips(dy: Array, cache: Array) -> list[tuple[str, str, Array]]:
    """The sum over the wrong axis or none, a mean in its place, the wrong sign."""
    axes = "the sum of a row goes over its own entries, the last axis"
    product = cache * dy
    row = product.sum(axis=-1, keepdims=True)
    around: tuple[int | None, ...] = (None, *range(dy.ndim - 1))
    return [
        ("dx", "the sum over the row is missing: x_j also moves every other y_i", cache * (dy - product)),
        ("dx", "the row's part is missing: one x_j moves every y_i, because they share one sum", product),
        ("dx", "a mean over the row where its sum is asked", cache * (dy - row / dy.shape[-1])),
        ("dx", "a plain mean of dy: the sum weighs each dy_i with y_i", cache * (dy - dy.mean(axis=-1, keepdims=True))),
        ("dx", "a plain sum of dy: each dy_i is weighed with y_i", cache * (dy - dy.sum(axis=-1, keepdims=True))),
        ("dx", "the row's sum is added; it is taken off", cache * (dy + row)),
        *(("dx", axes, cache * (dy - product.sum(axis=axis, keepdims=True))) for axis in around),
    ]


def attention_slips(dy: Array, cache: Any) -> list[tuple[str, str, Array]]:
    """What the softmax in the middle makes wrong in dq and dk."""
    q, k, v, weights = cache[:4]
    dweights, root = dy @ v.swapaxes(-1, -2), q.shape[-1] ** 0.5
    product = weights * dweights
    right = product - weights * product.sum(axis=-1, keepdims=True)
    return [
        (name, message, dscores.swapaxes(-1, -2) @ q if name == "dk" else dscores @ k)
        for message, dscores in (
            ("softmax's row sum is missing: one score moves all the weights of its row (exercise 5)", product / root),
            ("softmax's sum goes over the keys, the last axis",
             (product - weights * product.sum(axis=-2, keepdims=True)) / root),
            ("softmax is left out: between dweights and dscores lies its backward (exercise 5)", dweights / root),
            ("divided by √K twice", right / root**2),
        )
        for name in ("dq", "dk")
    ]  # fmt: skip


def tied_cases() -> list[tuple[str, Inputs]]:
    """Ids that repeat, and ids that do not occur."""
    rng = np.random.default_rng(14)
    repeated = np.array([[3, 0, 3, 10], [3, 7, 0, 3]])
    return [
        (label, {"ids": ids, "weight": rng.standard_normal((V, D)), "bias": rng.standard_normal(V)})
        for label, ids in (("repeated ids", repeated), ("random ids", rng.integers(0, V, (3, 5))))
    ]
