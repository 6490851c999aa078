"""The kernels' inputs, and both sides of the comparison: the reference op in float64 on the host, and the twin."""

import copy
import sys

import numpy as np

from minissl import ops
from minissl.gradcheck.cases import op_cases
from minissl.kernels import gpu

B, T, D, F, V = 2, 4, 7, 8, 11


def is_on_device(x):
    return isinstance(x, sys.modules["cupy"].ndarray)


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
    """A mask that hides about half, and all of the last row of several."""
    mask = np.random.default_rng(4).random(shape) < 0.5
    mask.reshape(-1, shape[-1])[1:][-1:] = False
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
    """Copies of the inputs, of numbers that float32 holds exactly."""
    out = {}
    for name, value in inputs.items():
        floating = getattr(value, "dtype", None) == np.float64
        out[name] = value.astype(np.float32).astype(dtype) if floating else copy.deepcopy(value)
    return out


def move(x):
    return sys.modules["cupy"].asarray(x) if isinstance(x, np.ndarray) else x


def strided(x):
    """On the device, every other entry of an array twice as long."""
    return move(np.repeat(x, 2, axis=-1))[..., ::2] if x.ndim else move(x)


def moved(inputs, dtype):
    """The inputs on the device; what is strided on the host is strided there."""
    scattered = {name for name, x in inputs.items() if isinstance(x, np.ndarray) and not x.flags.c_contiguous}
    return {name: (strided if name in scattered else move)(x) for name, x in given(inputs, dtype).items()}


def upstream(y, dtype):
    return np.asarray(normal(*np.shape(y), seed=9)).astype(np.float32).astype(dtype)


def results(y, gradients):
    return [y, *gradients] if isinstance(gradients, tuple) else [y, gradients]


def expected(name, inputs, dy=None):
    """y and every gradient, of the reference in float64."""
    forward, backward = reference(name)
    y, cache = forward(**given(inputs, np.float64))
    return results(y, backward(upstream(y, np.float64) if dy is None else dy, cache))


def found(name, inputs, dtype, dy=None):
    """y and every gradient, of the twin in `dtype`."""
    forward, backward = gpu.TWINS[name]
    arguments = moved(inputs, dtype)
    assert gpu.applies(*arguments.values())
    y, cache = forward(**arguments)
    return results(y, backward(strided(upstream(y, dtype) if dy is None else dy.astype(dtype)), cache))


def error(got, right):
    return np.abs(got - right).max(initial=0) / max(np.abs(right).max(initial=0), np.finfo(float).tiny)
