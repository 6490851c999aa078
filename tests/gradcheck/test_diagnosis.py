"""Every kind of mistake is called by its name: one gradient of a right pair is spoilt, and the finding says how."""

import math
from typing import Any, NamedTuple

import numpy as np
import pytest

from minissl import ops
from minissl.gradcheck import check, check_model, check_module
from minissl.gradcheck.kinds import KINDS
from minissl.gradcheck.uses import uses_of_parameter


def normal(seed, *shape):
    return np.random.default_rng([7, seed]).standard_normal(shape)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# ---- right pairs, some the library's, some in a student's words


def residual_forward(x, w):
    t = np.tanh(x @ w)
    return x + t, (x, w, t)


def residual_backward(dy, cache):
    x, w, t = cache
    da = dy * (1 - t * t)
    return dy + da @ w.T, x.T @ da


def residual_by_element_forward(x, w):
    """The same, in a way that hides the calls from whoever follows it."""
    t = np.vectorize(math.tanh)(x @ w)
    return x + t, (x, w, t)


def ffn_forward(x, w1, b1, w2):
    a = x @ w1 + b1
    h = np.maximum(a, 0)
    return h @ w2, (x, w1, w2, a, h)


def ffn_backward(dy, cache):
    x, w1, w2, a, h = cache
    da = (dy @ w2.T) * (a > 0)
    return da @ w1.T, x.T @ da, da.sum(axis=0), h.T @ dy


def swish_forward(x):
    g = sigmoid(x)
    return x * g, (x, g)


def swish_backward(dy, cache):
    x, g = cache
    return dy * (g + x * g * (1 - g))


def gate_forward(a, b):
    return a * b, (a, b)


def gate_backward(dy, cache):
    a, b = cache
    return dy * b, dy * a


def divide_forward(a, b):
    return a / b, (a, b)


def divide_backward(dy, cache):
    a, b = cache
    return dy / b, -dy * a / (b * b)


def unit_forward(x):
    length = np.sqrt((x * x).sum(axis=-1, keepdims=True))
    y = x / length
    return y, (y, length)


def unit_backward(dy, cache):
    y, length = cache
    return (dy - y * (y * dy).sum(axis=-1, keepdims=True)) / length


def log_softmax_forward(x):
    y = x - np.log(np.exp(x).sum(axis=-1, keepdims=True))
    return y, np.exp(y)


def log_softmax_backward(dy, p):
    return dy - p * dy.sum(axis=-1, keepdims=True)


def pool_forward(x, keep):
    count = keep.sum(axis=1)[:, None]
    return (x * keep[:, :, None]).sum(axis=1) / count, (keep, count)


def pool_backward(dy, cache):
    keep, count = cache
    return keep[:, :, None] * (dy / count)[:, None, :]


def word_loss_forward(logits, labels):
    kept = labels >= 0
    p, _ = ops.softmax_forward(logits)
    losses = -np.log(p[np.arange(len(labels)), np.where(kept, labels, 0)])
    return (losses * kept).sum() / kept.sum(), (p, labels, kept)


def word_loss_backward(dy, cache):
    p, labels, kept = cache
    onehot = np.arange(p.shape[1]) == labels[:, None]
    return dy * (p - onehot) * kept[:, None] / kept.sum()


def positions_forward(x, table):
    return np.tanh(x + table), np.tanh(x + table)


def positions_backward(dy, y):
    dx = dy * (1 - y * y)
    return dx, dx.sum(axis=0)


def tied_forward(x, w):
    t = np.tanh(x @ w)
    return t @ w.T, (x, w, t)


def tied_backward(dy, cache):
    x, w, t = cache
    da = (dy @ w) * (1 - t * t)
    return da @ w.T, x.T @ da + dy.T @ t


def heads_forward(x):
    return np.tanh(x.reshape(4, 3, 2).swapaxes(0, 1)), x


def heads_backward(dy, x):
    t = np.tanh(x.reshape(4, 3, 2).swapaxes(0, 1))
    return (dy * (1 - t * t)).swapaxes(0, 1).reshape(4, 6)


def self_attention_forward(x):
    return ops.attention_forward(x, x, x)


def self_attention_backward(dy, cache):
    return sum(ops.attention_backward(dy, cache))


def tempered_forward(x, temperature):
    y, _ = ops.softmax_forward(x / temperature)
    return y, (y, temperature)


def tempered_backward(dy, cache):
    y, temperature = cache
    return ops.softmax_backward(dy, y) / temperature


def square_forward(x, w):
    return np.tanh(x @ w), (x, w, np.tanh(x @ w))


def square_backward(dy, cache):
    x, w, y = cache
    da = dy * (1 - y * y)
    return da @ w.T, x.T @ da


def filter_forward(x, w):
    """y_t = Σ_k w_k x_{t+k}."""
    return sum(w[k] * x[k : len(x) - len(w) + 1 + k] for k in range(len(w))), (x, w)


def filter_backward(dy, cache):
    x, w = cache
    return np.convolve(dy, w), np.array([dy @ x[k : k + len(dy)] for k in range(len(w))])


def swapped_heads_forward(x):
    """(H, T, K) -> (T, H K)."""
    return x.swapaxes(0, 1).reshape(4, 6), None


def swapped_heads_backward(dy, cache):
    return dy.reshape(4, 3, 2).swapaxes(0, 1)


def cube_forward(x):
    return x**3, x


def cube_backward(dy, x):
    return dy * 3 * x**2


def log_probabilities_forward(x):
    return log_softmax_forward(x)[0], x


def log_probabilities_backward(dy, x):
    return log_softmax_backward(dy, np.exp(log_softmax_forward(x)[0]))


def batch_mean_forward(x):
    return x - x.mean(axis=0), None


def batch_mean_backward(dy, cache):
    return dy - dy.mean(axis=0)


def softplus_forward(x):
    return np.log(1 + np.exp(x)), sigmoid(x)


def softplus_backward(dy, s):
    return dy * s


def leaky_forward(x):
    return np.where(x > 0, x, 0.1 * x), x


def leaky_backward(dy, x):
    return np.where(x > 0, dy, 0.1 * dy)


def squared_relu_forward(x):
    return np.maximum(x, 0) ** 2, x


def squared_relu_backward(dy, x):
    return dy * 2 * np.maximum(x, 0)


def words_in_forward(ids, table, w):
    t = np.tanh(table[ids] @ w)
    return t, (ids, table, w, t)


