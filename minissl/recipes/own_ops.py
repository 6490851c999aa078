"""`minissl pretrain --with FILE`: a person's own pairs in place of minissl's ops, read, checked and watched.

FILE is the person's own, on their own machine: it runs in this process, as `python FILE` would run it.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import sys
import textwrap
import traceback
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minissl import ops
from minissl.backend import Array
from minissl.errors import InputError
from minissl.files import write_whole
from minissl.gradcheck import check, op_cases
from minissl.gradcheck.kinds import NOTES
from minissl.kernels import Pair, replace_op
from minissl.nn import Grads

COPY = "own_ops.py"  # the file's copy in the run's folder
SAME_GRADIENT = 1e-4  # two right ways to compute a model's gradient in float32 differ by about 3e-7
REHEARSAL_ROWS = 3  # not the number of heads, so that an exchange of the two axes shows

# The ops that a BERT runs, each with the shape of its y.
SHAPES: dict[str, Callable[..., tuple[int, ...]]] = {
    "embedding": lambda ids, weight: (*ids.shape, weight.shape[1]),
    "layer_norm": lambda x, *_: x.shape,
    "dropout": lambda x, *_: x.shape,
    "linear": lambda x, weight, bias: (*x.shape[:-1], weight.shape[0]),
    "attention": lambda q, k, v, *_: (*q.shape[:-1], v.shape[-1]),
    "gelu": lambda x: x.shape,
    "take_positions": lambda x, positions: (len(positions), x.shape[-1]),
    "masked_cross_entropy": lambda *_: (),
    "tanh": lambda x: x.shape,
    "cross_entropy": lambda *_: (),
}
WHY_NOT = {
    "dropout": "--dropout is 0",
    "tanh": "there is no next sentence prediction",
    "cross_entropy": "there is no next sentence prediction",
    "softmax": "attention has its softmax inside",
}


def ops_that_run(nsp: bool, dropout: bool) -> list[str]:
    """The ops that training a BERT runs, forward and backward, with next sentence prediction or dropout or without."""
    resting = set() if nsp else {"tanh", "cross_entropy"}
    return [name for name in SHAPES if name not in resting and (dropout or name != "dropout")]


class OwnOpError(InputError):
    """A person's own op did inside a model what no op may do."""


class OwnCache(NamedTuple):
    """The cache that a person's forward returned, and what each gradient must be like."""

    cache: Any
    shapes: dict[str, tuple[int, ...]]  # of the floating-point arrays that went in, by name
    dtype: np.dtype[Any]

    @property
    def weights(self) -> Array | None:
        """The attention weights, where `cache.weights` is of their shape."""
        weights, q, k = getattr(self.cache, "weights", None), self.shapes["q"], self.shapes["k"]
        return weights if isinstance(weights, np.ndarray) and weights.shape == (*q[:-1], k[-2]) else None


