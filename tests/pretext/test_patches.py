import numpy as np
import pytest

from minissl.errors import InputError
from minissl.pretext import hide_patches, mask_blocks, number_to_keep


def test_the_patches_of_least_noise_are_kept():
    noise = np.array([[0.5, 0.1, 0.9, 0.3, 0.7, 0.2], [0.6, 0.5, 0.4, 0.3, 0.2, 0.1]])
    hidden = hide_patches(noise, 0.5)
    np.testing.assert_array_equal(hidden.keep, [[1, 5, 3], [5, 4, 3]])
    np.testing.assert_array_equal(hidden.mask, [[1, 0, 1, 0, 1, 0], [1, 1, 1, 0, 0, 0]])
    np.testing.assert_array_equal(hidden.restore, [[3, 0, 5, 2, 4, 1], [5, 4, 3, 2, 1, 0]])
    for row in range(2):  # what is shuffled and restored is as it was
        shuffle = np.argsort(noise[row])
        np.testing.assert_array_equal(np.arange(6)[shuffle][hidden.restore[row]], np.arange(6))


def test_equal_noise_keeps_the_first_patches():
    np.testing.assert_array_equal(hide_patches(np.zeros((2, 8)), 0.75).keep, [[0, 1], [0, 1]])


@pytest.mark.parametrize(("number", "rate", "kept"), [(196, 0.75, 49), (49, 0.75, 12), (10, 0.6, 4), (7, 0, 7)])
def test_the_number_kept_is_rounded_down(number, rate, kept):
    assert number_to_keep(number, rate) == kept
    assert hide_patches(np.random.default_rng(0).random((3, number)), rate).keep.shape == (3, kept)


def test_every_patch_is_hidden_as_often_as_any_other():
    shares = hide_patches(np.random.default_rng(1).random((4000, 8)), 0.75).mask.mean(axis=0)
    np.testing.assert_allclose(shares, 0.75, atol=6 * (0.75 * 0.25 / 4000) ** 0.5)


def test_bad_noise_and_rates_are_refused():
    with pytest.raises(InputError, match=r"noise: shape \(4,\) given"):
        hide_patches(np.zeros(4))
    with pytest.raises(InputError, match="expected finite numbers"):
        hide_patches(np.full((2, 4), np.nan))
    for rate in (1, 75, -0.1):
        with pytest.raises(InputError, match=f"masking rate {rate}: expected a share in"):
            number_to_keep(49, rate)
    with pytest.raises(InputError, match="of 3 patches none is left to see"):
        number_to_keep(3, 0.75)


def test_whole_blocks_are_hidden():
    mask = mask_blocks(np.random.default_rng(2), 500, (6, 4), block=2, rate=0.6)
    assert mask.shape == (500, 24)
    blocks = mask.reshape(500, 3, 2, 2, 2)
    assert (blocks == blocks[:, :, :1, :, :1]).all()
    assert (mask.sum(axis=1) == 4 * 4).all()  # ⌈0.6 · 6⌉ blocks of 4 patches
    np.testing.assert_allclose(mask.mean(axis=0), 4 / 6, atol=6 * (2 / 9 / 500) ** 0.5)
    assert (mask[0] != mask[1]).any()


def test_blocks_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="a grid of 7 × 4 patches does not divide into blocks of 2 × 2"):
        mask_blocks(np.random.default_rng(0), 2, (7, 4), block=2)
    with pytest.raises(InputError, match="masking rate 60: expected a share"):
        mask_blocks(np.random.default_rng(0), 2, (8, 4), rate=60)
