"""`Param`, `Module` and `Grads`: who owns the weights, and who owns their gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

from minissl.backend import Array, array_module
from minissl.errors import InputError
from minissl.kernels.rows import RowGradient


class Param:
    """A trainable array. `decay` says whether weight decay applies: to matrices, not to biases and gains."""

    def __init__(self, data: Array, decay: bool):
        self.data = data
        self.decay = decay
        self.packed: Packed | None = None

    def replace(self, data: Array) -> None:
        """Hold another array, and the flat buffer of the one before no longer."""
        if data is not self.data:
            self.data, self.packed = data, None

    @property
    def place(self) -> Packed | None:
        """Where in a flat buffer the numbers are, as long as they are there."""
        return self.packed if self.packed is not None and self.packed.view is self.data else None

    def __getstate__(self) -> dict[str, Any]:
        """A copy is packed nowhere: its array is no view of its copy of the flat buffer."""
        return {**vars(self), "packed": None}


class Packed(NamedTuple):
    """Where `Module.pack` put a parameter: its view, and where that begins in which flat buffer."""

    view: Array
    flat: Array
    start: int
    stop: int


class Module:
    """Owns parameters and other modules, as attributes, or lists or dicts of modules; names are the attributes'."""

    def children(self) -> Iterator[tuple[str, Param | Module]]:
        """Yield (name, parameter or module) of this module alone, in the order in which they were set."""
        for name, value in vars(self).items():
            if isinstance(value, (Param, Module)):
                yield name, value
            elif isinstance(value, list):
                yield from ((f"{name}.{i}", item) for i, item in enumerate(value) if isinstance(item, Module))
            elif isinstance(value, dict):
                yield from ((f"{name}.{key}", item) for key, item in value.items() if isinstance(item, Module))

    def named_parameters(self) -> Iterator[tuple[str, Param]]:
        """Yield (dotted name, parameter), each parameter once: a tied one under the first of its names."""
        seen: set[int] = set()
        for name, param in self._walk(""):
            if id(param) not in seen:
                seen.add(id(param))
                yield name, param

    def _walk(self, prefix: str) -> Iterator[tuple[str, Param]]:
        for name, child in self.children():
            if isinstance(child, Param):
                yield prefix + name, child
            else:
                yield from child._walk(f"{prefix}{name}.")

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """Yield (dotted name, module) for everything inside, innermost first, in the order in which they were set."""
        for name, child in self.children():
            if isinstance(child, Module):
                yield from child.named_modules(f"{prefix}{name}.")
                yield prefix + name, child

    def pack(self) -> Array:
        """Move every parameter into one flat buffer (decayed ones first), which is returned; `data` become views.

        One buffer lets the optimiser, the clipping and a checkpoint each be a single pass. What is packed stays there.
        """
        params = packing_order(self)
        places = [param.place for param in params]
        if _neighbours(places) and places[0] and places[0].flat.size == sum(p.data.size for p in params):
            return places[0].flat
        flat = array_module(params[0].data).concatenate([p.data.reshape(-1) for p in params])
        start = 0
        for param, view in zip(params, _views(flat, params), strict=True):
            param.data, param.packed = view, Packed(view, flat, start, start + view.size)
            start += view.size
        return flat


class Grads:
    """A gradient for every parameter of a module: one flat buffer, laid out as by `Module.pack`."""

    loss_scale = 1.0  # where a model's backward starts: dL/dL, or what float16 needs every gradient multiplied by

    def __init__(self, module: Module):
        """`added`, where it is set, is called with each parameter after a gradient was added to it."""
        self.added: Callable[[Param], None] | None = None
        params = packing_order(module)
        first = params[0].data
        self.flat: Array = array_module(first).zeros(sum(p.data.size for p in params), first.dtype)
        self._views = dict(zip(params, _views(self.flat, params), strict=True))
        self._written: set[Param] = set()

    def add(self, param: Param, gradient: Array | RowGradient) -> None:
        """Add to the parameter's gradient: a parameter used twice gets the sum of both.

        Nobody changes `gradient` afterwards, for it may be added later (`training.pairs`).
        Raises InputError for a gradient of another shape, which NumPy would broadcast in silence.
        """
        view, first = self._views[param], param not in self._written
        require_shape(param, gradient)
        self._written.add(param)
        if isinstance(gradient, RowGradient):
            if first:
                view[...] = 0
            view[gradient.ids] += gradient.rows
        elif first:  # overwrites what the step before left, which saves a pass that zeroes the buffer
            view[...] = gradient
        else:
            view += gradient
        if self.added is not None:
            self.added(param)

    def has(self, param: Param) -> bool:
        """Whether a gradient was added to the parameter in this step."""
        return param in self._written

    def add_both(self, param: Param, a: Array, b: Array) -> None:
        """Add a + b in one pass, of which neither is changed."""
        view = self._views[param]
        if param in self._written:
            view += a + b
        else:
            self._written.add(param)
            array_module(view).add(a, b, out=view)

    def __getitem__(self, param: Param) -> Array:
        """Return the parameter's gradient so far."""
        view = self._views[param]
        return view if param in self._written else array_module(view).zeros(view.shape, view.dtype)

    def settle(self) -> None:
        """Nothing waits to be added; in `training.pairs` something does."""

    def collect(self) -> Array:
        """Return the flat buffer, with zeros for the parameters that nothing reached, and start afresh."""
        for param, view in self._views.items():
            if param not in self._written:
                view[...] = 0
        self._written.clear()
        return self.flat


def require_shape(param: Param, gradient: Array | RowGradient) -> None:
    """Raise InputError for a gradient of another shape than its parameter's."""
    if gradient.shape != param.data.shape:
        raise InputError(f"a gradient of shape {gradient.shape} was added to a parameter of shape {param.data.shape}")


def as_one(params: list[Param]) -> Array:
    """The parameters' arrays, one under the other: a view where `Module.pack` made them neighbours, or else a copy."""
    first, last = params[0].place, params[-1].place
    if not first or not last or not _neighbours([param.place for param in params]):
        return array_module(params[0].data).concatenate([param.data for param in params])
    return first.flat[first.start : last.stop].reshape(-1, *params[0].data.shape[1:])


def _neighbours(places: list[Packed | None]) -> bool:
    """Whether all are in one flat buffer, each where the one before it ends."""
    return all(places) and all(a and b and a.flat is b.flat and a.stop == b.start for a, b in pairwise(places))


def packing_order(module: Module) -> list[Param]:
    """The parameters in the order of the flat buffer: those with weight decay first, so that each part is a slice."""
    params = [p for _, p in module.named_parameters()]
    return sorted(params, key=lambda p: not p.decay)


def _views(flat: Array, params: list[Param]) -> Iterator[Any]:
    start = 0
    for param in params:
        yield flat[start : start + param.data.size].reshape(param.data.shape)
        start += param.data.size
