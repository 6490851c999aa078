"""Every kernel for the GPU against its reference op: on a GPU, or thread by thread on the CPU (tests/emulation.py)."""

import copy
import inspect
import math

import numpy as np
import pytest

import emulation
from kernel_cases import (
    INPUTS,
    D,
    classes,
    error,
    expected,
    found,
    heads,
    is_on_device,
    masked,
    move,
    moved,
    normal,
    philox,
    reference,
    results,
    upstream,
)
from minissl import BertConfig, BertForPreTraining, ops
from minissl.backend import to_host
from minissl.bench.step import bert_batch
from minissl.errors import InputError
from minissl.gradcheck.cases import op_cases
from minissl.kernels import enabled, gpu, op, reference_ops
from minissl.training.adamw import AdamW, adamw_update, squared_norm
from minissl.training.trainer import Trainer, TrainingOptions

pytestmark = pytest.mark.skipif(not enabled(), reason="MINISSL_KERNELS=off")

LABELS = [f"{op}-{label}" for op, label, _ in INPUTS]
every_input = pytest.mark.parametrize(("op", "label", "inputs"), INPUTS, ids=LABELS)


@pytest.fixture(autouse=True)
def device(request, cupy, monkeypatch):
    if request.config.getoption("device") == "stand-in":
        if emulation.COMPILER is None:
            pytest.skip("no g++ to build the kernels with")
        monkeypatch.setattr(cupy, "RawModule", emulation.RawModule, raising=False)
    monkeypatch.setattr(gpu, "MOST_BLOCKS", 3)  # so that a thread takes several entries
    monkeypatch.setattr(gpu, "MOST_ROWS", 5)


@every_input
@pytest.mark.parametrize(("dtype", "most"), [(np.float64, 1e-12), (np.float32, 1e-5)], ids=["float64", "float32"])
def test_every_kernel_equals_the_reference(op, label, inputs, dtype, most):
    got, right = found(op, inputs, dtype), expected(op, inputs)
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


NOT_FINITE = [
    (case.op, argument, bad)
    for case in {case.op: case for case in op_cases() if case.op in gpu.TWINS}.values()
    for argument in (
        "dy",
        *(name for name, value in case.inputs.items() if getattr(value, "dtype", None) == np.float64),
    )
    for bad in (np.nan, np.inf, -np.inf)
    if not (case.op == "masked_cross_entropy" and argument == "bias" and bad == -np.inf)  # a class of probability 0
]


@pytest.mark.parametrize(("name", "argument", "bad"), NOT_FINITE)
def test_what_is_not_finite_is_never_hidden(name, argument, bad):
    inputs = copy.deepcopy(next(inputs for op, _, inputs in INPUTS if op == name))
    dy = upstream(expected(name, inputs)[0], np.float64)
    (dy if argument == "dy" else inputs[argument]).reshape(-1)[:1] = bad
    with np.errstate(all="ignore"):
        got, right = found(name, inputs, np.float32, dy), expected(name, inputs, dy)
    assert any(not np.isfinite(array).all() for array in right)
    for ours, theirs in zip(got, right, strict=True):
        assert not np.isfinite(to_host(ours)[~np.isfinite(theirs)]).any()


@every_input
def test_no_bit_depends_on_the_order_in_which_blocks_and_threads_run(op, label, inputs, monkeypatch):
    first = bits(found(op, inputs, np.float32))
    for order in (1, 2, 3):
        monkeypatch.setattr(emulation, "order", order)
        assert bits(found(op, inputs, np.float32)) == first


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


def test_training_steps_with_kernels_are_those_of_the_host():
    losses, weights = [], []
    for place in ("cpu", "cuda"):
        model = BertForPreTraining(CONFIG).to(place)
        trainer = Trainer(model, TrainingOptions(3, 1e-3, threads=1))
        try:
            losses += [[trainer.train_step([bert_batch(CONFIG, 3, 9)]).losses["mlm"] for _ in range(3)]]
        finally:
            trainer.close()
        weights.append({key: to_host(weight) for key, weight in model.state_dict().items()})
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for key, weight in weights[0].items():
        if not key.endswith("key.bias"):  # whose gradient is nothing but rounding, of which AdamW makes whole steps
            np.testing.assert_allclose(weights[1][key], weight, atol=2e-5, err_msg=key)


@pytest.mark.parametrize("name", gpu.TWINS)
def test_a_gradient_of_another_dtype_is_taken_as_a_number_is(name):
    """A loss times a float64 makes one; read as if it were float32 it would be nonsense."""
    inputs = next(inputs for op, _, inputs in INPUTS if op == name)
    forward, backward = gpu.TWINS[name]
    y, cache = forward(**moved(inputs, np.float32))
    dy = upstream(y, np.float64)
    right = results(y, backward(move(dy.astype(np.float32)), cache))
    for ours, theirs in zip(results(y, backward(move(dy), cache)), right, strict=True):
        assert error(to_host(ours), to_host(theirs)) <= 1e-5


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
