"""Faster twins for CuPy: one kernel where the reference op launches many, written in CUDA C in `kernels/cuda/`.

Every sum runs in an order that the sizes alone decide, with no atomic addition, so that a run gives the same bits each
time. The sources compile for `compute_90`, and their tests run them thread by thread on a CPU; they were not timed on a
GPU, so no gain stands here.

A source is compiled when it is first needed. Arrays of other dtypes than float32 and float64 are left to the reference
ops, and so is everything where compiling fails.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minissl import ops
from minissl.backend import Array, array_module, bmm
from minissl.kernels.cpu import MaskedCrossEntropyCache
from minissl.kernels.products import linear_forward
from minissl.ops.cross_entropy import check_targets
from minissl.ops.dropout import LEVELS, DropoutCache, draw_keep, levels_dropped
from minissl.ops.embedding import LookupCache
from minissl.ops.layer_norm import LayerNormCache
from minissl.ops.linear import LinearCache

FOLDER = Path(__file__).with_name("cuda")
SOURCES = (
    "common", "columns", "layer_norm", "dropout", "attention", "gelu", "cross_entropy", "embedding", "sums", "adamw",
)  # fmt: skip
C_TYPES = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}
WARP, WARPS = 32, 8
THREADS = WARP * WARPS  # in every block
MOST_BLOCKS = 1 << 13  # where a thread takes entry after entry: enough to fill any GPU
MOST_ROWS = 2**16 - 1  # of blocks in a grid: CUDA's own limit
MOST_SLABS = 128  # of rows, when columns are summed
DRAWN = 512  # random numbers that a warp draws at a time


def source() -> str:
    """The text of every kernel, behind what all of them use. In ASCII: CuPy writes it in the locale's encoding."""
    text = "".join((FOLDER / f"{name}.cu").read_text(encoding="utf-8") for name in SOURCES)
    return text.encode("ascii", "ignore").decode()  # in comments


@cache
def _compiled(raw_module: Any, dtype: Any) -> dict[str, Any]:
    """Every kernel by name, for one dtype; none, with a warning, where they cannot be compiled."""
    code = source()
    try:
        module = raw_module(code=code, options=(f"-DREAL={C_TYPES[dtype]}",))
        return {name: module.get_function(name) for name in re.findall(r"__global__ void (\w+)", code)}
    except TypeError:  # CuPy asks for other arguments than these: a slip of ours
        raise
    except Exception as error:  # the compiler's own, and the driver's
        warnings.warn(
            f"the GPU's kernels do not compile; slower ops run instead: {error}", RuntimeWarning, stacklevel=2
        )
        return {}


def applies(*args: Any) -> bool:
    """Whether the twins take these arguments: CuPy's, all floating-point arrays of one dtype, and that compiled."""
    raw_module = getattr(array_module(args[0]), "RawModule", None)
    dtypes = {a.dtype for a in args if hasattr(a, "dtype") and a.dtype.kind not in "biu"}
    if raw_module is None or len(dtypes) != 1:
        return False
    (dtype,) = dtypes
    return dtype in C_TYPES and bool(_compiled(raw_module, dtype))


def _run(kernel: str, grid: tuple[int, ...], dtype: Any, *args: Any) -> None:
    """Launch a kernel of arrays of `dtype`: Python's integers go as 64 bits, its floats as `dtype`."""
    import cupy

    if not all(grid):
        return
    converted = []
    for a in args:
        if isinstance(a, (int, float)) and not isinstance(a, np.generic):
            a = np.int64(a) if isinstance(a, int) else dtype.type(a)
        converted.append(a)
    _compiled(cupy.RawModule, dtype)[kernel](grid, (THREADS,), tuple(converted))