class OwnPair:
    """A person's pair for one op. `functions` are theirs; `forward` and `backward` watch what those return.

    Another float dtype is cast to that of the inputs, and noted in `cast`: the other layers stay as they are.
    Both raise OwnOpError for an exception inside, and for what is no array of the expected shape.
    """

    def __init__(self, op: str, file: Path, functions: Pair):
        self.op, self.file, self.functions = op, file, functions
        self.names = list(inspect.signature(getattr(ops, f"{op}_forward")).parameters)
        self.cast: dict[str, str] = {}
        self.without_dropout = False

    def forward(self, *args: Any) -> tuple[Array, OwnCache]:
        """Run the person's forward."""
        returned = self._call(self.functions.forward, *args)
        if not isinstance(returned, tuple) or len(returned) != 2:
            raise self._error("forward", f"{type(returned).__name__}, expected the pair (y, cache)")
        arrays = {n: a for n, a in zip(self.names, args, strict=False) if isinstance(a, np.ndarray)}
        floats = {name: a for name, a in arrays.items() if a.dtype.kind == "f"}
        dtype = next(iter(floats.values())).dtype
        y = self._fit("forward", "y", returned[0], SHAPES[self.op](*args), dtype)
        return y, OwnCache(returned[1], {name: a.shape for name, a in floats.items()}, dtype)

    def backward(self, dy: Any, cache: OwnCache) -> Any:
        """Run the person's backward."""
        returned = self._call(self.functions.backward, dy, cache.cache)
        gradients = list(returned) if isinstance(returned, (tuple, list)) else [] if returned is None else [returned]
        if len(gradients) != len(cache.shapes):
            raise self._error("backward", f"{len(gradients)} gradients, expected those of {', '.join(cache.shapes)}")
        fitted = [
            self._fit("backward", f"d{name}", gradient, shape, cache.dtype)
            for gradient, (name, shape) in zip(gradients, cache.shapes.items(), strict=True)
        ]
        return tuple(fitted) if len(fitted) > 1 else fitted[0]

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return function(*args)
        except MemoryError:  # of the model as a whole
            raise
        except (Exception, SystemExit) as error:
            raise OwnOpError(f"{_explain(error, self.file)} (in the model, for the op {self.op})") from error

    def _fit(self, which: str, what: str, value: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        if not (isinstance(value, float) or hasattr(value, "__array__")):
            raise self._error(which, f"{type(value).__name__} for {what}, expected an array")
        array = np.asarray(value)
        if array.shape != shape or array.dtype.kind != "f":
            raise self._error(which, f"{what} {array.shape} {array.dtype}, expected {shape} {dtype}")
        if array.ndim and array.dtype != dtype:
            self.cast[which] = str(array.dtype)
        return np.require(array, dtype, ["W", "E"])  # writeable, and no subclass: layers may add to it

    def _error(self, which: str, returned: str) -> OwnOpError:
        return OwnOpError(f"{self.file}: {self.op}_{which} returned {returned}")


@dataclass(frozen=True)
class OwnOps:
    """What a file holds: the pairs of ops that run, and the names of those that take no part."""

    file: Path
    source: bytes
    pairs: dict[str, OwnPair]
    resting: list[str]

    def __str__(self) -> str:
        return f"{', '.join(self.pairs)} ({self.file})"

    @property
    def settings(self) -> dict[str, str]:
        """What a run's settings keep."""
        return {"file": self.file.name, "sha256": hashlib.sha256(self.source).hexdigest()}

    def keep(self, folder: Path) -> None:
        """Copy the file into the run's folder."""
        write_whole(folder / COPY, self.source)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Run the pairs in place of minissl's, in the whole process, until the block ends."""
        with ExitStack() as stack:
            for name, pair in self.pairs.items():
                stack.enter_context(replace_op(name, pair.forward, pair.backward))
            yield


def load_own_ops(file: Path, running: list[str]) -> OwnOps:
    """Run the file and take its pairs `NAME_forward`, `NAME_backward` for the ops that are `running`.

    Raises InputError for a file that cannot be read or run, without a pair that would run, with half a pair, with a
    pair for an op that does not exist, or with other parameters than the op's.
    """
    source, text = _read(file)
    module = types.ModuleType(Path(COPY).stem)
    module.__file__ = str(file)
    sys.modules[module.__name__] = module  # where dataclasses look for it
    try:
        exec(compile(text, str(file), "exec", dont_inherit=True), vars(module))
    except (Exception, SystemExit) as error:
        alone = isinstance(error, ModuleNotFoundError)
        hint = "; a run keeps this one file, so what you wrote must all stand in it" if alone else ""
        raise InputError(f"{_explain(error, file)}{hint}") from error
    pairs, resting = _pairs(module, file, running)
    return OwnOps(file, source, pairs, resting)


def load_kept_own_ops(folder: Path, sha256: str, running: list[str]) -> OwnOps:
    """Take the pairs of a run that goes on from the copy in its folder. Raises InputError where that was changed."""
    source, _ = _read(folder / COPY)
    if hashlib.sha256(source).hexdigest() != sha256:
        raise InputError(
            f"{folder / COPY}: has changed since this run began, so it cannot go on as it would have; "
            f"start another run with --with {folder / COPY}"
        )
    return load_own_ops(folder / COPY, running)


def _read(file: Path) -> tuple[bytes, str]:
    wanted = "--with takes one Python file, with NAME_forward and NAME_backward for an op"
    if file.suffix == ".ipynb":
        raise InputError(f"{file}: is a notebook; copy its two functions into a .py file")
    try:
        source = file.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{file}: no such file; {wanted}") from None
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); {wanted}") from None
    try:
        return source, source.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not UTF-8: byte {error.start} is {source[error.start]:#04x}; {wanted}") from None


def _explain(error: BaseException, file: Path) -> str:
    """Say in one line where in the file an exception arises, of which type it is, and its message."""
    inside = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == str(file)]
    message = str(error)
    if isinstance(error, SyntaxError) and error.filename == str(file):
        inside, message = [error.lineno or 1], error.msg
    elif isinstance(error, InputError) and not inside:  # minissl's own word on what a function returned
        return f"{file}: {message}"
    where = f", line {inside[-1]}" if inside else ""
    said = f"{type(error).__name__}: {message}" if message.strip() else type(error).__name__
    return f"{file}{where}: {textwrap.shorten(said, 400, placeholder=' …')}"


