"""Faster twins for NumPy on one thread: the reference's results, with fewer passes over memory.

Most take rows in blocks that stay near a core through every pass, write into arrays that exist already, and sum over an
axis by a matrix-vector product. The gain in each docstring is reference time / twin time, forward and backward
together, float32, one thread of an AMD EPYC, on one thread's share of a `tiny` step (16 × 64 tokens);
`python -m minissl.bench.twins` measures them again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from minissl import ops
from minissl.backend import Array, array_module
from minissl.kernels.rows import RowGradient
from minissl.ops.attention import AttentionCache
from minissl.ops.cross_entropy import check_targets
from minissl.ops.dropout import DropoutCache, draw_keep
from minissl.ops.embedding import LookupCache
from minissl.ops.layer_norm import LayerNormCache
from minissl.ops.linear import LinearCache

BLOCK = 1 << 18  # numbers in a block: few enough for the cache, many enough that threads seldom meet at the interpreter
LOGITS_BLOCK = 1 << 20
SMALL_SCORE = 60.0  # e^±60 and sums of very many of them are ordinary float32 numbers


def _row_blocks(rows: int, width: int, size: int = BLOCK) -> Iterator[slice]:
    step = max(1, size // max(1, width))
    return (slice(i, i + step) for i in range(0, rows, step))


class BlockAttentionCache(NamedTuple):
    """The inputs, the weights before dropout, which of them were kept, and the output."""

    q: Array
    k: Array
    v: Array
    weights: Array
    kept: DropoutCache | None
    y: Array


def attention_forward(
    q: Array, k: Array, v: Array, mask: Array | None = None, rate: float = 0.0, rng: np.random.Generator | None = None
) -> tuple[Array, BlockAttentionCache | AttentionCache]:
    """As `ops.attention_forward`, a few sequences at a time. Gain 1.3; 1.7 at 64 × 50 tokens, 4 heads of width 16.

    Sums are products with ones; where a row's maximum is small, exp needs no subtraction of it; what is hidden gets -∞
    by an addition, through which a score of NaN or +∞ shows that the reference hides; dropout's scale multiplies the
    small output.
    """
    if q.ndim < 3:
        return ops.attention_forward(q, k, v, mask, rate, rng)
    scaled = q * (1 / math.sqrt(q.shape[-1]))
    weights = np.empty((*q.shape[:-1], k.shape[-2]), q.dtype)
    y = np.empty_like(v, shape=(*q.shape[:-1], v.shape[-1]))  # in v's order of memory: joining heads copies nothing
    kept = draw_keep(weights.shape, rate, rng, array_module(q)) if rng is not None and rate != 0 else None
    if mask is not None:
        hidden = np.atleast_2d(np.where(mask, 0, -math.inf).astype(q.dtype))
        hidden = np.broadcast_to(hidden, (*q.shape[:-2], *hidden.shape[-2:]))
    ones = np.ones(k.shape[-2], q.dtype)
    for block in _row_blocks(len(q), math.prod(weights.shape[1:])):
        w = weights[block]
        np.matmul(scaled[block], k[block].swapaxes(-1, -2), out=w)
        if mask is not None:
            w += hidden[block]
        if mask is not None or not (w.min(initial=0) > -SMALL_SCORE and w.max(initial=0) < SMALL_SCORE):
            highest = w.max(axis=-1, keepdims=True, initial=-math.inf)
            highest = np.where((np.abs(highest) < SMALL_SCORE) | (highest == -math.inf), 0, highest)
            if highest.any():  # row by row, so that no row's bits depend on what others hold
                w -= highest
        np.exp(w, out=w)
        total = w @ ones
        w *= (1 / np.where(total > 0, total, 1))[..., None]
        np.matmul(w if kept is None else w * kept.keep[block], v[block], out=y[block])
    if kept is not None:
        y *= kept.scale
    return y, BlockAttentionCache(q, k, v, weights, kept, y)


def attention_backward(dy: Array, cache: BlockAttentionCache | AttentionCache) -> tuple[Array, Array, Array]:
    """As `ops.attention_backward`; softmax's sum Σ w dw over a query's weights is dy · y (Dao et al. 2022)."""
    if isinstance(cache, AttentionCache):
        return ops.attention_backward(dy, cache)
    q, k, v, weights, kept, y = cache
    dq, dk, dv = np.empty_like(q), np.empty_like(k), np.empty_like(v)
    sums = ((dy * y) @ np.ones(y.shape[-1], y.dtype))[..., None]
    if kept is not None:
        dy = dy * kept.scale
    for block in _row_blocks(len(q), math.prod(weights.shape[1:])):
        w, d = weights[block], dy[block]
        dscores = d @ v[block].swapaxes(-1, -2)
        if kept is not None:
            dscores *= kept.keep[block]
        dscores -= sums[block]
        dscores *= w
        np.matmul((w if kept is None else w * kept.keep[block]).swapaxes(-1, -2), d, out=dv[block])
        np.matmul(dscores, k[block], out=dq[block])
        np.matmul(dscores.swapaxes(-1, -2), q[block], out=dk[block])
    scale = 1 / math.sqrt(q.shape[-1])
    dq *= scale
    dk *= scale
    return dq, dk, dv


def layer_norm_forward(x: Array, gain: Array, bias: Array, eps: float) -> tuple[Array, LayerNormCache]:
    """As `ops.layer_norm_forward`, block by block. Gain 1.6."""
    rows = x.reshape(-1, x.shape[-1])
    d, ones = rows.shape[1], np.ones(rows.shape[1], x.dtype)
    y, normed, inv_std = np.empty_like(rows), np.empty_like(rows), np.empty((len(rows), 1), x.dtype)
    for block in _row_blocks(*rows.shape):
        n, out = normed[block], y[block]
        np.subtract(rows[block], (rows[block] @ ones / d)[:, None], out=n)
        np.multiply(n, n, out=out)
        r = inv_std[block]
        r[:, 0] = 1 / np.sqrt(out @ ones / d + eps)
        n *= r
        np.multiply(n, gain, out=out)
        out += bias
    shape = x.shape
    return y.reshape(shape), LayerNormCache(normed.reshape(shape), inv_std.reshape(*shape[:-1], 1), gain)


def layer_norm_backward(dy: Array, cache: LayerNormCache) -> tuple[Array, Array, Array]:
    """As `ops.layer_norm_backward`; mean(gain dy) and mean(gain dy n) are products with the gain itself."""
    normed, inv_std, gain = cache
    rows, n_rows, r_rows = dy.reshape(-1, dy.shape[-1]), normed.reshape(-1, dy.shape[-1]), inv_std.reshape(-1, 1)
    dx, dgain, dbias = np.empty_like(rows), np.zeros_like(gain), np.zeros_like(gain)
    mean_gain = gain / len(gain)
    for block in _row_blocks(*rows.shape):
        d, n, out = rows[block], n_rows[block], dx[block]
        ones = np.ones(len(d), d.dtype)
        product = d * n
        dgain += ones @ product
        dbias += ones @ d
        np.multiply(d, gain, out=out)
        out -= (d @ mean_gain)[:, None]
        np.multiply(n, (product @ mean_gain)[:, None], out=product)
        out -= product
        out *= r_rows[block]
    return dx.reshape(dy.shape), dgain, dbias


# Φ(-x) = exp(-x²/2) Σ_k c_k tᵏ, t = 1/(1 + p x), for x ≥ 0: the form is Hastings' (1955), the coefficients are a
# minimax fit of our own, off by at most 5e-9. It shares its exponential with the derivative.
TAIL_P = 0.275
SIGN_BIT = np.uint32(1 << 31)
TAIL = (0.11780924853597953, 0.04211150975759743, 0.33393222551381185, -0.3309933330385019, 0.4519986789655657,
        -0.11485832501591836)  # fmt: skip


def gelu_forward(x: Array) -> tuple[Array, Array]:
    """As `ops.gelu_forward` in float32; other dtypes take the reference's formula. The cache is dy/dx. Gain 6 to 10."""
    if x.dtype != np.float32:
        y, cache = ops.gelu_forward(x)
        return y, ops.gelu_backward(np.ones_like(x), cache)
    y, slope = np.empty(x.shape, x.dtype), np.empty(x.shape, x.dtype)
    flat_x, flat_y, flat_slope = np.ascontiguousarray(x).reshape(-1), y.reshape(-1), slope.reshape(-1)
    scratch = np.empty((2, min(BLOCK, x.size)), x.dtype)
    for start in range(0, x.size, BLOCK):
        block = slice(start, start + BLOCK)
        _gelu(flat_x[block], flat_y[block], flat_slope[block], scratch)
    return y, slope


