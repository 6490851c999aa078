"""The exercises about images: patches, their order, the loss over the hidden ones, and where each of them stands."""

from __future__ import annotations

from typing import Any

import numpy as np

from minissl import ops
from minissl.backend import Array
from minissl.exercises.exercise import Student
from minissl.exercises.graders import (
    Explain,
    Result,
    Steps,
    compare,
    described,
    graded,
    gradient_findings,
    in_case,
    looks_like,
    output_and_cache,
)
from minissl.ops.patches import grid_of

B, N, D = 2, 7, 5


def patchify_slips(dy: Array, cache: Any) -> list[tuple[str, str, Array]]:
    """Axes that are read in another order, or not moved."""
    side, (height, width) = cache
    *leading, _, numbers = dy.shape
    h, w = grid_of((height, width), side)
    first = len(leading)
    channels = numbers // side**2

    def joined(sizes: tuple[int, ...], order: tuple[int, ...], shape: tuple[int, ...]) -> Array:
        axes = (*range(first), *(first + axis for axis in order))
        return dy.reshape(*leading, *sizes).transpose(axes).reshape(*leading, *shape)

    image = (channels, height, width)
    patches, square = (h, w, side, side, channels), (w, h, side, side, channels)
    turned = "h and w have changed places: there are h = H/P rows of w = W/P patches, row by row"
    order = "a patch's numbers run row, column, channel; here they are read as channel, row, column"
    mirrored = "each patch is mirrored at its diagonal: a patch's rows and columns have changed places"
    mixed = "a reshape alone mixes patches and channels: split into (h, w, P, P, C) first, then move the axes"
    beside = "w and P are not swapped: h must stand beside P, and w beside P, before the last reshape joins them"
    return [
        ("dimages", turned, joined(square, (4, 0, 2, 1, 3), (channels, width, height))),
        ("dimages", turned, joined(square, (4, 1, 2, 0, 3), image)),
        ("dimages", turned, joined(square, (4, 0, 2, 1, 3), image)),
        ("dimages", turned, joined(patches, (4, 1, 3, 0, 2), (channels, width, height))),
        ("dimages", order, joined((h, w, channels, side, side), (2, 0, 3, 1, 4), image)),
        ("dimages", mirrored, joined(patches, (4, 0, 3, 1, 2), image)),
        ("dimages", mixed, dy.reshape(*leading, *image)),
        ("dimages", beside, joined(patches, (4, 0, 1, 2, 3), image)),
        ("dimages", "the channels come first: (C, H, W); here they are last", joined(
            patches, (0, 2, 1, 3, 4), (height, width, channels))),
    ]  # fmt: skip


@graded
def grade_restoring_order(student: Student, steps: Steps) -> None:
    """Some, one and all patches visible; no permutation is its own inverse. Then the way back, with the same ids."""
    forward, backward = student.pair("restore")
    rng = np.random.default_rng(20)
    forwards: list[Result] = []
    backwards: list[Result] = []
    for kept, dtype in ((3, "float64"), (1, "float64"), (N, "float64"), (2, "float32")):
        visible, token = rng.standard_normal((B, kept, D)).astype(dtype), rng.standard_normal(D).astype(dtype)
        shuffle = _shuffles(rng, B, N)
        inputs = {"visible": visible, "mask_token": token, "shuffle": shuffle}
        case = described(f"{kept} of {N} visible, {dtype}", inputs)
        with in_case(case, first=not forwards):
            y, cache = output_and_cache(steps, "restore_forward", forward(**inputs))
        want, right_cache = ops.restore_patches_forward(visible, token, np.argsort(shuffle, axis=1))
        explain = looks_like(*(("y", message, wrong) for message, wrong in _wrong_orders(visible, token, shuffle)))
        forwards.append(Result(case, "restore_forward", ("y",), y, (want,), explain))
        dy = rng.standard_normal(want.shape).astype(dtype)
        if isinstance(y, np.ndarray) and y.shape == want.shape:
            with in_case(case, first=False):
                returned = backward(dy, cache)
            right = ops.restore_patches_backward(dy, right_cache)
            names = ("dvisible", "dmask_token")
            backwards.append(Result(f"backward, {case}", "restore_backward", names, returned, right, _wrong_cache))
    compare(steps, [*forwards, *backwards])


