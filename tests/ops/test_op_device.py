"""Every op on the device: float64's results on the host, no host array, no number handed to Python."""

import copy

import numpy as np
import pytest

from minissl.backend import beside, to_host
from minissl.gradcheck.cases import op_cases
from minissl.kernels import op, twins
from stand_in import back, in_place_of_cupy, move

TOLERANCES = {"float32": 1e-5, "float64": 1e-12}  # of the largest entry
CASES = op_cases()
PAIRS = [(case, case) for case in CASES] + [(case, op(case.op)) for case in CASES if (case.op, "cupy") in twins()]
LABELS = [f"{case.op}, {case.label}" + ("" if pair is case else ", twin") for case, pair in PAIRS]


def given(case, dtype):
    """The inputs as float32 holds them, in `dtype`; a generator of random numbers begins anew."""
    return {
        name: x.astype("float32").astype(dtype) if getattr(x, "dtype", None) == np.float64 else copy.deepcopy(x)
        for name, x in case.inputs.items()
    }


def upstream(y, dtype):
    return np.asarray(np.random.default_rng(5).standard_normal(np.shape(y)), "float32").astype(dtype)


def results(y, gradients):
    return [y, *gradients] if isinstance(gradients, tuple) else [y, gradients]


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(("case", "pair"), PAIRS, ids=LABELS)
def test_every_op_keeps_to_the_device(cupy, case, pair, dtype):
    device = cupy.zeros(1)
    y, cache = case.forward(**given(case, "float64"))
    expected = results(y, case.backward(upstream(y, "float64"), cache))
    y, cache = pair.forward(*beside(given(case, dtype), device).values())
    found = results(y, pair.backward(beside(upstream(y, dtype), device), cache))
    for one, other in zip(found, expected, strict=True):
        assert isinstance(one, cupy.ndarray), "this result left the device"
        assert (one.shape, one.dtype) == (np.shape(other), dtype)
        assert np.abs(to_host(one) - other).max() <= TOLERANCES[dtype] * np.abs(other).max()


@pytest.fixture
def strict():
    with in_place_of_cupy() as library:
        yield library


def test_the_stand_in_refuses_what_a_gpu_would(strict):
    x, host = move(np.arange(6.0).reshape(2, 3)), np.ones(3)
    for leak in (
        lambda: x + host,
        lambda: host + x,
        lambda: np.exp(x),
        lambda: np.asarray(x),
        lambda: float(x.sum()),
        lambda: bool((x > 0).all()),
        lambda: x.sum().item(),
        lambda: x[x > 2],
        lambda: x[np.array([0])],
        lambda: x.sum(where=x > 2),
        lambda: strict.maximum(x, host),
        lambda: strict.concatenate([x, host[None]]),
        lambda: x.__setitem__(0, host),
    ):
        with pytest.raises(TypeError):
            leak()


def test_the_stand_in_wraps_indices_and_lets_any_of_several_writes_win(strict):
    x = move(np.arange(3.0))
    assert back(x[move(np.array([3, -1, 7]))]).tolist() == [0, 2, 1]
    winners = set()
    for n in range(2, 12):
        y = move(np.zeros(2))
        y[move(np.zeros(n, int))] = move(np.arange(n) / (n - 1))
        winners.add(float(back(y)[0]) == 1)
    assert winners == {True, False}
