"""Sets of images by name and by path."""

import sys

import numpy as np
import pytest

from minissl.errors import InputError
from minissl.vision import Images, load_images
from minissl.vision.datasets import hold_out
from minissl.vision.glyphs import glyphs


def test_digits():
    pytest.importorskip("sklearn", reason="needs scikit-learn")
    parts = load_images("digits")
    assert parts.fingerprint == load_images("digits").fingerprint
    assert parts.train.pixels.shape[1:] == (1, 8, 8)
    assert parts.train.pixels.dtype == np.uint8
    assert len(parts.train.pixels) + len(parts.heldout.pixels) == 1797
    assert parts.train.pixels.max() == 255
    assert parts.train.pixels[:, 0, 0, 0].max() < 100  # corners are black
    assert np.bincount(parts.heldout.labels).min() >= 34
    assert len(parts.classes) == 10


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(InputError, match=r"pip install 'minissl\[data\]'"):
        load_images("digits")


def test_a_fifth_of_each_class_is_held_out_always_the_same():
    labels = np.array([0] * 10 + [1] * 2 + [2] * 31)
    images = Images(np.arange(43, dtype=np.uint8)[:, None, None, None], labels)
    parts = hold_out("x", ("a", "b", "c"), images)
    assert np.bincount(parts.heldout.labels).tolist() == [2, 1, 6]
    values = np.concatenate([parts.train.pixels, parts.heldout.pixels]).ravel()
    assert sorted(values.tolist()) == list(range(43))
    for part in parts.train, parts.heldout:
        assert np.all(np.diff(part.pixels.ravel().astype(int)) > 0)
        np.testing.assert_array_equal(part.labels, labels[part.pixels.ravel()])
    assert hold_out("x", ("a", "b", "c"), images).fingerprint == parts.fingerprint
    with pytest.raises(InputError, match=r"1 image\(s\) of class 'b'; two are needed"):
        hold_out("x", ("a", "b", "c"), images.take([*range(11), *range(12, 43)]))
    with pytest.raises(InputError, match=r"x: 1 image\(s\); two are needed"):
        hold_out("x", (), Images(images.pixels[:1]))


def test_what_is_no_set(tmp_path):
    with pytest.raises(InputError, match="No such file or directory; expected glyphs, digits"):
        load_images(str(tmp_path / "none"))
    with pytest.raises(InputError, match="no images; expected PNG or JPEG"):
        load_images(str(tmp_path))
    (tmp_path / "a.zip").touch()
    with pytest.raises(InputError, match="not a set of images by its name; expected glyphs"):
        load_images(str(tmp_path / "a.zip"))
    with pytest.raises(InputError, match="File name too long"):
        load_images("a" * 5000)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InputError, match="symbolic links"):
        load_images(str(tmp_path / "loop"))


def test_a_size_for_a_set_that_has_its_own(monkeypatch):
    monkeypatch.setattr("minissl.vision.datasets.glyphs", lambda: glyphs(60, 30))
    with pytest.raises(
        InputError, match="glyphs: its images have 32 × 32 pixels, asked for 28 × 28; only PNG and JPEG"
    ):
        load_images("glyphs", 28)
    for size in (0, 4097):
        with pytest.raises(InputError, match=f"image size {size}: expected pixels a side, 1 to 4,096"):
            load_images("glyphs", size)
    assert load_images("glyphs", 32).train.pixels.shape == (60, 3, 32, 32)
