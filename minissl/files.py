"""Files that are written whole or not at all, and read with a clear word where they are damaged."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from minissl.backend import Array, to_host
from minissl.errors import InputError
from minissl.tensor_file import TensorFile, no_such_file


def write_whole(path: str | Path, content: bytes | str) -> None:
    """Write a file so that a crash or a full disk leaves either the old file or the new one, never a part.

    The bytes go to a temporary neighbour, are forced to disk, and take the name in one step.
    Raises InputError where the disk does not take them; the old file is then still there.
    """
    path = Path(path)
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: could not be written ({reason}); what was there before is untouched") from error
    finally:  # Ctrl-C too leaves nothing behind; after the replacement there is nothing to remove
        with suppress(OSError):
            temporary.unlink()


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON, whole or not at all."""
    write_whole(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object. Raises InputError where the file is missing, not UTF-8, not JSON or not an object."""
    path = Path(path)
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise InputError(f"{path}: is not a file, expected one with JSON in it")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise no_such_file(path) from None
    except (OSError, ValueError, RecursionError) as error:  # not JSON, not UTF-8, nested without end
        raise InputError(f"{path}: is not readable JSON ({error}); the file is damaged or of another format") from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def write_arrays(path: str | Path, arrays: dict[str, Array], metadata: dict[str, str] | None = None) -> None:
    """Write named arrays as safetensors, whole or not at all."""
    from safetensors.numpy import save

    # safetensors 0.8 writes the buffer of a non-contiguous array as it lies in memory, which is another array
    plain = {name: np.asarray(to_host(array), order="C") for name, array in arrays.items()}
    write_whole(path, save(plain, metadata=metadata))


def read_arrays(path: str | Path) -> tuple[dict[str, Array], dict[str, str]]:
    """Read a safetensors file: its arrays and its metadata. Nothing is ever unpickled.

    Raises InputError where the file is missing, truncated, damaged, or of a format that can run code.
    """
    with TensorFile(path) as file:
        return {name: file.read(name) for name in file.tensors}, file.metadata
