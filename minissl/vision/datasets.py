"""Sets of images by name or by path, always as a part to learn from and a part that is only measured.

What `load_images` takes, in the order in which it looks:

1. `glyphs`: letters in Matplotlib's own fonts, held out in fonts that training does not show them in (`glyphs.py`).
2. `digits`: scikit-learn's 1,797 handwritten digits of 8 × 8 pixels, a fifth of each class held out.
3. A folder with MNIST's four IDX files (Fashion-MNIST's have the same names), gzipped or not.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from minissl.backend import Array
from minissl.errors import InputError
from minissl.vision.glyphs import glyphs
from minissl.vision.idx import CLASSES, has_idx, read_idx_folder
from minissl.vision.images import ImageParts, Images

HELDOUT_SHARE = 0.2  # of each class, where a set comes in one part
EXPECTED = "glyphs, digits, or a folder with MNIST's IDX files"


def load_images(data: str, image_size: int | None = None) -> ImageParts:
    """Read a set of images (see the head of this file). The same `data` gives the same parts every time.

    Raises InputError, with the file, for whatever is missing, damaged, of mixed sizes or modes, or without images.
    """
    if data == "glyphs":
        parts = glyphs()
    elif data == "digits":
        parts = digits()
    else:
        path = Path(data)
        if not path.exists():
            raise InputError(f"{data}: no such file or folder; expected {EXPECTED}")
        if not (path.is_dir() and has_idx(path)):
            raise InputError(f"{data}: not a set of images; expected {EXPECTED}")
        classes, train, heldout = read_idx_folder(path)
        parts = ImageParts.of(path.resolve().name, classes, train, heldout)
    _require_classes(parts, data)
    height, width = parts.train.pixels.shape[2:]
    if image_size is not None and (height, width) != (image_size, image_size):
        raise InputError(
            f"{data}: its images have {height} × {width} pixels, asked for {image_size} × {image_size}; "
            "only images of a folder of classes are resized"
        )
    return parts


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

    Raises InputError for a class with fewer than two images.
    """
    assert images.labels is not None
    rng = np.random.default_rng(0)
    chosen: list[Array] = []
    for number, label in enumerate(classes):
        rows = np.flatnonzero(images.labels == number)
        if len(rows) < 2:
            raise InputError(f"{name}: {len(rows)} image(s) of class {label!r}; two are needed, to hold one out")
        chosen.append(rng.permutation(rows)[: max(1, round(HELDOUT_SHARE * len(rows)))])
    heldout = np.sort(np.concatenate(chosen))
    train = np.setdiff1d(np.arange(len(images.labels)), heldout)
    return ImageParts.of(name, classes, images.take(train), images.take(heldout))


def _require_classes(parts: ImageParts, data: str) -> None:
    """Refuse a class that nothing is learnt about."""
    if parts.train.labels is not None:
        counts = np.bincount(parts.train.labels, minlength=len(parts.classes))
        if not counts.all():
            raise InputError(f"{data}: no training image of class {parts.classes[int(np.argmin(counts))]!r}")