def _wrong_cache(name: str, got: Array) -> list[str]:
    return ["y is right, but the cache is not what y was indexed with: ids, the inverse permutation, and K"]


def _shuffles(rng: np.random.Generator, rows: int, number: int) -> Array:
    """Permutations that are not their own inverse, nor their neighbour's."""
    while True:
        shuffle = np.argsort(rng.random((rows, number)), axis=1)
        if (shuffle != np.argsort(shuffle, axis=1)).any(axis=1).all() and (shuffle[0] != shuffle[1]).any():
            return shuffle


def _wrong_orders(visible: Array, token: Array, shuffle: Array) -> list[tuple[str, Array]]:
    rows, kept = np.arange(len(shuffle))[:, None], visible.shape[1]
    ids = np.argsort(shuffle, axis=1)
    tokens = np.zeros((len(shuffle), shuffle.shape[1] - kept, visible.shape[2]), visible.dtype) + token
    everything = np.concatenate([visible, tokens], axis=1)
    again = (
        "shuffled once more: to undo it, index with its inverse permutation, np.argsort(shuffle, axis=1), "
        "not with shuffle itself"
    )
    return [
        (again, everything[rows, shuffle]),
        ("still in shuffled order: each patch has to go back to its own place", everything),
        ("one image's order is used for all; each row of shuffle is a permutation of its own",
         everything[rows, ids[:1]]),
        ("the mask tokens stand before the visible patches; in shuffled order the first K are visible",
         np.concatenate([tokens, visible], axis=1)[rows, ids]),
        ("zeros stand where the mask token belongs", np.concatenate([visible, 0 * tokens], axis=1)[rows, ids]),
    ]  # fmt: skip


@graded
def grade_masked_patch_loss(student: Student, steps: Steps) -> None:
    """Many, one and all patches hidden; patches of several brightnesses, one of a single colour."""
    function = student.function("masked_patch_loss")
    rng = np.random.default_rng(21)
    few, one, every = rng.random((3, B, N)) < np.array([0.6, 0.0, 1.0])[:, None, None]
    one[1, 2] = few[0, 1] = few[1, 3] = True
    few[0, 0] = False
    results: list[Result] = []
    for label, mask, dtype in (
        ("some hidden", few, "float64"), ("one hidden", one, "float64"), ("all hidden", every, "float64"),
        ("float32", few, "float32"),
    ):  # fmt: skip
        scale = rng.uniform(0.2, 3, (B, N, 1))
        patches = (scale * rng.standard_normal((B, N, D)) + rng.standard_normal((B, N, 1))).astype(dtype)
        patches[1, 3] = 0.5  # of one colour
        prediction = rng.standard_normal((B, N, D)).astype(dtype)
        inputs = {"prediction": prediction, "patches": patches, "mask": mask}
        with in_case(described(label, inputs), first=not results):
            returned = function(**inputs)
        expected = _masked_patch_loss(**inputs)
        explain = _explain_patch_loss(function, inputs)
        results.append(Result(label, "masked_patch_loss", ("loss", "dprediction"), returned, expected, explain))
    compare(steps, results)


def _masked_patch_loss(prediction: Array, patches: Array, mask: Array) -> tuple[Array, Array]:
    return _error(prediction, ops.normalise_patches_forward(patches)[0], mask)


def _error(prediction: Array, target: Array, mask: Array) -> tuple[Array, Array]:
    loss, cache = ops.masked_mse_forward(prediction, target, np.flatnonzero(mask))
    dprediction, _ = ops.masked_mse_backward(np.ones((), prediction.dtype), cache)
    return np.asarray(loss), dprediction