def words_in_backward(dy, cache):
    ids, table, w, t = cache
    da = dy * (1 - t * t)
    dtable = np.zeros_like(table)
    np.add.at(dtable, ids, da @ w.T)
    return dtable, table[ids].T @ da


def words_out_forward(ids, table):
    """The table that reads words in also scores words out."""
    t = np.tanh(table[ids])
    return t @ table.T, (ids, table, t)


def words_out_backward(dy, cache):
    ids, table, t = cache
    dtable = dy.T @ t
    np.add.at(dtable, ids, (dy @ table) * (1 - t * t))
    return dtable


def key_bias_forward(q, k, bias, v):
    return ops.attention_forward(q, k + bias, v)


def key_bias_backward(dy, cache):
    dq, dk, dv = ops.attention_backward(dy, cache)
    return dq, dk, dk.sum(axis=0), dv


def joint_bias_forward(x, bias):
    q, k, v = np.split(x + bias, 3, axis=-1)
    return ops.attention_forward(q, k, v)


def joint_bias_backward(dy, cache):
    dx = np.concatenate(ops.attention_backward(dy, cache), axis=-1)
    return dx, dx.sum(axis=0)


def noisy_forward(q, k, v, rng):
    return ops.attention_forward(q, k, v, None, 0.25, rng)


class Pair(NamedTuple):
    forward: Any
    backward: Any
    inputs: dict[str, Any]


def library(name, inputs):
    return Pair(getattr(ops, f"{name}_forward"), getattr(ops, f"{name}_backward"), inputs)


QKV = {"q": normal(1, 2, 4, 6), "k": normal(2, 2, 5, 6), "v": normal(3, 2, 5, 3)}
PADDING = np.array([[True] * 5, [True, True, True, False, False]])[:, None, :]
LABELS = np.array([2, -100, 0, 6, -100, 2])
KEEP = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]])
PAIRS = {
    "linear": library("linear", {"x": normal(1, 2, 4, 3), "weight": normal(2, 5, 3), "bias": normal(3, 5)}),
    "norm": library(
        "layer_norm", {"x": normal(1, 3, 6), "gain": 1 + 0.4 * normal(2, 6), "bias": normal(3, 6), "eps": 1e-5}
    ),
    "softmax": library("softmax", {"x": normal(1, 3, 5)}),
    "gelu": library("gelu", {"x": normal(1, 3, 4)}),
    "gelu_tanh": library("gelu_tanh", {"x": normal(1, 3, 4)}),
    "relu": library("relu", {"x": normal(1, 3, 4)}),
    "tanh": library("tanh", {"x": normal(1, 3, 4)}),
    "attention": library("attention", QKV),
    "padded": library("attention", {**QKV, "mask": PADDING}),
    "dropout": library("dropout", {"x": normal(1, 5, 7), "rate": 0.25, "rng": np.random.default_rng(0)}),
    "dropped attention": library("attention", {**QKV, "rate": 0.25, "rng": np.random.default_rng(0)}),
    "embedding": library("embedding", {"ids": np.array([[3, 0, 3], [6, 3, 2]]), "weight": normal(1, 7, 4)}),
    "cross-entropy": library("cross_entropy", {"logits": normal(1, 6, 7), "targets": np.array([2, 4, 0, 6, 4, 2])}),
    "mlm": library(
        "masked_cross_entropy",
        {
            "h": normal(1, 6, 4),
            "weight": normal(2, 9, 4),
            "bias": normal(3, 9),
            "targets": np.array([2, 4, 0, 8, 4, 2]),
        },
    ),
    "mse": library(
        "masked_mse",
        {"prediction": normal(1, 2, 5, 3), "target": normal(2, 2, 5, 3), "positions": np.array([6, 1, 3, 8])},
    ),
    "residual": Pair(residual_forward, residual_backward, {"x": normal(1, 3, 4), "w": normal(2, 4, 4)}),
    "residual by element": Pair(
        residual_by_element_forward, residual_backward, {"x": normal(1, 3, 4), "w": normal(2, 4, 4)}
    ),
    "ffn": Pair(
        ffn_forward,
        ffn_backward,
        {"x": normal(1, 3, 4), "w1": normal(2, 4, 6), "b1": normal(3, 6), "w2": normal(4, 6, 5)},
    ),
    "swish": Pair(swish_forward, swish_backward, {"x": normal(1, 3, 4)}),
    "gate": Pair(gate_forward, gate_backward, {"a": normal(1, 3, 4), "b": normal(2, 3, 4)}),
    "divide": Pair(divide_forward, divide_backward, {"a": normal(1, 3, 4), "b": 2 + np.abs(normal(2, 3, 4))}),
    "unit": Pair(unit_forward, unit_backward, {"x": normal(1, 3, 5)}),
    "log-softmax": Pair(log_softmax_forward, log_softmax_backward, {"x": normal(1, 3, 5)}),
    "pool": Pair(pool_forward, pool_backward, {"x": normal(1, 3, 4, 2), "keep": KEEP}),
    "word loss": Pair(word_loss_forward, word_loss_backward, {"logits": normal(1, 6, 7), "labels": LABELS}),
    "positions": Pair(positions_forward, positions_backward, {"x": normal(1, 3, 4, 5), "table": normal(2, 4, 5)}),
    "tied": Pair(tied_forward, tied_backward, {"x": normal(1, 3, 4), "w": normal(2, 4, 6)}),
    "heads": Pair(heads_forward, heads_backward, {"x": normal(1, 4, 6)}),
    "self-attention": Pair(self_attention_forward, self_attention_backward, {"x": normal(1, 4, 3)}),
    "tempered": Pair(tempered_forward, tempered_backward, {"x": normal(1, 3, 5), "temperature": 0.7}),
    "square": Pair(square_forward, square_backward, {"x": normal(1, 4, 4), "w": normal(2, 4, 4)}),
    "filter": Pair(filter_forward, filter_backward, {"x": normal(1, 9), "w": normal(2, 3)}),
    "merged heads": Pair(swapped_heads_forward, swapped_heads_backward, {"x": normal(1, 3, 4, 2)}),
    "cube": Pair(cube_forward, cube_backward, {"x": normal(1, 3, 3, 3)}),
    "log-probabilities": Pair(log_probabilities_forward, log_probabilities_backward, {"x": normal(1, 3, 5)}),
    "batch mean": Pair(batch_mean_forward, batch_mean_backward, {"x": normal(1, 4, 3)}),
    "softplus": Pair(softplus_forward, softplus_backward, {"x": normal(1, 3, 4)}),
    "leaky": Pair(leaky_forward, leaky_backward, {"x": normal(1, 3, 4)}),
    "squared relu": Pair(squared_relu_forward, squared_relu_backward, {"x": normal(1, 3, 4)}),
    "words in": Pair(
        words_in_forward,
        words_in_backward,
        {"ids": np.array([3, 0, 5]), "table": normal(1, 7, 4), "w": normal(2, 4, 4)},
    ),
    "words out": Pair(words_out_forward, words_out_backward, {"ids": np.array([3, 0, 3, 5]), "table": normal(1, 7, 4)}),
    "repeated rows": library("take_positions", {"x": normal(1, 2, 5, 3), "positions": np.array([8, 1, 8, 0, 1])}),
    "key bias": Pair(
        key_bias_forward,
        key_bias_backward,
        {"q": normal(1, 4, 6), "k": normal(2, 5, 6), "bias": normal(3, 6), "v": normal(4, 5, 3)},
    ),
    "joint bias": Pair(joint_bias_forward, joint_bias_backward, {"x": normal(1, 5, 12), "bias": normal(2, 12)}),
    "noisy": Pair(noisy_forward, ops.attention_backward, {**QKV, "rng": np.random.default_rng(0)}),
}


