"""An exhibit: a wrong implementation, kept as one small textual slip in the source of a function of minissl."""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pkgutil import resolve_name
from typing import Any, NamedTuple

from minissl import ops
from minissl.kernels import Pair, replace_op


class Slip(NamedTuple):
    """In the source of the function at `place`, `old` occurs once and becomes `new`."""

    place: str  # "minissl.ops.linear.linear_backward", "minissl.nn.transformer.TransformerLayer.backward"
    old: str
    new: str


@dataclass(frozen=True)
class Exhibit:
    """One wrong implementation and what is known of it.

    `kind` is what the gradient checker should call it (`forward_differs`: the forward is wrong), or "pipeline" for a
    step that has no gradient. `story`: how it happens. `training`: what one sees who trains with it, where
    "2.74 for 2.67 nats" is the wrong one's held-out loss beside the right one's in a race (400 steps, seed 0). `more`:
    further slips that belong to the first. `setting`: what its race needs that others do not (`museum.tasks.Setting`).
    """

    name: str
    place: str
    old: str
    new: str
    kind: str
    story: str
    training: str
    source: str = ""
    more: tuple[Slip, ...] = ()
    setting: Mapping[str, Any] = field(default_factory=dict)

    @property
    def slips(self) -> list[Slip]:
        """All slips, the first one first."""
        return [Slip(self.place, self.old, self.new), *self.more]

    @property
    def module(self) -> str:
        """The module in which the first slip is."""
        return str(resolve_name(self.place).__module__)

    @property
    def is_gradient_bug(self) -> bool:
        """Whether it is the backward that is wrong, which the gradient checker should call by its kind."""
        return self.kind not in ("forward_differs", "not_finite", "pipeline")

    @property
    def op(self) -> str | None:
        """The op whose forward or backward this is; None where it is no op's."""
        module, _, function = self.place.rpartition(".")
        return function.rpartition("_")[0] if module.startswith("minissl.ops.") else None

    def build(self) -> Any:
        """Compile the wrong function, or for an op its pair; nothing else in the process is touched."""
        if self.op is None:
            return _compiled(self.place, rewritten(self.slips)[self.place][1])
        functions = wrong_module(self.slips)
        return Pair(functions[f"{self.op}_forward"], functions[f"{self.op}_backward"])

    def diff(self) -> str:
        """Return the unified diff of the function's source, right to wrong."""
        lines: list[str] = []
        for place, (right, wrong) in rewritten(self.slips).items():
            lines += difflib.unified_diff(right.splitlines(), wrong.splitlines(), place, "with the slip", lineterm="")
        return "\n".join(lines)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Put the wrong function in place of the right one, in the whole process, until the block ends."""
        wrong = [(place, _compiled(place, source)) for place, (_, source) in rewritten(self.slips).items()]
        with ExitStack() as stack:
            for place, function in wrong:
                stack.enter_context(_standing_in(place, function))
            for name in _ops_that_run([function for _, function in wrong]):
                forward, backward = (getattr(ops, f"{name}_{way}") for way in ("forward", "backward"))
                stack.enter_context(replace_op(name, forward, backward))  # a faster twin would hide the slip
            yield


def rewritten(slips: Iterable[Slip]) -> dict[str, tuple[str, str]]:
    """Each function's source, right and wrong, by place. Raises ValueError where `old` does not occur exactly once."""
    sources: dict[str, tuple[str, str]] = {}
    for place, old, new in slips:
        if place not in sources:
            source = textwrap.dedent(inspect.getsource(resolve_name(place)))
            sources[place] = source, source
        right, wrong = sources[place]
        if wrong.count(old) != 1:
            raise ValueError(f"{old!r} occurs {wrong.count(old)} times in {place}; has the code changed?")
        sources[place] = right, wrong.replace(old, new)
    return sources


def wrong_module(slips: Iterable[Slip]) -> dict[str, Any]:
    """Compile a whole module anew with the slips in its functions, and return its names."""
    sources = rewritten(slips)
    module = importlib.import_module(next(iter(sources)).rpartition(".")[0])
    source = inspect.getsource(module)
    for right, wrong in sources.values():
        source = source.replace(right, wrong)
    namespace: dict[str, Any] = {"__name__": f"{module.__name__} with a slip"}
    exec(compile(source, f"<{namespace['__name__']}>", "exec"), namespace)
    return namespace


def _compiled(place: str, source: str) -> Callable[..., Any]:
    """Compile one function or method, which sees the names of its module as they are when it runs."""
    own: dict[str, Any] = {}
    exec(compile(source, f"<{place} with a slip>", "exec"), resolve_name(place).__globals__, own)
    function: Callable[..., Any] = own[place.rpartition(".")[2]]
    return function


@contextmanager
def _standing_in(place: str, wrong: Callable[..., Any]) -> Iterator[None]:
    owner, _, name = place.rpartition(".")
    right = vars(resolve_name(owner))[name]
    if isinstance(resolve_name(owner), type):
        setattr(resolve_name(owner), name, wrong)
        try:
            yield
        finally:
            setattr(resolve_name(owner), name, right)
    else:
        _exchange(right, wrong)
        try:
            yield
        finally:
            _exchange(wrong, right)


def _exchange(old: Any, new: Any) -> None:
    """Let every name in minissl's modules that means `old` mean `new`, wherever it was imported."""
    for module_name, module in list(sys.modules.items()):
        if module_name.partition(".")[0] == "minissl":
            for name, value in list(vars(module).items()):
                if value is old:
                    setattr(module, name, new)


def _ops_that_run(functions: list[Callable[..., Any]]) -> list[str]:
    """Name the ops in whose modules one of the functions stands, and which may therefore call it."""
    names = [name.removesuffix("_forward") for name in ops.__all__ if name.endswith("_forward")]
    modules = {name: sys.modules[getattr(ops, f"{name}_forward").__module__] for name in names}
    return [
        name for name in names if any(value in functions for value in vars(modules[name]).values() if callable(value))
    ]
