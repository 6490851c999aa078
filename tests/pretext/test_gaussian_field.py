import math

import numpy as np
import pytest

from minissl.errors import InputError
from minissl.ops.patches import patchify_forward
from minissl.ops.regression import masked_l1_forward, masked_mse_forward
from minissl.pretext import GaussianField, gaussian_field, hide_patches
from minissl.pretext.patches import hidden_pixels

SIDE = 2
SIZE = (4, 6)  # 2 × 3 patches
HIDDEN = np.array([[True, False, True, True, True, False], [False, True, True, False, False, False]])


def uneven():
    """A field that is not stationary: every pixel has its own mean and variance, no two correlations are alike."""
    rng = np.random.default_rng(5)
    n = SIZE[0] * SIZE[1]
    root = rng.standard_normal((n, n)) / math.sqrt(n) + 0.3 * np.eye(n) + 0.5
    return GaussianField(rng.standard_normal(SIZE), root @ root.T)


def line(*correlations_by_distance):
    """Pixels in a row, patches of one pixel, mean 1, variance 4."""
    n = len(correlations_by_distance)
    distance = np.abs(np.arange(n)[:, None] - np.arange(n))
    return GaussianField(np.ones((1, n)), 4 * np.array(correlations_by_distance)[distance])


def disagreement(field, drawn_from=None, n=40_000):
    """With a linear regression of the hidden pixels on the visible ones, fitted to samples: of means and variances."""
    x = (drawn_from or field).sample(np.random.default_rng(0), n).astype(np.float64)
    worst = [0.0, 0.0]
    for mask in HIDDEN:
        pixels = hidden_pixels(mask[None], SIZE, SIDE)[0]
        h, v = x[:, 0, pixels], x[:, 0, ~pixels]
        design = np.column_stack([v, np.ones(n)])
        fitted = design @ np.linalg.lstsq(design, h, rcond=None)[0]
        got = field.conditional(x[:500], np.tile(mask, (500, 1)), SIDE)
        scale = np.sqrt(((h - fitted) ** 2).mean(axis=0))
        worst[0] = max(worst[0], np.abs((got.mean[:, 0, pixels] - fitted[:500]) / scale).max())
        worst[1] = max(worst[1], np.abs(got.variance[0, 0, pixels] / scale**2 - 1).max())
        np.testing.assert_array_equal(got.mean[:, 0, ~pixels], x[:500, 0, ~pixels])
        assert not got.variance[:, 0, ~pixels].any()
    return worst


@pytest.mark.parametrize("field", [uneven(), GaussianField.stationary(SIZE, 3.0)], ids=["uneven", "stationary"])
def test_agrees_with_regression_on_samples(field):
    """Errors of a fit to 40,000 samples: √(17/40,000) = 0.02 of a standard deviation for a mean, and a few of these."""
    means, variances = disagreement(field)
    assert means < 0.12
    assert variances < 0.04


def neighbours_taken_for_independent(monkeypatch):
    monkeypatch.setattr(gaussian_field.np.linalg, "solve", lambda a, b: b / np.diag(a)[:, None])


def patches_counted_column_by_column(monkeypatch):
    def wrong(mask, size, side):
        return hidden_pixels(mask.reshape(-1, 3, 2).swapaxes(1, 2).reshape(-1, 6), size, side)

    monkeypatch.setattr(gaussian_field, "hidden_pixels", wrong)


@pytest.mark.parametrize("mutate", [neighbours_taken_for_independent, patches_counted_column_by_column])
def test_regression_sees_a_wrong_formula(monkeypatch, mutate):
    mutate(monkeypatch)
    if mutate is neighbours_taken_for_independent:
        assert disagreement(uneven())[0] > 1
    else:
        with pytest.raises(AssertionError, match="not equal"):  # visible pixels were predicted
            disagreement(uneven())


def test_regression_sees_another_correlation_length():
    right, wrong = GaussianField.stationary(SIZE, 3.0), GaussianField.stationary(SIZE, 2.0)
    means, variances = disagreement(wrong, drawn_from=right)
    assert means > 0.3
    assert variances > 0.1


def test_two_pixels_by_hand():
    field, r = line(1.0, 0.6), 0.6
    got = field.conditional(np.array([[[[3.0, 99.0]]]]), np.array([[False, True]]), 1)
    np.testing.assert_allclose(got.mean, [[[[3.0, 1 + r * (3 - 1)]]]])
    np.testing.assert_allclose(got.variance, [[[[0.0, 4 * (1 - r**2)]]]])


def test_the_middle_of_three_by_hand():
    """On a line exp(-distance/length) makes a Markov chain: the middle is between its neighbours, alike for both."""
    r = 0.7
    got = line(1.0, r, r**2).conditional(np.array([[[[2.0, 99.0, -3.0]]]]), np.array([[False, True, False]]), 1)
    assert got.mean[0, 0, 0, 1] == pytest.approx(1 + r / (1 + r**2) * (1 - 4))
    assert got.variance[0, 0, 0, 1] == pytest.approx(4 * (1 - r**2) / (1 + r**2))
    end = line(1.0, r, r**2).conditional(np.array([[[[2.0, -3.0, 99.0]]]]), np.array([[False, False, True]]), 1)
    assert end.mean[0, 0, 0, 2] == pytest.approx(1 + r * -4)  # the far end adds nothing to the near neighbour


