"""CIFAR-10's binary files."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from minissl.errors import InputError
from minissl.vision import load_images
from minissl.vision.cifar import CLASSES, RECORD, read_cifar

SHARED = Path(os.environ.get("MINISSL_DATA", "")) / "images/cifar10-jpeg/cifar10_train_1000.bin.gz"


def records(n, seed=0):
    """n images with labels 0, 1, …, 9, 0, …, as the file's bytes, and as arrays."""
    pixels = np.random.default_rng(seed).integers(0, 256, (n, 3, 32, 32)).astype(np.uint8)
    labels = np.arange(n) % 10
    rows = np.concatenate([labels[:, None].astype(np.uint8), pixels.reshape(n, -1)], axis=1)
    return rows.tobytes(), pixels, labels


def test_a_file_is_read_in_order_with_its_channels(tmp_path):
    content, pixels, labels = records(20)
    for path, data in ((tmp_path / "a.bin", content), (tmp_path / "b.bin.gz", gzip.compress(content))):
        path.write_bytes(data)
        images = read_cifar(path)
        np.testing.assert_array_equal(images.pixels, pixels)
        np.testing.assert_array_equal(images.labels, labels)


def test_a_folder_of_batches(tmp_path):
    for k in (1, 2):
        (tmp_path / f"data_batch_{k}.bin").write_bytes(records(20, k)[0])
    parts = load_images(str(tmp_path))
    assert parts.classes == CLASSES
    assert len(parts.train.pixels) == 30  # without a test batch, one of each class's four is held out
    assert len(parts.heldout.pixels) == 10
    (tmp_path / "test_batch.bin").write_bytes(records(10, 3)[0])
    (tmp_path / "batches.meta.txt").write_text("\n".join(f"class{i}" for i in range(10)) + "\n\n")
    parts = load_images(str(tmp_path))
    assert parts.classes == tuple(f"class{i}" for i in range(10))
    np.testing.assert_array_equal(parts.train.pixels, np.concatenate([records(20, 1)[1], records(20, 2)[1]]))
    np.testing.assert_array_equal(parts.heldout.pixels, records(10, 3)[1])
    np.testing.assert_array_equal(parts.heldout.labels, np.arange(10))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "0 bytes, expected one or more records of 3,073"),
        (records(20)[0][:-1], "61,459 bytes, expected"),
        (records(20)[0][:RECORD] + b"\x0a" + records(20)[0][RECORD + 1 :], "label 10 of image 1: expected 0 … 9"),
        (records(19)[0], r"1 image\(s\) of class 'truck'; two are needed"),
        (gzip.compress(records(20)[0])[:-20], "gzip file is cut short"),
    ],
)
def test_what_is_wrong_is_said_with_its_file(tmp_path, content, says):
    path = tmp_path / "some.bin"
    path.write_bytes(content)
    with pytest.raises(InputError, match=says) as caught:
        load_images(str(path))
    assert "some" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_python_version_and_wrong_names(tmp_path):
    (tmp_path / "data_batch_1").write_bytes(b"\x80\x04N.")
    with pytest.raises(InputError, match="Python version is pickled and could run code"):
        load_images(str(tmp_path))
    (tmp_path / "data_batch_1.bin").write_bytes(records(20)[0])
    (tmp_path / "batches.meta.txt").write_text("cat dog cat")
    with pytest.raises(InputError, match=r"batches.meta.txt: 3 names, 2 different; expected 10"):
        load_images(str(tmp_path))
    (tmp_path / "batches.meta.txt").write_bytes(b"\xff\xff")
    with pytest.raises(InputError, match=r"batches.meta.txt: not UTF-8"):
        load_images(str(tmp_path))


def test_damaged_files_are_read_or_refused_in_one_line(tmp_path):
    rng = np.random.default_rng(0)
    whole = records(6)[0]
    path, refusals = tmp_path / "a.bin", []
    for _ in range(100):
        data = bytearray(whole)
        at = RECORD * int(rng.integers(6)) if rng.random() < 0.5 else int(rng.integers(len(data)))
        if rng.random() < 0.7:
            data[at] = rng.integers(256)
        else:
            del data[at : at + int(rng.integers(1, 40))]
        path.write_bytes(data)
        try:
            images = read_cifar(path)
        except InputError as error:
            refusals.append(str(error))
        else:
            assert images.pixels.shape == (6, 3, 32, 32)
            assert 0 <= images.labels.min() <= images.labels.max() <= 9
    assert 30 < len(refusals) < 90
    assert not any("\n" in said for said in refusals)


@pytest.mark.skipif(not SHARED.is_file(), reason="MINISSL_DATA has no images/cifar10-jpeg")
def test_cifar_10_itself():
    parts = load_images(str(SHARED))
    assert parts.name == "cifar10_train_1000"
    assert parts.train.pixels.shape == (800, 3, 32, 32)
    assert np.bincount(parts.heldout.labels).tolist() == [20] * 10
    blue = parts.train.pixels[parts.train.labels == CLASSES.index("airplane")][:, :, :8].mean(axis=(0, 2, 3))
    assert blue[2] > blue[0]  # the sky is above, and blue
    rows = parts.train.pixels.astype(float)
    assert abs(np.diff(rows, axis=2)).mean() < 20  # neighbours are alike: rows, not columns of planes
    assert abs(np.diff(rows, axis=3)).mean() < 20
