"""Images as arrays, in two parts; and how their pixels become a model's inputs, and inputs pixels again."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minissl.backend import Array
from minissl.errors import InputError
from minissl.files import read_json, write_json

PREPROCESSOR = "preprocessor_config.json"
BILINEAR = 2  # Pillow's number for it, which the file holds
CHUNK = 1024  # images that are looked at together, which bounds the memory


class Images(NamedTuple):
    """`pixels` (n, C, H, W), bytes or float32, the top row first; `labels` (n,) number their classes, or None."""

    pixels: Array
    labels: Array | None = None

    def take(self, rows: Sequence[int] | Array) -> Images:
        """Choose some images, in the order given."""
        rows = np.asarray(rows, dtype=np.int64)
        return Images(self.pixels[rows], None if self.labels is None else self.labels[rows])


class ImageParts(NamedTuple):
    """What is learnt from and what is only measured; `fingerprint` of all pixels and labels tells a changed set."""

    name: str
    classes: tuple[str, ...]  # the names of classes 0, 1, …; () without labels
    train: Images
    heldout: Images
    fingerprint: str

    @classmethod
    def of(cls, name: str, classes: Sequence[str], train: Images, heldout: Images) -> ImageParts:
        """Two parts with their fingerprint."""
        digest = hashlib.sha256(repr(tuple(classes)).encode())
        for array in (*train, *heldout):
            if array is not None:
                digest.update(f"{array.dtype.str} {array.shape}".encode())
                digest.update(np.ascontiguousarray(array).data)
        return cls(name, tuple(classes), train, heldout, digest.hexdigest())


class PixelScale(NamedTuple):
    """inputs = (pixels · rescale - mean) / std, by channel; rescale is 1/255 for bytes, 1 for floats."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    rescale: float

    @classmethod
    def of(cls, images: Images) -> PixelScale:
        """Measure mean and standard deviation of each channel, so that inputs have mean 0 and variance 1.

        Measure them on training images: held-out ones are not known yet when a model is made.
        Raises InputError where there is no image, or a channel has one value throughout.
        """
        pixels = images.pixels
        if not len(pixels):
            raise InputError("no images to measure the mean and the standard deviation of")
        rescale = 1 / 255 if pixels.dtype == np.uint8 else 1.0
        chunks = [pixels[i : i + CHUNK] for i in range(0, len(pixels), CHUNK)]
        count = pixels.size // pixels.shape[1]
        mean = sum(chunk.sum(axis=(0, 2, 3), dtype=np.float64) for chunk in chunks) / count
        square = sum(((chunk - mean[:, None, None]) ** 2).sum(axis=(0, 2, 3)) for chunk in chunks) / count
        if not np.all(square > 0):
            raise InputError(
                f"channel {int(np.argmin(square))} has the same value in every training image; nothing is to be seen"
            )
        return cls(tuple((rescale * mean).tolist()), tuple((rescale * np.sqrt(square)).tolist()), rescale)

    def apply(self, pixels: Array) -> Array:
        """Pixels (n, C, H, W) as inputs in float32. Raises InputError for another number of channels."""
        scale, shift = self._by_channel(pixels)
        inputs: Array = pixels.astype(np.float32)
        inputs *= np.float32(self.rescale) / scale
        inputs -= shift / scale
        return inputs

    def undo(self, inputs: Array) -> Array:
        """Inputs (n, C, H, W) as image values, 0 black and 1 white for bytes; what a model makes up may lie outside."""
        scale, shift = self._by_channel(inputs)
        values: Array = inputs * scale + shift
        return values

    def _by_channel(self, images: Array) -> tuple[Array, Array]:
        """`std` and `mean` (C, 1, 1) in float32."""
        if images.ndim != 4 or images.shape[1] != len(self.mean):
            raise InputError(
                f"images {images.shape}: expected (images, {len(self.mean)} channel(s), height, width); "
                "is one grey (1 channel) and the other colour (3)?"
            )
        std, mean = (np.array(values, dtype=np.float32)[:, None, None] for values in (self.std, self.mean))
        return std, mean

    def save(self, folder: str | Path, size: tuple[int, int]) -> None:
        """Write preprocessor_config.json, as Hugging Face's ViTImageProcessor reads it; `size` is (height, width)."""
        rescaled = self.rescale != 1  # else floats of any size, which Pillow, who would resize them, does not take
        write_json(
            Path(folder) / PREPROCESSOR,
            {
                "image_processor_type": "ViTImageProcessor",
                "do_resize": rescaled,
                "size": {"height": size[0], "width": size[1]},
                "resample": BILINEAR,
                "do_rescale": rescaled,
                "rescale_factor": self.rescale if rescaled else 1 / 255,
                "do_normalize": True,
                "image_mean": list(self.mean),
                "image_std": list(self.std),
            },
        )

    @classmethod
    def load(cls, folder: str | Path) -> PixelScale:
        """Read a folder's preprocessor_config.json; what it does not say is ViTImageProcessor's own (0.5, 0.5, 1/255).

        Raises InputError where the file is missing, damaged, or holds something else than numbers where they belong.
        """
        path = Path(folder) / PREPROCESSOR
        config = read_json(path)
        mean = _numbers(path, config, "image_mean")
        std = _numbers(path, config, "image_std")
        if len(mean) != len(std) or not all(value > 0 for value in std):
            raise InputError(f"{path}: image_std {std}: expected {len(mean)} number(s) above 0, one a channel")
        if not _flag(path, config, "do_normalize"):
            mean, std = (0.0,) * len(mean), (1.0,) * len(std)
        rescale = config.get("rescale_factor", 1 / 255)
        if not _is_number(rescale) or rescale <= 0:
            raise InputError(f"{path}: rescale_factor {rescale!r}: expected a number above 0, such as 1/255")
        return cls(mean, std, float(rescale) if _flag(path, config, "do_rescale") else 1.0)


def _numbers(path: Path, config: dict[str, Any], key: str) -> tuple[float, ...]:
    values = config.get(key, [0.5, 0.5, 0.5])
    if not isinstance(values, list) or not values or not all(map(_is_number, values)):
        raise InputError(f"{path}: {key} {values!r}: expected a list of numbers, one a channel")
    return tuple(map(float, values))


def _flag(path: Path, config: dict[str, Any], key: str) -> bool:
    value = config.get(key, True)
    if not isinstance(value, bool):
        raise InputError(f"{path}: {key} {value!r}: expected true or false")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
