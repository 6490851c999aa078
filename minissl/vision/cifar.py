"""CIFAR-10's binary version: records of a label, then 32 × 32 red, green and blue bytes, rows from the top."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from minissl.errors import InputError
from minissl.vision.images import Images
from minissl.vision.packed import read_packed

SIDE = 32
RECORD = 1 + 3 * SIDE * SIDE
SUFFIXES = (".bin", ".bin.gz")
NAMES = "batches.meta.txt"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def read_cifar(path: Path) -> Images:
    """The images of one file, gzipped or not, in its order; read-only.

    Raises InputError for a file of another format, cut short or empty, and for a label that is not 0 … 9.
    """
    data = read_packed(path)
    if not data or len(data) % RECORD:
        raise InputError(
            f"{path}: {len(data):,} bytes, expected one or more records of {RECORD:,} each, as CIFAR-10's binary "
            "version has; is it cut short, or of another set?"
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, RECORD)
    labels = records[:, 0].astype(np.int64)
    if labels.max() >= len(CLASSES):
        at = int(np.argmax(labels >= len(CLASSES)))
        raise InputError(f"{path}: label {labels[at]} of image {at}: expected 0 … {len(CLASSES) - 1}")
    return Images(records[:, 1:].reshape(-1, 3, SIDE, SIDE), labels)


def has_cifar(folder: Path) -> bool:
    """The folder has a file that is called as CIFAR-10's batches are, of the binary or of the Python version."""
    return any(folder.glob("data_batch_*"))


def read_cifar_folder(folder: Path) -> tuple[tuple[str, ...], Images, Images | None]:
    """Return (classes, all images of `data_batch_*.bin`, those of `test_batch.bin` or None where it is missing).

    The classes are the lines of `batches.meta.txt`, or without it CIFAR-10's own. Raises InputError as `read_cifar`
    does, and for the Python version, which is pickled.
    """
    paths = sorted(path for suffix in SUFFIXES for path in folder.glob(f"data_batch_*{suffix}"))
    if not paths:
        raise InputError(
            f"{folder}: data_batch_… without .bin: CIFAR-10's Python version is pickled and could run code; "
            "take the binary version (cifar-10-binary.tar.gz)"
        )
    batches = [read_cifar(path) for path in paths]
    train = Images(*(np.concatenate(arrays) for arrays in zip(*batches, strict=True)))
    tests = [path for suffix in SUFFIXES if (path := folder / f"test_batch{suffix}").is_file()]
    return read_names(folder), train, read_cifar(tests[0]) if tests else None


def read_names(folder: Path) -> tuple[str, ...]:
    """The names of the classes. Raises InputError where `batches.meta.txt` does not hold ten different ones."""
    path = folder / NAMES
    if not path.is_file():
        return CLASSES
    try:
        names = tuple(read_packed(path).decode().split())
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8; expected the name of a class on each line") from None
    if len(names) != len(CLASSES) or len(set(names)) != len(names):
        raise InputError(
            f"{path}: {len(names)} names, {len(set(names))} different; expected {len(CLASSES)}, one a line"
        )
    return names
