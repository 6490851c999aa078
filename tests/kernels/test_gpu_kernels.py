"""Every kernel for the GPU against its reference op: on a GPU, or thread by thread on the CPU (tests/emulation.py)."""

import copy
import inspect
import math
import sys

import numpy as np
import pytest

import emulation
from minissl import BertConfig, BertForPreTraining, ops
from minissl.backend import to_host
from minissl.bench.step import bert_batch
from minissl.errors import InputError
from minissl.gradcheck.cases import op_cases
from minissl.kernels import gpu, op, reference_ops
from minissl.training.adamw import AdamW, adamw_update, squared_norm

B, T, D, F, V = 2, 4, 7, 8, 11


@pytest.fixture(autouse=True)
def device(request, cupy, monkeypatch):
    if request.config.getoption("device") == "stand-in":
        if emulation.COMPILER is None:
            pytest.skip("no g++ to build the kernels with")
        monkeypatch.setattr(cupy, "RawModule", emulation.RawModule, raising=False)


def is_on_device(x):
    return isinstance(x, sys.modules["cupy"].ndarray)


def move(x):
    """To the device; what is strided here is strided there."""
    xp = sys.modules["cupy"]
    if not isinstance(x, np.ndarray):
        return x
    return xp.asarray(x) if x.flags.c_contiguous else xp.asarray(np.repeat(x, 2, axis=-1))[..., ::2]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def affine(*shape):
    return {"x": 2 * normal(*shape) + 1, "gain": normal(shape[-1], seed=1), "bias": normal(shape[-1]), "eps": 1e-6}


def philox(taken=0, seed=5):
    """A generator of which some words are taken, so that it stands within a block of four."""
    rng = np.random.Generator(np.random.Philox(seed))
    rng.bit_generator.random_raw(taken)
    return rng


def heads(batch, n_heads, queries, keys, width):
    """q, k and v as the layer has them: the heads of a position lie side by side."""
    shapes = {"q": (queries, width), "k": (keys, width), "v": (keys, width + 1)}
    return {name: normal(batch, n, n_heads, d, seed=n + d).swapaxes(1, 2) for name, (n, d) in shapes.items()}


def hidden(*shape):
    """A mask that hides about half, and all of one row."""
    mask = np.random.default_rng(4).random(shape) < 0.5
    mask.reshape(-1, shape[-1])[-1] = False
    return {"mask": mask}


def drops(taken, rate=0.3):
    return {"rate": rate, "rng": philox(taken)}


def product(rows, width, features):
    return {"x": normal(*rows, width), "weight": normal(features, width, seed=1), "bias": normal(features)}


def classes(n, number, **more):
    return {"logits": 3 * normal(n, number), "targets": np.random.default_rng(2).integers(0, number, n), **more}


def masked(n, width, number, **more):
    ids = np.random.default_rng(1).integers(0, number, n)
    arrays = {"h": normal(n, width), "weight": normal(number, width, seed=2), "bias": normal(number)}
    return {**arrays, "targets": ids, **more}


def lookup(ids, width=D):
    return {"ids": ids, "weight": normal(V, width)}


ZIPF = np.minimum(np.random.default_rng(0).zipf(1.3, 700), V) - 1

