"""The exercises that draw random numbers: what must hold for every draw, then shares within five standard errors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minissl.backend import Array
from minissl.exercises.exercise import Student, StudentRaised
from minissl.exercises.graders import (
    Result,
    Steps,
    compare,
    described,
    graded,
    gradient_findings,
    in_case,
    looks_like,
    output_and_cache,
    require_form,
)
from minissl.pretext.mlm import IGNORE, KEPT, MASKED, RANDOM

ERRORS = 5  # standard errors: a right solution fails one such check in two million
V, PAD, CLS, SEP, MASK = 19, 0, 2, 3, 4
ONLY_RNG = "every random number comes from `rng`, none from np.random or from a generator of your own"


@graded
def grade_dropout(student: Student, steps: Steps) -> None:
    """Scale, share, one draw for each entry, and a backward that meets the same entries."""
    forward, backward = student.pair("dropout")
    rng = np.random.default_rng(9)
    forwards: list[Result] = []
    backwards: list[Result] = []
    draws: list[tuple[float, Array]] = []
    for shape, rate, dtype in (
        ((40, 50), 0.2, "float64"), ((5, 20, 30), 0.5, "float64"), ((2, 5, 20, 30), 0.1, "float64"),
        ((4, 7), 0.0, "float64"), ((30, 40), 0.7, "float32"),
    ):  # fmt: skip
        x, dy = rng.standard_normal((2, *shape)).astype(dtype)
        inputs = {"x": x, "rate": rate, "rng": np.random.default_rng(90)}
        case = f"rate {rate}, x {shape} {dtype}"
        with in_case(case, first=not forwards):
            y, cache = output_and_cache(steps, "dropout_forward", _forward(forward, inputs))
            dx = backward(dy, cache)
        kept = np.asarray(y != 0) if np.shape(y) == shape else np.ones(shape, bool)
        scaled = kept * np.asarray(1 / (1 - rate), dtype)
        explain = looks_like(
            ("y", "what is kept is not scaled up: divide by 1 - rate", x * kept),
            ("y", "multiplied by 1 - rate; what is kept is divided by it", x * kept * (1 - rate)),
            ("y", "divided by rate, the share that is dropped; 1 - rate is kept", x * kept / (rate or 1)),
        )
        forwards.append(Result(case, "dropout_forward", ("y",), y, (x * scaled,), explain))
        findings = gradient_findings(forward, backward, {**inputs, "x": x[:4, :7]})
        backwards.append(Result(f"backward, {case}", "dropout_backward", ("dx",), dx, (dy * scaled,), findings))
        draws.append((rate, kept))
    compare(steps, [*forwards, *backwards])
    _require_shares(steps, draws)

    x = rng.standard_normal((20, 30))
    first, same, other = (forward(x, 0.5, np.random.default_rng(seed))[0] for seed in (1, 1, 2))
    _require_only_rng(steps, np.array_equal(first, same), np.array_equal(first, other))


def _forward(forward: Callable[..., Any], inputs: dict[str, Any]) -> Any:
    try:
        return forward(**inputs)
    except StudentRaised as error:
        if inputs["rate"] or "ZeroDivisionError" not in str(error):
            raise
        slip = "what is kept is divided by 1 - rate, which is 1 here, not by rate"
        raise StudentRaised(f"{error}; {slip}") from None


def _require_shares(steps: Steps, draws: list[tuple[float, Array]]) -> None:
    for rate, kept in draws:
        for axis in range(kept.ndim if rate else 0):
            if (kept == kept.take([0], axis)).all():
                steps.fail(f"share: along axis {axis} all are dropped or none; each entry is drawn on its own")
        share = 1 - float(kept.mean())
        if abs(share - rate) > ERRORS * math.sqrt(rate * (1 - rate) / kept.size):
            swapped = abs(share - (1 - rate)) < 0.05
            more = ["`rate` is the share that is dropped; here it is kept"] if swapped else []
            steps.fail(f"share: {share:.3f} of the entries are dropped at rate {rate}", more)
    steps.passed("share: each entry is dropped on its own, and as often as `rate` says")


def _require_only_rng(steps: Steps, same: bool, other: bool) -> None:
    if not same:
        steps.fail(f"rng: two calls with equal generators differ; {ONLY_RNG}")
    if other:
        steps.fail(f"rng: two calls with different generators give the same; {ONLY_RNG}")
    steps.passed("rng: equal generators draw the same, others something else")


@graded
def grade_mlm_corruption(student: Student, steps: Steps) -> None:
    """What holds for each position first, then how often."""
    mask_tokens = student.function("mask_tokens")
    rng = np.random.default_rng(15)
    small, many = _rows(rng, 8, 17, full=False), _rows(rng, 1000, 40, full=True)
    results: list[Result] = []
    for ids, maskable in (small, many):
        case = described("", {"input_ids": ids, "maskable": maskable}).removeprefix(": ")
        with in_case(case, first=not results):
            returned = mask_tokens(ids, maskable, MASK, V, np.random.default_rng(1))
        results.append(Result(case, "mask_tokens", ("masked_ids", "labels"), returned, (ids, ids)))
    require_form(steps, results)
    outputs = [
        (ids, maskable, *result.returned) for (ids, maskable), result in zip((small, many), results, strict=True)
    ]
    for output in outputs:
        _require_labels(steps, *output)
    steps.passed("labels: the original id where chosen, -100 elsewhere; special tokens and padding never chosen")
    for output in outputs:
        _require_counts(steps, *output)
    steps.passed("count: max(1, round(0.15 n)) in every row")
    _require_fates(steps, *outputs[1])

    same, other = (mask_tokens(*many, MASK, V, np.random.default_rng(seed)) for seed in (1, 2))
    first = results[1].returned
    _require_only_rng(steps, np.array_equal(first, same), np.array_equal(first, other))


def _rows(rng: np.random.Generator, B: int, T: int, full: bool) -> tuple[Array, Array]:
    """[CLS] words [SEP] padding, of different lengths, the first with one word; or rows of words alone."""
    ids = rng.integers(MASK + 1, V, (B, T))
    if full:
        return ids, np.ones((B, T), bool)
    last = np.append(2, rng.integers(5, T, B - 1))[:, None]  # the place of [SEP]
    t = np.arange(T)
    ids = np.where(t < last, ids, np.where(t == last, SEP, PAD))
    ids[:, 0] = CLS
    return ids, (t > 0) & (t < last)


def _require_labels(steps: Steps, ids: Array, maskable: Array, masked: Array, labels: Array) -> None:
    chosen = labels != IGNORE
    for wrong, text in (
        (chosen & ~maskable, "labels: a special token or padding was chosen; `maskable` is False there"),
        ((masked != ids) & ~chosen, "labels: an id was replaced, and its label is -100; what is hidden has a label"),
        (
            chosen & (labels == masked) & (labels != ids),
            "labels: the label is the new id, not the original one",
        ),
        (chosen & (labels != ids), "labels: the label is not the original id"),
        ((masked < 0) | (masked >= V), f"masked_ids: outside 0 … {V - 1}; `rng.integers(n)` draws 0 … n - 1"),
    ):
        if wrong.any():
            at = tuple(np.argwhere(wrong)[0].tolist())
            values = f"input_ids {ids[at]}, masked_ids {masked[at]}, labels {labels[at]}"
            steps.fail(text, [f"where: {int(wrong.sum())} times, first at {at}: {values}"])


def _require_counts(steps: Steps, ids: Array, maskable: Array, masked: Array, labels: Array) -> None:
    n, got = maskable.sum(axis=1), (labels != IGNORE).sum(axis=1)
    wrong = (np.abs(got - np.maximum(1, 0.15 * n)) > 0.5) | (got < 1)
    if not wrong.any():
        return
    row = int(wrong.argmax())
    text = f"count: {got[row]} positions are chosen in row {row}, which has {n[row]}; expected max(1, round(0.15 n))"
    hint = []
    if (n[wrong] <= 3).all():
        hint = ["a short row still needs one"]
    elif (got <= np.maximum(1, np.ceil(0.15 * n))).all():
        hint = ["too few: is a position drawn twice (replace=False), or a label only set where the id changes?"]
    elif abs(float(got.sum() / n.sum()) - 0.15) < 0.1:
        hint = ["about 15 % in all, but not in each row: choose how many first, not each with probability 0.15"]
    steps.fail(text, hint)


def _require_fates(steps: Steps, ids: Array, maskable: Array, masked: Array, labels: Array) -> None:
    chosen = labels != IGNORE
    by_position = chosen.sum(axis=0)
    expected = float(by_position.mean())
    if (np.abs(by_position - expected) > ERRORS * math.sqrt(expected)).any():
        t = int(np.abs(by_position - expected).argmax())
        steps.fail(
            f"positions: {t} is chosen in {by_position[t]} of {len(ids)} rows, expected about {expected:.0f}; "
            "all maskable positions are equally likely"
        )
    steps.passed("positions: all equally likely")

    hidden, kept = masked == MASK, masked == ids
    shares = {
        "become mask_id": (hidden, MASKED + RANDOM / V, "80 %"),
        "stay as they are": (kept, KEPT + RANDOM / V, "10 %"),
        "become another id": (~hidden & ~kept, RANDOM * (1 - 2 / V), "10 %"),
    }
    count = int(chosen.sum())
    for text, (which, share, percent) in shares.items():
        got = float(which[chosen].mean())
        if abs(got - share) > ERRORS * math.sqrt(share * (1 - share) / count):
            steps.fail(f"80/10/10: {100 * got:.1f} % of the chosen ids {text}, expected about {percent}")
    several = chosen.sum(axis=1) > 3
    alike = [(chosen & which).sum(axis=1) == chosen.sum(axis=1) for which in (hidden, kept, ~hidden & ~kept)]
    if np.any(alike, axis=0)[several].mean() > 0.6:
        steps.fail("80/10/10: all chosen ids of a row share one fate; each is decided on its own")
    steps.passed("80/10/10: each chosen id on its own")

    drawn = np.bincount(masked[chosen & ~hidden & ~kept], minlength=V)
    expected = RANDOM * count / V
    never = [v for v in range(V) if v != MASK and drawn[v] == 0]
    if never:
        steps.fail(f"random ids: {', '.join(map(str, never))} never drawn; they come from all of 0 … {V - 1}")
    often = int(drawn.argmax())
    if drawn[often] > expected + ERRORS * math.sqrt(expected):
        steps.fail(f"random ids: {often} is drawn {drawn[often]} times, expected about {expected:.0f}")
    steps.passed("random ids: from the whole vocabulary")