def spoilt(pair, argument, change):
    """The pair's backward, with `change(gradient, dy, cache)` in the place of one gradient."""
    names = [n for n, v in pair.inputs.items() if isinstance(v, np.ndarray) and v.dtype.kind == "f"]

    def backward(dy, cache):
        returned = pair.backward(dy, cache)
        gradients = list(returned) if isinstance(returned, tuple) else [returned]
        at = names.index(argument)
        gradients[at] = change(gradients[at], dy, cache)
        return gradients

    return backward


# ---- slips that take more than a line


def centred(a):
    return a - a.mean(axis=-1, keepdims=True)


def onehot(labels):
    return np.arange(7) == labels[:, None]


def gelu_without_inner_3(g, dy, c):
    slope = ops.activations.SQRT_2_OVER_PI * (1 + 0.044715 * c.x**2)
    return dy * (c.gate + c.x * 2 * c.gate * (1 - c.gate) * slope)


def assigned_rows(g, dy, c):
    dx = np.zeros_like(g)
    dx.reshape(-1, 3)[c.ids] = dy
    return dx


def unmasked(dy, c):
    """All gradients of attention as if there were no mask."""
    return ops.attention_backward(dy, ops.attention_forward(c.q, c.k, c.v)[1])


def without_gain(dy, c):
    return ops.layer_norm_backward(dy, c._replace(gain=np.ones(6)))[0]


def one_entry(g, dy, c):
    return g + (np.arange(g.size) == 3).reshape(g.shape)


def assigned(g, dy, c):
    dweight = np.zeros_like(g)
    dweight[c.ids] = dy
    return dweight


def filtered_in_turn(g, dy, c):
    dx = np.zeros_like(g)
    for k in range(3):
        dx[k : k + len(dy)] = c[1][k] * dy
    return dx


def key_part_not_zero(g, dy, c):
    return g + np.repeat([0, 1, 0], 4) * np.arange(12)


def looked_up(c, dh):
    """The gradient of a table from that of the rows that were read, in a pair whose cache begins with ids and table."""
    dtable = np.zeros_like(c[1])
    np.add.at(dtable, c[0], dh)
    return dtable


class Bug(NamedTuple):
    kind: str
    pair: str
    argument: str
    change: Any  # (gradient, dy, cache) -> what comes back in its place
    said: tuple[str, ...] = ()
    details: dict[str, Any] = {}  # noqa: RUF012


