"""Wrong kernels, each one small slip in the source: the comparison with the reference op must notice every one.

To add one, add a line. `old` must occur exactly once in the file.
"""

import contextlib
from typing import NamedTuple

import numpy as np
import pytest

import emulation
from kernel_cases import INPUTS, error, expected, found, move, normal
from minissl.backend import to_host
from minissl.kernels import enabled, gpu
from minissl.training.adamw import AdamW, adamw_update, squared_norm
from stand_in import in_place_of_cupy

pytestmark = [
    pytest.mark.skipif(emulation.COMPILER is None, reason="no g++ to build the kernels with"),
    pytest.mark.skipif(not enabled(), reason="MINISSL_KERNELS=off"),
]


class Mutant(NamedTuple):
    op: str
    file: str
    old: str
    new: str
    description: str


# fmt: off
MUTANTS = [
    Mutant("layer_norm", "layer_norm", "x[i] - mean) * r", "x[i] - mean) / r", "σ for 1/σ"),
    Mutant("layer_norm", "layer_norm", "/ width + eps", "/ (width - 1) + eps", "the unbiased variance"),
    Mutant("layer_norm", "layer_norm", "n + bias[i]", "n", "no bias"),
    Mutant("layer_norm", "layer_norm", "- mean_part", "+ mean_part", "a sign"),
    Mutant("layer_norm", "layer_norm", "- normed[i] * variance_part", "", "the variance held fixed"),
    Mutant("layer_norm", "layer_norm", "if (row >= rows) return;\n    x +=", "x +=", "rows that are not there"),
    Mutant("layer_norm", "common", "apart < WARP; apart *= 2) value +=", "apart < 16; apart *= 2) value +=",
           "half a warp's sum"),
    Mutant("layer_norm", "columns", "    __syncthreads();\n", "", "parts read before they are written"),
    Mutant("layer_norm", "columns", "i = 1; i < WARPS", "i = 2; i < WARPS", "a warp's rows lost"),
    Mutant("layer_norm", "columns", "min(first + rows_each, rows)", "first + rows_each", "rows past the end"),
    Mutant("layer_norm", "columns", "a[i] * b[i]", "a[i]", "dgain without the input"),
    Mutant("attention", "attention", "!mask[i * key_step]", "mask[i * key_step]", "the mask the other way round"),
    Mutant("attention", "attention", "row % queries * query_step", "0", "the first query's mask for all"),
    Mutant("attention", "attention", "row / queries % heads * head_step", "0", "the first head's mask for all"),
    Mutant("attention", "attention", "row / queries / heads * batch_step", "0", "the first sequence's mask for all"),
    Mutant("attention", "attention", "if (highest == -INFINITY) highest = 0;", "", "NaN in a row that sees nothing"),
    Mutant("attention", "attention", "    highest = warp_max(highest);\n", "", "each lane's own maximum"),
    Mutant("attention", "attention", "weight * keep(words[warp()], at + i, threshold) * scale",
           "weight * keep(words[warp()], at + i, threshold)", "no 1/(1 - rate)"),
    Mutant("attention", "attention", "dweights[start + i] *= factor;", "", "dropout not undone"),
    Mutant("attention", "attention", "weights[i] * (dweights[i] - sum)", "weights[i] * dweights[i]",
           "softmax's sum lost"),
    Mutant("attention", "dropout", "words + 4 * i", "words + 4 * (i & 7)", "a long row's bits on top of one another"),
    Mutant("dropout", "dropout", "keep(words[warp()], at + i, dropped) * scale", "keep(words[warp()], at + i, dropped)",
           "no 1/(1 - rate)"),
    Mutant("dropout", "dropout", ">= dropped", "< dropped", "`rate` taken for the share that is kept"),
    Mutant("dropout", "dropout", "round < 10", "round < 9", "a round too few"),
    Mutant("dropout", "dropout", "begin / 16 + i", "begin / 16 + i + 1", "a block on"),
    Mutant("dropout", "dropout", "within + n + 15", "n + 15", "the last block not drawn"),
    Mutant("dropout", "dropout", "return within;", "return 0;", "where a stream stands within its block"),
    Mutant("dropout_add", "dropout", "residual[first + i] + kept", "kept", "the residual lost"),
    Mutant("gelu", "gelu", "real(-0.70710678118654752)", "real(-1)", "no 1/√2"),
    Mutant("gelu", "gelu", "+ x[i] * normal_density(x[i])", "", "the gate held fixed"),
    Mutant("linear_gelu", "gelu", "h[i] + bias[column]", "h[i]", "no bias"),
    Mutant("linear_gelu", "gelu", "        h[i] = x;\n", "", "the slope taken without the bias"),
    Mutant("cross_entropy", "cross_entropy", "p - 1 : p", "p : p", "no onehot"),
    Mutant("cross_entropy", "cross_entropy", "log(total) - shifted", "log(total)", "the target's logit lost"),
    Mutant("cross_entropy", "cross_entropy", "highest = block_max(highest);", "", "each thread's own maximum"),
    Mutant("cross_entropy", "common", "if (lane() == 0) sums[warp()] = value;\n    __syncthreads();",
           "if (lane() == 0) sums[warp()] = value;", "sums read before they are written"),
    Mutant("cross_entropy", "common", "if (lane() == 0) highest[warp()] = value;\n    __syncthreads();",
           "if (lane() == 0) highest[warp()] = value;", "maxima read before they are written"),
    Mutant("cross_entropy", "sums", "sum / divisor", "sum", "a sum for a mean"),
    Mutant("masked_cross_entropy", "cross_entropy", "if (biased) logits[c] += bias[c];", "", "no bias"),
    Mutant("embedding", "embedding", "i % chunk != 0 && ", "", "a run's later parts lost"),
    Mutant("embedding", "embedding", "j < end && ids[j] == ids[i]", "j < end", "the next id's gradient too"),
    Mutant("embedding", "embedding", "i > 0 && ", "", "reads before the ids"),
    Mutant("embedding", "embedding", "j < size && ids[j] == ids[i]; j += chunk", "false; j += chunk",
           "first parts alone"),
    Mutant("embedding", "embedding", "dy[places[j] * width", "dy[j * width", "dy in the order of the ids"),
    Mutant("adamw", "adamw", "shrink * weights[i]", "weights[i]", "no weight decay"),
    Mutant("adamw", "adamw", "+ t * t", "+ t", "not the square"),
    Mutant("adamw", "adamw", "* inverse_root + eps", "+ eps", "no bias correction"),
    Mutant("adamw", "adamw", "weights[i] - rate", "weights[i] + rate", "climbs"),
    Mutant("squared_norm", "sums", "(double)x[i] * x[i]", "x[i]", "no square"),
    Mutant("squared_norm", "sums", "i < size; i += entry_step()", "i < size; i += size",
           "each thread's first entry alone"),
]
# fmt: on
SOURCES = {  # what an op needs: compiling all for each would take longer than all the rest
    "layer_norm": ("columns", "layer_norm"),
    "attention": ("dropout", "attention"),
    "dropout": ("dropout",),
    "dropout_add": ("dropout",),
    "gelu": ("gelu",),
    "linear_gelu": ("columns", "gelu"),
    "cross_entropy": ("cross_entropy", "sums"),
    "masked_cross_entropy": ("columns", "cross_entropy", "sums"),
    "embedding": ("embedding",),
    "adamw": ("adamw",),
    "squared_norm": ("sums",),
}  # fmt: skip


