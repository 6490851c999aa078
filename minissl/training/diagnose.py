"""Where a number first stopped being one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from minissl.backend import to_host
from minissl.nn import Grads, Module


def first_nonfinite(model: Any, batches: list[dict[str, Any]]) -> str:
    """Say in words which weight, which layer's output or which gradient is the first with NaN or infinity.

    Looks at the weights, then runs the batches once more, without dropout: layers in the order of the forward pass,
    then gradients from the output down.
    """
    with np.errstate(all="ignore"):
        for name, param in model.named_parameters():
            if not np.isfinite(to_host(param.data)).all():
                return f"first in the weight {name}"
        for batch in batches:
            grads = Grads(model)
            with _watched(model) as seen:
                model.losses_and_backward(batch, model.counts(batch), grads, None)
            if seen:
                return f"first in the output of the layer {seen[0]}"
            for name, param in reversed(list(model.named_parameters())):
                if not np.isfinite(to_host(grads[param])).all():
                    return f"first in the gradient of {name}"
        norms = {
            name: float(np.linalg.norm(to_host(grads[param]).astype(float))) for name, param in model.named_parameters()
        }
    largest = max(norms, key=lambda name: norms[name])
    return f"every single number is finite; the largest gradient is that of {largest} (norm {norms[largest]:.1e})"


@contextmanager
def _watched(model: Module) -> Iterator[list[str]]:
    """While the block runs, note the names of the modules with non-finite outputs, in the order in which they end."""
    seen: list[str] = []
    modules = list(model.named_modules())
    for name, module in modules:
        module.forward = _noting(module.forward, name, seen)  # type: ignore[attr-defined]
    try:
        yield seen
    finally:
        for _, module in modules:
            del module.forward  # type: ignore[attr-defined]


def _noting(forward: Callable[..., Any], name: str, seen: list[str]) -> Callable[..., Any]:
    def watched(*args: Any, **kwargs: Any) -> Any:
        y, cache = forward(*args, **kwargs)
        host = to_host(y)
        if isinstance(host, np.ndarray) and not np.isfinite(host).all():
            seen.append(name)
        return y, cache

    return watched