# fmt: off
BUGS = [
    # ---- not_finite
    Bug("not_finite", "norm", "x", lambda g, dy, c: np.where(dy == dy[1, 2], np.inf, g),
        ("inf at (1, 2)", "a division by 0")),
    Bug("not_finite", "cross-entropy", "logits", lambda g, dy, c: np.where(g > 0, np.inf, g), ("first of",)),
    Bug("not_finite", "ffn", "w1", lambda g, dy, c: np.where(g < 0, -np.inf, g), ("is -inf at",)),
    Bug("not_finite", "unit", "x", lambda g, dy, c: np.where(np.arange(5) == 4, np.nan, g),
        ("nan at (0, 4)", "first of 3")),
    # ---- zero
    Bug("zero", "attention", "k", lambda g, dy, c: 0 * g, ("exactly zero everywhere",)),
    Bug("zero", "embedding", "weight", lambda g, dy, c: 0 * g, ("does anything reach this argument?",)),
    Bug("zero", "norm", "gain", lambda g, dy, c: 0 * g),
    Bug("zero", "mse", "target", lambda g, dy, c: 0 * g),
    Bug("zero", "self-attention", "x", lambda g, dy, c: 0 * g),
    # ---- sign
    Bug("sign", "linear", "weight", lambda g, dy, c: -g, ("a minus is lost or one too many",)),
    Bug("sign", "divide", "b", lambda g, dy, c: dy * c[0] / c[1] ** 2),
    Bug("sign", "mse", "target", lambda g, dy, c: -g),
    Bug("sign", "cross-entropy", "logits", lambda g, dy, c: -g),
    Bug("sign", "softmax", "x", lambda g, dy, c: -g),
    # ---- scale
    Bug("scale", "attention", "q", lambda g, dy, c: g * math.sqrt(6), ("√6", "the last axis of q", "1/√6 left out"),
        {"factor": math.sqrt(6)}),
    Bug("scale", "padded", "k", lambda g, dy, c: g / math.sqrt(6), ("1/√6", "there twice"),
        {"factor": 1 / math.sqrt(6)}),
    Bug("scale", "dropout", "x", lambda g, dy, c: dy * c.keep, ("1 - rate, the share that is kept",), {"factor": 0.75}),
    Bug("scale", "dropout", "x", lambda g, dy, c: g * c.scale, ("1/(1 - rate)", "divided by twice")),
    Bug("scale", "mse", "prediction", lambda g, dy, c: g / 2, ("1/2: a 2 is lost",), {"factor": 0.5}),
    Bug("scale", "residual", "x", lambda g, dy, c: 2 * g, ("2: it is counted twice",), {"factor": 2.0}),
    Bug("scale", "word loss", "logits", lambda g, dy, c: g * 4, ("4, the number of entries of labels that count",)),
    Bug("scale", "word loss", "logits", lambda g, dy, c: g * 4 / 6,
        ("4/6: divided by 6", "labels that count) is right")),
    Bug("scale", "tempered", "x", lambda g, dy, c: g * 0.7, ("temperature itself",)),
    Bug("scale", "tempered", "x", lambda g, dy, c: g / 0.7, ("1/temperature",)),
    Bug("scale", "linear", "bias", lambda g, dy, c: g / 8, ("1/8, and 8 is the number of rows of x",)),
    Bug("scale", "linear", "bias", lambda g, dy, c: -1.2345 * g,
        ("is 1.2345 times the right one everywhere and its sign is wrong",), {"reasons": []}),
    Bug("scale", "mlm", "h", lambda g, dy, c: g * dy, ("dy: does the upstream gradient enter twice?",)),
    Bug("scale", "swish", "x", lambda g, dy, c: g * (1 + 3e-7)),
    # ---- transposed
    Bug("transposed", "residual", "w", lambda g, dy, c: g.T, ("its axes 0 and 1 are swapped back",), {"axes": (1, 0)}),
    Bug("transposed", "square", "w", lambda g, dy, c: 2 * g.T, ("swapped back, times 2",)),
    Bug("transposed", "positions", "table", lambda g, dy, c: g.T.reshape(4, 5), ("a reshape where axes 0 and 1",)),
    Bug("transposed", "cube", "x", lambda g, dy, c: g.transpose(1, 2, 0), ("in the order (1, 2, 0)",),
        {"axes": (1, 2, 0)}),
    Bug("transposed", "merged heads", "x", lambda g, dy, c: dy.reshape(3, 4, 2),
        ("the right numbers in the wrong order",)),
    Bug("transposed", "square", "x", lambda g, dy, c: (dy * (1 - c[2] ** 2)) @ c[1],
        ("w is symmetric", "w must be transposed"), {"of": "w"}),
    Bug("transposed", "residual", "x", lambda g, dy, c: dy + (dy * (1 - c[2] ** 2)) @ c[1], ("w is symmetric",),
        {"of": "w"}),
    Bug("transposed", "words in", "table", lambda g, dy, c: looked_up(c, dy * (1 - c[3] ** 2) @ c[2]),
        ("w is symmetric",), {"of": "w"}),
    # ---- missing_term: of a sum over an axis
    Bug("missing_term", "norm", "x", lambda g, dy, c: g + c.inv_std * (dy * c.gain).mean(axis=-1, keepdims=True),
        ("constant along axis 1", "a mean term", "the right gradient sums to 0"), {"axis": 1, "along": "constant"}),
    Bug("missing_term", "norm", "x", lambda g, dy, c: c.inv_std * centred(dy * c.gain),
        ("variance", "in each row of axis 1"), {"axis": 1, "along": "cache.normed"}),
    Bug("missing_term", "norm", "x", lambda g, dy, c: c.inv_std * dy * c.gain,
        ("multiple of x", "by a constant (a mean term)"), {"axis": 1, "along": "x"}),
    Bug("missing_term", "softmax", "x", lambda g, dy, c: c * dy, ("softmax's sum",), {"axis": 1, "along": "y"}),
    Bug("missing_term", "softmax", "x", lambda g, dy, c: c * (1 - c) * dy, ("the diagonal of the Jacobian alone",),
        {"along": "diagonal"}),
    Bug("missing_term", "softmax", "x", lambda g, dy, c: c * (dy - (c * dy).mean(axis=-1, keepdims=True)), (),
        {"along": "y"}),
    Bug("missing_term", "log-softmax", "x", lambda g, dy, c: dy, (), {"axis": 1, "along": "cache"}),
    Bug("missing_term", "log-probabilities", "x", lambda g, dy, c: dy, ("exp(y)",), {"axis": 1, "along": "exp(y)"}),
    Bug("missing_term", "unit", "x", lambda g, dy, c: dy / c[1], ("multiple of x",), {"axis": 1, "along": "x"}),
    Bug("missing_term", "batch mean", "x", lambda g, dy, c: dy, ("constant along axis 0",),
        {"axis": 0, "along": "constant"}),
    # of a formula
    Bug("missing_term", "gelu", "x", lambda g, dy, c: dy * c.gate, ("one half of a product rule",), {"along": "x"}),
    Bug("missing_term", "swish", "x", lambda g, dy, c: g - dy * c[1], ("one half of a product rule",), {"along": "x"}),
    Bug("missing_term", "gelu_tanh", "x", gelu_without_inner_3, ("product rule has a term for each",), {"along": "x"}),
    Bug("missing_term", "softplus", "x", lambda g, dy, c: g + 0.5 * dy, ("lacks a constant, -0.5",)),
    Bug("missing_term", "softplus", "x", lambda g, dy, c: g - dy * c**2, ("a multiple of cache²",), {"along": "cache"}),
    Bug("missing_term", "tied", "x", lambda g, dy, c: g - 0.5 * c[0], ("lacks 0.5 x", "a regulariser, a square?"),
        {"along": "x"}),
    # of some positions, or the target
    Bug("missing_term", "cross-entropy", "logits", lambda g, dy, c: np.exp(c.log_probs) * dy / 6,
        ("p - onehot(targets)",), {"along": "targets"}),
    Bug("missing_term", "mlm", "bias", lambda g, dy, c: g - np.eye(9)[4], ("the entries that targets names",),
        {"along": "targets"}),
    Bug("missing_term", "linear", "weight", lambda g, dy, c: dy[1].T @ c.x[1],
        ("lacks what comes back from index 0 of axis 0",), {"axis": 0, "index": 0}),
    Bug("missing_term", "linear", "weight", lambda g, dy, c: dy[:, -1].T @ c.x[:, -1],
        ("index 3 of axis 1 of y alone, and all 4 add up",), {"axis": 1, "index": 3}),
    Bug("missing_term", "positions", "table", lambda g, dy, c: (dy * (1 - c**2))[1], ("index 1 of axis 0 of y alone",)),
    # ---- missing_factor: of an elementwise function
    Bug("missing_factor", "tanh", "x", lambda g, dy, c: dy,
        ("dy times a constant", "the derivative of the function")),
    Bug("missing_factor", "tanh", "x", lambda g, dy, c: dy * (1 - c), ("lacks the factor (1 + y)",),
        {"factor": "(1 + y)", "array": "y"}),
    Bug("missing_factor", "relu", "x", lambda g, dy, c: dy, ("the derivative of the function",)),
    Bug("missing_factor", "leaky", "x", lambda g, dy, c: dy * (c > 0), ("wrong where x < 0 and right elsewhere",)),
    Bug("missing_factor", "leaky", "x", lambda g, dy, c: dy * 0.1, ("the derivative of the function",)),
    Bug("missing_factor", "squared relu", "x", lambda g, dy, c: 2 * c * dy,
        ("is not zero where the function is flat",)),
    Bug("missing_factor", "dropout", "x", lambda g, dy, c: dy * c.scale, ("the derivative of the function",)),
    Bug("missing_factor", "divide", "b", lambda g, dy, c: -dy * c[0] / c[1], ("lacks the factor 1/b",),
        {"factor": "1/b"}),
    # of dy
    Bug("missing_factor", "linear", "x", lambda g, dy, c: np.ones_like(dy) @ c.weight,
        ("does not depend on the upstream gradient dy",), {"factor": "dy"}),
    Bug("missing_factor", "cross-entropy", "logits", lambda g, dy, c: g / dy, ("wherever dy is not 1",),
        {"factor": "dy"}),
    # at hand, or of a shape that tells
    Bug("missing_factor", "softmax", "x", lambda g, dy, c: g / c, ("lacks the factor y",), {"factor": "y"}),
    Bug("missing_factor", "norm", "x", lambda g, dy, c: g / c.inv_std, (), {"factor": "cache.inv_std"}),
    Bug("missing_factor", "norm", "x", lambda g, dy, c: g * c.inv_std, ("cache.inv_std once too often",),
        {"factor": "cache.inv_std"}),
    Bug("missing_factor", "unit", "x", lambda g, dy, c: g * c[1], ("cache.1 once too often",), {"array": "cache.1"}),
    Bug("missing_factor", "norm", "gain", lambda g, dy, c: dy.sum(axis=0), ("is that of bias, a plain sum of dy",)),
    Bug("missing_factor", "embedding", "weight",
        lambda g, dy, c: g / np.maximum(np.bincount(c.ids.ravel()), 1)[:, None], ("one value for each row",)),
    Bug("missing_factor", "ffn", "w2", lambda g, dy, c: g / np.arange(1, 6),
        ("one value for each entry of the last axis",)),
    Bug("missing_factor", "self-attention", "x", lambda g, dy, c: g * (2 + np.sin(np.arange(12))).reshape(4, 3),
        ("an elementwise factor",)),
    # seen by what is right where it is neutral
    Bug("missing_factor", "norm", "x", lambda g, dy, c: c.gain * without_gain(dy, c),
        ("right at gain = 1", "pulled out of a sum"), {"factor": "gain"}),
    Bug("missing_factor", "dropped attention", "v", lambda g, dy, c: c.weights.swapaxes(-1, -2) @ dy,
        ("right at rate = 0",), {"factor": "rate"}),
    Bug("missing_factor", "dropped attention", "q",
        lambda g, dy, c: ops.attention_backward(dy, c._replace(kept=None))[0], (), {"factor": "rate"}),
    Bug("missing_factor", "noisy", "q", lambda g, dy, c: ops.attention_backward(dy, c._replace(kept=None))[0],
        ("right without dropout (rng=None)",), {"factor": "dropout"}),
    Bug("missing_factor", "padded", "q", lambda g, dy, c: unmasked(dy, c)[0], ("mask lets everything through",),
        {"factor": "mask"}),
    # ---- ignored_positions
    Bug("ignored_positions", "padded", "v", lambda g, dy, c: unmasked(dy, c)[2],
        ("that mask excludes", "the first at (1, 3, 0)"), {"excluded_by": "mask"}),
    Bug("ignored_positions", "padded", "k", lambda g, dy, c: unmasked(dy, c)[1],
        ("that mask excludes", "the first at (1, 3, 0)"), {"excluded_by": "mask"}),
    Bug("ignored_positions", "pool", "x", lambda g, dy, c: np.broadcast_to((dy / c[1])[:, None], g.shape),
        ("keep excludes, the first at (1, 2, 0)",), {"excluded_by": "keep"}),
    Bug("ignored_positions", "word loss", "logits", lambda g, dy, c: dy * (c[0] - onehot(c[1])) / 4,
        ("labels excludes, the first at (1, 0)",), {"excluded_by": "labels"}),
    Bug("ignored_positions", "word loss", "logits", lambda g, dy, c: dy * (c[0] - onehot(c[1])) / 6,
        ("what is hidden or ignored gets no gradient",)),
    Bug("ignored_positions", "mse", "prediction", lambda g, dy, c: np.where(g == 0, 0.1, g),
        ("the mask or the loss excludes, the first at (0, 0, 0)",), {"excluded_by": None}),
    # ---- accumulation
    Bug("accumulation", "embedding", "weight", assigned,
        ("the rows that ids holds more than once (3)", "np.add.at"), {"rows": [3]}),
    Bug("accumulation", "words out", "table", lambda g, dy, c: dy.T @ c[2],
        ("the rows that ids looks up, which also have another use (0, 3, 5)",), {"rows": [0, 3, 5]}),
    Bug("accumulation", "tied", "w", lambda g, dy, c: dy.T @ c[2], ("lacks use 1 of 2",),
        {"uses": 2, "counts": (0, 1)}),
    Bug("accumulation", "tied", "w", lambda g, dy, c: g + dy.T @ c[2], ("counts use 2 of 2 twice",),
        {"counts": (1, 2)}),
    Bug("accumulation", "residual", "x", lambda g, dy, c: g - dy, ("lacks dy itself", "a residual connection"),
        {"missing": "dy"}),
    Bug("accumulation", "residual", "x", lambda g, dy, c: g + dy, ("has dy once too often",), {"missing": "dy"}),
    Bug("accumulation", "residual", "x", lambda g, dy, c: dy, ("lacks use 1 of 2",)),
    Bug("accumulation", "residual by element", "x", lambda g, dy, c: g - dy, ("lacks dy itself",)),
    Bug("accumulation", "self-attention", "x", lambda g, dy, c: ops.attention_backward(dy, c)[2],
        ("lacks uses 1, 2 of 3",), {"counts": (0, 0, 1)}),
    Bug("accumulation", "repeated rows", "x", assigned_rows, ("keeps the gradient from one of several outputs",)),
    Bug("accumulation", "filter", "x", filtered_in_turn, ("`=` for `+=`",)),
    # ---- unsummed_broadcast in the right shape
    Bug("unsummed_broadcast", "linear", "bias", lambda g, dy, c: dy[1, 2],
        ("is row 6 of dy alone", "broadcast over 8 rows"), {"row": 6}),
    Bug("unsummed_broadcast", "norm", "bias", lambda g, dy, c: dy[0], ("broadcast over 3 rows",), {"row": 0}),
    Bug("unsummed_broadcast", "positions", "table", lambda g, dy, c: np.broadcast_to(g.sum(axis=0), g.shape),
        ("summed over axis 0, along which table was not broadcast",), {"axes": (0,)}),
    Bug("unsummed_broadcast", "norm", "gain", lambda g, dy, c: np.full(6, g.sum()), (), {"axes": (0,)}),
    Bug("unsummed_broadcast", "attention", "v", lambda g, dy, c: np.broadcast_to(g.sum(axis=(0, 1)), g.shape), (),
        {"axes": (0, 1)}),
    # ---- incorrect
    Bug("incorrect", "gate", "a", lambda g, dy, c: dy * c[0], ("is the gradient of b", "wrong order"),
        {"gradient_of": "b"}),
    Bug("incorrect", "linear", "x", lambda g, dy, c: g[:, ::-1], ("along axis 1 they come in reverse",), {"axis": 1}),
    Bug("incorrect", "tanh", "x", lambda g, dy, c: np.roll(g, 1, axis=1), ("1 of 4 places too late",), {"axis": 1}),
    Bug("incorrect", "filter", "x", lambda g, dy, c: np.convolve(dy, c[1][::-1]),
        ("its own mirror image", "reversed"), {"of": "w"}),
    Bug("incorrect", "key bias", "bias", lambda g, dy, c: g + 1,
        ("should be zero, because y does not change with bias",), {"expected": 0.0}),
    Bug("incorrect", "joint bias", "bias", key_part_not_zero,
        ("should be zero at entries 4, 5, 6, 7, which y does not",), {"entries": [4, 5, 6, 7]}),
    Bug("incorrect", "softmax", "x", one_entry, ("at (0, 3)", "wrong only at index 0 of axis 0 and index 3 of axis 1")),
    Bug("incorrect", "attention", "v", lambda g, dy, c: c.weights.swapaxes(-1, -2) @ dy[::-1],
        ("right for another dy, read along axis 0 in reverse",)),
    Bug("incorrect", "linear", "weight", lambda g, dy, c: g + normal(9, 5, 1) * [0, 1, 0],
        ("wrong only at index 1 of axis 1",)),
    Bug("missing_factor", "words in", "table", lambda g, dy, c: looked_up(c, dy * (1 - c[3]) @ c[2].T),
        ("is right where cache.3² is used in place of cache.3",)),
    Bug("incorrect", "relu", "x", lambda g, dy, c: dy * (dy > 0)),
    Bug("zero", "linear", "weight", lambda g, dy, c: g * (np.arange(3) != 1), ("exactly zero at index 1 of axis 1",)),
    Bug("zero", "norm", "x", lambda g, dy, c: g * (np.arange(6) != 1), ("exactly zero at index 1 of axis 1",)),
    Bug("accumulation", "words out", "table", lambda g, dy, c: g + looked_up(c, (dy @ c[1]) * (1 - c[2] ** 2)),
        ("twice",)),
    Bug("missing_factor", "words out", "table",
        lambda g, dy, c: dy.T @ c[2] + looked_up(c, (dy @ c[1]) * (1 - c[2])), ("takes (1 - what comes out of it)",)),
    Bug("transposed", "heads", "x",
        lambda g, dy, c: (dy * (1 - np.tanh(c.reshape(4, 3, 2).swapaxes(0, 1)) ** 2)).reshape(4, 6)),
    Bug("scale", "mlm", "weight", lambda g, dy, c: 6 * g, ("(that is 6, the size of axis 0 of h",)),
    Bug("scale", "pool", "x", lambda g, dy, c: 3 * g, ("(that is 3, the size of axis 0 of x",)),
    Bug("scale", "gate", "a", lambda g, dy, c: (1 + 1e-6) * g, ("a factor of 1 +1e-06",)),
    Bug("missing_term", "attention", "q",
        lambda g, dy, c: (c.weights * (dy @ c.v.swapaxes(-1, -2))) @ c.k / math.sqrt(6)),
]
# fmt: on