def test_a_symmetric_mask_has_a_symmetric_answer():
    field = GaussianField.stationary((6, 6), 3.0)
    mask = np.array([[False, True, False, True, True, True, False, True, False]])  # the four corners are visible
    image = np.ones((1, 1, 6, 6))
    got = field.conditional(image, mask, 2)
    for turned in (np.flip(got.mean, 2), np.flip(got.mean, 3), got.mean.swapaxes(2, 3)):
        np.testing.assert_allclose(turned, got.mean)
    for turned in (np.flip(got.variance, 2), got.variance.swapaxes(2, 3)):
        np.testing.assert_allclose(turned, got.variance)
    assert got.variance[0, 0, 2, 2] > got.variance[0, 0, 2, 1] > got.variance[0, 0, 1, 1] == 0


def test_of_independent_pixels_nothing_is_known():
    field = GaussianField(np.full(SIZE, 2.0), 9 * np.eye(24))
    got = field.conditional(field.sample(np.random.default_rng(0), 2), HIDDEN, SIDE)
    pixels = hidden_pixels(HIDDEN, SIZE, SIDE)
    assert set(got.mean[:, 0][pixels]) == {2.0}
    assert field.best_squared_error(HIDDEN, SIDE) == pytest.approx(9)
    assert field.best_absolute_error(HIDDEN, SIDE) == pytest.approx(3 * math.sqrt(2 / math.pi))


def test_the_floor_is_the_loss_of_the_conditional_mean_and_nothing_is_below_it():
    """With the very losses that the models are trained on."""
    field, rng, n = GaussianField.stationary((8, 8), 4.0), np.random.default_rng(1), 2000
    images = field.sample(rng, n).astype(np.float64)
    hidden = hide_patches(rng.random((n, 16)), 0.75).mask
    best = field.conditional(images, hidden, SIDE).mean

    def losses(prediction):
        rows = [patchify_forward(x, SIDE)[0] for x in (prediction, images)]
        positions = np.flatnonzero(hidden)
        return float(masked_mse_forward(*rows, positions)[0]), float(masked_l1_forward(*rows, positions)[0])

    mse, l1 = losses(best)
    assert mse == pytest.approx(field.best_squared_error(hidden, SIDE), rel=0.03)
    assert l1 == pytest.approx(field.best_absolute_error(hidden, SIDE), rel=0.02)
    assert 0.2 < mse < 0.6  # of a variance of 1: neither nothing to find nor nothing to learn
    rivals = [0.9 * best, 1.1 * best, best + 0.1, np.roll(best, 1, axis=0), np.flip(best, axis=2)]
    for other in (2.0, 8.0):
        rivals.append(GaussianField.stationary((8, 8), other).conditional(images, hidden, SIDE).mean)
    for rival in rivals:
        assert losses(rival) > (mse, l1)
        assert losses(rival)[1] > l1


def test_samples_have_the_mean_and_covariance():
    field = uneven()
    x = field.sample(np.random.default_rng(2), 40_000)
    assert x.shape == (40_000, 1, *SIZE)
    assert x.dtype == np.float32
    flat = x.reshape(len(x), -1).astype(np.float64)
    scale = np.sqrt(np.diag(field.covariance))
    assert np.abs((flat.mean(axis=0) - field.mean.ravel()) / scale).max() < 0.025
    assert np.abs((np.cov(flat.T) - field.covariance) / np.outer(scale, scale)).max() < 0.04


def test_the_covariance_depends_on_the_distance_alone():
    c = GaussianField.stationary((5, 7), 3.0).covariance.reshape(5, 7, 5, 7)
    assert c[1, 2, 1, 2] == 1
    assert c[0, 0, 3, 4] == pytest.approx(math.exp(-5 / 3))
    assert c[1, 2, 4, 6] == c[0, 0, 3, 4] == c[4, 0, 1, 4]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: GaussianField(np.zeros((2, 3)), np.eye(5)), r"covariance \(5, 5\): expected"),
        (lambda: GaussianField(np.zeros((1, 2)), np.array([[1.0, 0.5], [0.4, 1.0]])), "symmetric"),
        (lambda: GaussianField(np.zeros((1, 2)), np.array([[1.0, 2.0], [2.0, 1.0]])), "positive definite"),
        (lambda: GaussianField.stationary(length=0.0), "length 0.0: expected"),
        (lambda: GaussianField.stationary((4, 4)).conditional(np.zeros((1, 4, 4)), HIDDEN, 2), "images"),
        (lambda: GaussianField.stationary((4, 4)).conditional(np.zeros((2, 1, 4, 4)), HIDDEN, 2), "4 patches each"),
    ],
)
def test_what_is_refused(make, said):
    with pytest.raises(InputError, match=said):
        make()