# what the gradient check's small inputs do not reach: widths about a warp's, more rows than a slab, every mask's shape,
# streams that begin within a block, more than a warp draws at a time, runs over several parts, nothing at all
MORE = [
    *(("layer_norm", f"{n} × {d}", affine(n, d)) for n, d in [(1, 1), (3, 32), (5, 33), (2, 1003)]),
    ("layer_norm", "many rows", affine(3, 211, 5)),
    ("layer_norm", "no rows", affine(0, D)),
    ("layer_norm", "strided", {**affine(1, D), "x": normal(D, T, B).T[..., ::-1], "gain": normal(2 * D)[::2]}),
    ("attention", "nobody", heads(0, 2, 5, 6, 4)),
    ("attention", "nobody, masked, dropout", heads(0, 2, 5, 6, 4) | {"mask": np.ones((0, 1, 1, 6), bool)} | drops(0)),
    ("attention", "one key", heads(2, 3, 4, 1, 5) | drops(0)),
    ("attention", "large scores", heads(2, 3, 4, 33, 5) | {"q": 40 * heads(2, 3, 4, 33, 5)["q"]}),
    *(
        ("attention", f"mask {shape}", heads(2, 3, 4, 5, 6) | hidden(*shape))
        for shape in [(2, 3, 4, 5), (2, 1, 1, 5), (1, 3, 1, 5), (2, 1, 4, 5), (1, 1, 4, 1), (3, 4, 5), (4, 5), (5,)]
    ),
    ("attention", "mask, 5-D", {n: x[None] for n, x in heads(2, 3, 4, 5, 6).items()} | hidden(1, 2, 1, 1, 5)),
    *(("attention", f"{n} words on", heads(2, 3, 4, 37, 6) | hidden(2, 1, 1, 37) | drops(n)) for n in range(5)),
    ("attention", "dropout, long rows", heads(1, 2, 3, 1037, 4) | hidden(1037) | drops(3)),
    ("attention", "rate 0", heads(1, 2, 3, 5, 4) | drops(1, rate=0.0)),
    ("attention", "one sequence", {n: x[0, 0] for n, x in heads(1, 1, 5, 6, 4).items()} | hidden(5, 6) | drops(1)),
    *(("dropout", f"{n} entries", {"x": normal(n), "rate": 0.1, "rng": philox(n)}) for n in [1, 15, 16, 17, 511, 1500]),
    ("dropout", "nothing", {"x": normal(0, D), "rate": 0.1, "rng": philox()}),
    ("dropout", "rate 0", {"x": normal(B, D), "rate": 0.0, "rng": philox(2)}),
    ("dropout", "nearly all", {"x": normal(50, D), "rate": 1 - 1e-9, "rng": philox(2)}),
    ("dropout", "strided", {"x": normal(D, T, B).T, "rate": 0.5, "rng": philox(3)}),
    ("dropout_add", "Philox", {"x": normal(B, T, D), "residual": normal(B, T, D, seed=1)} | drops(0)),
    ("dropout_add", "strided", {"x": normal(D, T).T, "residual": normal(D, T, seed=1).T} | drops(3)),
    ("dropout_add", "another generator", {
        "x": normal(B, T, D), "residual": normal(B, T, D, seed=1), "rate": 0.1, "rng": np.random.default_rng(0),
    }),
    *((op, f"{rows} × {d}", product(rows, d, f)) for op in ("linear", "linear_gelu") for rows, d, f in [
        ((), D, F), ((1,), 1, 1), ((B, T), D, 33), ((0,), D, F), ((70, 3), 5, 300),
    ]),
    ("linear_gelu", "strided", {**product((B, T), D, F), "x": normal(D, T, B).T}),
    ("gelu", "nothing", {"x": normal(0, D)}),
    ("gelu", "strided", {"x": 3 * normal(D, T, B).T[:, ::2]}),
    ("gelu", "many", {"x": 4 * normal(2, 1001)}),
    ("cross_entropy", "one class", classes(3, 1)),
    ("cross_entropy", "many classes", classes(3, 1003, count=5)),
    ("cross_entropy", "many rows", classes(300, 3)),
    ("cross_entropy", "small unsigned targets", {**classes(3, 7), "targets": np.array([6, 0, 3], np.uint8)}),
    ("cross_entropy", "large logits", {**classes(5, 33), "logits": 900 * normal(5, 33)}),
    ("masked_cross_entropy", "empty share", masked(0, D, V, count=5)),
    ("masked_cross_entropy", "one position", masked(1, D, V)),
    ("masked_cross_entropy", "many classes", masked(70, D, 517, count=99)),
    ("embedding", "no ids", lookup(np.zeros((B, 0), int))),
    ("embedding", "one id alone", lookup(np.full((B, 100), 3), 300)),
    ("embedding", "small unsigned ids", lookup(np.array([[3, 0], [3, 10]], np.uint8))),
    ("embedding", "frequent and rare ids", lookup(ZIPF.reshape(7, 100), 33)),
    ("take_positions", "nowhere", {"x": normal(B, T, D), "positions": np.zeros(0, int)}),
]  # fmt: skip
INPUTS = [(case.op, case.label, case.inputs) for case in op_cases() if case.op in gpu.TWINS] + MORE
LABELS = [f"{op}-{label}" for op, label, _ in INPUTS]
every_input = pytest.mark.parametrize(("op", "label", "inputs"), INPUTS, ids=LABELS)


def linear_gelu_forward(x, weight, bias):
    h, linear = ops.linear_forward(x, weight, bias)
    y, gelu = ops.gelu_forward(h)
    return y, (linear, gelu)


def linear_gelu_backward(dy, cache):
    return ops.linear_backward(ops.gelu_backward(dy, cache[1]), cache[0])


def dropout_add_forward(x, residual, rate, rng):
    y, cache = ops.dropout_forward(x, rate, rng)
    return residual + y, cache


FUSED = {
    "linear_gelu": (linear_gelu_forward, linear_gelu_backward),
    "dropout_add": (dropout_add_forward, ops.dropout_backward),
}


def reference(name):
    return FUSED.get(name) or (getattr(ops, f"{name}_forward"), getattr(ops, f"{name}_backward"))


