"""The weights of a folder as Hugging Face writes it: one safetensors file, or several (shards) under an index."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Self

from minissl.errors import InputError
from minissl.files import read_json
from minissl.tensor_file import Tensor, TensorFile, no_such_file, shown

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
WEIGHTS = (SINGLE, INDEX)
SHARDS = "model-*.safetensors"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")


class Checkpoint:
    """The open weights of a folder. `tensors`: stored name -> what its header says; `home`: stored name -> its file.

    Raises InputError where there are none, one of the files is damaged, or the index does not fit its shards.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.tensors: dict[str, Tensor] = {}
        self.home: dict[str, TensorFile] = {}
        with ExitStack() as files:
            for path, promised in self._paths():
                file = files.enter_context(TensorFile(path))
                absent = [name for name in promised if name not in file.tensors]
                if absent:
                    raise InputError(
                        f"{path}: lacks {some(absent)}, which {INDEX} says is there; is the shard another's?"
                    )
                twice = [name for name in file.tensors if name in self.tensors]
                if twice:
                    raise InputError(
                        f"{path}: {some(twice)} is in {self.home[twice[0]].path.name} too; which is right?"
                    )
                self.tensors |= file.tensors
                self.home |= dict.fromkeys(file.tensors, file)
            self._files = files.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def _paths(self) -> list[tuple[Path, list[str]]]:
        """Return each file, and the names that the index promises in it."""
        if (self.folder / SINGLE).exists() or not (self.folder / INDEX).exists():
            self._refuse_pickles()
            return [(self.folder / SINGLE, [])]
        index = self.folder / INDEX
        promised: dict[str, list[str]] = {}
        where = read_json(index).get("weight_map")
        if not isinstance(where, dict) or not where:
            raise InputError(f"{index}: expected a weight_map with the file of every weight")
        for name, file in where.items():
            if not isinstance(file, str) or not file.endswith(".safetensors") or {"/", "\\", "\0"} & set(file):
                raise InputError(
                    f"{index}: {shown(name)} would be in {shown(str(file))}, expected the name of a .safetensors file"
                    " in the same folder"
                )
            promised.setdefault(file, []).append(name)
        absent = [file for file in promised if not (self.folder / file).is_file()]
        if absent:
            raise InputError(f"{index}: names {some(absent)}, which is not there; is the download complete?")
        return [(self.folder / file, promised[file]) for file in sorted(promised)]

    def _refuse_pickles(self) -> None:
        pickle = next((name for name in PICKLES if (self.folder / name).exists()), None)
        if pickle is not None and not (self.folder / SINGLE).exists():
            raise InputError(
                f"{self.folder}: has {pickle}, a pickle, which can run code and is never opened, and no {SINGLE}; "
                "convert it where transformers is installed: "
                "from transformers import AutoModelForPreTraining as M; M.from_pretrained(FOLDER).save_pretrained(NEW)"
            )
        if not (self.folder / SINGLE).exists():
            raise no_such_file(self.folder / SINGLE)


def some(names: list[str], most: int = 4) -> str:
    """Return the first few of many names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(shown(name) for name in names[:most]) + more or "none"
