"""Every kernel for the GPU against its reference op, run thread by thread on the CPU (tests/emulation.py)."""

import copy
import inspect

import numpy as np
import pytest

import emulation
from minissl import ops
from minissl.gradcheck.cases import op_cases
from minissl.kernels import gpu, op, reference_ops
from stand_in import back, in_place_of_cupy, move, ndarray

pytestmark = pytest.mark.skipif(emulation.COMPILER is None, reason="no g++ to build the kernels with")

B, T, D, F, V = 2, 4, 7, 8, 11


@pytest.fixture(autouse=True)
def cupy():
    with in_place_of_cupy() as library:
        yield library


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def affine(*shape):
    return {"x": 2 * normal(*shape) + 1, "gain": normal(shape[-1], seed=1), "bias": normal(shape[-1]), "eps": 1e-6}


# what the gradient check's small inputs do not reach: more rows than a slab, widths about a warp's, nothing at all
MORE = [
    *(
        ("layer_norm", f"{rows} × {width}", affine(rows, width))
        for rows, width in [(1, 1), (3, 32), (5, 33), (2, 1003)]
    ),
    ("layer_norm", "many rows", affine(3, 211, 5)),
    ("layer_norm", "no rows", affine(0, D)),
    ("layer_norm", "strided", {**affine(1, D), "x": normal(D, T, B).T[..., ::-1], "gain": normal(2 * D)[::2]}),
]
INPUTS = [(case.op, case.label, case.inputs) for case in op_cases() if case.op in gpu.TWINS] + MORE
LABELS = [f"{op}-{label}" for op, label, _ in INPUTS]
every_input = pytest.mark.parametrize(("op", "label", "inputs"), INPUTS, ids=LABELS)


def reference(name):
    return getattr(ops, f"{name}_forward"), getattr(ops, f"{name}_backward")


def given(inputs, dtype):
    """Copies of the inputs, of numbers that float32 holds exactly; strides stay."""
    out = {}
    for name, value in inputs.items():
        floating = getattr(value, "dtype", None) == np.float64
        out[name] = value.astype(np.float32).astype(dtype, order="K") if floating else copy.deepcopy(value)
    return out


def upstream(y, dtype):
    return np.asarray(normal(*np.shape(y), seed=9)).astype(np.float32).astype(dtype)


def results(y, gradients):
    return [y, *gradients] if isinstance(gradients, tuple) else [y, gradients]


def expected(name, inputs, dtype):
    forward, backward = reference(name)
    y, cache = forward(**given(inputs, np.float64))
    return results(y, backward(upstream(y, np.float64), cache))


def found(pair, inputs, dtype):
    forward, backward = pair
    arguments = list(map(move, given(inputs, dtype).values()))
    assert gpu.applies(*arguments)
    y, cache = forward(*arguments)
    return results(y, backward(move(upstream(back(y), dtype)), cache))


def error(got, right):
    return np.abs(got - right).max(initial=0) / max(np.abs(right).max(initial=0), np.finfo(float).tiny)


@every_input
@pytest.mark.parametrize(("dtype", "most"), [(np.float64, 1e-12), (np.float32, 1e-5)], ids=["float64", "float32"])
def test_every_kernel_equals_the_reference(op, label, inputs, dtype, most):
    got, right = found(gpu.TWINS[op], inputs, dtype), expected(op, inputs, dtype)
    assert len(got) == len(right)
    for ours, theirs in zip(got, right, strict=True):
        assert isinstance(ours, ndarray)
        assert (ours.shape, ours.dtype) == (np.shape(theirs), dtype)
        assert error(back(ours), theirs) <= most


def test_every_twin_is_compared():
    assert {name for name, _, _ in INPUTS} == set(gpu.TWINS)


@pytest.mark.parametrize("name", gpu.TWINS)
def test_same_signature_as_the_reference(name):
    for twin, theirs in zip(gpu.TWINS[name], reference(name), strict=True):
        assert inspect.signature(twin).parameters.keys() == inspect.signature(theirs).parameters.keys()


def bits(value):
    """Every array inside nested containers, as bytes."""
    if isinstance(value, dict):
        return [bits(item) for item in value.values()]
    if isinstance(value, (tuple, list)):
        return [bits(item) for item in value]
    return back(value).tobytes() if isinstance(value, ndarray) else repr(value)


@every_input
def test_inputs_dy_and_cache_stay_and_a_second_backward_gives_the_same_bits(op, label, inputs):
    forward, backward = gpu.TWINS[op]
    arguments = list(map(move, given(inputs, np.float32).values()))
    before = bits([a for a in arguments if isinstance(a, ndarray)])
    y, cache = forward(*arguments)
    dy = move(upstream(back(y), np.float32))
    held = bits((y, cache, dy))
    assert bits(backward(dy, cache)) == bits(backward(dy, cache))
    assert bits((y, cache, dy)) == held
    assert bits([a for a in arguments if isinstance(a, ndarray)]) == before


def test_the_twin_is_what_a_module_calls():
    x, gain = move(np.ones((2, 3))), move(np.ones(3))
    _, cache = op("layer_norm").forward(x, gain, gain, 1e-5)
    assert cache.backward is gpu.layer_norm_backward
    with reference_ops():
        assert op("layer_norm").forward(x, gain, gain, 1e-5)[1].backward is ops.layer_norm_backward


def test_other_dtypes_and_mixtures_take_the_reference():
    for x, gain in ((np.float16, np.float16), (np.float32, np.float64)):
        x, gain = move(np.ones((2, 3), x)), move(np.ones(3, gain))
        assert op("layer_norm").forward(x, gain, gain, 1e-5)[1].backward is ops.layer_norm_backward


def test_kernels_that_do_not_compile_give_way_to_the_reference(monkeypatch):
    monkeypatch.setattr(gpu, "source", lambda: 'extern "C" __global__ void k(real* x) { x[0] = nothing; }')
    gpu._compiled.cache_clear()
    x, gain = move(normal(2, 3)), move(np.ones(3))
    try:
        with pytest.warns(RuntimeWarning, match="do not compile"):
            _, cache = op("layer_norm").forward(x, gain, gain, 1e-5)
        assert cache.backward is ops.layer_norm_backward
        op("layer_norm").forward(x, gain, gain, 1e-5)  # says so once
    finally:
        gpu._compiled.cache_clear()


def test_a_library_without_raw_kernels_takes_the_reference(cupy):
    del cupy.RawModule
    x, gain = move(normal(2, 3)), move(np.ones(3))
    assert op("layer_norm").forward(x, gain, gain, 1e-5)[1].backward is ops.layer_norm_backward
