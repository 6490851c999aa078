"""PNG and JPEG files in a folder or a tar archive, a folder for each class.

- `CLASS/IMAGE`, or parts `train/CLASS/IMAGE` and `val/CLASS/IMAGE` (the first that there is of HELDOUT_NAMES; other
  parts are not read). Folders around all of it do not matter. Images in no class folder at all have no labels.
- Names that begin with a dot (`.DS_Store`) are passed over, and so are other files than images beside the class
  folders (`README`). In a class folder they are an error: something else was meant.
- The first image decides what all must be: its size, and grey or colour. A palette is colour. Transparent pixels, 16
  bits and CMYK are refused: how they should look is for a person to say. A camera's turn (EXIF) is made.
- An archive is never unpacked to disk. Links in it are refused, and so are links to folders in a folder.
"""

from __future__ import annotations

import io
import re
import tarfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from minissl.backend import Array
from minissl.errors import InputError
from minissl.vision.images import Images
from minissl.vision.packed import MOST_BYTES, read_packed

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg")
TRAIN_NAMES = ("train", "training")
HELDOUT_NAMES = ("heldout", "val", "valid", "validation", "dev", "test")
KINDS = {1: "grey", 3: "colour"}  # by channels
DEEPEST = 5  # folders inside each other: some around all, the part, the class
STRANGE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
TOO_DEEP = "stands too deep; expected CLASS/IMAGE, or train/CLASS/IMAGE"


class Entry(NamedTuple):
    """A file, or a folder where `read` is None; `parts` are the names on the way to it."""

    parts: tuple[str, ...]
    where: str  # for messages
    read: Callable[[], bytes] | None

    @property
    def is_image(self) -> bool:
        """By its name."""
        return self.read is not None and self.parts[-1].lower().endswith(SUFFIXES)


Found = tuple[tuple[str, ...], Images, Images | None]
Listed = list[tuple[Entry, int | None]]  # images and the numbers of their classes


def read_image_folder(folder: Path, image_size: int | None) -> Found:
    """Return (classes, images to train on or all, held-out images or None) of a folder (see the head of this file).

    With `image_size` images are cropped to the middle square and resized to so many pixels a side.
    Raises InputError, with the file, for what the head of this file refuses and for what cannot be decoded.
    """
    return _read(list(_walk(folder, ())), str(folder), image_size)


def read_image_tar(path: Path, image_size: int | None) -> Found:
    """The same of a tar archive, gzipped or not."""
    return _read(list(_members(path, read_packed(path))), str(path), image_size)


def _walk(folder: Path, parts: tuple[str, ...]) -> Iterator[Entry]:
    try:
        paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {error.strerror}") from None
    for path in paths:
        here = (*parts, path.name)
        if not path.is_dir():
            yield Entry(here, str(path), partial(read_packed, path))
        elif path.is_symlink():  # it could lead back to where it stands
            raise InputError(f"{path}: a link to a folder; give the folder itself, or a copy")
        elif len(here) > DEEPEST:
            raise InputError(f"{path}: {TOO_DEEP}; is this the folder that was meant?")
        else:
            yield Entry(here, str(path), None)
            yield from _walk(path, here)