def _gelu(x: Array, y: Array, slope: Array, scratch: Array) -> None:
    """GELU of a flat block into `y`, which may be `x` itself, and its slope into `slope`."""
    t, phi = scratch[:, : x.size]
    np.abs(x, out=t)
    t *= TAIL_P
    t += 1
    np.reciprocal(t, out=t)
    np.multiply(t, TAIL[-1], out=phi)
    for coefficient in TAIL[-2::-1]:
        phi += coefficient
        phi *= t
    np.multiply(x, x, out=slope)
    slope *= -0.5
    np.exp(slope, out=slope)
    phi *= slope  # Φ(-|x|)
    np.subtract(0.5, phi, out=phi)
    np.bitwise_and(x.view(np.uint32), SIGN_BIT, out=t.view(np.uint32))
    np.bitwise_or(phi.view(np.uint32), t.view(np.uint32), out=phi.view(np.uint32))  # np.copysign, 5 times as fast
    phi += 0.5  # Φ(x)
    slope *= 1 / math.sqrt(2 * math.pi)
    slope *= x
    slope += phi  # Φ(x) + x φ(x)
    np.multiply(x, phi, out=y)


def gelu_backward(dy: Array, cache: Array) -> Array:
    """As `ops.gelu_backward`: dy times the slope."""
    return dy * cache