def _pairs(module: types.ModuleType, file: Path, running: list[str]) -> tuple[dict[str, OwnPair], list[str]]:
    found = {name: f for name, f in vars(module).items() if callable(f)}
    own = [name for name, f in found.items() if getattr(ops, name, None) is not f]  # what comes from minissl is no pair
    names = dict.fromkeys(n.rsplit("_", 1)[0] for n in own if n.endswith(("_forward", "_backward")) and n[0] != "_")
    pairs: dict[str, OwnPair] = {}
    resting = []
    for name in names:
        halves = [f"{name}_forward", f"{name}_backward"]
        missing = [half for half in halves if half not in found]
        if name in running:
            if missing:
                there = next(half for half in halves if half in found)
                meant = get_close_matches(missing[0], own, n=1, cutoff=0.8)
                hint = f"; is {meant[0]} meant to be it?" if meant and meant[0] != there else ""
                raise InputError(f"{file}: has {there} but no {missing[0]}; an op is a pair of both{hint}")
            pairs[name] = OwnPair(name, file, Pair(*(found[half] for half in halves)))
            _require_parameters(pairs[name], running)
        elif missing:
            continue  # a helper's name
        elif hasattr(ops, f"{name}_forward"):
            resting.append(name)
        else:
            close = get_close_matches(name, running, n=1)
            hint = f"did you mean {close[0]}?" if close else "a helper of your own needs another name"
            raise InputError(f"{file}: {name} is no op of minissl ({hint}); this BERT runs {', '.join(running)}")
    if pairs:
        return pairs, resting
    if resting:
        why = "; ".join(f"{name}: {_why_not(name)}" for name in resting)
        raise InputError(f"{file}: nothing in it would ever run ({why}); this BERT runs {', '.join(running)}")
    defined = [name for name in own if getattr(found[name], "__module__", None) == module.__name__]
    shown = ", ".join(defined[:8]) + (", …" if len(defined) > 8 else "")
    raise InputError(
        f"{file}: has no pair NAME_forward, NAME_backward for an op; this BERT runs {', '.join(running)}; "
        f"the file defines {shown or 'no function'}"
    )


def _why_not(name: str) -> str:
    return WHY_NOT.get(name, "BERT has none")


def _require_parameters(pair: OwnPair, running: list[str]) -> None:
    """Raise InputError where the model could not call the pair as it calls the op.

    Attention may leave out `rate` and `rng`, as the exercise does, where there is no dropout.
    """
    op = inspect.signature(getattr(ops, f"{pair.op}_forward"))
    try:
        forward, backward = (inspect.signature(function) for function in pair.functions)
    except ValueError:
        raise InputError(f"{pair.file}: {pair.op} is not a pair of Python functions; write both with def") from None
    names, required = list(op.parameters), [p for p in op.parameters.values() if p.default is p.empty]
    if list(forward.parameters) == names[:-2] == ["q", "k", "v", "mask"] and "dropout" not in running:
        own = pair.functions.forward
        pair.functions = pair.functions._replace(forward=lambda q, k, v, mask=None, *_: own(q, k, v, mask))
        pair.without_dropout = True
    elif list(forward.parameters)[: len(names)] != names or not _takes(forward, len(names), len(required)):
        raise _other_parameters(pair, "forward", forward, _spelled(op))
    if not _takes(backward, 2):
        raise _other_parameters(pair, "backward", backward, "(dy, cache)")


