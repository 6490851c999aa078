"""A checkpoint's weights into a model: which stored name is which weight, what is missing, and the reading."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import accumulate
from mmap import ACCESS_COPY, mmap
from typing import TYPE_CHECKING, Any

import numpy as np

from minissl.backend import Array
from minissl.checkpoint import Checkpoint, some
from minissl.errors import InputError
from minissl.nn.layers import Blueprint
from minissl.tensor_file import FLOATS, shown

if TYPE_CHECKING:
    from minissl.models.pretrained import PreTrainedModel

MOST_DRAWN = 10  # numbers drawn anew for one in the file; beyond it, the config is not of this file
ALIGNED = 64  # bytes; where an array may begin, for vector instructions
FEW = 1 << 20  # numbers that may be drawn anew in any case


@dataclass
class Report:
    """What did not fit: keys of the model that have no weights or others', and keys that it has no use for."""

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    mismatched: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)  # key, theirs, ours

    def as_dict(self) -> dict[str, Any]:
        """Hugging Face's `output_loading_info`."""
        return {
            "missing_keys": set(self.missing),
            "unexpected_keys": set(self.unexpected),
            "mismatched_keys": set(self.mismatched),
            "error_msgs": [],
        }

    @property
    def message(self) -> str:
        """One line for a warning; empty where all fits."""
        said = []
        if self.missing:
            said.append(f"not in the file, so drawn anew: {some(self.missing)}")
        if self.mismatched:
            said.append(f"of another shape, so drawn anew: {some([key for key, *_ in self.mismatched])}")
        if self.unexpected:
            said.append(f"in the file, not used: {some(self.unexpected)}")
        return "; ".join(said)


def load(model: PreTrainedModel, plan: Blueprint, checkpoint: Checkpoint, ignore_mismatched_sizes: bool) -> Report:
    """Read a checkpoint straight into the final arrays of a model that was made within a `blueprint`, in file order.

    Everything is compared with the headers before any array is made, so a config of absurd sizes costs nothing.
    Raises InputError as `from_pretrained` says.
    """
    kind, params = type(model).__name__, dict(model.named_parameters())
    stored, unexpected = match_names(model, [*params, *model.aliases], checkpoint)
    report = Report(unexpected=unexpected)
    read: dict[str, str] = {}  # the model's key -> the stored name
    again: list[tuple[str, str]] = []  # the same for a tied weight that is there twice
    for key, param in params.items():
        keys = [key, *(alias for alias, first in model.aliases.items() if first == key)]
        names = [stored[k] for k in keys if k in stored]
        for name in names:
            tensor = checkpoint.tensors[name]
            if tensor.dtype not in FLOATS:
                raise InputError(
                    f"{kind}: {shown(name)} is stored as {tensor.dtype}, expected one of {', '.join(FLOATS)}"
                )
            if tensor.shape != plan.shapes[param]:
                report.mismatched.append((key, tensor.shape, plan.shapes[param]))
            elif key in read:
                again.append((key, name))
            else:
                read[key] = name
        if not names:
            report.missing += keys
    if report.mismatched and not ignore_mismatched_sizes:
        key, theirs, ours = report.mismatched[0]
        more = f" ({len(report.mismatched) - 1} more differ)" if len(report.mismatched) > 1 else ""
        raise InputError(
            f"{kind}: {key} has shape {theirs}, the config expects {ours}{more}; "
            "is it this file's config? (ignore_mismatched_sizes=True draws such weights anew)"
        )
    if not read:
        raise InputError(
            f"{kind}: no weight in {checkpoint.folder} is one of its own; there are {some(list(checkpoint.tensors))}; "
            "is it another architecture?"
        )
    drawn = {key: param for key, param in params.items() if key not in read}
    numbers = sum(math.prod(plan.shapes[param]) for param in drawn.values())
    if numbers > FEW + MOST_DRAWN * sum(math.prod(tensor.shape) for tensor in checkpoint.tensors.values()):
        raise InputError(
            f"{kind}: the config asks for {numbers} numbers that are not in {checkpoint.folder}, far more than are; "
            "is it this file's config?"
        )
    wanted = [params[key] for key in read]
    for param, data in zip(wanted, _allocate([plan.shapes[p] for p in wanted], wanted[0].data.dtype), strict=True):
        param.data = data
    for key, name in sorted(read.items(), key=lambda item: _place(checkpoint, item[1])):
        checkpoint.home[name].read_into(name, params[key].data)
    for key, name in again:
        if not _equal(checkpoint, name, params[key].data):
            raise InputError(f"{kind}: {shown(name)} differs from {key}, to which it is tied here")
    for param in drawn.values():
        plan.draw(param)
    return report


def match_names(model: PreTrainedModel, keys: list[str], checkpoint: Checkpoint) -> tuple[dict[str, str], list[str]]:
    """Return {the model's key: stored name}, and what else is stored, by its name of today.

    The first BERTs have gamma and beta for what are now weight and bias; a model with a head has its base model's keys
    under a prefix, `bert.`, which the base model's own file lacks. The constant `position_ids` is passed over.
    Raises InputError where two stored names are one key.
    """
    prefix, known = f"{model.base_model_prefix or model.config.model_type}.", set(keys)
    found: dict[str, str] = {}
    unexpected = []
    for name in checkpoint.tensors:
        key = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        for theirs, ours in model.spellings:
            key = key.replace(theirs, ours)
        if key.removeprefix(prefix) in known:
            key = key.removeprefix(prefix)
        elif prefix + key in known:
            key = prefix + key
        if key in found:
            raise InputError(
                f"{type(model).__name__}: {shown(found[key])} and {shown(name)} are the same weight, {key}"
            )
        if key in known:
            found[key] = name
        elif key.rpartition(".")[2] != "position_ids":
            unexpected.append(key)
    return found, unexpected


def _allocate(shapes: list[tuple[int, ...]], dtype: np.dtype[Any]) -> list[Array]:
    """Make the arrays as views of one anonymous mapping, which has pages like those of `read_bytes`.

    For large arrays NumPy asks the system for huge pages. On a busy machine, making and zeroing those took a load of
    440 MB between 0.1 and 0.6 s of processor time; ordinary pages take the 0.18 s of reading, every time.
    """
    starts = [0, *accumulate(-(-math.prod(shape) * dtype.itemsize // ALIGNED) * ALIGNED for shape in shapes)]
    memory = mmap(-1, max(starts[-1], 1), access=ACCESS_COPY)  # private, not shared with processes forked later
    return [
        np.frombuffer(memory, dtype, math.prod(shape), start).reshape(shape)
        for shape, start in zip(shapes, starts[:-1], strict=True)
    ]


def _place(checkpoint: Checkpoint, name: str) -> tuple[str, int]:
    return str(checkpoint.home[name].path), checkpoint.tensors[name].start


def _equal(checkpoint: Checkpoint, name: str, array: Array) -> bool:
    """Compare a stored tensor with an array, piece by piece, so that it is never in memory as a whole."""
    flat = array.reshape(-1)
    return all(
        np.array_equal(piece.astype(flat.dtype), flat[start : start + piece.size], equal_nan=True)
        for start, piece in checkpoint.home[name].pieces(name)
    )