def linear_forward(x: Array, weight: Array, bias: Array) -> tuple[Array, LinearCache]:
    """As `ops.linear_forward`, with the bias added in place. Gain 1.09, and 1.02 at larger sizes."""
    y = x.reshape(-1, x.shape[-1]) @ weight.T
    y += bias
    return y.reshape(*x.shape[:-1], len(weight)), LinearCache(x, weight)


def linear_backward(dy: Array, cache: LinearCache) -> tuple[Array, Array, Array]:
    """As `ops.linear_backward`, with the bias's sum over the rows as a product."""
    x, weight = cache
    rows, drows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    return (drows @ weight).reshape(x.shape), drows.T @ rows, np.ones(len(drows), dy.dtype) @ drows


class LinearGeluCache(NamedTuple):
    """Of `linear`, and the slope of GELU."""

    linear: LinearCache
    slope: Array


def linear_gelu_forward(x: Array, weight: Array, bias: Array) -> tuple[Array, LinearGeluCache]:
    """y = gelu(x Wᵀ + b): the bias is added while a block of the product is at hand for GELU. Gain 2.8.

    Beside the two twins one after the other 1.01 to 1.03.
    """
    y = x.reshape(-1, x.shape[-1]) @ weight.T
    if y.dtype == np.float32:
        slope, scratch = np.empty_like(y), np.empty((2, max(BLOCK, y.shape[1])), y.dtype)
        for block in _row_blocks(*y.shape):
            h = y[block]
            h += bias
            _gelu(h.reshape(-1), h.reshape(-1), slope[block].reshape(-1), scratch)
    else:
        y, slope = gelu_forward(y + bias)
    return y.reshape(*x.shape[:-1], len(weight)), LinearGeluCache(LinearCache(x, weight), slope)


def linear_gelu_backward(dy: Array, cache: LinearGeluCache) -> tuple[Array, Array, Array]:
    """The backward passes of both, in reverse order."""
    return linear_backward(dy.reshape(cache.slope.shape) * cache.slope, cache.linear)


