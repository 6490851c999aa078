"""What a constant factor is taken for: sizes are primes here, so that each factor has one reason."""

import math

import numpy as np
import pytest

from minissl.gradcheck.factors import MOST_REASONS, explain_factor

X, Y = np.ones((3, 5, 7)), np.ones((3, 5, 11))


def reasons(factor, dy=None, **values):
    return explain_factor(factor, {"x": X, **values}, Y, dy)


EXPLAINED = {
    "counted twice": (2, {}, "2: it is counted twice"),
    "a lost 2": (1 / 2, {}, "1/2: a 2 is lost"),
    "1/√K left out": (math.sqrt(7), {}, "√7, and 7 is the size of the last axis of x: is the factor 1/√7 left out?"),
    "1/√K twice": (1 / math.sqrt(7), {}, "1/√7, and 7 is the size of the last axis of x: is that factor there twice?"),
    "of y": (math.sqrt(11), {}, "√11, and 11 is the size of the last axis of y"),
    "sum for mean": (5, {}, "5, the size of axis 1 of x and y: is a division by it left out"),
    "mean for sum": (1 / 5, {},
        "1/5, and 5 is the size of axis 1 of x and y: is it divided by once"),
    "rows": (15, {}, "15, the number of rows of x"),
    "entries": (105, {}, "105, the number of entries of x"),
    "one size for another": (7 / 11, {},
        "7/11: divided by 11 (the size of the last axis of y) where 7 (the size of the"),
    "kept share lost": (0.9, {"rate": 0.1}, "1 - rate, the share that is kept: is the division by it left out?"),
    "kept share twice": (1 / 0.9, {"rate": 0.1}, "1/(1 - rate): is the share that is kept divided by twice?"),
    "a number twice": (0.1, {"rate": 0.1}, "rate itself: does it enter twice"),
    "a number left out": (1 / 0.3, {"tau": 0.3}, "1/tau: is the factor tau left out?"),
    "times for divided by": (0.09, {"tau": 0.3}, "tau²: does it multiply where it divides?"),
    "divided by for times": (1 / 169, {"alpha": 13}, "1/alpha²: does it divide where it multiplies?"),
    "above 1 there is no share": (13, {"alpha": 13.0}, "alpha itself"),
    "true entries": (4, {"mask": np.arange(10) < 4}, "4, the number of true entries of mask"),
    "labels that count": (6, {"labels": np.array([1, -100, 0, 2, 8, -100, 2, 3])},
        "6, the number of entries of labels that"),
    "ones": (4, {"keep": np.array([1, 1, 0, 1, 1])}, "4, the number of ones in keep"),
    "the count before a size": (5, {"mask": np.arange(8) < 5},
        "5, the number of true entries of mask"),
    "no upstream gradient": (1 / 0.3, {"dy": np.array(0.3)}, "1/dy: is the upstream gradient left out?"),
    "upstream gradient twice": (0.3, {"dy": np.array([[0.3]])}, "dy: does the upstream gradient enter twice?"),
    "the sign is another matter": (-math.sqrt(7), {}, "√7"),
    "as exact as it was measured": (5 * (1 + 1e-6), {}, "5, the size of axis 1"),
}  # fmt: skip


@pytest.mark.parametrize(("factor", "given", "expected"), EXPLAINED.values(), ids=EXPLAINED)
def test_the_likeliest_reason_comes_first(factor, given, expected):
    found = reasons(factor, **given)
    assert found
    assert found[0].startswith(expected)
    assert len(found) <= MOST_REASONS
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(
    ("factor", "given"),
    [
        (1.2345, {}),
        (0, {}),
        (1 + 1e-3, {}),
        (5 * (1 + 1e-4), {}),
        (13, {"names": ["a"] * 13}),
        (13, {"infinite": math.inf, "nan": math.nan, "flag": True, "nothing": 0.0}),
        (0.3, {"dy": np.full(2, 0.3)}),
        (1 / 0.3, {"dy": np.zeros(1)}),
        (9, {"ids": np.array([0, 3, 9])}),
    ],
)
def test_a_factor_without_a_reason_gets_none(factor, given):
    assert reasons(factor, **given) == []


def test_without_y_the_arguments_alone_give_sizes():
    assert explain_factor(11, {"x": X}, None, None) == []
    assert explain_factor(7, {"x": X}, None, None)[0].startswith("7, the size of the last axis of x: ")
    assert explain_factor(5, {}, np.ones(()), None) == []