def comparisons(op):
    """Pairs of what was found and what was expected."""
    if op == "adamw":
        sides = [[place(x) for x in (normal(99), normal(99, seed=1) ** 2)] for place in (np.copy, move)]
        for step in (1, 2):
            for (w, v), place in zip(sides, (np.copy, move), strict=True):
                adamw_update(
                    w, place(normal(99, seed=2)), place(normal(99, seed=3)), v, AdamW(), lr=1, step=step, decay=True
                )
            yield from ((to_host(ours), theirs) for theirs, ours in zip(*sides, strict=True))
    elif op == "squared_norm":
        yield to_host(squared_norm(move(normal(2001)))), squared_norm(normal(2001))
    else:
        for name, _, inputs in INPUTS:
            if name == op:
                pairs = found(op, inputs, np.float64), expected(op, inputs)
                yield from ((to_host(ours), theirs) for ours, theirs in zip(*pairs, strict=True))


def right(op):
    """Whether all comparisons hold, as the tests of the kernels make them."""
    with in_place_of_cupy(), np.errstate(all="ignore"):
        return all(error(*pair) <= 1e-12 for pair in comparisons(op))


@pytest.fixture(autouse=True)
def few_blocks(monkeypatch):
    monkeypatch.setattr(gpu, "MOST_BLOCKS", 3)
    monkeypatch.setattr(emulation, "order", 1)  # in which a read before an array is found as well
    gpu._compiled.cache_clear()
    yield
    gpu._compiled.cache_clear()


@pytest.mark.parametrize("op", SOURCES)
def test_the_kernels_as_they_stand_are_right(monkeypatch, op):
    monkeypatch.setattr(gpu, "SOURCES", ("common", *SOURCES[op]))
    assert right(op)


@pytest.mark.parametrize("mutant", MUTANTS, ids=[f"{m.op}-{m.description}" for m in MUTANTS])
def test_a_wrong_kernel_is_noticed(monkeypatch, mutant):
    monkeypatch.setattr(gpu, "SOURCES", ("common", *SOURCES[mutant.op]))
    text = (gpu.FOLDER / f"{mutant.file}.cu").read_text(encoding="utf-8").encode("ascii", "ignore").decode()
    assert text.count(mutant.old) == 1, "`old` must occur exactly once"
    source = gpu.source().replace(text, text.replace(mutant.old, mutant.new))
    monkeypatch.setattr(gpu, "source", lambda: source)
    with contextlib.suppress(emulation.LaunchRefused):  # it reads or writes outside an array, or waits for ever
        assert not right(mutant.op)
