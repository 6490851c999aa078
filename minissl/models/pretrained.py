"""What every model shares: a configuration, named weights, and folders that Hugging Face reads too."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, cast, overload

import numpy as np

from minissl.backend import Array, array_module, beside, on_device, require_device, to_host
from minissl.checkpoint import SHARDS, WEIGHTS, Checkpoint, some
from minissl.errors import InputError
from minissl.files import read_json, write_arrays, write_json
from minissl.hub import find_folder
from minissl.models.loading import load
from minissl.nn import Grads, Module, Param, blueprint

DTYPES = ("float32", "float64")
MOST_RATE = 1_000_000  # rates, spreads and epsilons are of order 1 or below; what is far above overflows


class ModelOutput(dict[str, Any]):
    """What a model returns, under Hugging Face's names: `out.loss` and `out["loss"]`."""

    def __getitem__(self, name: str | int | slice) -> Any:
        """Return a field by its name, or by its place: `out[0]`, `out[:2]`."""
        return super().__getitem__(name) if isinstance(name, str) else tuple(self.values())[name]

    def __getattr__(self, name: str) -> Any:
        """Return the field. Raises AttributeError for one that this output does not have."""
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"this output has no {name!r}; it has: {', '.join(self)}") from None


@dataclass
class PreTrainedConfig:
    """A configuration with Hugging Face's field names, read from and written to `config.json`."""

    model_type: ClassVar[str]
    fixed: ClassVar[dict[str, Any]] = {}  # Hugging Face's settings that have one value here
    relatives: ClassVar[tuple[str, ...]] = ()  # other families' model_types, whose encoder this family's models read
    pairs: ClassVar[tuple[str, ...]] = ()  # fields that are one number, or two: (height, width)

    def __post_init__(self) -> None:
        """Raise InputError for a field of another type than its default, a size below 1, a negative or absurd rate."""
        for field in fields(self):
            value, default = getattr(self, field.name), cast(Any, field.default)
            if default is None:  # the family's own check
                continue
            kind = (int, float) if isinstance(default, float) else type(default)
            pair = field.name in self.pairs and isinstance(value, (list, tuple)) and len(value) == 2
            for one in value if pair else [value]:
                if not isinstance(one, kind) or isinstance(one, bool) != isinstance(default, bool):
                    raise InputError(f"config: {field.name} is {value!r}, expected something like {default!r}")
                if kind in (int, (int, float)) and not one >= min(int(default), 1):
                    raise InputError(f"config: {field.name} is {value!r}, expected {min(int(default), 1)} or more")
            if isinstance(default, float) and value > MOST_RATE:
                raise InputError(f"config: {field.name} is {value!r}, expected {MOST_RATE:,} at most")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build from a dictionary; fields that minissl does not use are passed over.

        Raises InputError where it describes another family of models or a value cannot be.
        """
        given = values.get("model_type", cls.model_type)
        if given not in (cls.model_type, *cls.relatives):
            raise InputError(f"config: model_type {given!r} given, {cls.__name__} expects {cls.model_type!r}")
        for name, does in cls.fixed.items():
            if values.get(name, does) != does:
                raise InputError(f"config: {name} is {values[name]!r}; minissl's {cls.__name__} only does {does!r}")
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})

    @classmethod
    def from_pretrained(cls, name_or_folder: str | os.PathLike[str], **changes: Any) -> Self:
        """Read the `config.json` of a folder, or of a model by name; `changes` win over what it says."""
        known = {field.name for field in fields(cls)}
        unknown = [name for name in changes if name not in known]
        if unknown:
            raise TypeError(f"from_pretrained: no argument {unknown[0]!r}, and {cls.__name__} has no such field")
        values = read_json(find_folder(name_or_folder, ["config.json"]) / "config.json")
        if "num_labels" in changes:  # the names are of other labels
            values = {name: value for name, value in values.items() if name not in ("id2label", "label2id")}
        return cls.from_dict(values | changes)

    def to_dict(self) -> dict[str, Any]:
        """All fields, and the `model_type` by which others recognise them."""
        return {"model_type": self.model_type, **asdict(self)}


class PreTrainedModel(Module):
    """A model with a configuration. `renames` turn its parameters' names into Hugging Face's state-dict keys."""

    config_class: ClassVar[type[PreTrainedConfig]]
    renames: ClassVar[tuple[tuple[str, str], ...]] = ()  # replaced one after another in every name
    base_model_prefix: ClassVar[str] = ""  # of the encoder's keys in a model with a head; "": the model_type
    spellings: ClassVar[tuple[tuple[str, str], ...]] = ()  # how others spell a part of a stored key -> the key's own
    aliases: ClassVar[dict[str, str]] = {}  # second state-dict key of a tied weight -> its first
    config: PreTrainedConfig

    def __init__(self, config: PreTrainedConfig, seed: int = 0, dtype: str = "float32"):
        raise NotImplementedError

    def named_parameters(self) -> Iterator[tuple[str, Param]]:
        """Yield (Hugging Face state-dict key, parameter), each parameter once."""
        for name, param in super().named_parameters():
            for ours, theirs in self.renames:
                name = name.replace(ours, theirs)
            yield name, param

    def _with_aliases(self, named: dict[str, Array]) -> dict[str, Array]:
        return named | {alias: named[key] for alias, key in self.aliases.items()}

    def state_dict(self) -> dict[str, Array]:
        """Hugging Face state-dict key -> weight, in Hugging Face's shape; a tied weight has each of its keys."""
        return self._with_aliases({key: param.data for key, param in self.named_parameters()})

    def load_state_dict(self, weights: dict[str, Array]) -> None:
        """Copy weights in, converted to this model's dtype; the aliases of tied weights may be absent.

        Raises InputError naming the keys that are missing, unexpected or of another shape, and for an alias with
        weights of its own; nothing is loaded then.
        """
        params = dict(self.named_parameters())
        missing = [key for key in params if key not in weights]
        unexpected = [key for key in weights if key not in params and key not in self.aliases]
        if missing or unexpected:
            raise InputError(
                f"{type(self).__name__}: weights do not fit; missing: {some(missing)}; unexpected: {some(unexpected)}"
            )
        for key, param in params.items():
            shape = np.shape(to_host(weights[key]))
            if shape != param.data.shape:
                raise InputError(
                    f"{type(self).__name__}: {key} has shape {shape}, the config expects {param.data.shape}"
                )
        for alias, key in self.aliases.items():
            if alias in weights and not np.array_equal(to_host(weights[alias]), to_host(weights[key]), equal_nan=True):
                raise InputError(f"{type(self).__name__}: {alias} differs from {key}, to which it is tied here")
        for key, param in params.items():
            param.data[...] = beside(np.asarray(to_host(weights[key])), param.data)

    def astype(self, dtype: str) -> Self:
        """Convert every weight to float32 or float64, in place."""
        check_dtype(dtype)
        for _, param in self.named_parameters():
            param.replace(param.data.astype(dtype))
        return self

    def to(self, device: str) -> Self:
        """Move every weight to "cpu" or "cuda", in place. Inputs stay NumPy's: they follow once they are checked.

        Raises InputError for another device, and where there is no GPU or no CuPy.
        """
        for _, param in self.named_parameters():
            param.replace(on_device(param.data, device))
        return self

    @property
    def device(self) -> str:
        """Where the weights are: "cpu" or "cuda"."""
        return "cpu" if isinstance(next(self.named_parameters())[1].data, np.ndarray) else "cuda"

    def named_gradients(self, grads: Grads) -> dict[str, Array]:
        """Hugging Face state-dict key -> gradient; tied weights have one gradient under each of their keys."""
        return self._with_aliases({key: grads[param] for key, param in self.named_parameters()})

    @overload
    @classmethod
    def from_pretrained(
        cls, name_or_folder: str | os.PathLike[str], dtype: str = ..., *, device: str = ..., seed: int = ...,
        ignore_mismatched_sizes: bool = ..., output_loading_info: Literal[False] = ..., **changes: Any,
    ) -> Self: ...  # fmt: skip

    @overload
    @classmethod
    def from_pretrained(
        cls, name_or_folder: str | os.PathLike[str], dtype: str = ..., *, device: str = ..., seed: int = ...,
        ignore_mismatched_sizes: bool = ..., output_loading_info: Literal[True], **changes: Any,
    ) -> tuple[Self, dict[str, Any]]: ...  # fmt: skip

    @classmethod
    def from_pretrained(
        cls, name_or_folder: str | os.PathLike[str], dtype: str = "float32", *, device: str = "cpu", seed: int = 0,
        ignore_mismatched_sizes: bool = False, output_loading_info: bool = False, **changes: Any,
    ) -> Self | tuple[Self, dict[str, Any]]:  # fmt: skip
        """Read a folder with `config.json` and `model.safetensors` (or its shards), or a model by name (see `hub`).

        As in Hugging Face, weights that the file lacks are drawn anew (from `seed`), weights in it that the model lacks
        are left, and one warning names both; with `output_loading_info` the result is (model, a dictionary of them).
        The base model reads the file of a model with a head, and the reverse. `changes` are fields of the config.

        Raises InputError where a file is missing or damaged, no weight in it is the model's, a tied weight is there
        twice with other numbers, or a shape differs; with `ignore_mismatched_sizes` that weight is drawn anew. And for
        a `device` as `to` does.
        """
        check_dtype(dtype)
        require_device(device)
        folder = find_folder(name_or_folder, WEIGHTS, ["config.json", SHARDS])
        config = cls.config_class.from_pretrained(folder, **changes)
        with Checkpoint(folder) as checkpoint:
            with blueprint(most=2 * len(checkpoint.tensors) + 1000) as plan:
                model = cls(config, seed=seed, dtype=dtype)
            report = load(model, plan, checkpoint, ignore_mismatched_sizes)
        if report.message:
            warnings.warn(f"{cls.__name__} from {folder}: {report.message}", stacklevel=2)
        model.to(device)
        return (model, report.as_dict()) if output_loading_info else model

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors`, each whole or not at all; Hugging Face opens the folder.

        The model stays where it is; from a device its weights are copied to the host.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {key: param.data for key, param in self.named_parameters()}
        about = {"architectures": [type(self).__name__], "dtype": str(next(iter(weights.values())).dtype)}
        write_json(folder / "config.json", about | self.config.to_dict())
        write_arrays(folder / "model.safetensors", weights, {"format": "pt"})


class LearningModel(PreTrainedModel):
    """A model with losses: what `Trainer` asks for, and `loss_and_grads`."""

    def counts(self, batch: dict[str, Array]) -> dict[str, int]:
        """What each loss of a batch divides by. Raises InputError where nothing is asked."""
        raise NotImplementedError

    def losses_and_backward(
        self, batch: dict[str, Array], counts: dict[str, int], grads: Grads, rng: np.random.Generator | None
    ) -> dict[str, float]:
        """The losses of one share of a batch, divided by the whole batch's `counts`; gradients are added to `grads`."""
        raise NotImplementedError

    def loss_and_grads(self, rng: np.random.Generator | None = None, **batch: Any) -> tuple[float, dict[str, Array]]:
        """Return the total loss and {Hugging Face key: gradient}; with an `rng` there is dropout.

        Takes the inputs and labels that calling the model takes.
        Raises InputError for ids outside the vocabulary, a row of padding alone, or nothing asked.
        """
        grads = Grads(self)
        losses = self.losses_and_backward(batch, self.counts(batch), grads, rng)
        return sum(losses.values()), self.named_gradients(grads)


def check_dtype(dtype: str) -> None:
    """Raise InputError for a dtype that models are not held in."""
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} given, expected one of: {', '.join(DTYPES)}")


def as_array(name: str, values: Any, slip: str = "pad them (the tokenizer's padding=True)") -> Array:
    """Return the values as an array of the host's, where all inputs are checked before a model moves them.

    Raises InputError for rows of different lengths, and for an array on a device.
    """
    if array_module(values).__name__ != "numpy":
        raise InputError(
            f"{name}: an array on the GPU given, expected NumPy's, for inputs are checked on the host; give "
            f"{name}.get(), and a model on the GPU moves it there itself"
        )
    try:
        return np.asarray(values)
    except ValueError as error:
        raise InputError(f"{name}: the rows differ in length; {slip}") from error
