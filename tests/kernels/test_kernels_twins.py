"""Every faster twin against its reference op: the same values, refusals and promises."""

import copy
import inspect

import numpy as np
import pytest

from minissl import kernels, ops
from minissl.errors import InputError
from minissl.gradcheck import check, op_cases
from minissl.kernels import cpu, twins

TWINS = {name: pair for (name, library), pair in twins().items() if library == "numpy"}
CASES = [case for case in op_cases() if case.op in TWINS]
B, T, D, F, V = 2, 4, 7, 8, 11


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def masked(positions, width, vocabulary, count=None):
    ids = np.random.default_rng(1).integers(0, vocabulary, positions)
    arrays = {"h": normal(positions, width), "weight": normal(vocabulary, width, seed=2), "bias": normal(vocabulary)}
    return {**arrays, "targets": ids, "count": count}


def heads(batch, n_heads, queries, keys, width, spread=1.0):
    """q, k and v as the layer has them: the heads of a position lie side by side."""
    shapes = {"q": (queries, width), "k": (keys, width), "v": (keys, width + 1)}
    drawn = {name: normal(batch, n, n_heads, d, seed=n + d).swapaxes(1, 2) for name, (n, d) in shapes.items()}
    return drawn | {"q": spread * drawn["q"]}


def about(score, arrays):
    """Attention with a number added to all scores, which float32 holds exactly."""
    q, k = (np.round(4 * arrays[name]) / 4 for name in ("q", "k"))
    q[..., 0], k[..., 0] = 2, score  # 2 score/√4
    return arrays | {"q": q, "k": k}


def philox():
    return np.random.Generator(np.random.Philox(7))


HIDDEN = np.random.default_rng(4).random((3, 1, 5, 6)) < 0.5
HIDDEN[1, 0, 2] = False  # a query that may attend to nothing

