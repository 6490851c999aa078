"""What every model shares: a configuration, named weights, and folders that Hugging Face reads too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np

from minissl.backend import Array
from minissl.errors import InputError
from minissl.files import read_arrays, read_json, write_arrays, write_json
from minissl.nn import Grads, Module, Param

DTYPES = ("float32", "float64")


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

    def __post_init__(self) -> None:
        """Raise InputError for a field of another type than its default, a size below 1 or a negative number."""
        for field in fields(self):
            value, default = getattr(self, field.name), cast(Any, field.default)
            if default is None:  # the family's own check
                continue
            kind = (int, float) if isinstance(default, float) else type(default)
            if not isinstance(value, kind) or isinstance(value, bool):
                raise InputError(f"config: {field.name} is {value!r}, expected something like {default!r}")
            if isinstance(default, (int, float)) and not value >= min(int(default), 1):
                raise InputError(f"config: {field.name} is {value!r}, expected {min(int(default), 1)} or more")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build from a dictionary; fields that minissl does not use are passed over.

        Raises InputError where it describes another family of models or a value cannot be.
        """
        given = values.get("model_type", cls.model_type)
        if given != cls.model_type:
            raise InputError(f"config: model_type {given!r} given, {cls.__name__} expects {cls.model_type!r}")
        for name, does in cls.fixed.items():
            if values.get(name, does) != does:
                raise InputError(f"config: {name} is {values[name]!r}; minissl's {cls.__name__} only does {does!r}")
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Read `config.json` in a folder."""
        return cls.from_dict(read_json(Path(folder) / "config.json"))

    def to_dict(self) -> dict[str, Any]:
        """All fields, and the `model_type` by which others recognise them."""
        return {"model_type": self.model_type, **asdict(self)}


class PreTrainedModel(Module):
    """A model with a configuration. `renames` turn its parameters' names into Hugging Face's state-dict keys."""

    config_class: ClassVar[type[PreTrainedConfig]]
    renames: ClassVar[tuple[tuple[str, str], ...]] = ()  # replaced one after another in every name
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
                f"{type(self).__name__}: weights do not fit; missing: {_some(missing)}; unexpected: {_some(unexpected)}"
            )
        for key, param in params.items():
            shape = np.shape(weights[key])
            if shape != param.data.shape:
                raise InputError(
                    f"{type(self).__name__}: {key} has shape {shape}, the config expects {param.data.shape}"
                )
        for alias, key in self.aliases.items():
            if alias in weights and not np.array_equal(weights[alias], weights[key], equal_nan=True):
                raise InputError(f"{type(self).__name__}: {alias} differs from {key}, to which it is tied here")
        for key, param in params.items():
            param.data[...] = weights[key]

    def astype(self, dtype: str) -> Self:
        """Convert every weight to float32 or float64, in place."""
        check_dtype(dtype)
        for _, param in self.named_parameters():
            param.data = param.data.astype(dtype)
        return self

    def named_gradients(self, grads: Grads) -> dict[str, Array]:
        """Hugging Face state-dict key -> gradient; tied weights have one gradient under each of their keys."""
        return self._with_aliases({key: grads[param] for key, param in self.named_parameters()})

    @classmethod
    def from_pretrained(cls, folder: str | Path, dtype: str = "float32") -> Self:
        """Read `config.json` and `model.safetensors` of a folder.

        Raises InputError where a file is missing or damaged, or the weights do not fit the configuration.
        """
        check_dtype(dtype)
        weights, _ = read_arrays(Path(folder) / "model.safetensors")
        model = cls(cls.config_class.from_pretrained(folder), dtype=dtype)
        model.load_state_dict(model.select(_present_names(weights)))
        return model

    def select(self, weights: dict[str, Array]) -> dict[str, Array]:
        """Choose this model's weights out of a larger model's file; a family overrides it for its prefixes."""
        return weights

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors`, each whole or not at all; Hugging Face opens the folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "config.json", {"architectures": [type(self).__name__], **self.config.to_dict()})
        weights = {key: param.data for key, param in self.named_parameters()}
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


def _present_names(weights: dict[str, Array]) -> dict[str, Array]:
    """Rename what old checkpoints (bert-base-uncased is one) call otherwise, and leave out their constant buffer."""
    return {
        key.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias"): weight
        for key, weight in weights.items()
        if not key.endswith("embeddings.position_ids")
    }


def _some(keys: list[str], most: int = 4) -> str:
    return ", ".join(keys[:most]) + (f" and {len(keys) - most} more" if len(keys) > most else "") or "none"
