"""Augmentation: shifted crops and mirror images, and nothing else."""

import numpy as np
import pytest

from minissl.errors import InputError
from minissl.vision import augment

PIXELS = np.random.default_rng(0).integers(1, 256, (40, 3, 6, 5)).astype(np.uint8)  # no 0: that is the border's


def shifted(image, down, right):
    """Image (C, H, W) moved, with zeros where it was."""
    out = np.zeros_like(image)
    H, W = image.shape[1:]
    for row in range(H):
        for column in range(W):
            if 0 <= row - down < H and 0 <= column - right < W:
                out[:, row, column] = image[:, row - down, column - right]
    return out


def test_each_view_is_a_shift_of_its_image_or_of_its_mirror_image():
    views = augment(PIXELS, np.random.default_rng(1), flip=True, crop=2)
    assert views.dtype == np.uint8
    assert views.shape == PIXELS.shape
    found = set()
    for image, view in zip(PIXELS, views, strict=True):
        moves = [
            (mirror, down, right)
            for mirror in (False, True)
            for down in range(-2, 3)
            for right in range(-2, 3)
            if np.array_equal(view, shifted(image[:, :, ::-1] if mirror else image, down, right))
        ]
        assert len(moves) == 1
        found.update(moves)
    assert {mirror for mirror, _, _ in found} == {False, True}
    assert {down for _, down, _ in found} == {right for _, _, right in found} == {-2, -1, 0, 1, 2}


def test_half_are_mirrored_and_every_shift_is_as_likely():
    one = np.zeros((20_000, 1, 5, 5), np.uint8)
    one[:, 0, 2, 2] = 1
    views = augment(one, np.random.default_rng(0), crop=2)
    counts = views.sum(axis=0, dtype=np.int64)[0]
    assert counts.sum() == 20_000
    assert abs(counts - 800).max() < 5 * np.sqrt(800)
    one[:] = [1, 0, 0, 0, 0]
    mirrored = augment(one, np.random.default_rng(0), flip=True)[:, 0, 0, 4].sum(dtype=np.int64)
    assert abs(mirrored - 10_000) < 5 * np.sqrt(5000)


def test_pure_and_of_the_rng_alone():
    before = PIXELS.copy()
    views = [augment(PIXELS, np.random.default_rng(seed), flip=True, crop=1) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(PIXELS, before)
    np.testing.assert_array_equal(views[0], views[1])
    assert not np.array_equal(views[0], views[2])
    same = augment(PIXELS, np.random.default_rng(0))
    np.testing.assert_array_equal(same, PIXELS)
    assert not np.shares_memory(same, PIXELS)
    floats = augment(PIXELS.astype(np.float32), np.random.default_rng(0), flip=True, crop=1)
    assert floats.dtype == np.float32
    np.testing.assert_array_equal(floats, views[0])


@pytest.mark.parametrize("crop", [-1, 5])
def test_a_crop_that_is_none(crop):
    with pytest.raises(InputError, match=f"crop={crop}: expected 0 to 4 pixels for images of 6 × 5"):
        augment(PIXELS, np.random.default_rng(0), crop=crop)
