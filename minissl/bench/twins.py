"""`python -m minissl.bench.twins`: each faster twin beside its reference op, on one thread's share of a `tiny` step."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from minissl import kernels
from minissl.workers import keep_freed_memory

ROUNDS = 30


def inputs() -> dict[str, tuple[Any, ...]]:
    """The arguments of each op that has a twin: 16 × 64 tokens, D 128, H 2, F 512, V 8192, 160 masked positions."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> Any:
        return rng.standard_normal(shape, dtype=np.float32)

    return {
        "attention": (*(normal(16, 2, 64, 64) for _ in "qkv"), None, 0.1, np.random.Generator(np.random.Philox(0))),
        "dropout_add": (normal(16, 64, 128), normal(16, 64, 128), 0.1, np.random.Generator(np.random.Philox(0))),
        "embedding": (rng.integers(0, 8192, (16, 64)), normal(8192, 128)),
        "gelu": (normal(16, 64, 512),),
        "linear": (normal(16, 64, 128), normal(512, 128), normal(512)),
        "linear_gelu": (normal(16, 64, 128), normal(512, 128), normal(512)),
        "layer_norm": (normal(16, 64, 128), normal(128), normal(128), 1e-12),
        "masked_cross_entropy": (normal(160, 128), 0.1 * normal(8192, 128), normal(8192), rng.integers(0, 8192, 160)),
    }


def seconds(pair: kernels.Pair, arguments: tuple[Any, ...]) -> float:
    """One forward and one backward, with an upstream gradient that is drawn beforehand."""
    y, _ = pair.forward(*arguments)
    dy: Any = 1.0 if np.ndim(y) == 0 else np.random.default_rng(1).standard_normal(y.shape, dtype=np.float32)
    began = time.perf_counter()
    _, cache = pair.forward(*arguments)
    pair.backward(dy, cache)
    return time.perf_counter() - began


def main(say: Callable[[str], None] = print) -> None:
    """Print a line a twin: medians of the reference and of the twin, in turn, and the median of their ratios."""
    keep_freed_memory()  # as in training
    with threadpool_limits(1, user_api="blas"):
        for (name, library), twin in sorted(kernels.twins().items()):
            if library != "numpy":
                continue
            arguments, reference = inputs()[name], kernels.reference(name)
            times = [(seconds(reference, arguments), seconds(twin, arguments)) for _ in range(ROUNDS)]
            slow, fast = (statistics.median(t) * 1e3 for t in zip(*times, strict=True))
            gain = statistics.median(a / b for a, b in times)
            say(f"{name:<22} reference {slow:7.2f} ms   twin {fast:7.2f} ms   gain {gain:5.2f} ×")


if __name__ == "__main__":
    main()
