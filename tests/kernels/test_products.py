"""The twins that are matrix products, on the stand-in: the reference's values, with the GPU's kernels and without."""

import numpy as np
import pytest

import stand_in_cublas
from minissl.gradcheck.cases import op_cases
from minissl.kernels import enabled, gpu, op, products, reference_ops
from stand_in import back, in_place_of_cupy, move

CASES = [case for case in op_cases() if case.op in products.TWINS]


pytestmark = pytest.mark.skipif(not enabled(), reason="MINISSL_KERNELS=off")


@pytest.fixture(autouse=True)
def cupy():
    with in_place_of_cupy():
        yield


def run(case, dtype, dy):
    inputs = {
        name: x.astype(dtype) if getattr(x, "dtype", None) == np.float64 else x for name, x in case.inputs.items()
    }
    pair = op(case.op)
    y, cache = pair.forward(*(move(value) for value in inputs.values()))
    gradients = pair.backward(move(dy(back(y).shape).astype(dtype)), cache)
    return [back(x) for x in (y, *gradients)]


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-5)])
@pytest.mark.parametrize("case", CASES, ids=[f"{i}-{case.op}" for i, case in enumerate(CASES)])
def test_the_values_are_the_references(monkeypatch, case, dtype, tolerance):
    monkeypatch.setattr(gpu, "applies", lambda *_: False)
    stand_in_cublas.CALLS.clear()
    rng = np.random.default_rng(5)
    dys = {}
    dy = lambda shape: dys.setdefault(shape, rng.standard_normal(shape))  # noqa: E731
    got = run(case, dtype, dy)
    assert stand_in_cublas.CALLS
    with reference_ops():
        expected = run(case, np.float64, dy)
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.dtype == dtype
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)