def given(inputs, dtype):
    """Copies of the inputs, of numbers that float32 holds exactly; strides stay."""
    out = {}
    for name, value in inputs.items():
        floating = getattr(value, "dtype", None) == np.float64
        out[name] = value.astype(np.float32).astype(dtype, order="K") if floating else copy.deepcopy(value)
    return out


def moved(inputs, dtype):
    return {name: move(value) for name, value in given(inputs, dtype).items()}


def upstream(y, dtype):
    return np.asarray(normal(*np.shape(y), seed=9)).astype(np.float32).astype(dtype)


def strided(x):
    return np.repeat(x, 2, axis=-1)[..., ::2] if x.ndim else x


def results(y, gradients):
    return [y, *gradients] if isinstance(gradients, tuple) else [y, gradients]


def expected(name, inputs, dtype):
    forward, backward = reference(name)
    y, cache = forward(**given(inputs, np.float64))
    return results(y, backward(upstream(y, np.float64), cache))


def found(pair, inputs, dtype):
    forward, backward = pair
    arguments = moved(inputs, dtype)
    assert gpu.applies(*arguments.values())
    y, cache = forward(**arguments)
    return results(y, backward(move(strided(upstream(y, dtype))), cache))


def error(got, right):
    return np.abs(got - right).max(initial=0) / max(np.abs(right).max(initial=0), np.finfo(float).tiny)


@every_input
@pytest.mark.parametrize(("dtype", "most"), [(np.float64, 1e-12), (np.float32, 1e-5)], ids=["float64", "float32"])
def test_every_kernel_equals_the_reference(op, label, inputs, dtype, most):
    got, right = found(gpu.TWINS[op], inputs, dtype), expected(op, inputs, dtype)
    assert len(got) == len(right)
    for ours, theirs in zip(got, right, strict=True):
        assert is_on_device(ours)
        assert (ours.shape, ours.dtype) == (np.shape(theirs), dtype)
        assert error(to_host(ours), theirs) <= most


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
    return to_host(value).tobytes() if is_on_device(value) else repr(value)


@every_input
def test_inputs_dy_and_cache_stay_and_a_second_backward_gives_the_same_bits(op, label, inputs):
    forward, backward = gpu.TWINS[op]
    arguments = moved(inputs, np.float32)
    before = bits([a for a in arguments.values() if is_on_device(a)])
    y, cache = forward(**arguments)
    dy = move(upstream(y, np.float32))
    held = bits((y, cache, dy))
    assert bits(backward(dy, cache)) == bits(backward(dy, cache))
    assert bits((y, cache, dy)) == held
    assert bits([a for a in arguments.values() if is_on_device(a)]) == before


@every_input
def test_no_bit_depends_on_the_order_in_which_blocks_and_threads_run(op, label, inputs, monkeypatch):
    first = bits(found(gpu.TWINS[op], inputs, np.float32))
    for order in (1, 2, 3):
        monkeypatch.setattr(emulation, "order", order)
        assert bits(found(gpu.TWINS[op], inputs, np.float32)) == first


@pytest.mark.parametrize("taken", range(9))
@pytest.mark.parametrize("size", [0, 1, 16, 40, 3000])
@pytest.mark.parametrize("start", [0, 2**64 - 3, 2**128 - 2, 2**192 - 1, 2**256 - 2])
def test_the_bits_are_numpys_and_so_is_the_generator_afterwards(start, size, taken):
    """Wherever the stream stands, and where its counter carries into the next word."""
    rate, x = 0.4, np.ones(size, np.float32)
    generators = []
    for _ in range(2):
        rng = np.random.Generator(np.random.Philox(key=[2**63 + 7, 3], counter=start))
        rng.bit_generator.random_raw(taken, output=False)
        rng.integers(0, 9, 1, np.uint32)  # leaves half a word behind, which nothing may touch
        generators.append(rng)
    y, cache = gpu.dropout_forward(move(x), rate, generators[0])
    expected, _ = ops.dropout_forward(x, rate, generators[1])
    assert isinstance(cache, gpu.Drawn)
    np.testing.assert_array_equal(to_host(y), expected)
    one, other = (rng.bit_generator.state for rng in generators)
    np.testing.assert_equal(one, other)


def test_a_rate_outside_is_refused_as_by_the_reference():
    x = move(np.ones(3))
    for rate in (-0.1, 1.0, 15, math.nan):
        for forward, *more in ((gpu.dropout_forward,), (gpu.dropout_add_forward, x)):
            with pytest.raises(InputError, match="the share that is dropped"):
                forward(x, *more, rate, philox())
        with pytest.raises(InputError, match="the share that is dropped"):
            gpu.attention_forward(*map(move, heads(1, 1, 2, 3, 4).values()), None, rate, philox())