def _members(path: Path, data: bytes) -> Iterator[Entry]:
    """The files and folders of a tar archive, which stands in memory; where a name comes twice, the last one."""
    entries: dict[str, Entry] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for member in tar:
                if not (member.isreg() or member.isdir()) or member.issparse():
                    raise InputError(f"{path}: {member.name!r} is a link, a device or has holes; expected plain files")
                parts = tuple(part for part in member.name.split("/") if part not in ("", "."))
                if ".." in parts:
                    raise InputError(f"{path}: {member.name!r} leads out of the archive; expected names inside it")
                content = None if member.isdir() else partial(_cut, data, member.offset_data, member.size)
                entries[member.name] = Entry(parts, f"{path}: {member.name}", content)
            if data[tar.offset : tar.offset + tarfile.BLOCKSIZE] != bytes(tarfile.BLOCKSIZE):
                # tarfile itself stops without a word where a header is damaged
                raise InputError(f"{path}: the archive is cut short or damaged at byte {tar.offset:,}")
    except InputError:
        raise
    except (tarfile.TarError, ValueError, OverflowError, EOFError, OSError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: not a tar archive, or damaged ({reason})") from None
    yield from (entry for entry in entries.values() if entry.parts)


def _cut(data: bytes, start: int, size: int) -> bytes:
    return data[start : start + size]


def _read(entries: list[Entry], where: str, image_size: int | None) -> Found:
    entries = [entry for entry in entries if not any(part.startswith(".") for part in entry.parts)]
    for entry in entries:
        name = "/".join(entry.parts)
        if STRANGE.search(name):
            raise InputError(f"{where}: a name with control characters, or not in UTF-8: {name!r}; rename it")
    entries = _without_outer_folders(entries)
    tops = _folders(entries)
    train = next((name for name in TRAIN_NAMES if name in tops), None)
    if train is None:
        classes, listed = _list_images(entries, where)
        return classes, _decode_all(listed, where, image_size), None
    heldout = next((name for name in HELDOUT_NAMES if name in tops), None)
    for entry in entries:
        if entry.parts[0] not in (*TRAIN_NAMES, *HELDOUT_NAMES) and (entry.parts[0] in tops or entry.is_image):
            raise InputError(f"{entry.where}: stands beside {train}; is it a class? Classes stand inside {train}")
    classes, listed = _list_images(tops[train], f"{where}: {train}")
    if heldout is None:
        return classes, _decode_all(listed, where, image_size), None
    others, more = _list_images(tops[heldout], f"{where}: {heldout}")
    if not set(others) <= set(classes) or bool(others) != bool(classes):
        raise InputError(f"{where}: {heldout} has the classes {_shown(others)}, {train} has {_shown(classes)}")
    more = [(entry, None if label is None else classes.index(others[label])) for entry, label in more]
    everything = _decode_all(listed + more, where, image_size)
    return classes, everything.take(range(len(listed))), everything.take(range(len(listed), len(listed + more)))


def _shown(names: tuple[str, ...]) -> str:
    return ", ".join(names[:10]) + (", …" if len(names) > 10 else "") if names else "none (images without a folder)"


def _folders(entries: list[Entry]) -> dict[str, list[Entry]]:
    """The outermost folders by name, each with what is below it; an archive may not list the folders themselves."""
    folders: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.read is None or len(entry.parts) > 1:
            below = folders.setdefault(entry.parts[0], [])
            if len(entry.parts) > 1:
                below.append(entry._replace(parts=entry.parts[1:]))
    return folders


def _without_outer_folders(entries: list[Entry]) -> list[Entry]:
    """Leave out folders that hold everything, down to those of classes: what has `train/cat/…` alone has `cat/…`."""
    while True:
        folders = _folders(entries)
        images = [entry for entry in entries if entry.is_image]
        if len(folders) != 1 or not images or any(len(entry.parts) < 3 for entry in images):
            return entries
        (entries,) = folders.values()


def _list_images(entries: list[Entry], where: str) -> tuple[tuple[str, ...], Listed]:
    """Return (classes, images): classes with numbers for names by size, then by letter; images by name."""
    folders = _folders(entries)
    classes = tuple(sorted(folders, key=_in_order))
    loose = sorted((entry for entry in entries if entry.is_image and len(entry.parts) == 1), key=_name)
    if loose and classes:
        raise InputError(f"{loose[0].where}: stands beside the class folder {classes[0]}; expected CLASS/IMAGE")
    listed: Listed = [(entry, None) for entry in loose]
    for number, name in enumerate(classes):
        found = sorted((entry for entry in folders[name] if entry.read is not None), key=_name)
        for entry in found:
            if len(entry.parts) > 1:
                raise InputError(f"{entry.where}: {TOO_DEEP}")
            if not entry.is_image:
                raise InputError(f"{entry.where}: not PNG or JPEG by its name, in the folder of a class; remove it")
        if not found:
            raise InputError(f"{where}: no image of class {name}: the folder is empty; remove it, or fill it")
        listed += [(entry, number) for entry in found]
    if not listed:
        raise InputError(f"{where}: no images; expected PNG or JPEG files, in a folder for each class")
    return classes, listed


def _name(entry: Entry) -> tuple[str, ...]:
    return entry.parts


def _in_order(name: str) -> tuple[int, int, str]:
    return (0, int(name), name) if name.isdecimal() and len(name) < 16 else (1, 0, name)


def _decode_all(listed: Listed, where: str, image_size: int | None) -> Images:
    """All images as one array, with their labels. Raises InputError where one is not as the first is."""
    try:
        from PIL.Image import DecompressionBombWarning
    except ImportError:
        raise InputError(f"{where}: PNG and JPEG need Pillow; install the extra: pip install 'minissl[data]'") from None
    pixels: Array = np.empty((0, 0, 0, 0), np.uint8)
    first = ""
    with warnings.catch_warnings():
        warnings.simplefilter("error", DecompressionBombWarning)
        warnings.simplefilter("ignore", UserWarning)  # about what is odd in a file that can be read
        for i, (entry, _) in enumerate(listed):
            image = _decode(entry, image_size)
            if not len(pixels):
                first = entry.where
                pixels = _room(len(listed), image, where)
            if len(image) != pixels.shape[1]:
                raise InputError(
                    f"{entry.where}: {KINDS[len(image)]}, but {first} is {KINDS[pixels.shape[1]]}; "
                    "save all in grey or all in colour"
                )
            if image.shape != pixels.shape[1:]:
                sizes = [" × ".join(map(str, shape[-2:])) for shape in (image.shape, pixels.shape)]
                raise InputError(
                    f"{entry.where}: {sizes[0]} pixels, but {first} has {sizes[1]}; "
                    "crop and resize all with --image-size, such as 32"
                )
            pixels[i] = image
    labels = [label for _, label in listed if label is not None]
    return Images(pixels, np.array(labels, np.int64) if labels else None)


def _room(n: int, image: Array, where: str) -> Array:
    """An array for n images like this one. Raises InputError where it would be larger than MOST_BYTES."""
    if n * image.size > MOST_BYTES:
        raise InputError(
            f"{where}: {n:,} images of {' × '.join(map(str, image.shape))} bytes need more memory than "
            f"{MOST_BYTES:,} bytes; make them smaller with --image-size"
        )
    return np.empty((n, *image.shape), np.uint8)


def _decode(entry: Entry, image_size: int | None) -> Array:
    """One image (C, H, W), height first. Raises InputError for what cannot be decoded, and for another kind."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    assert entry.read is not None
    data = entry.read()
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as file:
            if image_size is not None:  # a large JPEG is decoded at a half, a quarter, … where that is enough
                file.draft(None, (image_size, image_size))
            image = ImageOps.exif_transpose(file)
            image.load()
    except UnidentifiedImageError:
        raise InputError(f"{entry.where}: not a PNG or JPEG file, or damaged at its beginning") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(f"{entry.where}: more than {Image.MAX_IMAGE_PIXELS:,} pixels; make it smaller") from None
    except Exception as error:  # a decoder fails in as many ways as bytes can be damaged
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{entry.where}: the image is damaged or cut short ({reason})") from None
    image = _plain(image, entry.where)
    if image_size is not None:
        image = ImageOps.fit(image, (image_size, image_size), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, np.uint8)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _plain(image: Image, where: str) -> Image:
    """An image in mode L (grey) or RGB. Raises InputError where that would lose something."""
    if image.mode in ("L", "RGB") and "transparency" not in image.info:
        return image
    if image.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
        raise InputError(f"{where}: an image of mode {image.mode}; save it with 8 bits, in grey or RGB")
    grey = image.mode in ("1", "L", "LA")
    image = image.convert("RGBA")
    if np.asarray(image.getchannel("A")).min() < 255:
        raise InputError(f"{where}: has transparent pixels; save it on a background")
    return image.convert("L" if grey else "RGB")
