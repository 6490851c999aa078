"""Every op on the strict stand-in for CuPy: the same results, no host array, no number handed to Python."""

import numpy as np
import pytest

from minissl.gradcheck.cases import op_cases
from stand_in import back, in_place_of_cupy, move, ndarray


@pytest.fixture
def cupy():
    with in_place_of_cupy() as library:
        yield library


def same(found, expected):
    if isinstance(expected, tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            same(one, other)
    elif isinstance(expected, (np.ndarray, np.generic)):
        assert isinstance(found, ndarray), "this result left the device"
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        np.testing.assert_allclose(back(found), expected, rtol=1e-6, atol=1e-6)
    else:
        assert found == expected


def arrays(x, dtype):
    return x.astype(dtype) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("number", range(len(op_cases())), ids=[f"{c.op}, {c.label}" for c in op_cases()])
def test_every_op_keeps_to_the_device(cupy, number, dtype):
    """Both cases are drawn anew, so that a generator of random numbers stands at the same place for both."""
    host, device = op_cases()[number], op_cases()[number]
    inputs = {name: arrays(x, dtype) for name, x in host.inputs.items()}
    y, cache = host.forward(**inputs)
    dy = np.random.default_rng(5).standard_normal(np.shape(y)).astype(dtype)
    moved = {name: move(arrays(x, dtype)) for name, x in device.inputs.items()}
    device_y, device_cache = device.forward(**moved)
    same(device_y, y)
    same(device.backward(move(dy), device_cache), host.backward(dy, cache))


def test_the_stand_in_refuses_what_a_gpu_would(cupy):
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
        lambda: cupy.maximum(x, host),
        lambda: cupy.concatenate([x, host[None]]),
        lambda: x.__setitem__(0, host),
    ):
        with pytest.raises(TypeError):
            leak()


def test_the_stand_in_wraps_indices_and_lets_any_of_several_writes_win(cupy):
    x = move(np.arange(3.0))
    assert back(x[move(np.array([3, -1, 7]))]).tolist() == [0, 2, 1]
    winners = set()
    for n in range(2, 12):
        y = move(np.zeros(2))
        y[move(np.zeros(n, int))] = move(np.arange(n) / (n - 1))
        winners.add(float(back(y)[0]) == 1)
    assert winners == {True, False}