def _other_parameters(pair: OwnPair, which: str, given: inspect.Signature, expected: str) -> InputError:
    name = f"{pair.op}_{which}"
    return InputError(f"{pair.file}: has {name}{_spelled(given)}, expected {name}{expected}, as the model calls it")


def _takes(signature: inspect.Signature, *counts: int) -> bool:
    try:
        for count in counts:
            signature.bind(*range(count))
    except TypeError:
        return False
    return True


def _spelled(signature: inspect.Signature) -> str:
    empty = inspect.Parameter.empty
    parameters = [p.replace(annotation=empty) for p in signature.parameters.values()]
    return textwrap.shorten(str(inspect.Signature(parameters)), 200, placeholder=" …")


def check_own_ops(own: OwnOps, say: Callable[[str], None]) -> bool:
    """Check each pair on minissl's own cases of its op; say what is wrong, and return whether nothing is.

    Raises InputError for a pair that runs on no case.
    """
    right = True
    for pair in own.pairs.values():
        cases = [case for case in op_cases() if case.op == pair.op]
        if pair.without_dropout:
            cases = [case for case in cases if "rng" not in case.inputs]
        said: dict[tuple[str, str], str] = {}
        wrong, raised = 0, []
        for case in cases:
            # another way to draw which entries are dropped is as right as minissl's
            reference = None if "rng" in case.inputs else case.forward
            try:
                with np.errstate(all="ignore"):  # a number that is not finite is a finding
                    report = check(*pair.functions, case.inputs, reference=reference)
            except (Exception, SystemExit) as error:
                raised.append(_explain(error, own.file))
                said.setdefault(("raises", type(error).__name__), f"  {raised[-1]} (case {case.label})")
                continue
            wrong += not report.ok
            for f in report.findings:
                if f.kind not in NOTES:
                    said.setdefault((f.kind, f.argument), f"  {f.kind}: {f.message} (case {case.label})")
        if len(raised) == len(cases):
            raise InputError(
                f"{raised[0]}; no case of {pair.op}'s gradient check runs, so no model could train with it"
            )
        if said:
            right = False
            say(f"{pair.op}: your pair is wrong in {wrong + len(raised)} of {len(cases)} cases")
            for line in said.values():
                say(line)
        else:
            say(f"{pair.op}: your pair agrees with minissl's ({len(cases)} cases)")
    for name in own.resting:
        say(f"{name}: your pair takes no part ({_why_not(name)})")
    return right


def rehearse(own: OwnOps, model: Any, batch: dict[str, Array], right: bool, say: Callable[[str], None]) -> None:
    """Try the pairs on a few rows inside a copy of the model; say what to know before training.

    Raises OwnOpError for what would end the training at its first step.
    """
    rows = {name: array[:REHEARSAL_ROWS] for name, array in batch.items()}
    model = copy.deepcopy(model)

    def gradient() -> Array:
        grads = Grads(model)
        with np.errstate(all="ignore"):
            model.losses_and_backward(rows, model.counts(rows), grads, np.random.default_rng(0))
        return grads.collect()

    theirs = gradient()
    with own.in_place():
        mine = gradient()
    for name, cast in ((pair.op, pair.cast) for pair in own.pairs.values() if pair.cast):
        who, dtypes = " and ".join(sorted(cast, reverse=True)), " and ".join(sorted(set(cast.values())))
        say(
            f"{name}: your {who} made {dtypes} of float32; it is cast back, which costs time "
            "(np.sqrt(2) is a float64 and makes a product one, math.sqrt(2) does not)"
        )
    drawn = model.config.hidden_dropout_prob > 0 and {"attention", "dropout"} & own.pairs.keys()
    off = float(np.linalg.norm(mine - theirs) / np.linalg.norm(theirs))
    if not drawn and not off <= SAME_GRADIENT:
        slip = "; each call must keep what its backward needs in its own cache, not in a global" if right else ""
        say(f"on the first rows of text, the model's gradient differs from minissl's by {off:.2%}{slip}")
    if not right:
        say("training goes on with it, so that you can see what it does")
