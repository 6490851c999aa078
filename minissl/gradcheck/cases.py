"""The inputs with which every op of `minissl.ops` is checked.

float64, sizes pairwise distinct so that a swapped axis cannot pass, values of order 1, gains away from 1, repeated ids,
masks that hide whole rows. ReLU and L1 stay clear of their kinks, where no derivative exists.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from minissl import ops
from minissl.backend import Array

B, H, T, S, K, D, F, V, M = 2, 3, 4, 5, 6, 7, 8, 11, 9
SIDE = 4  # of a patch
KINK = 0.05

Inputs = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """An op, its pair of functions and one set of inputs."""

    op: str
    label: str
    forward: Callable[..., Any]
    backward: Callable[..., Any]
    inputs: Inputs


def op_cases(seed: int = 0) -> list[Case]:
    """Return every case of every op."""
    cases = []
    for number, (op, inputs_by_label) in enumerate(CASES.items()):
        for label, inputs in inputs_by_label(np.random.default_rng([seed, number])):
            pair = getattr(ops, f"{op}_forward"), getattr(ops, f"{op}_backward")
            cases.append(Case(op, label, *pair, inputs))
    return cases


def _linear(rng: np.random.Generator) -> Iterator[tuple[str, Inputs]]:
    for leading in ((), (T,), (B, T), (B, H, T)):
        arrays = {"x": rng.standard_normal((*leading, D)), "weight": rng.standard_normal((F, D))}
        yield f"{len(leading) + 1}-D", {**arrays, "bias": rng.standard_normal(F)}


def _embedding(rng: np.random.Generator) -> Iterator[tuple[str, Inputs]]:
    weight = rng.standard_normal((V, D))
    yield "repeated ids", {"ids": np.array([3, 0, 3, 10, 3]), "weight": weight}
    yield "2-D ids", {"ids": rng.integers(0, V, (B, T)), "weight": weight}
    yield "3-D ids", {"ids": rng.integers(0, V, (B, H, T)), "weight": weight}


def _take_positions(rng: np.random.Generator) -> Iterator[tuple[str, Inputs]]:
    yield "2-D", {"x": rng.standard_normal((F, D)), "positions": np.array([5, 0, 7])}
    yield "3-D", {"x": rng.standard_normal((B, T, D)), "positions": np.array([6, 1, 3])}
    yield "repeated", {"x": rng.standard_normal((B, H, T, D)), "positions": np.array([8, 23, 8, 0, 8])}


def _layer_norm(rng: np.random.Generator) -> Iterator[tuple[str, Inputs]]:
    for leading, eps in (((), 1e-12), ((T,), 1e-5), ((B, T), 1e-12), ((B, H, T), 0.3)):
        x = 2 * rng.standard_normal((*leading, D)) + 1
        gain, bias = rng.uniform(0.5, 1.5, D), rng.standard_normal(D)
        yield f"{len(leading) + 1}-D, eps {eps:g}", {"x": x, "gain": gain, "bias": bias, "eps": eps}


def _elementwise(rng: np.random.Generator) -> Iterator[tuple[str, Inputs]]:
    for shape in ((D,), (T, D), (B, T, D), (B, H, T, D)):
        yield f"{len(shape)}-D", {"x": off_zero(2 * rng.standard_normal(shape))}


def _softmax(rng: np.random.Generator) -> Iterator[tuple[str, Inputs]]:
    yield from _elementwise(rng)
    yield "large scores", {"x": 700 + rng.standard_normal((T, D))}


def _attention(rng: np.random.Generator) -> Iterator[tuple[str, Inputs]]:
    def qkv(*leading: int, keys: int = S) -> Inputs:
        shapes = {"q": (T, K), "k": (keys, K), "v": (keys, K + 1)}
        return {name: rng.standard_normal((*leading, *shape)) for name, shape in shapes.items()}

    padding = np.arange(S) < np.array([S, 3])[:, None, None, None]  # (B, 1, 1, S): the second text has 3 tokens
    hidden_row = np.ones((B, 1, T, S), bool)
    hidden_row[1, 0, 2] = False
    yield "2-D", qkv()
    yield "3-D", qkv(B)
    yield "cross, padding", {**qkv(B, H), "mask": padding}
    yield "one row all hidden", {**qkv(B, H), "mask": padding & hidden_row}
    yield "causal", {**qkv(B, H, keys=T), "mask": np.tri(T, dtype=bool)}
    mask = (padding & hidden_row)[:, 0]  # (B, T, S)
    yield "3-D, dropout", {**qkv(B), "mask": mask, "rate": 0.4, "rng": np.random.default_rng(1)}


def _dropout(rng: np.random.Generator) -> Iterator[tuple[str, Inputs]]:
    for shape, rate in (((F, D), 0.1), ((B, T, D), 0.5), ((B, H, T, D), 0.3)):
        x = rng.standard_normal(shape)
        yield f"{len(shape)}-D, rate {rate}", {"x": x, "rate": rate, "rng": np.random.default_rng(2)}


def _cross_entropy(rng: np.random.Generator) -> Iterator[tuple[str, Inputs]]:
    for count in (None, 17):
        logits, targets = 2 * rng.standard_normal((M, V)), rng.integers(0, V, M)
        yield f"count {count}", {"logits": logits, "targets": targets, "count": count}


def _binary_cross_entropy(rng: np.random.Generator) -> Iterator[tuple[str, Inputs]]:
    for count in (None, 17):
        arrays = {"logits": 2 * rng.standard_normal((M, V)), "targets": rng.uniform(0.1, 0.9, (M, V))}
        yield f"count {count}", {**arrays, "count": count}


def _masked_cross_entropy(rng: np.random.Generator) -> Iterator[tuple[str, Inputs]]:
    for count in (None, 17):
        arrays = {"h": rng.standard_normal((M, D)), "weight": rng.standard_normal((V, D))}
        bias, targets = rng.standard_normal(V), rng.integers(0, V, M)
        yield f"count {count}", {**arrays, "bias": bias, "targets": targets, "count": count}


def _masked_error(rng: np.random.Generator) -> Iterator[tuple[str, Inputs]]:
    for shape, positions, count in (((F, D), [6, 2, 3], None), ((B, T, D), [7, 0, 4, 2], 17)):
        target = rng.standard_normal(shape)
        prediction = target + off_zero(rng.standard_normal(shape))
        arrays = {"prediction": prediction, "target": target, "positions": np.array(positions)}
        yield f"{len(shape)}-D, count {count}", {**arrays, "count": count}


def _patchify(rng: np.random.Generator) -> Iterator[tuple[str, Inputs]]:
    for leading in ((), (B,), (B, T)):
        images = rng.standard_normal((*leading, 5, 3 * SIDE, 2 * SIDE))
        yield f"{len(leading) + 3}-D", {"images": images, "side": SIDE}
    yield "grey, one patch", {"images": rng.standard_normal((B, 1, SIDE, SIDE)), "side": SIDE}


def _unpatchify(rng: np.random.Generator) -> Iterator[tuple[str, Inputs]]:
    for leading in ((), (B,), (B, T)):
        patches = rng.standard_normal((*leading, 6, SIDE**2 * 5))
        yield f"{len(leading) + 2}-D", {"patches": patches, "side": SIDE, "size": (3 * SIDE, 2 * SIDE)}


def _pixel_shuffle(rng: np.random.Generator) -> Iterator[tuple[str, Inputs]]:
    for label, inputs in _unpatchify(rng):
        yield label, {"x": inputs.pop("patches"), **inputs}


def _patch_embedding(rng: np.random.Generator) -> Iterator[tuple[str, Inputs]]:
    for leading, channels in (((), 5), ((B,), 5), ((B, T), 1)):
        arrays = {"images": rng.standard_normal((*leading, channels, 3 * SIDE, 2 * SIDE))}
        arrays["weight"] = rng.standard_normal((D, channels, SIDE, SIDE))
        yield f"{len(leading) + 3}-D, {channels} channel(s)", {**arrays, "bias": rng.standard_normal(D)}


def _permutations(rng: np.random.Generator, rows: int, number: int) -> Array:
    return np.argsort(rng.random((rows, number)), axis=1)


def _gather_patches(rng: np.random.Generator) -> Iterator[tuple[str, Inputs]]:
    for kept in (S, 2, 1):
        ids = _permutations(rng, B, S)[:, :kept]
        yield f"{kept} of {S}", {"x": rng.standard_normal((B, S, D)), "ids": ids}


def _restore_patches(rng: np.random.Generator) -> Iterator[tuple[str, Inputs]]:
    for kept in (3, 1):
        arrays = {"visible": rng.standard_normal((B, kept, D)), "mask_token": rng.standard_normal(D)}
        yield f"{kept} of {F}", {**arrays, "ids": _permutations(rng, B, F)}


def _mask_patches(rng: np.random.Generator) -> Iterator[tuple[str, Inputs]]:
    for shape in ((S,), (B, S), (B, T, S)):
        mask = rng.random(shape) < 0.6
        mask.flat[0], mask.flat[-1] = True, False
        arrays = {"x": rng.standard_normal((*shape, D)), "mask_token": rng.standard_normal(D)}
        yield f"{len(shape) + 1}-D", {**arrays, "mask": mask}


def _normalise_patches(rng: np.random.Generator) -> Iterator[tuple[str, Inputs]]:
    for shape, eps in (((D,), 1e-6), ((T, D), 0.5), ((B, T, D), 1e-6)):
        yield f"{len(shape)}-D, eps {eps:g}", {"patches": 1 + rng.standard_normal(shape), "eps": eps}


def _interpolate_positions(rng: np.random.Generator) -> Iterator[tuple[str, Inputs]]:
    for grid, new_grid in (((3, 5), (4, 7)), ((5, 4), (2, 3)), ((1, 6), (1, 8)), ((2, 3), (2, 3))):
        table = rng.standard_normal((1 + grid[0] * grid[1], D))
        yield f"{grid} to {new_grid}", {"table": table, "grid": grid, "new_grid": new_grid}


def off_zero(x: Array) -> Array:
    """Move every entry away from zero by KINK."""
    return x + np.copysign(KINK, x)


CASES: dict[str, Callable[[np.random.Generator], Iterator[tuple[str, Inputs]]]] = {
    "linear": _linear,
    "embedding": _embedding,
    "take_positions": _take_positions,
    "layer_norm": _layer_norm,
    "gelu": _elementwise,
    "gelu_tanh": _elementwise,
    "quick_gelu": _elementwise,
    "relu": _elementwise,
    "silu": _elementwise,
    "tanh": _elementwise,
    "softmax": _softmax,
    "attention": _attention,
    "dropout": _dropout,
    "cross_entropy": _cross_entropy,
    "binary_cross_entropy": _binary_cross_entropy,
    "masked_cross_entropy": _masked_cross_entropy,
    "masked_mse": _masked_error,
    "masked_l1": _masked_error,
    "patchify": _patchify,
    "unpatchify": _unpatchify,
    "pixel_shuffle": _pixel_shuffle,
    "patch_embedding": _patch_embedding,
    "gather_patches": _gather_patches,
    "restore_patches": _restore_patches,
    "mask_patches": _mask_patches,
    "normalise_patches": _normalise_patches,
    "interpolate_positions": _interpolate_positions,
}
