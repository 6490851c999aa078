"""A strict reader of safetensors: a length, a JSON header, and the numbers of every tensor, one after another.

`safetensors` itself maps the file into memory and copies out of it, which holds everything twice: 440 MB of weights
take 880 MB by its `safe_open`, and 440 MB here (`python -m minissl.bench.loading`). And what is wrong with a damaged
file is said in one line. The format: https://github.com/huggingface/safetensors
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from minissl.backend import Array
from minissl.errors import InputError

# bfloat16, the upper half of a float32, is read as the 16 bits that it is
STORED = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "C64": "<c8", "BOOL": "u1",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1",
}  # fmt: skip
FLOATS = ("F64", "F32", "F16", "BF16")
MOST_HEADER = 1 << 22  # bytes, of some ten thousand tensors; parsed, JSON takes many times its length
MOST_AXES = 64  # NumPy's own limit
CHUNK = 1 << 18  # numbers that are converted at a time, so that no tensor is in memory twice
PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


class Tensor(NamedTuple):
    """What the header says of a tensor; `start` counts from the beginning of the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    nbytes: int


class TensorFile:
    """An open safetensors file: `tensors` by name, in the order in which they lie, and `metadata`.

    Raises InputError where the file is missing, a pickle, or anything but one whole header and exactly its tensors.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not os.path.isfile(self.path):
            raise no_such_file(self.path)
        try:
            self._file = self.path.open("rb", buffering=0)
        except OSError as error:
            raise InputError(f"{self.path}: could not be opened ({error.strerror or error})") from error
        try:
            self.size = os.fstat(self._file.fileno()).st_size
            header, start = self._header()
            self.metadata: dict[str, str] = self._metadata(header.pop("__metadata__", {}))
            self.tensors: dict[str, Tensor] = self._tensors(header, start)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; the arrays that were read are the reader's own."""
        self._file.close()

    def read(self, name: str) -> Array:
        """Return a tensor in the dtype that it is stored in; bfloat16, which NumPy lacks, as float32 and exactly."""
        tensor = self.tensors[name]
        dtype = np.dtype({"BF16": "f4", "BOOL": "?"}.get(tensor.dtype, STORED[tensor.dtype])).newbyteorder("=")
        try:
            array = np.empty(tensor.shape, dtype)
        except ValueError as error:  # an axis of 0 beside others whose product no array can have
            raise self._damaged(f"{shown(name)} of shape {_shape(tensor.shape)}: {error}") from error
        self.read_into(name, array)
        return array

    def read_into(self, name: str, array: Array) -> None:
        """Fill an array of the tensor's shape with it, converted to the array's dtype.

        Raises InputError for a number that the array's dtype cannot hold, and where the file ends early after all.
        """
        tensor, flat = self.tensors[name], array.reshape(-1)
        if tensor.dtype != "BF16" and np.dtype(STORED[tensor.dtype]) == flat.dtype:
            self._file.seek(tensor.start)
            self._fill(flat)
            return
        for start, piece in self.pieces(name):
            with np.errstate(over="raise", invalid="ignore"):
                try:
                    flat[start : start + piece.size] = piece
                except FloatingPointError as error:
                    raise InputError(
                        f"{self.path}: {shown(name)} has a number that {flat.dtype} cannot hold; float64 can"
                    ) from error

    def pieces(self, name: str) -> Iterator[tuple[int, Array]]:
        """Yield (where it begins, numbers), one stretch of a tensor after another, in a buffer that is used again."""
        tensor = self.tensors[name]
        stored = np.dtype(STORED[tensor.dtype])
        size = tensor.nbytes // stored.itemsize
        buffer = np.empty(min(size, CHUNK), stored)
        for start in range(0, size, CHUNK):
            piece = buffer[: size - start]
            self._file.seek(tensor.start + start * stored.itemsize)
            self._fill(piece)
            if tensor.dtype == "BF16":
                piece = (piece.astype(np.uint32) << 16).view(np.float32)
            elif tensor.dtype == "BOOL":
                if piece.max() > 1:
                    raise self._damaged(f"{shown(name)} is BOOL and holds a byte that is neither 0 nor 1")
                piece = piece.view(np.bool_)
            yield start, piece

    def _fill(self, flat: Array) -> None:
        """Read on from where the file stands until a flat array is full."""
        free = flat.view(np.uint8).data
        while free:
            try:
                got = self._file.readinto(free)  # at most 2 GB at a time
            except OSError as error:
                raise InputError(f"{self.path}: could not be read ({error.strerror or error})") from error
            if not got:
                raise self._damaged("it has become shorter while it was read")
            free = free[got:]

    def _header(self) -> tuple[dict[str, Any], int]:
        """Return the JSON object at the front, and where the numbers begin."""
        front = np.zeros(min(self.size, 8), np.uint8)
        self._fill(front)
        if front.tobytes().startswith(PICKLES):
            raise InputError(
                f"{self.path}: is a pickle, which can run code and is never opened; convert it to safetensors first"
            )
        length = int.from_bytes(front.tobytes(), "little")
        if self.size < 8 or length > self.size - 8:
            raise self._damaged(f"its header would be {length} bytes long")
        if length > MOST_HEADER:
            raise self._damaged(f"its header is {length} bytes long, expected {MOST_HEADER} at most")
        raw = np.empty(length, np.uint8)
        self._fill(raw)
        try:
            text = raw.tobytes().decode("utf-8")
            header = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse) if text[:1] == "{" else None
        except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, a key twice, nested without end
            raise self._damaged(f"its header is not readable: {error}") from error
        if not isinstance(header, dict):
            raise self._damaged("its header is no JSON object")
        return header, 8 + length

    def _metadata(self, metadata: Any) -> dict[str, str]:
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise self._damaged("its __metadata__ is no table of strings")
        return metadata

    def _tensors(self, header: dict[str, Any], start: int) -> dict[str, Tensor]:
        """Check each tensor by itself, and that together they are the rest of the file, without overlap or hole."""
        found = sorted(
            ((name, self._tensor(name, said)) for name, said in header.items()), key=lambda item: item[1][2:]
        )
        end = 0
        for name, tensor in found:
            if tensor.start != end:
                raise self._damaged(
                    f"{shown(name)} begins at byte {tensor.start}, expected {end}, where the one before ends"
                )
            end += tensor.nbytes
        if start + end != self.size:
            raise self._damaged(f"its tensors end at byte {start + end}")
        return {name: tensor._replace(start=start + tensor.start) for name, tensor in found}

    def _tensor(self, name: str, said: Any) -> Tensor:
        if not isinstance(said, dict) or not {"dtype", "shape", "data_offsets"} <= said.keys():
            raise self._damaged(f"{shown(name)} lacks a dtype, shape or data_offsets")
        dtype, shape, offsets = said["dtype"], said["shape"], said["data_offsets"]
        if not isinstance(dtype, str) or dtype not in STORED:
            raise self._damaged(f"{shown(name)} has dtype {shown(str(dtype))}, expected one of {', '.join(STORED)}")
        if not _sizes(shape) or len(shape) > MOST_AXES:
            raise self._damaged(f"{shown(name)} has shape {shown(str(shape))}, expected at most {MOST_AXES} sizes")
        if not _sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
            raise self._damaged(f"{shown(name)} has data_offsets {shown(str(offsets))}, expected [begin, end]")
        tensor = Tensor(dtype, tuple(shape), offsets[0], offsets[1] - offsets[0])
        expected = math.prod(shape) * np.dtype(STORED[dtype]).itemsize
        if tensor.nbytes != expected:
            raise self._damaged(
                f"{shown(name)} has {tensor.nbytes} bytes, expected {expected} for {dtype} of shape {_shape(shape)}"
            )
        return tensor

    def _damaged(self, what: str) -> InputError:
        return InputError(
            f"{self.path}: not readable as safetensors ({self.size} bytes; {what}); is the file whole, or another kind?"
        )


def no_such_file(path: Path) -> InputError:
    """Say that a file is missing from a folder."""
    return InputError(f"{path}: no such file; is {path.parent} a folder that minissl or Hugging Face wrote?")


def shown(name: str, most: int = 120) -> str:
    """Return a name out of a file, fit for one line of a message."""
    short = name if len(name) <= most else f"{name[:most]}…"
    return short if short.isprintable() and short else repr(short)


def _shape(shape: Any) -> str:
    return shown(str(tuple(shape)))


def _sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 63 for value in values)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a JSON object of its pairs. Raises ValueError for a key that is there twice, or that is no Unicode."""
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"{shown(key)} is there twice")
        values[key] = value
    "".join(values).encode("utf-8")  # which fails for an escaped half of a character
    return values


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")
