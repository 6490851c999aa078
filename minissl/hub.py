"""Where the files of a named model lie: in a folder, in Hugging Face's cache on this machine, or on their hub."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from minissl.errors import InputError

_NAME = re.compile(r"(?:[\w-][\w.-]*/)?[\w-][\w.-]*", re.ASCII)  # organisation/model, or an old model's name alone
_COMMIT = re.compile(r"\w+", re.ASCII)
_FIRST_ORGANISATION = "google-bert"  # where the hub moved the BERTs that once had no organisation


def find_folder(name_or_folder: str | os.PathLike[str], files: Sequence[str], also: Sequence[str] = ()) -> Path:
    """Return the folder of a model or tokenizer, given as a path or by a name such as `google-bert/bert-base-uncased`.

    A folder that exists is returned as it is. A name is looked up in Hugging Face's cache (`HF_HUB_CACHE`, `HF_HOME`),
    without the network, for the commit that its `main` stands at; only where none of `files` is there, and
    `huggingface_hub` is installed, `files` and `also` (names or patterns, as `model-*.safetensors`) are downloaded.
    Raises InputError where there is no such folder and the name is neither in the cache nor to be downloaded.
    """
    name = os.fspath(name_or_folder)
    if os.path.isdir(name):
        return Path(name)
    if os.path.exists(name):
        raise InputError(f"{name}: is a file, expected the folder that it is in, or a model's name")
    if not isinstance(name_or_folder, str) or not _NAME.fullmatch(name) or ".." in name or "--" in name:
        shown = name if name and name.isprintable() else repr(name)
        raise InputError(f"{shown}: no such folder; is the path right?")
    partial = None
    for candidate in _names(name):
        snapshot = _cached(candidate)
        if snapshot is not None:
            if any((snapshot / file).is_file() for file in files):
                return snapshot
            partial = snapshot
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        if partial is not None:
            return partial  # what is missing there, its reader says
        raise InputError(
            f"{name}: no such folder, and no such model in the Hugging Face cache ({cache_folder()}); "
            "pip install 'minissl[hub]' to download models by name"
        ) from None
    try:
        return Path(snapshot_download(name, allow_patterns=[*files, *also], cache_dir=cache_folder()))
    except Exception as error:  # of many kinds: no network, no such model, one that asks for a login, a full disk
        if partial is not None:
            return partial
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        raise InputError(
            f"{name}: no such folder, not in the Hugging Face cache ({cache_folder()}), and not downloaded ({reason})"
        ) from error


def cache_folder() -> Path:
    """The folder in which `huggingface_hub` keeps what it downloads, by its own rules and environment variables."""
    home = os.environ.get("HF_HOME", str(Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "huggingface")))
    cache = os.environ.get("HF_HUB_CACHE", os.environ.get("HUGGINGFACE_HUB_CACHE", str(Path(home, "hub"))))
    return Path(os.path.expandvars(cache)).expanduser()


def _names(name: str) -> list[str]:
    """The names under which the cache may hold a model: a BERT without an organisation was given one, later."""
    bare = name.removeprefix(f"{_FIRST_ORGANISATION}/")
    return [name] if "/" in bare else list(dict.fromkeys([name, bare, f"{_FIRST_ORGANISATION}/{bare}"]))


def _cached(name: str) -> Path | None:
    """The snapshot in the cache that the model's `main` stands at; None where there is none."""
    model = cache_folder() / f"models--{name.replace('/', '--')}"
    try:
        commit = (model / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    snapshot = model / "snapshots" / commit
    return snapshot if _COMMIT.fullmatch(commit) and snapshot.is_dir() else None