@pytest.mark.parametrize("name", PAIRS)
def test_the_right_pair_passes(name):
    report = check(*PAIRS[name])
    assert report.ok, report
    assert report.findings == []


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: f"{bug.kind}-{bug.pair}-{bug.argument}")
def test_a_bug_is_named(bug):
    pair = PAIRS[bug.pair]
    report = check(pair.forward, spoilt(pair, bug.argument, bug.change), pair.inputs)
    assert [(f.kind, f.argument) for f in report.findings] == [(bug.kind, bug.argument)], report
    (finding,) = report.findings
    assert finding.message.startswith(f"the gradient of {bug.argument} ")
    for words in bug.said:
        assert words in finding.message
    for key, value in bug.details.items():
        assert finding.details[key] == (pytest.approx(value) if isinstance(value, float) else value)
    assert not report.ok


@pytest.mark.parametrize(("name", "one", "other"), [("norm", "gain", "bias"), ("gate", "a", "b"), ("square", "x", "w")])
def test_two_gradients_in_each_others_place(name, one, other):
    pair = PAIRS[name]
    order = [n for n, value in pair.inputs.items() if isinstance(value, np.ndarray)]
    i, j = order.index(one), order.index(other)

    def exchanged(dy, cache):
        gradients = list(pair.backward(dy, cache))
        gradients[i], gradients[j] = gradients[j], gradients[i]
        return gradients

    report = check(pair.forward, exchanged, pair.inputs)
    assert [(f.kind, f.argument) for f in report.findings] == [("incorrect", one), ("incorrect", other)]
    assert [f.details["gradient_of"] for f in report.findings] == [other, one]
    assert all("returned in the wrong order" in f.message for f in report.findings)


