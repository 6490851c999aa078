"""What holds for every op: the gradient check of its cases, and float32 in, float32 out."""

import copy

import numpy as np
import pytest

from minissl import ops
from minissl.backend import Array
from minissl.gradcheck import check, op_cases

CASES = op_cases()
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.op}-{case.label}")


def test_every_op_has_cases():
    pairs = {name.removesuffix("_forward") for name in ops.__all__ if name.endswith("_forward")}
    assert {case.op for case in CASES} == pairs


def test_labels_are_unique():
    assert len({(case.op, case.label) for case in CASES}) == len(CASES)


@every_case
def test_gradients(case):
    report = check(case.forward, case.backward, case.inputs)
    assert report.ok, report
    assert report.relative_error < 1e-9


def test_the_seed_chooses_the_numbers():
    for case, same, other in zip(CASES, op_cases(), op_cases(seed=1), strict=True):
        for name, value in case.inputs.items():
            if getattr(value, "dtype", None) == np.float64:
                np.testing.assert_array_equal(value, same.inputs[name])
                assert (value != other.inputs[name]).any()


@every_case
def test_float32_stays_float32_and_close_to_float64(case):
    narrow = run(case, np.float32)
    wide = run(case, np.float64)
    assert len(narrow) == len(wide)
    for got, expected in zip(narrow, wide, strict=True):
        assert got.dtype == np.float32
        assert got.shape == expected.shape
        assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()


def run(case, dtype) -> list[Array]:
    """y and every gradient, computed in `dtype` from inputs that float32 holds exactly."""
    inputs = {
        name: value.astype(np.float32).astype(dtype)
        if getattr(value, "dtype", None) == np.float64
        else copy.deepcopy(value)
        for name, value in case.inputs.items()
    }
    y, cache = case.forward(**inputs)
    dy = np.random.default_rng(0).standard_normal(np.shape(y)).astype(np.float32) if np.ndim(y) else np.float32(1.5)
    returned = case.backward(np.asarray(dy, dtype), cache)
    return [y, *(returned if isinstance(returned, tuple) else [returned])]
