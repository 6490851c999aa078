"""Which pair of functions runs when a module calls an op: the reference, a faster twin, or one's own.

    layer_norm = op("layer_norm")
    y, cache = layer_norm.forward(x, gain, bias, eps)
    dx, dgain, dbias = layer_norm.backward(dy, cache)

Twins give the reference's results in less time and are used where they apply; `reference_ops()` or the environment's
`MINISSL_KERNELS=off` switches them all off. `replace_op` puts a pair of one's own in an op's place.

A `Fused` is neighbouring ops that a twin may run as one, which saves passes over memory.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

from minissl import ops
from minissl.backend import Array, array_module
from minissl.errors import InputError
from minissl.kernels import cpu, gpu, products


class Pair(NamedTuple):
    """A forward and its backward."""

    forward: Callable[..., tuple[Array, Any]]
    backward: Callable[..., Any]


class OpCache(NamedTuple):
    """A forward's cache together with the backward that understands it, whatever is switched on by then."""

    backward: Callable[..., Any]
    cache: Any


_twins = {
    (name, library): Pair(forward, backward)
    for library, pairs in (("numpy", cpu.TWINS), ("cupy", products.TWINS | gpu.TWINS))
    for name, (forward, backward) in pairs.items()
}
_without_kernels = {name: Pair(*pair) for name, pair in products.TWINS.items()}
_replaced: dict[str, Pair] = {}
_switch = {"twins": os.environ.get("MINISSL_KERNELS", "on") != "off"}


class Op:
    """One op by name. The pair is chosen at each forward, by the first array's library."""

    def __init__(self, name: str):
        self.name = name
        self.reference = Pair(getattr(ops, f"{name}_forward"), getattr(ops, f"{name}_backward"))

    def forward(self, x: Array, *args: Any) -> tuple[Array, OpCache]:
        """Run the chosen forward and keep its backward beside its cache.

        Raises InputError for arrays of which some are on the host and some on a device.
        """
        _require_one_place(self.name, x, *args)
        pair = _replaced.get(self.name) or _twin(self.name, x, *args) or self.reference
        y, cache = pair.forward(x, *args)
        return y, OpCache(pair.backward, cache)

    def backward(self, dy: Array | float, cache: OpCache) -> Any:
        """Run the backward that belongs to the forward that was called."""
        return cache.backward(dy, cache.cache)


class Fused:
    """Neighbouring ops as one: a twin where there is one and no part is replaced, or else the ops one by one."""

    def __init__(self, name: str, parts: list[Op], one_by_one: Callable[..., Pair]):
        """`one_by_one` makes the pair out of the parts' own, be they ops or references."""
        self.name = name
        self.parts = parts
        self.unfused = one_by_one(*parts)
        self.reference = one_by_one(*(part.reference for part in parts))

    def forward(self, x: Array, *args: Any) -> tuple[Array, OpCache]:
        """As `Op.forward`; what `Op.backward` of any part makes of the cache is the backward of them all."""
        _require_one_place(self.name, x, *args)
        replaced = any(part.name in _replaced for part in self.parts)
        pair = self.unfused if replaced else _twin(self.name, x, *args) or self.unfused
        y, cache = pair.forward(x, *args)
        return y, OpCache(pair.backward, cache)

    def backward(self, dy: Array, cache: OpCache) -> Any:
        """Run the backward that belongs to the forward that was called."""
        return cache.backward(dy, cache.cache)


@cache
def chain(first: Op, second: Op) -> Fused:
    """Return second(first(…)) as one; of `second` nothing but the first's result has a gradient."""

    def one_by_one(first: Any, second: Any) -> Pair:
        def forward(*args: Any, **named: Any) -> tuple[Array, tuple[Any, Any]]:
            h, first_cache = first.forward(*args, **named)
            y, second_cache = second.forward(h)
            return y, (first_cache, second_cache)

        def backward(dy: Array, caches: tuple[Any, Any]) -> Any:
            return first.backward(second.backward(dy, caches[1]), caches[0])

        return Pair(forward, backward)

    return Fused(f"{first.name}_{second.name}", [first, second], one_by_one)


def dropout_add() -> Fused:
    """Return y = residual + dropout(x), called with (x, residual, rate, rng). Backward gives dx; dresidual is dy."""

    def one_by_one(dropout: Any) -> Pair:
        def forward(x: Array, residual: Array, rate: float, rng: Any) -> tuple[Array, Any]:
            y, cache = dropout.forward(x, rate, rng)
            return residual + y, cache

        return Pair(forward, dropout.backward)

    return Fused("dropout_add", [op("dropout")], one_by_one)


def reference(name: str) -> Pair:
    """Return what the twin `name` is to equal: the pair in `minissl.ops`, or those of neighbouring ops in turn."""
    fused = {one.name: one for one in (chain(op("linear"), op("gelu")), dropout_add())}
    return fused[name].reference if name in fused else op(name).reference


def _require_one_place(name: str, *args: Any) -> None:
    """Nothing moves by itself. CuPy would take some host arrays in silence, and refuse others without advice."""
    cupy = sys.modules.get("cupy")
    if cupy is None:
        return
    moved = [isinstance(a, cupy.ndarray) for a in args if getattr(a, "ndim", 0)]
    if any(moved) and not all(moved):
        raise InputError(
            f"{name}: some of its arrays are on the host and some on the GPU; move the model (model.to) or the arrays "
            "(cupy.asarray and .get)"
        )


def _twin(name: str, *args: Any) -> Pair | None:
    if not _switch["twins"]:
        return None
    library = array_module(args[0]).__name__
    if library == "cupy" and not gpu.applies(*args):
        return _without_kernels.get(name)
    return _twins.get((name, library))


def op(name: str) -> Op:
    """Return the op `name`. Raises InputError for a name that `minissl.ops` does not have."""
    if not hasattr(ops, f"{name}_forward"):
        known = sorted(n.removesuffix("_forward") for n in ops.__all__ if n.endswith("_forward"))
        raise InputError(f"no op named {name!r}; minissl.ops has: {', '.join(known)}")
    return Op(name)


def twins() -> dict[tuple[str, str], Pair]:
    """Every faster twin, by (op name, array library)."""
    return dict(_twins)


def enabled() -> bool:
    """Whether twins are used at present."""
    return _switch["twins"]


@contextmanager
def reference_ops() -> Iterator[None]:
    """Run every op as `minissl/ops/` spells it, for the whole process, until the block ends."""
    before = _switch["twins"]
    _switch["twins"] = False
    try:
        yield
    finally:
        _switch["twins"] = before


@contextmanager
def replace_op(name: str, forward: Callable[..., Any], backward: Callable[..., Any]) -> Iterator[None]:
    """Let one's own pair stand in for op `name`, in every model of the process, until the block ends."""
    before = _replaced.get(op(name).name)
    _replaced[name] = Pair(forward, backward)
    try:
        yield
    finally:
        if before is None:
            del _replaced[name]
        else:
            _replaced[name] = before
