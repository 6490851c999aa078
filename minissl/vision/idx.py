"""MNIST's and Fashion-MNIST's format, IDX: 0, 0, the type, the number of dimensions; each size in four bytes; data."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np

from minissl.backend import Array
from minissl.errors import InputError
from minissl.vision.images import Images
from minissl.vision.packed import read_packed

UBYTE = 0x08
TYPES = {0x08: "bytes", 0x09: "signed bytes", 0x0B: "shorts", 0x0C: "ints", 0x0D: "floats", 0x0E: "doubles"}
PARTS = ("train", "t10k")  # what the files of each part begin with: learnt from, held out
CLASSES = tuple("0123456789")
FASHION = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


def read_idx(path: str | Path, dimensions: int) -> Array:
    """The bytes of an IDX file, gzipped or not, in its own shape of so many `dimensions`; read-only.

    Raises InputError for another format, type or number of dimensions, and for a file that is cut short or too long.
    """
    data = read_packed(path)
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in TYPES:
        raise InputError(f"{path}: begins with {data[:4].hex(' ') or 'nothing'}; an IDX file begins with 00 00 08")
    if data[2] != UBYTE:
        raise InputError(f"{path}: holds {TYPES[data[2]]}, expected bytes (type 08)")
    if data[3] != dimensions:
        raise InputError(
            f"{path}: has {data[3]} dimension(s), expected {dimensions}; images have 3 and labels 1: is one the other?"
        )
    begin = 4 + 4 * dimensions
    if len(data) < begin:
        raise InputError(f"{path}: cut short inside its header, {len(data)} of {begin} bytes; download it again")
    shape = tuple(int.from_bytes(data[at : at + 4], "big") for at in range(4, begin, 4))
    if len(data) - begin != math.prod(shape):
        what = "cut short" if len(data) - begin < math.prod(shape) else "too long"
        raise InputError(
            f"{path}: {what}: its header says {' × '.join(map(str, shape))} = {math.prod(shape):,} bytes, "
            f"{len(data) - begin:,} follow; download it again"
        )
    return np.frombuffer(data, np.uint8, offset=begin).reshape(shape)


def has_idx(folder: Path) -> bool:
    """A file of the folder has one of the four names that MNIST's files have."""
    return any(_find(folder, part, kind) for part in PARTS for kind in ("images-idx3", "labels-idx1"))


def read_idx_folder(folder: Path) -> tuple[tuple[str, ...], Images, Images]:
    """Return (classes, training images, held-out images): `train-images-idx3-ubyte[.gz]`, `t10k-…`, and their labels.

    The files do not name their classes: "0" … "9", and Fashion-MNIST's where the folder's name has "fashion" in it.
    Raises InputError as `read_idx` does, and where a file is missing, or images, labels and parts do not match.
    """
    train, heldout = (_read_part(folder, part) for part in PARTS)
    if train.pixels.shape[1:] != heldout.pixels.shape[1:]:
        sizes = [" × ".join(map(str, part.pixels.shape[2:])) for part in (train, heldout)]
        raise InputError(f"{folder}: training images of {sizes[0]} pixels, held-out of {sizes[1]}; expected one size")
    return (FASHION if "fashion" in Path(os.path.realpath(folder)).name.lower() else CLASSES), train, heldout


def _read_part(folder: Path, part: str) -> Images:
    images, labels = _find(folder, part, "images-idx3"), _find(folder, part, "labels-idx1")
    if images is None or labels is None:
        kind = "images-idx3" if images is None else "labels-idx1"
        raise InputError(f"{folder}: no file {part}-{kind}-ubyte or {part}-{kind}-ubyte.gz beside the others")
    pixels, numbers = read_idx(images, 3), read_idx(labels, 1)
    if pixels.size == 0:
        raise InputError(f"{images}: holds no image: {' × '.join(map(str, pixels.shape))} pixels")
    if len(numbers) != len(pixels):
        raise InputError(f"{labels}: {len(numbers):,} labels for {len(pixels):,} images in {images.name}; one each")
    if numbers.max() >= len(CLASSES):
        at = int(np.argmax(numbers >= len(CLASSES)))
        raise InputError(f"{labels}: label {numbers[at]} of image {at}: expected 0 … {len(CLASSES) - 1}")
    return Images(pixels[:, None], numbers.astype(np.int64))


def _find(folder: Path, part: str, kind: str) -> Path | None:
    # some copies have a dot before idx
    names = [f"{part}-{stem}-ubyte{end}" for stem in (kind, kind.replace("-idx", ".idx")) for end in ("", ".gz")]
    return next((path for name in names if (path := folder / name).is_file()), None)