def _row_grid(rows: int) -> tuple[int]:
    """Blocks for a warp to each row."""
    return (-(-rows // WARPS),)


def _entry_grid(size: int) -> tuple[int]:
    """Blocks for a thread to each entry, or to several."""
    return (min(-(-size // THREADS), MOST_BLOCKS),)


def _contiguous(x: Array, dtype: Any = None) -> Array:
    """As a kernel counts on it: C-contiguous, and of the dtype that its other arrays have."""
    xp: Any = array_module(x)
    same: Array = xp.ascontiguousarray(x, dtype)
    return same


def _rows(x: Array, dtype: Any = None) -> Array:
    """As a C-contiguous matrix."""
    rows: Array = _contiguous(x, dtype).reshape(-1, x.shape[-1])
    return rows


def _column_sums(a: Array, b: Array | None = None) -> Array:
    """Σ over rows of a (R, D), or of a · b: (D,). Slabs of rows first, then the slabs, always in the same order."""
    xp = array_module(a)
    rows, width = a.shape
    slabs = max(1, min(-(-rows // 64), MOST_SLABS))
    columns = -(-width // WARP)
    each = -(-rows // slabs)
    slab_sums = xp.empty((slabs, width), a.dtype)
    if b is None:
        _run("column_sums", (columns, slabs), a.dtype, a, rows, width, each, slab_sums)
    else:
        _run("column_dots", (columns, slabs), a.dtype, a, b, rows, width, each, slab_sums)
    sums: Array = slab_sums.reshape(-1) if slabs == 1 else xp.empty(width, a.dtype)
    if slabs > 1:
        _run("column_sums", (columns, 1), a.dtype, slab_sums, slabs, width, slabs, sums)
    return sums


def layer_norm_forward(x: Array, gain: Array, bias: Array, eps: float) -> tuple[Array, LayerNormCache]:
    """As `ops.layer_norm_forward`, in one kernel."""
    xp: Any = array_module(x)
    rows = _rows(x)
    y, normed, inv_std = xp.empty_like(rows), xp.empty_like(rows), xp.empty((len(rows), 1), x.dtype)
    gain, bias = _contiguous(gain), _contiguous(bias)
    _run("layer_norm_forward", _row_grid(len(rows)), x.dtype, rows, gain, bias, float(eps), *rows.shape, y, normed,
         inv_std)  # fmt: skip
    return y.reshape(x.shape), LayerNormCache(normed.reshape(x.shape), inv_std.reshape(*x.shape[:-1], 1), gain)


def layer_norm_backward(dy: Array, cache: LayerNormCache) -> tuple[Array, Array, Array]:
    """As `ops.layer_norm_backward`: dx in one kernel, dgain and dbias as sums down columns."""
    normed = _rows(cache.normed)
    rows = _rows(dy, normed.dtype)
    dx = array_module(dy).empty(rows.shape, rows.dtype)
    arrays = rows, normed, cache.inv_std, cache.gain
    _run("layer_norm_backward", _row_grid(len(rows)), rows.dtype, *arrays, *rows.shape, dx)
    return dx.reshape(dy.shape), _column_sums(rows, normed), _column_sums(rows)


class Drawn(NamedTuple):
    """Which part of a Philox stream a mask of dropout is made of; its bits are drawn again wherever they are needed."""

    key_and_counter: tuple[np.uint64, ...]
    offset: int  # entries into the counter's block
    dropped: int  # levels of 65536
    scale: float


NOTHING_DRAWN = Drawn((np.uint64(0),) * 6, 0, 0, 1.0)


def _drawn(rate: float, rng: np.random.Generator, size: int) -> Drawn | None:
    """Take from NumPy's Philox what `draw_keep` would, to be drawn on the device; None for any other generator.

    Raises InputError for a rate outside 0 ≤ rate < 1.
    """
    dropped = levels_dropped(rate)
    generator = rng.bit_generator
    if not isinstance(generator, np.random.Philox):
        return None
    words = 4 * -(-size // 16)
    state: Any = generator.state
    place = state["buffer_pos"]  # of the next word, behind the first of the counter's block
    counter = sum(int(word) << 64 * i for i, word in enumerate(state["state"]["counter"]))
    if words:
        blocks, last = divmod(place + words - 1, 4)
        state["state"]["counter"] = np.array(_words(counter + blocks - 1), np.uint64)
        state["buffer_pos"] = 4
        generator.state = state
        generator.random_raw(last + 1, output=False)  # NumPy fills its buffer as if it had drawn them all
    key_and_counter = (*state["state"]["key"], *map(np.uint64, _words(counter + place // 4)))
    return Drawn(key_and_counter, place % 4 * 4, dropped, LEVELS / (LEVELS - dropped))


def _words(counter: int) -> list[int]:
    return [counter >> 64 * i & 2**64 - 1 for i in range(4)]


def _dropped(x: Array, drawn: Drawn, residual: Array | None = None) -> Array:
    x = _contiguous(x)
    y: Array = array_module(x).empty(x.shape, x.dtype)
    added = x if residual is None else _contiguous(residual)
    _run("dropout", _row_grid(-(-x.size // DRAWN)), x.dtype, x, added, int(residual is not None), x.size,
         *drawn.key_and_counter, *drawn[1:], y)  # fmt: skip
    return y


def dropout_forward(x: Array, rate: float, rng: np.random.Generator) -> tuple[Array, Drawn | DropoutCache]:
    """As `ops.dropout_forward`; NumPy's Philox bits are made where they are used, others are drawn on the host."""
    drawn = _drawn(rate, rng, x.size)
    return ops.dropout_forward(x, rate, rng) if drawn is None else (_dropped(x, drawn), drawn)


def dropout_backward(dy: Array, cache: Drawn | DropoutCache) -> Array:
    """As `ops.dropout_backward`."""
    return ops.dropout_backward(dy, cache) if isinstance(cache, DropoutCache) else _dropped(dy, cache)


def dropout_add_forward(
    x: Array, residual: Array, rate: float, rng: np.random.Generator
) -> tuple[Array, Drawn | DropoutCache]:
    """y = residual + dropout(x), in one kernel; backward is dropout's, and dresidual is dy."""
    drawn = _drawn(rate, rng, x.size)
    if drawn is not None:
        return _dropped(x, drawn, residual), drawn
    y, cache = ops.dropout_forward(x, rate, rng)
    return residual + y, cache


class AttentionCache(NamedTuple):
    """As the reference's, but that a mask of dropout may be one to draw again."""

    q: Array
    k: Array
    v: Array
    weights: Array
    kept: Drawn | DropoutCache | None


def attention_forward(
    q: Array, k: Array, v: Array, mask: Array | None = None, rate: float = 0.0, rng: np.random.Generator | None = None
) -> tuple[Array, AttentionCache]:
    """As `ops.attention_forward`: one kernel between the two products."""
    xp: Any = array_module(q)
    weights = bmm(q, k.swapaxes(-1, -2), 1 / math.sqrt(q.shape[-1]))
    kept: Drawn | DropoutCache | None = None
    if rng is not None and rate != 0:
        kept = _drawn(rate, rng, weights.size) or draw_keep(weights.shape, rate, rng, xp)
    drawn = kept if isinstance(kept, Drawn) else NOTHING_DRAWN
    dropped = weights if drawn is NOTHING_DRAWN else xp.empty_like(weights)
    seen, *steps = _mask_and_steps(mask, weights)
    rows, keys = math.prod(weights.shape[:-1]), weights.shape[-1]
    _run("masked_softmax_forward", _row_grid(rows), q.dtype, weights, rows, keys, seen,
         int(mask is not None), *steps, int(drawn is kept), *drawn.key_and_counter, *drawn[1:], dropped)  # fmt: skip
    if isinstance(kept, DropoutCache):
        dropped = ops.dropout_backward(weights, kept)  # times keep and scale
    return bmm(dropped, v), AttentionCache(q, k, v, weights, kept)


def _mask_and_steps(mask: Array | None, scores: Array) -> tuple[Any, ...]:
    """The mask in its own shape, heads and queries, and the mask's steps from one sequence, head, query and key on."""
    xp: Any = array_module(scores)
    *leading, queries, _ = scores.shape
    if mask is None:
        return xp.empty(0, bool), 1, queries, 0, 0, 0, 0
    if mask.dtype != bool:
        mask = mask != 0
    if len(leading) > 2:
        mask = xp.broadcast_to(mask, scores.shape).reshape(-1, *scores.shape[-2:])
    shape = (1, 1, 1, 1, *mask.shape)[-4:]
    steps = [math.prod(shape[axis + 1 :]) if shape[axis] > 1 else 0 for axis in range(4)]
    heads = leading[-1] if len(leading) == 2 else math.prod(leading)
    return _contiguous(mask), heads, queries, *steps


def attention_backward(dy: Array, cache: AttentionCache) -> tuple[Array, Array, Array]:
    """As `ops.attention_backward`: one kernel between the products, which draws forward's mask once more."""
    q, k, v, weights, kept = cache
    xp: Any = array_module(q)
    scale = 1 / math.sqrt(q.shape[-1])
    dscores = _contiguous(bmm(dy, v.swapaxes(-1, -2)), q.dtype)  # dweights, which the kernel turns into dscores
    drawn = kept if isinstance(kept, Drawn) else NOTHING_DRAWN
    dropped = xp.empty_like(weights) if drawn is kept else weights
    if isinstance(kept, DropoutCache):
        dscores, dropped = ops.dropout_backward(dscores, kept), ops.dropout_backward(weights, kept)
    rows, keys = math.prod(weights.shape[:-1]), weights.shape[-1]
    _run("masked_softmax_backward", _row_grid(rows), q.dtype, dscores, weights, rows, keys,
         int(drawn is kept), *drawn.key_and_counter, *drawn[1:], dropped)  # fmt: skip
    return bmm(dscores, k, scale), bmm(dscores.swapaxes(-1, -2), q, scale), bmm(dropped.swapaxes(-1, -2), dy)


def linear_backward(dy: Array, cache: LinearCache) -> tuple[Array, Array, Array]:
    """As `ops.linear_backward`, with the bias's sum in a fixed order."""
    x, weight = cache
    rows, drows = x.reshape(-1, x.shape[-1]), _rows(dy)
    return bmm(drows, weight).reshape(x.shape), bmm(drows.T, rows), _column_sums(drows)


class LinearGeluCache(NamedTuple):
    """The linear layer's two factors, and its result, which GELU's slope is taken at."""

    linear: LinearCache
    h: Array


def linear_gelu_forward(x: Array, weight: Array, bias: Array) -> tuple[Array, LinearGeluCache]:
    """y = gelu(x Wᵀ + b), bias and GELU in one kernel."""
    h = bmm(x.reshape(-1, x.shape[-1]), weight.T)
    y: Array = array_module(h).empty(h.shape, h.dtype)
    grid = (-(-len(weight) // THREADS), min(len(h), MOST_ROWS))
    _run("bias_gelu", grid, h.dtype, h, _contiguous(bias), *h.shape, y)
    return y.reshape(*x.shape[:-1], len(weight)), LinearGeluCache(LinearCache(x, weight), h)


def linear_gelu_backward(dy: Array, cache: LinearGeluCache) -> tuple[Array, Array, Array]:
    """dx, dweight, dbias: `gelu_backward`, then `linear_backward`."""
    return linear_backward(gelu_backward(dy, cache.h.reshape(dy.shape)), cache.linear)


def gelu_forward(x: Array) -> tuple[Array, Array]:
    """As `ops.gelu_forward`, in one kernel; the cache is x."""
    x = _contiguous(x)
    y: Array = array_module(x).empty(x.shape, x.dtype)
    _run("gelu_forward", _entry_grid(x.size), x.dtype, x, x.size, y)
    return y, x


def gelu_backward(dy: Array, cache: Array) -> Array:
    """As `ops.gelu_backward`."""
    dx: Array = array_module(dy).empty(dy.shape, cache.dtype)
    _run("gelu_backward", _entry_grid(dy.size), cache.dtype, _contiguous(dy, cache.dtype), cache, dy.size, dx)
    return dx


class CrossEntropyCache(NamedTuple):
    """p - onehot(target) for every row, and what the sum was divided by."""

    residual: Array
    divisor: int


def cross_entropy_forward(logits: Array, targets: Array, count: int | None = None) -> tuple[Array, CrossEntropyCache]:
    """As `ops.cross_entropy_forward`, and backward's p - onehot in the same kernel."""
    rows, classes = logits.shape
    divisor = check_targets(targets, rows, classes, count)
    residual = logits.copy()
    loss = _cross_entropy(residual, None, targets, divisor)
    return loss, CrossEntropyCache(residual, divisor)


def _cross_entropy(logits: Array, bias: Array | None, targets: Array, divisor: int) -> Array:
    """Turn logits into p - onehot, in place, and return the loss."""
    xp = array_module(logits)
    rows, classes = logits.shape
    losses, loss = xp.empty(rows, np.float64), xp.empty((), logits.dtype)
    ids = _contiguous(targets.astype(np.int64))
    shift = logits if bias is None else _contiguous(bias)
    _run("cross_entropy", (rows,), logits.dtype, logits, shift, int(bias is not None), ids, classes, losses)
    _run("sum_up", (1,), logits.dtype, losses, rows, np.float64(divisor), loss)
    return loss


def cross_entropy_backward(dy: Array, cache: CrossEntropyCache) -> Array:
    """As `ops.cross_entropy_backward`."""
    return cache.residual * (dy / cache.divisor)


def masked_cross_entropy_forward(
    h: Array, weight: Array, bias: Array, targets: Array, count: int | None = None
) -> tuple[Array, MaskedCrossEntropyCache]:
    """As `ops.masked_cross_entropy_forward`: the product, and one kernel that turns it into p - onehot."""
    divisor = check_targets(targets, len(h), len(weight), count)
    residual = bmm(h, weight.T)
    loss = _cross_entropy(residual, bias, targets, divisor)
    return loss, MaskedCrossEntropyCache(h, weight, residual, divisor)


def masked_cross_entropy_backward(dy: Array, cache: MaskedCrossEntropyCache) -> tuple[Array, Array, Array]:
    """As `ops.masked_cross_entropy_backward`; dy/count multiplies the three small results."""
    h, weight, residual, divisor = cache
    scale = dy / divisor
    dh = bmm(residual, weight)
    dh *= scale
    return dh, bmm(residual.T, h * scale), _column_sums(residual) * scale


def embedding_backward(dy: Array, cache: LookupCache) -> Array:
    """As `ops.embedding_backward`: the ids are sorted, and each run of equal ones is summed in the order of places.

    A key is an id and its place in one, so that no two are equal and the sort has one result.
    """
    xp: Any = array_module(dy)
    vocabulary, width = cache.shape
    n = cache.ids.size
    dweight: Array = xp.zeros(cache.shape, dy.dtype)
    if n == 0:
        return dweight
    ids = cache.ids.reshape(-1).astype(np.int64) % vocabulary  # as an index wraps
    keys = xp.sort(ids * n + xp.arange(n))
    ids, places = keys // n, keys % n
    sums, chunk = xp.empty((n, width), dy.dtype), max(WARP, math.isqrt(n))
    _run("part_sums", (n,), dy.dtype, ids, places, _rows(dy), n, width, chunk, sums)
    _run("run_sums", (n,), dy.dtype, ids, sums, n, width, chunk, dweight)
    return dweight


def take_positions_backward(dy: Array, cache: LookupCache) -> Array:
    """As `ops.take_positions_backward`."""
    rows = LookupCache(cache.ids, (math.prod(cache.shape[:-1]), cache.shape[-1]))
    return embedding_backward(dy, rows).reshape(cache.shape)


def squared_norm(x: Array) -> Array:
    """Σ x² of a flat buffer, as an array of no axes: blocks first, then their sums, in double precision."""
    xp, blocks = array_module(x), _entry_grid(x.size)
    sums, total = xp.empty(blocks, np.float64), xp.empty((), x.dtype)
    x = _contiguous(x)
    _run("square_sums", blocks, x.dtype, x, x.size, sums)
    _run("sum_up", (1,), x.dtype, sums, sums.size, np.float64(1), total)
    return total


def adamw(weights: Array, gradients: Array, mean: Array, square: Array, *factors: float) -> None:
    """One step in place, in one kernel: `minissl.training.adamw` has the formula and the factors."""
    arrays = weights, gradients, mean, square
    _run("adamw", _entry_grid(weights.size), weights.dtype, *arrays, weights.size, *map(float, factors))


TWINS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "attention": (attention_forward, attention_backward),
    "cross_entropy": (cross_entropy_forward, cross_entropy_backward),
    "dropout": (dropout_forward, dropout_backward),
    "dropout_add": (dropout_add_forward, dropout_backward),
    "embedding": (ops.embedding_forward, embedding_backward),
    "gelu": (gelu_forward, gelu_backward),
    "layer_norm": (layer_norm_forward, layer_norm_backward),
    "linear": (linear_forward, linear_backward),
    "linear_gelu": (linear_gelu_forward, linear_gelu_backward),
    "masked_cross_entropy": (masked_cross_entropy_forward, masked_cross_entropy_backward),
    "take_positions": (ops.take_positions_forward, take_positions_backward),
}