def test_every_kind_of_a_wrong_gradient_has_four_different_pairs():
    elsewhere = ("mutated", "forward_differs", "nondeterministic", "nonsmooth", "precision", "vacuous", "wrong_shape")
    for kind in KINDS:
        assert kind in elsewhere or len({bug.pair for bug in BUGS if bug.kind == kind}) >= 4, kind


def test_the_index_is_where_it_shows():
    def index(pair, argument, change):
        (finding,) = check(pair.forward, spoilt(pair, argument, change), pair.inputs).findings
        return finding.index

    assert index(PAIRS["softmax"], "x", one_entry) == (0, 3)


def test_a_term_along_x_is_no_mean_term():
    pair = PAIRS["unit"]
    (finding,) = check(pair.forward, spoilt(pair, "x", lambda g, dy, c: dy / c[1]), pair.inputs).findings
    assert "mean term" not in finding.message


# ---- what looks like a mistake, and is none


def unchanged(x):
    return x, None


def total(a, b):
    return a + b, None


def times_number(x, a):
    return x * a, (x, a)


def times_number_backward(dy, cache):
    x, a = cache
    return dy * a, (dy * x).sum().reshape(a.shape)


def sort(x):
    order = np.argsort(x, axis=-1)
    return np.take_along_axis(x, order, axis=-1), np.argsort(order, axis=-1)


