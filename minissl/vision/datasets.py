"""Sets of images by name or by path, always as a part to learn from and a part that is only measured.

What `load_images` takes, in the order in which it looks:

1. `glyphs`: letters in Matplotlib's own fonts, held out in fonts that training does not show them in (`glyphs.py`).
2. `digits`: scikit-learn's 1,797 handwritten digits of 8 × 8 pixels, a fifth of each class held out.
3. A folder with MNIST's four IDX files (Fashion-MNIST's have the same names), gzipped or not.
4. A folder with CIFAR-10's `data_batch_*.bin` and `test_batch.bin`, or one such file, gzipped or not.
5. A folder with a folder of PNG or JPEG files for each class, or a `.tar`, `.tar.gz` or `.tgz` of one (`folders.py`).

What comes in one part holds out a fifth of each class, the same images every time.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from minissl.backend import Array
from minissl.errors import InputError
from minissl.vision import cifar
from minissl.vision.folders import read_image_folder, read_image_tar
from minissl.vision.glyphs import glyphs
from minissl.vision.idx import CLASSES, has_idx, read_idx_folder
from minissl.vision.images import ImageParts, Images

HELDOUT_SHARE = 0.2
MOST_SIDE = 4096  # pixels that images are resized to
TARS = (".tar", ".tar.gz", ".tgz")
EXPECTED = (
    "glyphs, digits, a folder of classes with PNG or JPEG files or a .tar.gz of one, a folder with MNIST's IDX files, "
    "or CIFAR-10's .bin files"
)


def load_images(data: str, image_size: int | None = None) -> ImageParts:
    """Read a set of images (see the head of this file). The same `data` gives the same parts every time.

    PNG and JPEG files are cropped and resized to `image_size` pixels a side; without it they must have one size.
    Raises InputError, with the file, for whatever is missing, damaged, of mixed sizes or modes, or without images.
    """
    if image_size is not None and not 1 <= image_size <= MOST_SIDE:
        raise InputError(f"image size {image_size}: expected pixels a side, 1 to {MOST_SIDE:,}")
    if data == "glyphs":
        parts = glyphs()
    elif data == "digits":
        parts = digits()
    else:
        parts = _read_path(Path(data), image_size)
    _require_classes(parts, data)
    height, width = parts.train.pixels.shape[2:]
    if image_size is not None and (height, width) != (image_size, image_size):
        raise InputError(
            f"{data}: its images have {height} × {width} pixels, asked for {image_size} × {image_size}; "
            "only PNG and JPEG files are resized"
        )
    return parts


def _read_path(path: Path, image_size: int | None) -> ImageParts:
    try:
        path.stat()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected {EXPECTED}") from None
    name = Path(os.path.realpath(path)).name  # of "." too
    heldout: Images | None = None
    if path.is_dir():
        if has_idx(path):
            classes, train, heldout = read_idx_folder(path)
        elif cifar.has_cifar(path):
            classes, train, heldout = cifar.read_cifar_folder(path)
        else:
            classes, train, heldout = read_image_folder(path, image_size)
    elif name.lower().endswith(cifar.SUFFIXES):
        classes, train = cifar.read_names(path.parent), cifar.read_cifar(path)
    elif name.lower().endswith(TARS):
        classes, train, heldout = read_image_tar(path, image_size)
    elif "-ubyte" in name:
        raise InputError(f"{path}: one of the four files of a set; give their folder, {path.parent}")
    else:
        raise InputError(f"{path}: not a set of images by its name; expected {EXPECTED}")
    name = next((name[: -len(end)] for end in (*TARS, *cifar.SUFFIXES) if name.lower().endswith(end)), name)
    return hold_out(name, classes, train) if heldout is None else ImageParts.of(name, classes, train, heldout)


def digits() -> ImageParts:
    """Scikit-learn's digits: (1, 8, 8), its grey levels 0 … 16 as bytes 0 … 255, black 0.

    Raises InputError where scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise InputError("digits: comes with scikit-learn; install the extra: pip install 'minissl[data]'") from None
    found = load_digits()
    pixels = np.rint(found.images * (255 / 16)).astype(np.uint8)[:, None]
    return hold_out("digits", CLASSES, Images(pixels, found.target.astype(np.int64)))


def hold_out(name: str, classes: tuple[str, ...], images: Images) -> ImageParts:
    """Hold out a fifth of each class, at least one image of it, the same ones every time; both parts in file order.

    Without labels, a fifth of all. Raises InputError for a class with fewer than two images.
    """
    rng = np.random.default_rng(0)
    n = len(images.pixels)
    labels = np.zeros(n, np.int64) if images.labels is None else images.labels
    chosen: list[Array] = []
    for number, label in enumerate(classes or ("",)):
        rows = np.flatnonzero(labels == number)
        if len(rows) < 2:
            which = f" of class {label!r}" if classes else ""
            raise InputError(f"{name}: {len(rows)} image(s){which}; two are needed, to hold one out")
        chosen.append(rng.permutation(rows)[: max(1, round(HELDOUT_SHARE * len(rows)))])
    heldout = np.sort(np.concatenate(chosen))
    return ImageParts.of(name, classes, images.take(np.setdiff1d(np.arange(n), heldout)), images.take(heldout))


def _require_classes(parts: ImageParts, data: str) -> None:
    """Refuse a class that nothing is learnt about."""
    if parts.train.labels is not None:
        counts = np.bincount(parts.train.labels, minlength=len(parts.classes))
        if not counts.all():
            raise InputError(f"{data}: no training image of class {parts.classes[int(np.argmin(counts))]!r}")