def dropout_add_forward(x: Array, residual: Array, rate: float, rng: np.random.Generator) -> tuple[Array, DropoutCache]:
    """y = residual + dropout(x), block by block. Gain 1.07."""
    cache = draw_keep(x.shape, rate, rng, array_module(x))
    y = np.multiply(x, cache.keep, out=np.empty(x.shape, x.dtype))
    flat, others = y.reshape(-1), np.ascontiguousarray(residual).reshape(-1)
    for start in range(0, flat.size, BLOCK):
        part = flat[start : start + BLOCK]
        part *= cache.scale
        part += others[start : start + BLOCK]
    return y, cache


def dropout_backward(dy: Array, cache: DropoutCache) -> Array:
    """As `ops.dropout_backward`, scaled in place."""
    dx = dy * cache.keep
    dx *= cache.scale
    return dx


class MaskedCrossEntropyCache(NamedTuple):
    """The inputs, and p - onehot for every masked position: what the reference computes in backward."""

    h: Array
    weight: Array
    residual: Array
    divisor: int


def masked_cross_entropy_forward(
    h: Array, weight: Array, bias: Array, targets: Array, count: int | None = None
) -> tuple[Array, MaskedCrossEntropyCache]:
    """As `ops.masked_cross_entropy_forward`; each block of logits becomes p - onehot in place. Gain 1.2.

    All logits come from one product, because a product lays out the whole weight anew, however few its rows.
    """
    divisor = check_targets(targets, len(h), len(weight), count)
    residual = h @ weight.T
    loss, ones = h.dtype.type(0), np.ones(len(weight), h.dtype)
    for block in _row_blocks(len(h), len(weight), LOGITS_BLOCK):
        p, target = residual[block], targets[block]
        picked = np.arange(len(target)), target
        p += bias
        p -= p.max(axis=-1, keepdims=True)
        loss -= p[picked].sum()
        np.exp(p, out=p)
        total = p @ ones
        loss += np.log(total).sum()
        p *= (1 / total)[:, None]
        p[picked] -= 1
    return loss / divisor, MaskedCrossEntropyCache(h, weight, residual, divisor)


def masked_cross_entropy_backward(dy: Array, cache: MaskedCrossEntropyCache) -> tuple[Array, Array, Array]:
    """As `ops.masked_cross_entropy_backward`; dy/count multiplies the three small results, not the M × V residual."""
    h, weight, residual, divisor = cache
    scale = dy / divisor
    dh, dweight = residual @ weight, residual.T @ (h * scale)
    dh *= scale
    return dh, dweight, np.full(len(h), scale, h.dtype) @ residual


def embedding_backward(dy: Array, cache: LookupCache) -> RowGradient:
    """As `ops.embedding_backward`, of which only the rows that were read are kept: the table may be large. Gain 1.8.

    Equal ids are brought together by a stable sort and summed run by run, always in the same order.
    """
    ids, shape = cache.ids.reshape(-1), cache.shape
    order = np.argsort(ids, kind="stable")
    in_order = ids[order]
    starts = np.flatnonzero(np.diff(in_order, prepend=-1))
    sums = (
        np.add.reduceat(dy.reshape(-1, shape[-1])[order], starts, axis=0)
        if ids.size
        else np.zeros((0, shape[-1]), dy.dtype)
    )
    return RowGradient(in_order[starts], sums, shape)


TWINS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "attention": (attention_forward, attention_backward),
    "dropout_add": (dropout_add_forward, dropout_backward),
    "embedding": (ops.embedding_forward, embedding_backward),
    "gelu": (gelu_forward, gelu_backward),
    "linear": (linear_forward, linear_backward),
    "linear_gelu": (linear_gelu_forward, linear_gelu_backward),
    "layer_norm": (layer_norm_forward, layer_norm_backward),
    "masked_cross_entropy": (masked_cross_entropy_forward, masked_cross_entropy_backward),
}