def sort_backward(dy, places):
    return np.take_along_axis(dy, places, axis=-1)


X, W, NORM, BIASED = normal(1, 3, 4), normal(2, 4, 4), PAIRS["norm"].inputs, PAIRS["key bias"].inputs
RIGHT = {
    "dy itself comes back": Pair(unchanged, lambda dy, c: dy, {"x": X}),
    "one array for two": Pair(total, lambda dy, c: (dy, dy), {"a": X, "b": W[:3]}),
    "two arguments alike": Pair(gate_forward, gate_backward, {"a": X, "b": X.copy()}),
    "symmetric weight": Pair(residual_forward, residual_backward, {"x": X, "w": W + W.T}),
    "filter that is its own mirror image": Pair(filter_forward, filter_backward,
        {"x": normal(1, 9), "w": np.array([0.3, -1, 0.3])}),
    "a saturated row": library("softmax", {"x": np.array([[60.0, 0, 1], [2, 1, 0]])}),
    "large scores": library("softmax", {"x": 700 + normal(1, 3, 5)}),
    "a certain prediction": library("cross_entropy",
        {"logits": np.array([[80.0, 0, 1], [2, 1, 0]]), "targets": np.array([0, 1])}),
    "saturated entries": library("tanh", {"x": np.array([[30, 0.1, -0.4], [2, 1, -25]])}),
    "rows that hardly vary": library("layer_norm", {**NORM, "x": 5 + 1e-3 * normal(1, 3, 6)}),
    "a row that does not vary": library("layer_norm",
        {**NORM, "x": np.vstack([normal(1, 2, 6), np.full(6, 2)]), "eps": 0.01}),
    "small values": Pair(residual_forward, residual_backward, {"x": 1e-3 * X, "w": 1e-3 * W}),
    "large values": Pair(residual_forward, residual_backward, {"x": 1e3 * X, "w": 1e-3 * W}),
    "every row looked up": library("embedding", {"ids": np.array([0, 1, 2]), "weight": X}),
    "one row looked up": library("embedding", {"ids": np.array([1, 1, 1]), "weight": X}),
    "no label ignored": Pair(word_loss_forward, word_loss_backward,
        {"logits": normal(1, 6, 7), "labels": np.arange(6)}),
    "all but one ignored": Pair(word_loss_forward, word_loss_backward,
        {"logits": normal(1, 4, 7), "labels": np.array([-100, -100, 3, -100])}),
    "a mask that hides nothing": library("attention", {**QKV, "mask": np.ones((4, 5), bool)}),
    "a query that sees nothing": library("attention", {**QKV, "mask": np.arange(4)[:, None] > np.zeros(5)}),
    "nothing dropped": library("dropout", {"x": X, "rate": 0.0, "rng": np.random.default_rng(0)}),
    "a mostly dead relu": library("relu", {"x": X - X.max() + 0.5}),
    "float32": library("linear", {name: value.astype(np.float32) for name, value in PAIRS["linear"].inputs.items()}),
    "other memory orders": Pair(residual_forward,
        lambda dy, c: tuple(map(np.asfortranarray, residual_backward(dy, c))),
        {"x": np.asfortranarray(X), "w": normal(2, 8, 4)[::2]}),
    "a zero where zero is due": Pair(key_bias_forward,
        lambda dy, c: (*key_bias_backward(dy, c)[:2], np.zeros(6), key_bias_backward(dy, c)[3]), BIASED),
    "a number": Pair(times_number, times_number_backward, {"x": X, "a": np.array(1.3)}),
    "a number in brackets": Pair(times_number, times_number_backward, {"x": X, "a": np.array([1.3])}),
    "sorted": Pair(sort, sort_backward, {"x": X}),
    "one entry matters": Pair(lambda x: (np.tanh(x[1, 2]), x),
        lambda dy, x: dy * (x == x[1, 2]) * (1 - np.tanh(x) ** 2), {"x": X}),
}  # fmt: skip


@pytest.mark.parametrize("pair", RIGHT.values(), ids=RIGHT)
def test_nothing_is_said_where_nothing_is_wrong(pair):
    report = check(*pair)
    assert report.findings == []
    assert report.relative_error < 1e-7


# ---- arguments too large to difference every entry at first, or at all


def layer_forward(x, w):
    t = np.tanh(x @ w)
    return t, (x, w, t)


