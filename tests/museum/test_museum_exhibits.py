"""The exhibits as data, what they compile to, and that they leave no trace."""

import re
import sys
from pkgutil import resolve_name

import numpy as np
import pytest

from minissl import ops
from minissl.errors import InputError
from minissl.gradcheck.kinds import KINDS
from minissl.kernels import op
from minissl.museum import EXHIBITS, Exhibit, find
from minissl.museum.tasks import Setting

every_exhibit = pytest.mark.parametrize("exhibit", EXHIBITS, ids=lambda exhibit: exhibit.name)
MUST_HAVES = [
    "attention-key-transposed", "layer-norm-gain-outside", "attention-product-swapped",
    "pre-norm-residual-through-norm", "attention-value-before-dropout", "layer-norm-mean-term",
    "attention-softmax-maximum-axis", "cross-entropy-shared-ignore", "mask-inverted", "labels-minus-100",
]  # fmt: skip


def test_there_are_enough_and_names_are_unique():
    names = [exhibit.name for exhibit in EXHIBITS]
    assert len(set(names)) == len(names) >= 64


@pytest.mark.parametrize("name", MUST_HAVES)
def test_what_public_projects_got_wrong_is_here(name):
    assert find(name).source == "seen in a public project"


@every_exhibit
def test_an_exhibit_says_what_it_is(exhibit):
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", exhibit.name)
    assert exhibit.kind in {*KINDS, "pipeline"}
    assert len(exhibit.story) > 10
    assert len(exhibit.training) > 10
    assert "\n" not in exhibit.story + exhibit.training
    Setting(**exhibit.setting)


@every_exhibit
def test_an_exhibit_compiles_and_differs_by_a_few_lines(exhibit):
    built = exhibit.build()
    assert callable(built) or all(map(callable, built))
    changed = [line for line in exhibit.diff().splitlines() if re.match(r"[-+](?![-+])", line)]
    assert 1 <= len(changed) <= 12


def everything():
    """All names of minissl's modules and of the classes in them, with what they mean."""
    found = {}
    for module_name, module in list(sys.modules.items()):
        if module_name.partition(".")[0] == "minissl":
            for name, value in vars(module).items():
                found[module_name, name] = id(value)
                if isinstance(value, type) and value.__module__ == module_name:
                    found |= {(module_name, name, k): id(v) for k, v in vars(value).items() if callable(v)}
    return found


def test_no_trace_is_left():
    for exhibit in EXHIBITS:
        with exhibit.installed():
            pass
    before = everything()
    for exhibit in EXHIBITS:
        right = resolve_name(exhibit.place)
        with exhibit.installed():
            assert resolve_name(exhibit.place) is not right
            assert everything() != before
        assert resolve_name(exhibit.place) is right
    assert everything() == before


def test_an_error_inside_the_block_restores_too():
    right = ops.linear_backward
    with pytest.raises(ZeroDivisionError), find("linear-bias-mean").installed():
        raise ZeroDivisionError
    assert ops.linear_backward is right


def test_a_wrong_op_takes_the_place_of_its_faster_twin():
    rng = np.random.default_rng(0)
    x, dy = rng.standard_normal((2, 3, 5))
    layer_norm = op("layer_norm")

    def dx():
        _, cache = layer_norm.forward(x, np.ones(5), np.zeros(5), 1e-12)
        return layer_norm.backward(dy, cache)[0]

    right = dx()
    with find("layer-norm-mean-term").installed():
        assert np.abs(dx() - right).max() > 0.01
    np.testing.assert_array_equal(dx(), right)


def test_a_wrong_softmax_reaches_attention():
    rng = np.random.default_rng(0)
    q, k, v, dy = rng.standard_normal((4, 3, 5))
    attention = op("attention")
    with find("softmax-sum-dropped").installed():
        _, cache = attention.forward(q, k, v)
        wrong = attention.backward(dy, cache)
    _, cache = attention.forward(q, k, v)
    assert np.abs(attention.backward(dy, cache)[0] - wrong[0]).max() > 0.01


def test_a_pair_is_built_beside_the_right_one():
    pair = find("softmax-sum-dropped").build()
    y, cache = pair.forward(np.array([0.0, 1.0]))
    assert pair.backward(np.ones(2), cache).any()
    assert not ops.softmax_backward(np.ones(2), y).round(12).any()


def test_text_that_is_gone_is_an_error():
    exhibit = Exhibit("gone", "minissl.ops.linear.linear_backward", "what no op says", "", "zero", "", "")
    with pytest.raises(ValueError, match=r"occurs 0 times in .*; has the code changed"):
        exhibit.build()


def test_an_unknown_name_gets_close_ones():
    with pytest.raises(InputError, match=r"did you mean .*mask-inverted"):
        find("mask-invertd")
    with pytest.raises(InputError, match="layer-norm-gain-outside"):
        find("gain-out")
    with pytest.raises(InputError, match="minissl museum list"):
        find("xyz")