@pytest.mark.parametrize("name", ["cross_entropy", "masked_cross_entropy"])
def test_a_target_outside_shows(name):
    """On a device nobody looks at ids; the host did, before they were moved."""
    inputs = moved(classes(3, 7) if name == "cross_entropy" else masked(3, D, 7), np.float32)
    inputs["targets"][1:2] = 7
    loss, _ = gpu.TWINS[name][0](**inputs)
    assert np.isnan(to_host(loss))


@pytest.mark.parametrize(("dtype", "most"), [(np.float64, 1e-12), (np.float32, 2e-6)], ids=["float64", "float32"])
def test_adamw_over_100_steps(dtype, most):
    rng = np.random.default_rng(0)
    start = rng.standard_normal(1001).astype(np.float32).astype(dtype)
    host, device = ([place(start), place(0 * start), place(0 * start)] for place in (np.copy, move))
    for step in range(1, 101):
        g = rng.standard_normal(1001).astype(np.float32).astype(dtype)
        options = {"lr": 0.01, "step": step, "decay": step % 3 > 0, "scale": 0.5}
        settings = AdamW(bias_correction=step % 2 > 0)
        adamw_update(host[0], g, *host[1:], settings, **options)
        adamw_update(device[0], move(g), *device[1:], settings, **options)
    for ours, theirs in zip(device, host, strict=True):
        assert ours.dtype == dtype
        assert error(to_host(ours), theirs) <= most


@pytest.mark.parametrize("size", [0, 1, 255, 70_001])
def test_squared_norm(size):
    x = normal(size).astype(np.float32)
    total = squared_norm(move(x))
    assert (total.shape, total.dtype) == ((), np.float32)
    assert to_host(total) == pytest.approx(np.square(x, dtype=np.float64).sum(), rel=1e-7)
    assert float(squared_norm(x)) == pytest.approx(float(to_host(total)), rel=1e-5)
    with reference_ops():
        assert float(to_host(squared_norm(move(x)))) == pytest.approx(float(to_host(total)), rel=1e-5)


def test_the_optimiser_runs_the_kernel_and_for_strided_arrays_the_reference(monkeypatch):
    launched = []
    run = gpu._run
    monkeypatch.setattr(gpu, "_run", lambda kernel, *args: (launched.append(kernel), run(kernel, *args)))
    for part in (slice(None), slice(None, None, 2)):
        arrays = [move(normal(9))[part] for _ in range(4)]
        adamw_update(*arrays[:3], arrays[3] * arrays[3], AdamW(), lr=0.1, step=1, decay=True)
        squared_norm(arrays[0])
    assert launched == ["adamw", "square_sums", "sum_up", "square_sums", "sum_up"]


def test_the_twin_is_what_a_module_calls():
    x, gain = move(np.ones((2, 3))), move(np.ones(3))
    _, cache = op("layer_norm").forward(x, gain, gain, 1e-5)
    assert cache.backward is gpu.layer_norm_backward
    with reference_ops():
        assert op("layer_norm").forward(x, gain, gain, 1e-5)[1].backward is ops.layer_norm_backward


CONFIG = BertConfig(
    vocab_size=50, hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=17,
    max_position_embeddings=10, initializer_range=0.5,
)  # fmt: skip


@pytest.mark.parametrize(("dtype", "most"), [("float64", 1e-12), ("float32", 1e-5)])
def test_a_whole_model_with_dropout_is_the_same_with_kernels_and_without(dtype, most):
    """Masks too, since the kernels draw the generator's own bits."""
    batch = bert_batch(CONFIG, 3, 9)

    def run(model):
        loss, gradients = model.loss_and_grads(**batch, rng=philox(2))
        return loss, {key: to_host(gradient) for key, gradient in gradients.items()}

    host = BertForPreTraining(CONFIG, dtype="float32")
    loss, gradients = run(BertForPreTraining(CONFIG, dtype="float32").to("cuda").astype(dtype))
    with reference_ops():
        right_loss, right = run(host.astype("float64"))
    assert loss == pytest.approx(right_loss, rel=most)
    for key, gradient in right.items():
        assert np.abs(gradients[key] - gradient).max() <= most * max(1, np.abs(gradient).max()), key


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


def test_a_library_without_raw_kernels_takes_the_reference(cupy, monkeypatch):
    monkeypatch.delattr(cupy, "RawModule")
    x, gain = move(normal(2, 3)), move(np.ones(3))
    assert op("layer_norm").forward(x, gain, gain, 1e-5)[1].backward is ops.layer_norm_backward
