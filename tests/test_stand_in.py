"""The stand-in refuses what a GPU's library refuses, or what would make a step wait: else its tests prove nothing."""

import math
import operator

import numpy as np
import pytest

import stand_in
from stand_in import back, move

HOST = np.arange(6.0).reshape(2, 3)
IDS = np.array([0, 1])


def into(host, value):
    host[...] = value


REFUSED = {
    "host + device": lambda cp, d: HOST + d,
    "device + host": lambda cp, d: d + HOST,
    "host @ device": lambda cp, d: HOST @ d.T,
    "device @ host": lambda cp, d: d @ HOST.T,
    "host += device": lambda cp, d: operator.iadd(HOST.copy(), d),
    "device += host": lambda cp, d: operator.iadd(d, HOST),
    "host[...] = device": lambda cp, d: into(HOST.copy(), d),
    "device[...] = host": lambda cp, d: into(d, HOST),
    "device == host": lambda cp, d: d == HOST,
    "host == device": lambda cp, d: operator.eq(HOST, d),
    "device * a 0-d host array": lambda cp, d: d * np.array(2.0),
    "np.asarray": lambda cp, d: np.asarray(d),
    "np.exp": lambda cp, d: np.exp(d),
    "np.concatenate": lambda cp, d: np.concatenate([HOST, d]),
    "exp of a host's": lambda cp, d: cp.exp(HOST),
    "maximum with a host's": lambda cp, d: cp.maximum(d, HOST),
    "where of a host's": lambda cp, d: cp.where(HOST > 2, d, 0),
    "concatenate with a host's": lambda cp, d: cp.concatenate([d, HOST]),
    "out into a host's": lambda cp, d: cp.exp(d, out=HOST.copy()),
    "float": lambda cp, d: float(d.sum()),
    "int": lambda cp, d: int(d.sum()),
    "truth": lambda cp, d: 1 if d.sum() > 0 else 0,
    "Python's max": lambda cp, d: max(d.sum(), d.mean()),
    "math": lambda cp, d: math.isfinite(d.sum()),
    "item": lambda cp, d: d.sum().item(),
    "tolist": lambda cp, d: d.tolist(),
    "range": lambda cp, d: range(d.sum()),
    "arange": lambda cp, d: cp.arange(d.sum()),
    "zeros": lambda cp, d: cp.zeros(move(IDS)),
    "a slice": lambda cp, d: d[move(IDS)[1] :],
    "a list's index": lambda cp, d: [1, 2][move(IDS)[0]],
    "a format": lambda cp, d: f"{d.sum():.2f}",
    "a boolean index": lambda cp, d: d[d > 2],
    "assignment to a boolean index": lambda cp, d: operator.setitem(d, d > 2, 0),
    "a host's ids": lambda cp, d: d[IDS],
    "a list of ids": lambda cp, d: d[[0, 1]],
    "a device's ids of a host's array": lambda cp, d: HOST[move(IDS)],
    "add.at with a host's ids": lambda cp, d: cp.add.at(d, IDS, 1.0),
    "max with initial": lambda cp, d: d.max(initial=0),
    "sum with where": lambda cp, d: cp.zeros_like(d).sum(where=True),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what):
    with stand_in.in_place_of_cupy() as cp, pytest.raises(TypeError):
        REFUSED[what](cp, move(HOST))


def test_ids_outside_wrap_and_of_two_writes_to_one_place_any_may_win():
    x = move(np.zeros(3))
    x[move(np.array([4]))] = 1
    np.testing.assert_array_equal(back(x), [0, 1, 0])
    x[move(np.zeros(9, int))] = move(np.arange(9.0))
    assert back(x)[0] not in (0, 8)
