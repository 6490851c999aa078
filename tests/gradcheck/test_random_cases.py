"""The random correct cases: what is drawn, that each can tell right from wrong, and that none raises an alarm."""

import copy

import numpy as np
import pytest

from minissl import ops
from minissl.errors import InputError
from minissl.gradcheck import check
from minissl.gradcheck.random_cases import DTYPES, ID_DTYPES, LAYOUTS, MASKS, random_cases

MANY = list(random_cases(960, seed=3))


def arrays(case):
    return [v for v in case.inputs.values() if isinstance(v, np.ndarray)]


def floats(case):
    return [v for v in arrays(case) if v.dtype.kind == "f"]


def gradients(case):
    """What backward returns in float64 for a random dy."""
    wide = {
        name: v.astype(np.float64) if isinstance(v, np.ndarray) and v.dtype.kind == "f" else copy.deepcopy(v)
        for name, v in case.inputs.items()
    }
    y, cache = case.forward(**wide)
    dy = np.random.default_rng(0).standard_normal(np.shape(y))
    returned = case.backward(dy, cache)
    return returned if isinstance(returned, tuple) else (returned,)


def test_every_op_comes_in_turn():
    pairs = {name.removesuffix("_forward") for name in ops.__all__ if name.endswith("_forward")}
    assert {case.op for case in MANY[: len(pairs)]} == pairs
    assert len({case.label for case in MANY}) == len(MANY)


def test_a_case_depends_on_seed_and_number_alone():
    for few, many, other in zip(random_cases(32, seed=3), MANY, random_cases(32, seed=4), strict=False):
        assert few.label == many.label
        for same, value in zip(arrays(few), arrays(many), strict=True):
            np.testing.assert_array_equal(same, value)
        assert any(a.shape != b.shape or (a != b).any() for a, b in zip(arrays(few), arrays(other), strict=False))


LARGER = ("patch_embedding", "interpolate_positions")


def test_what_the_docstring_promises_is_drawn():
    values = [v for case in MANY for v in floats(case)]
    assert {str(v.dtype) for v in values} == set(DTYPES)
    plain = [v for case in MANY if "side" not in case.inputs and case.op not in LARGER for v in floats(case)]
    assert {v.ndim for v in plain} == {1, 2, 3, 4}
    assert {n for v in plain for n in v.shape} == {1, 2, 3, 4, 5, 6, 7, 8, 9}
    assert {v.ndim for v in values} == {1, 2, 3, 4, 5}
    sizes = np.array([np.abs(v).max() for v in values])
    assert (sizes < 1e-2).any()
    assert (sizes > 100).any()
    assert all(any(layout in case.label for case in MANY) for layout in LAYOUTS)
    matrices = [v for v in values if v.ndim == 2 and min(v.shape) > 1]
    assert any(v.strides[0] < 0 for v in matrices)
    assert any(v.flags.f_contiguous for v in matrices)
    assert any(v.strides[1] == 2 * v.itemsize for v in matrices)
    assert {str(v.dtype) for case in MANY for v in arrays(case) if v.dtype.kind in "iu"} == set(ID_DTYPES)
    ids = [case.inputs["ids"] for case in MANY if case.op == "embedding"]
    assert any(i.size > len(np.unique(i)) for i in ids)
    assert any("count" in case.inputs and case.inputs["count"] is None for case in MANY)
    assert any(case.inputs.get("count") for case in MANY)
    assert len({case.inputs["eps"] for case in MANY if case.op == "layer_norm"}) == 4


def test_masks_of_every_kind_are_drawn():
    attention = [case.inputs for case in MANY if case.op == "attention"]
    masks = [i["mask"] for i in attention if "mask" in i]
    square = [m for m in masks if m.shape[-1] == m.shape[-2] > 1]
    assert len(masks) < len(attention)
    assert any((m == np.tri(m.shape[-1], dtype=bool)).all() for m in square)
    assert any(m.shape[-2] == 1 and not m.all() for m in masks)
    assert any((~m).all(axis=-1).any() for m in masks)
    assert any("rng" in i for i in attention)
    assert len(MASKS) == 5


def test_kinks_are_met():
    x = [case.inputs["x"] for case in MANY if case.op == "relu"]
    assert any((v == 0).any() for v in x)
    assert any(((v != 0) & (np.abs(v) < 1e-4 * np.abs(v).max())).any() for v in x)
    l1 = [case.inputs for case in MANY if case.op == "masked_l1"]
    assert any((i["prediction"] == i["target"]).any() for i in l1)


def test_no_true_gradient_is_zero_throughout():
    for case in MANY:
        for name, gradient in zip(case.inputs, gradients(case), strict=False):
            assert np.abs(gradient).max() > 1e-9, (case.op, case.label, name)


@pytest.mark.parametrize("case", list(random_cases(32, seed=1)), ids=lambda case: f"{case.op}-{case.label}")
def test_no_alarm_when_right_and_one_when_wrong(case):
    assert check(case.forward, case.backward, case.inputs).ok

    def wrong(dy, cache):
        right = case.backward(dy, cache)
        return tuple(1.01 * g for g in right) if isinstance(right, tuple) else 1.01 * right

    assert not check(case.forward, wrong, case.inputs).ok


def test_none_asked_for_is_refused():
    with pytest.raises(InputError, match="0 asked for"):
        next(random_cases(0))