def _explain_patch_loss(function: Any, inputs: dict[str, Array]) -> Explain:
    prediction, patches, mask = inputs["prediction"], inputs["patches"], inputs["mask"]
    loss, dprediction = _masked_patch_loss(prediction, patches, mask)
    target, _ = ops.normalise_patches_forward(patches)
    hidden, n = int(mask.sum()), patches.shape[-1]
    share = hidden / mask.size
    over_all, all_gradient = _error(prediction, target, np.ones_like(mask))
    centred = patches - patches.mean(axis=-1, keepdims=True)
    biased, unbiased = (patches.var(axis=-1, keepdims=True, ddof=ddof) for ddof in (0, 1))
    whole = (patches - patches.mean()) / np.sqrt(patches.var(ddof=1) + 1e-6)
    by_image = patches - patches.mean(axis=(1, 2), keepdims=True)
    by_image = by_image / np.sqrt(patches.var(axis=(1, 2), keepdims=True, ddof=1) + 1e-6)
    targets = [
        ("the variance is divided by n; the unbiased one is divided by n - 1 (ddof=1)",
         centred / np.sqrt(biased + 1e-6)),
        ("the target is not normalised: take off each patch's mean and divide by its deviation", patches),
        ("the mean of each patch is taken off, but it is not divided by its deviation", centred),
        ("divided by the variance, not by its root", centred / (unbiased + 1e-6)),
        ("1e-6 belongs to the variance, under the root", centred / (np.sqrt(unbiased) + 1e-6)),
        ("each patch has its own mean and deviation; here all patches share one", whole),
        ("each patch has its own mean and deviation; here all patches of an image share one", by_image),
    ]  # fmt: skip
    slips = [
        ("loss", "averaged over all N patches; only the hidden ones are asked about", over_all),
        ("loss", "the sum is over the hidden patches, but it is divided by all of them", loss * share),
        ("loss", "this is the sum; the loss is a mean over the M hidden patches and their n numbers",
         loss * hidden * n),
        ("loss", "summed over a patch's numbers; the loss is a mean over them too", loss * n),
        ("loss", "half of it: this loss has no 1/2 before it", loss / 2),
        ("loss", "the root of the mean squared error; the loss has no root", np.sqrt(loss)),
        ("dprediction", "the visible patches get a gradient; it is 0 there, nobody asked about them",
         all_gradient / share),
        ("dprediction", "averaged over all N patches; only the hidden ones are asked about", all_gradient),
        ("dprediction", "divided by the number of all patches; the mean is over the hidden ones", dprediction * share),
        ("dprediction", "the 2 of the square is missing: d(x²) = 2x dx", dprediction / 2),
        ("dprediction", "the loss is divided by n too, the numbers of a patch, and so is its gradient",
         dprediction * n),
        ("dprediction", "the loss is divided by M too, the hidden patches, and so is its gradient",
         dprediction * hidden),
        ("dprediction", "the loss is a mean over M·n numbers, its gradient is not: divide by M·n",
         dprediction * hidden * n),
        ("dprediction", "the sign: a prediction above its target has a positive gradient", -dprediction),
    ]  # fmt: skip
    if not mask.all():
        visible, visible_gradient = _error(prediction, target, ~mask)
        upside = "these are the visible patches: in `mask` True means hidden"
        slips += [("loss", upside, visible), ("dprediction", upside, visible_gradient)]
    for message, wrong in targets:
        wrong_loss, wrong_gradient = _error(prediction, wrong, mask)
        slips += [("loss", message, wrong_loss), ("dprediction", message, wrong_gradient)]
    named = looks_like(*slips)
    findings = gradient_findings(
        lambda prediction, patches, mask: tuple(function(prediction, patches, mask)),
        lambda dy, dprediction: dy * dprediction,
        {name: value.astype("float64") if value.dtype.kind == "f" else value for name, value in inputs.items()},
        _masked_patch_loss,
    )
    flat = ["a patch of one colour has variance 0; 1e-6 belongs under the root, so that nothing is divided by 0"]
    return lambda name, got: named(name, got) or ([] if np.isfinite(got).all() else flat) or findings(name, got)


