"""IDX files as MNIST and Fashion-MNIST come in, whole, gzipped, damaged."""

import gzip
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from minissl.errors import InputError
from minissl.vision import load_images
from minissl.vision.idx import FASHION, read_idx

FASHION_FOLDER = Path(os.environ.get("MINISSL_DATA", "")) / "images/fashion-mnist"
NAMES = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]


def idx(array, kind=8):
    """An array as an IDX file's bytes."""
    return bytes([0, 0, kind, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


def some_images(n, height=5, width=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, height, width)), np.arange(n) % 10


def write_folder(folder, packed=False, **files):
    """MNIST's four files, 20 training and 10 held-out images of 5 × 4 pixels; `files` stand in for them, or None."""
    folder.mkdir(exist_ok=True)
    train, heldout = some_images(20), some_images(10, seed=1)
    for name, array in zip(NAMES, (*train, *heldout), strict=True):
        content = files.get("_".join(name.split("-")[:2]), idx(array))
        if content is not None:
            path = folder / (name + ".gz" * packed)
            path.write_bytes(gzip.compress(content) if packed else content)
    return folder


@pytest.mark.parametrize("packed", [False, True])
def test_the_four_files_of_mnist(tmp_path, packed):
    parts = load_images(str(write_folder(tmp_path / "numbers", packed)))
    assert parts.name == "numbers"
    assert parts.classes == tuple("0123456789")
    pixels, labels = some_images(20)
    assert parts.train.pixels.dtype == np.uint8
    assert parts.train.labels.dtype == np.int64
    np.testing.assert_array_equal(parts.train.pixels, pixels[:, None])
    np.testing.assert_array_equal(parts.train.labels, labels)
    np.testing.assert_array_equal(parts.heldout.pixels, some_images(10, seed=1)[0][:, None])


def test_other_names_of_the_same_files(tmp_path):
    folder = write_folder(tmp_path / "my-Fashion-set")
    (folder / NAMES[0]).rename(folder / "train-images.idx3-ubyte")
    assert load_images(str(folder)).classes == FASHION


def test_one_of_the_four_is_not_enough(tmp_path):
    folder = write_folder(tmp_path / "a", packed=True)
    with pytest.raises(InputError, match=r"one of the four files of a set; give their folder, .*/a$"):
        load_images(str(folder / f"{NAMES[0]}.gz"))


def test_the_fingerprint_is_of_the_data_alone(tmp_path):
    one = load_images(str(write_folder(tmp_path / "a")))
    assert one.fingerprint == load_images(str(write_folder(tmp_path / "b", packed=True))).fingerprint
    pixels, labels = some_images(20)
    pixels[3, 2, 1] ^= 1
    changed = load_images(str(write_folder(tmp_path / "c", train_images=idx(pixels))))
    swapped = load_images(str(write_folder(tmp_path / "d", train_labels=idx(np.roll(labels, 1)))))
    assert len({one.fingerprint, changed.fingerprint, swapped.fingerprint}) == 3


WHOLE = idx(some_images(20)[0])
LABELS = idx(some_images(20)[1])


@pytest.mark.parametrize(
    ("files", "name", "says"),
    [
        ({"train_images": WHOLE[:-1]}, NAMES[0], "cut short: its header says 20 × 5 × 4 = 400 bytes, 399 follow"),
        ({"train_images": WHOLE + b"x"}, NAMES[0], "too long: .* 401 follow"),
        ({"train_images": WHOLE[:7]}, NAMES[0], "cut short inside its header, 7 of 16 bytes"),
        ({"train_images": b""}, NAMES[0], "begins with nothing; an IDX file begins with 00 00 08"),
        ({"train_images": b"\x89PNG\r\n"}, NAMES[0], "begins with 89 50 4e 47"),
        ({"train_images": idx(some_images(20)[0], kind=0x0D)}, NAMES[0], "holds floats, expected bytes"),
        ({"train_images": LABELS}, NAMES[0], "has 1 dimension.*expected 3.*is one the other"),
        ({"train_images": b"\0\0\x08\x03" + b"\xff" * 12}, NAMES[0], "cut short: its header says 4294967295 × "),
        ({"train_images": idx(np.zeros((0, 5, 4)))}, NAMES[0], "holds no image: 0 × 5 × 4"),
        ({"train_images": idx(np.zeros((20, 5, 0)))}, NAMES[0], "holds no image: 20 × 5 × 0"),
        ({"train_labels": idx(np.arange(19) % 10)}, NAMES[1], "19 labels for 20 images in train-images"),
        ({"t10k_labels": idx(np.array([*range(9), 10]))}, NAMES[3], "label 10 of image 9: expected 0 … 9"),
        ({"train_labels": idx(np.arange(20) % 9)}, "", "no training image of class '9'"),
        ({"t10k_images": idx(np.zeros((10, 4, 4)))}, "", "training images of 5 × 4 pixels, held-out of 4 × 4"),
        ({"t10k_labels": None}, "", "no file t10k-labels-idx1-ubyte or t10k-labels-idx1-ubyte.gz beside the others"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_what_is_wrong_is_said_with_its_file(tmp_path, files, name, says, packed):
    folder = write_folder(tmp_path / "a", packed, **files)
    with pytest.raises(InputError, match=says) as caught:
        load_images(str(folder))
    assert str(folder / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_gzip_that_is_damaged_or_unpacks_without_end(tmp_path, monkeypatch):
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(WHOLE)[:-9])
    with pytest.raises(InputError, match="gzip file is cut short"):
        read_idx(path, 3)
    path.write_bytes(gzip.compress(WHOLE)[:-5] + b"12345")
    with pytest.raises(InputError, match="gzip file is damaged"):
        read_idx(path, 3)
    monkeypatch.setattr("minissl.vision.packed.MOST_BYTES", 1000)
    path.write_bytes(gzip.compress(idx(np.zeros((5, 20, 20)))))
    with pytest.raises(InputError, match="unpacks to more than 1,000 bytes"):
        read_idx(path, 3)
    path.write_bytes(gzip.compress(bytes(30_000_000)))
    tracemalloc.start()
    with pytest.raises(InputError, match="unpacks to more than"):
        read_idx(path, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000_000
    with pytest.raises(InputError, match="is not a file"):
        read_idx(tmp_path, 3)
    with pytest.raises(InputError, match="no such file"):
        read_idx(tmp_path / "none", 3)


@pytest.mark.parametrize("packed", [False, True])
def test_damaged_files_are_read_or_refused_in_one_line(tmp_path, packed):
    """Bytes flipped, cut out, doubled: no other exception, and what is read is whole."""
    rng = np.random.default_rng(0)
    whole = gzip.compress(WHOLE, mtime=0) if packed else WHOLE
    path = tmp_path / "file"
    read, refusals = 0, []
    for _ in range(200):
        data = bytearray(whole)
        at = int(rng.integers(len(data) if rng.random() < 0.5 else 20))
        kind = rng.integers(3)
        if kind == 0:
            data[at] = rng.integers(256)
        elif kind == 1:
            del data[at : at + int(rng.integers(1, 40))]
        else:
            data[at:at] = data[at : at + 30]
        path.write_bytes(data)
        try:
            found = read_idx(path, 3)
        except InputError as error:
            refusals.append(str(error))
        else:
            assert found.dtype == np.uint8
            assert found.ndim == 3
            read += 1
    assert read > 2
    assert len(refusals) > 100
    assert not any("\n" in said for said in refusals)


@pytest.mark.skipif(not FASHION_FOLDER.is_dir(), reason="MINISSL_DATA has no images/fashion-mnist")
def test_fashion_mnist_itself():
    parts = load_images(str(FASHION_FOLDER))
    assert parts.name == "fashion-mnist"
    assert parts.train.pixels.shape == (60_000, 1, 28, 28)
    assert parts.heldout.pixels.shape == (10_000, 1, 28, 28)
    assert np.bincount(parts.train.labels).tolist() == [6000] * 10
    assert abs(parts.train.pixels.mean() / 255 - 0.2860) < 1e-4
    assert parts.classes[9] == "Ankle boot"
    boot = parts.train.pixels[0, 0]  # the first is one; its sole, the lower half, is where most of it is
    assert parts.train.labels[0] == 9
    assert boot[14:].sum() > 2 * boot[:14].sum()