# what the gradient check's small inputs do not reach: several blocks of rows, empty shares, strides, one huge row
MORE = [
    ("attention", "nobody", heads(0, 2, 5, 6, 4)),
    ("attention", "heads side by side", heads(3, 2, 5, 6, 4)),
    ("attention", "large scores", heads(3, 2, 5, 6, 4, spread=100)),
    *(("attention", f"scores about {n}", about(n, heads(3, 2, 5, 6, 4))) for n in (-100, -50, 50, 100)),
    ("attention", "masked", heads(3, 2, 5, 6, 4) | {"mask": HIDDEN}),
    ("attention", "masked, large scores", heads(3, 2, 5, 6, 4, spread=100) | {"mask": HIDDEN}),
    *(
        ("attention", f"a mask of {shape}", heads(3, 2, 5, 6, 4) | {"mask": normal(*shape, seed=4) < 0})
        for shape in ((), (6,), (5, 6), (5, 1), (2, 1, 6), (3, 1, 1, 6), (3, 2, 5, 6))
    ),
    ("attention", "blocks", heads(7, 3, 110, 95, 4)),
    (
        "attention",
        "blocks, masked",
        heads(7, 3, 110, 95, 4) | {"mask": np.arange(95) < np.arange(1, 8)[:, None, None, None]},
    ),
    ("attention", "one sequence", {name: array[0, 0] for name, array in heads(1, 1, 5, 6, 4).items()}),
    ("layer_norm", "no rows", {"x": normal(0, D), "gain": normal(D), "bias": normal(D), "eps": 1e-12}),
    ("layer_norm", "strided", {"x": normal(D, T, B).T, "gain": normal(2 * D)[::2], "bias": normal(D), "eps": 1e-5}),
    ("layer_norm", "blocks", {"x": normal(3, 2000, 17) + 1, "gain": normal(17), "bias": normal(17), "eps": 1e-12}),
    ("layer_norm", "long rows", {name: normal(40_000) for name in ("x", "gain", "bias")} | {"eps": 0.1}),
    ("gelu", "nothing", {"x": normal(0, D)}),
    ("gelu", "strided", {"x": 3 * normal(D, T, B).T[:, ::2]}),
    ("gelu", "blocks", {"x": 3 * normal(2 * cpu.BLOCK + 5)}),
    *(
        (name, label, {"x": x, "weight": normal(x.shape[-1] + 2, x.shape[-1]), "bias": normal(x.shape[-1] + 2, seed=3)})
        for name in ("linear", "linear_gelu")
        for label, x in (
            ("no rows", normal(0, D)),
            ("strided", normal(D, T, B).T),
            ("one row", normal(D)),
            ("a wide row", normal(2, cpu.BLOCK // 200)),
            ("blocks", normal(cpu.BLOCK // 8, 17)),
        )
    ),
    *(
        ("dropout_add", label, {"x": x, "residual": normal(*x.shape, seed=5), "rate": rate, "rng": philox()})
        for label, x, rate in (
            ("rows", normal(B, T, D), 0.3),
            ("strided", normal(D, T, B).T, 0.1),
            ("nothing", normal(0, D), 0.1),
            ("blocks", normal(2, cpu.BLOCK // 2 + 9), 0.5),
        )
    ),
    ("attention", "dropped", heads(3, 2, 5, 6, 4) | {"rate": 0.4, "rng": philox()}),
    ("attention", "masked, dropped", heads(3, 2, 5, 6, 4) | {"mask": HIDDEN, "rate": 0.4, "rng": philox()}),
    ("attention", "blocks, dropped", heads(9, 3, 110, 95, 4) | {"rate": 0.1, "rng": philox()}),
    (
        "attention",
        "large scores, masked, dropped",
        heads(3, 2, 5, 6, 4, spread=100) | {"mask": HIDDEN, "rate": 0.4, "rng": philox()},
    ),
    ("embedding", "no ids", {"ids": np.zeros((B, 0), int), "weight": normal(V, D)}),
    ("embedding", "one id alone", {"ids": np.full((B, T), 3), "weight": normal(V, D)}),
    ("embedding", "small unsigned ids", {"ids": np.array([[3, 0], [3, 10]], np.uint8), "weight": normal(V, D)}),
    ("embedding", "many ids", {"ids": np.random.default_rng(0).integers(0, V, (30, 40)), "weight": normal(V, D)}),
    ("masked_cross_entropy", "empty share", masked(0, D, V, count=5)),
    ("masked_cross_entropy", "one position", masked(1, D, V)),
    ("masked_cross_entropy", "blocks", masked(1200, D, 1009, count=1500)),
    ("masked_cross_entropy", "large logits", {**masked(5, D, V), "bias": 900 * normal(V)}),
]
INPUTS = [(case.op, case.label, case.inputs) for case in CASES] + MORE
LABELS = [f"{op}-{label}" for op, label, _ in INPUTS]
every_input = pytest.mark.parametrize(("op", "label", "inputs"), INPUTS, ids=LABELS)


def reference(op):
    return kernels.reference(op)


def run(pair, inputs, dtype=np.float64, dy=None):
    """y and every gradient as arrays; whatever `dtype`, from inputs that float32 holds exactly."""
    forward, backward = pair
    given = {}
    for name, value in inputs.items():
        floating = getattr(value, "dtype", None) == np.float64
        given[name] = value.astype(np.float32).astype(dtype) if floating else copy.deepcopy(value)
    y, cache = forward(**given)
    if dy is None:
        dy = normal(*np.shape(y), seed=9) if np.ndim(y) else np.float64(1.5)
    returned = backward(dy.astype(np.float32).astype(dtype), cache)
    gradients = returned if type(returned) is tuple else [returned]
    return [np.asarray(array) for array in (y, *gradients)]


def error(got, expected):
    """The largest difference, beside the largest number expected."""
    return np.abs(got - expected).max(initial=0) / max(np.abs(expected).max(initial=0), np.finfo(float).tiny)


def test_every_twin_is_compared():
    assert {op for op, _, _ in INPUTS} == set(TWINS) == set(cpu.TWINS)


@pytest.mark.parametrize("op", TWINS)
def test_same_signature_as_the_reference(op):
    theirs_of = "linear" if op == "linear_gelu" else op  # whose own forward takes whatever the linear layer takes
    for twin, theirs in zip(TWINS[op], reference(theirs_of), strict=True):
        assert inspect.signature(twin).parameters.keys() == inspect.signature(theirs).parameters.keys()


@every_input
def test_float64_equals_the_reference(op, label, inputs):
    got, expected = run(TWINS[op], inputs), run(reference(op), inputs)
    assert len(got) == len(expected)
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype == np.float64
        assert error(ours, theirs) <= 1e-12


@every_input
def test_float32_is_close_to_the_reference_in_float64(op, label, inputs):
    got, expected = run(TWINS[op], inputs, np.float32), run(reference(op), inputs)
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.shape == theirs.shape
        assert ours.dtype == np.float32
        assert error(ours, theirs) <= 1e-5


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.op}-{case.label}")
def test_gradient_check_of_every_twin(case):
    """Right on its own, and it changes neither inputs, dy nor cache, nor answers otherwise when asked twice."""
    forward, backward = TWINS[case.op]

    def dense_backward(dy, cache):
        returned = backward(dy, cache)
        return returned if type(returned) is tuple else np.asarray(returned)

    report = check(forward, dense_backward, case.inputs)
    assert report.ok, report


@every_input
def test_float32_leaves_alone_what_it_is_given_and_repeats_itself(op, label, inputs):
    forward, backward = TWINS[op]
    given = {
        name: value.astype(np.float32) if getattr(value, "dtype", None) == np.float64 else copy.deepcopy(value)
        for name, value in inputs.items()
    }
    before = bits({name: value for name, value in given.items() if name != "rng"})
    y, cache = forward(**given)
    dy = np.asarray(normal(*np.shape(y), seed=9), np.float32)
    held = bits((y, cache, dy))
    first, second = bits(backward(dy, cache)), bits(backward(dy, cache))
    assert first == second
    assert bits((y, cache, dy)) == held
    assert bits({name: value for name, value in given.items() if name != "rng"}) == before


def bits(value):
    """Every array inside nested containers, as bytes."""
    if isinstance(value, dict):
        return [bits(item) for item in value.values()]
    if isinstance(value, tuple):
        return [bits(item) for item in value]
    return np.asarray(value).tobytes() if isinstance(value, (np.ndarray, np.generic)) else repr(value)


NONFINITE = [
    (op, name, bad)
    for op, inputs in {case.op: case.inputs for case in CASES}.items()
    for name in ("dy", *(key for key, value in inputs.items() if getattr(value, "dtype", None) == np.float64))
    for bad in (np.nan, np.inf, -np.inf)
    if not (name == "bias" and op == "masked_cross_entropy" and bad == -np.inf)  # merely a class of probability 0
]


@pytest.mark.parametrize(("op", "name", "bad"), NONFINITE)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_not_finite_is_never_hidden(op, name, bad, dtype):
    inputs = copy.deepcopy(next(case.inputs for case in CASES if case.op == op))
    y = run(reference(op), inputs)[0]
    dy = np.asarray(normal(*y.shape, seed=9))
    (dy if name == "dy" else inputs[name]).reshape(-1)[:1] = bad
    with np.errstate(all="ignore"):
        got, expected = run(TWINS[op], inputs, dtype, dy), run(reference(op), inputs, np.float64, dy)
    assert any(not np.isfinite(array).all() for array in expected)
    for ours, theirs in zip(got, expected, strict=True):
        assert not np.isfinite(ours[~np.isfinite(theirs)]).any()


@pytest.mark.parametrize("op", ["embedding", "masked_cross_entropy"])
@pytest.mark.parametrize("bad", [-1, V, -100])
def test_an_id_outside_is_refused_as_by_the_reference(op, bad):
    messages = []
    for forward, _ in (TWINS[op], reference(op)):
        inputs = copy.deepcopy(next(case.inputs for case in CASES if case.op == op))
        inputs["ids" if op == "embedding" else "targets"].flat[2] = bad
        with pytest.raises(InputError) as caught:
            forward(**inputs)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert str(bad) in messages[0]


def test_cross_entropy_over_nothing_is_refused_as_by_the_reference():
    messages = []
    for forward, _ in (TWINS["masked_cross_entropy"], reference("masked_cross_entropy")):
        with pytest.raises(InputError) as caught:
            forward(**masked(0, D, V))
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_gelu_on_a_dense_grid():
    x = np.concatenate([np.linspace(-12, 12, 400_001), -np.geomspace(1e-30, 3e4, 2000), np.geomspace(1e-30, 3e4, 2000)])
    x = np.concatenate([x, [0.0, -0.0]]).astype(np.float32)
    y, slope = (array.astype(np.float64) for array in TWINS["gelu"].forward(x))
    wide, cache = ops.gelu_forward(x.astype(np.float64))
    size = np.maximum(np.abs(x), np.finfo(np.float32).tiny)
    assert (np.abs(y - wide) / size).max() <= 3e-7
    assert np.abs(slope - ops.gelu_backward(np.ones_like(wide), cache)).max() <= 3e-7
    assert y[-2] == y[-1] == 0
    assert slope[-1] == 0.5


def test_gelu_far_out_is_the_input_or_zero():
    x = np.array([100, 1e18, -100, -1e18], np.float32)
    y, slope = TWINS["gelu"].forward(x)
    np.testing.assert_array_equal(y, [100, np.float32(1e18), 0, 0])
    np.testing.assert_array_equal(slope, [1, 1, 0, 0])


def test_layer_norm_of_a_constant_row_is_the_bias():
    """The mean must come out exact, or the tiny variance turns its rounding error into something like ±1."""
    x = np.array([[0], [1], [100]], np.float32) * np.ones((3, 768), np.float32)
    gain, bias = np.ones(768, np.float32), np.arange(768, dtype=np.float32)
    y, _ = TWINS["layer_norm"].forward(x, gain, bias, 1e-12)
    np.testing.assert_array_equal(y, np.broadcast_to(bias, y.shape))


@pytest.mark.parametrize("mean", [0.0, 30.0, 1000.0])
def test_layer_norm_is_about_as_exact_as_the_reference_in_float32(mean):
    inputs = {"x": normal(64, 768) + mean, "gain": np.ones(768), "bias": np.zeros(768), "eps": 1e-12}
    exact = run(reference("layer_norm"), inputs)[0]
    plain, twin = (run(pair, inputs, np.float32)[0] for pair in (reference("layer_norm"), TWINS["layer_norm"]))
    assert np.abs(twin - exact).max() <= 3 * np.abs(plain - exact).max()


def test_embedding_sums_equal_ids_in_the_order_in_which_they_stand():
    """Which is what makes the bits the same on every machine: an unstable sort may choose any order."""
    rng = np.random.default_rng(0)
    ids, dy = rng.integers(0, 5, 3000), rng.standard_normal((3000, D)).astype(np.float32)
    order = sorted(range(len(ids)), key=ids.__getitem__)  # Python's sort is stable
    forward, backward = TWINS["embedding"]
    weight = np.zeros((V, D), np.float32)
    mixed = np.asarray(backward(dy, forward(ids, weight)[1]))
    in_order = np.asarray(backward(dy[order], forward(ids[order], weight)[1]))
    assert mixed.tobytes() == in_order.tobytes()