def large(entries, change):
    """Check a layer whose weight has 65 × 64 entries (all are differenced once it is wrong), or 65 × 160 (a sample)."""
    inputs = {"x": normal(1, 2, 65), "w": 0.1 * normal(2, 65, entries // 65)}

    def backward(dy, cache):
        x, w, t = cache
        da = dy * (1 - t * t)
        return da @ w.T, change(x.T @ da, dy, cache)

    return check(layer_forward, backward, inputs).findings


LARGE = {
    "zero": (lambda g, dy, c: 0 * g, "exactly zero everywhere", True),
    "scale": (lambda g, dy, c: g * math.sqrt(65), "√65, and 65 is the size of", True),
    "sign": (lambda g, dy, c: -g, "but for its sign", True),
    "missing_factor": (lambda g, dy, c: c[0].T @ dy, "lacks the derivative of np.tanh in `t = np.tanh(x @ w)`", False),
    "missing_term": (lambda g, dy, c: g - np.outer(c[0][1], dy[1] * (1 - c[2][1] ** 2)), "index 1 of axis 0 of y",
        False),
    "incorrect": (lambda g, dy, c: g + (np.arange(g.size) == 777).reshape(g.shape), "", False),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "change", "said"), [(k, c, s) for k, (c, s, _) in LARGE.items()], ids=LARGE)
def test_a_large_gradient_is_named_as_a_small_one_is(kind, change, said):
    (finding,) = large(65 * 64, change)
    assert (finding.kind, finding.argument) == (kind, "w")
    assert said in finding.message
    assert kind != "incorrect" or "wrong only at index 12 of axis 0 and index 9 of axis 1" in finding.message


@pytest.mark.parametrize(("kind", "change", "said", "named"), [(k, *v) for k, v in LARGE.items()], ids=LARGE)
def test_of_a_very_large_gradient_a_sample_tells_what_it_can(kind, change, said, named):
    (finding,) = large(65 * 160, change)
    assert finding.kind in ((kind,) if named else (kind, "incorrect"))
    assert finding.argument == "w"
    assert not named or said in finding.message


# ---- modules and models


class Param:
    def __init__(self, data):
        self.data = data


class WordModel:
    """Words in through a table, a tanh layer, words out through the same table: a module, and with a loss a model."""

    def __init__(self, slip=""):
        self.slip = slip
        self.table, self.weight, self.bias = Param(normal(1, 7, 4)), Param(normal(2, 4, 4)), Param(normal(3, 7))

    def named_parameters(self):
        named = {"words": self.table, "weight": self.weight, "out.table": self.table, "out.bias": self.bias}
        return iter(named.items())

    def forward(self, ids):
        h, lookup = ops.embedding_forward(ids, self.table.data)
        t = np.tanh(h @ self.weight.data)
        y, linear = ops.linear_forward(t, self.table.data, self.bias.data)
        return y, (lookup, h, t, linear)

    def backward(self, dy, cache, grads):
        lookup, h, t, linear = cache
        dt, dtable, dbias = ops.linear_backward(dy, linear)
        da = dt if self.slip == "slope" else dt * (1 - t * t)
        dweight = h.T @ da
        dwords = ops.embedding_backward(da @ self.weight.data.T, lookup)
        if self.slip == "assigned":
            dwords[...] = 0
            dwords[lookup.ids] = da @ self.weight.data.T
        grads.add(self.bias, 2 * dbias if self.slip == "bias" else dbias)
        grads.add(self.weight, dweight.T if self.slip == "transposed" else dweight)
        if self.slip != "only in":
            grads.add(self.table, dtable)
        if self.slip != "only out":
            grads.add(self.table, dwords)
        if self.slip == "all twice":
            grads.add(self.table, dtable + dwords)

    def loss_and_grads(self, ids, targets):
        y, cache = self.forward(ids)
        loss, cross_entropy = ops.cross_entropy_forward(y, targets)
        grads = Grads()
        self.backward(ops.cross_entropy_backward(np.float64(1), cross_entropy), cache, grads)
        return loss, {name: grads.sums[param] for name, param in self.named_parameters()}


class Grads:
    def __init__(self):
        self.sums = {}

    def add(self, param, gradient):
        self.sums[param] = self.sums.get(param, 0) + gradient


def check_words(checked, slip):
    ids, targets = np.array([3, 0, 3, 5, 1]), np.array([1, 2, 6, 3, 0])
    if checked == "module":
        return check_module(WordModel(slip), {"ids": ids})
    return check_model(WordModel(slip), {"ids": ids, "targets": targets})


OF_A_MODEL = {
    "bias": ("scale", "out.bias", "0 before it are right"),
    "slope": ("missing_factor", "weight", "1 before it are right"),
    "transposed": ("transposed", "weight", "1 before it are right"),
    "only in": ("accumulation", "words", "2 before it are right"),
    "only out": ("accumulation", "words", "2 before it are right"),
    "assigned": ("accumulation", "words", "the rows that ids holds more than once (3)"),
    "all twice": ("scale", "words", "2: it is counted twice"),
}


@pytest.mark.parametrize("checked", ["module", "model"])
@pytest.mark.parametrize("slip", ["", *OF_A_MODEL])
def test_the_first_wrong_parameter_is_named_from_the_output_down(checked, slip):
    report = check_words(checked, slip)
    assert list(report.arguments) == ["words", "weight", "out.bias"]
    if not slip:
        assert report.findings == []
        return
    kind, argument, said = OF_A_MODEL[slip]
    first, *below = report.findings
    assert (first.kind, first.argument) == (kind, argument)
    assert said in first.message
    assert "working from the output down, this is the first wrong one" in first.message
    assert [f.argument for f in below] == (["words"] if slip == "slope" else [])
    assert not any("first wrong one" in f.message for f in below)


def test_the_lost_use_of_a_tied_parameter_is_counted():
    (finding,) = check_words("model", "only in").findings
    assert "lacks use 2 of 2" in finding.message
    assert finding.details["counts"] == (1, 0)


def test_the_uses_of_a_tied_parameter_are_told_apart():
    """One use moves while the others stand still, and their parts add up to the whole."""
    model = WordModel()
    ids, dy, direction = np.array([3, 0, 3]), normal(4, 3, 7), normal(5, 7, 4)
    y, cache = model.forward(ids)
    grads = Grads()
    model.backward(dy, cache, grads)
    along = uses_of_parameter(model.table, lambda: model.forward(ids)[0], dy)
    read_in, read_out = along(direction)
    dtable = ops.linear_backward(dy, cache[3])[1]
    assert read_out == pytest.approx((dtable * direction).sum(), rel=1e-8)
    assert read_in + read_out == pytest.approx((grads.sums[model.table] * direction).sum(), rel=1e-8)
    assert type(model.table) is Param
    np.testing.assert_array_equal(model.forward(ids)[0], y)


def test_a_model_that_assigns_its_parameters_has_no_uses_to_tell():
    param = Param(normal(1, 3))

    def output():
        param.data = param.data * 1.0
        return param.data

    assert uses_of_parameter(param, output, normal(2, 3))(normal(3, 3)) == []
    assert type(param) is Param