@graded
def grade_position_table(student: Student, steps: Steps) -> None:
    """Grids that are wide, high, square and one line, in several widths."""
    position_table = student.function("position_table")
    results: list[Result] = []
    for h, w, d in ((2, 3, 8), (3, 2, 12), (1, 5, 4), (4, 4, 16)):
        case = f"h {h}, w {w}, d {d}"
        with in_case(case, first=not results):
            returned = position_table(h, w, d)
        explain = looks_like(*(("table", message, wrong) for message, wrong in _wrong_tables(h, w, d)))
        results.append(
            Result(case, "position_table", ("table",), returned, (ops.sincos_positions((h, w), d),), explain)
        )
    compare(steps, results)


def _wrong_tables(h: int, w: int, d: int) -> list[tuple[str, Array]]:
    quarter = d // 4
    omega = 10000.0 ** (-np.arange(quarter) / quarter)
    y, x = np.divmod(np.arange(h * w)[:, None], w)
    columns_first = np.divmod(np.arange(h * w)[:, None], h)

    def waves(x: Array, y: Array, omega: Array = omega) -> list[Array]:
        return [np.sin(x * omega), np.cos(x * omega), np.sin(y * omega), np.cos(y * omega)]

    def table(pieces: list[Array], first: float = 0.0) -> Array:
        return np.concatenate([np.full((1, d), first), np.concatenate(pieces, axis=1)])

    def interleaved(pieces: list[Array]) -> list[Array]:
        sin_x, cos_x, sin_y, cos_y = pieces
        return [np.stack(pair, axis=2).reshape(h * w, -1) for pair in ((sin_x, cos_x), (sin_y, cos_y))]

    right = waves(x, y)
    sin_x, cos_x, sin_y, cos_y = right
    origin = np.concatenate([np.zeros(quarter), np.ones(quarter)] * 2)[None]
    halves = 10000.0 ** (-2 * np.arange(quarter) / d)
    class_row = "the class token's row is zero; here it is the row of a patch at (0, 0), with cos 0 = 1"
    height = "the height comes first here; the column's pieces come first, then the row's"
    frequency = "the frequencies fall too slowly or too fast: ω_i = 10000^(-4i/D), for i = 0 … D/4 - 1"
    lost = "the class token's row of zeros is missing before the patches"
    counted = "counted from 1: the first column is x = 0, and the first row y = 0"
    return [
        (lost, np.concatenate(right, axis=1)),
        (height, table([sin_y, cos_y, sin_x, cos_x])),
        (class_row, np.concatenate([origin, np.concatenate(right, axis=1)])),
        ("the class token's row is zero, not one", table(right, 1.0)),
        ("the class token comes first, before the patches", np.roll(table(right), -1, axis=0)),
        ("sine and cosine take turns here; first come all sines of x, then all cosines, then those of y",
         table(interleaved(right))),
        ("both sines come first here; x has its sine and its cosine, then y", table([sin_x, sin_y, cos_x, cos_y])),
        ("sine and cosine have changed places", table([cos_x, sin_x, cos_y, sin_y])),
        (frequency, table(waves(x, y, halves))), (frequency, table(waves(x, y, omega * omega))),
        (frequency, table(waves(x, y, 1 / omega))),
        (counted, table(waves(x + 1, y + 1))),
        ("the patches are listed column by column; row by row, the column x changes fastest",
         table(waves(*columns_first))),
        ("the row's number is n // w, and the column's n % w, for patch n in rows of w patches",
         table(waves(np.arange(h * w)[:, None] % h, np.arange(h * w)[:, None] // h))),
    ]  # fmt: skip
