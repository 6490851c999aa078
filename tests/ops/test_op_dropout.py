import numpy as np
import pytest

from minissl.errors import InputError


def test_keeps_the_right_share_at_the_right_scale(dropout):
    x = np.random.default_rng(0).standard_normal((300, 401))
    for rate in (0.1, 0.5, 0.8):
        y, _ = dropout.forward(x, rate, np.random.default_rng(1))
        assert y.shape == x.shape
        kept = y != 0
        standard_error = (rate * (1 - rate) / x.size) ** 0.5
        assert abs(kept.mean() - (1 - rate)) < 5 * standard_error
        np.testing.assert_allclose(y[kept], x[kept] / (1 - rate), rtol=1e-4)  # the rate is rounded to 1/65536


def test_the_mean_is_kept(dropout):
    y, _ = dropout.forward(np.ones(400_001), 0.3, np.random.default_rng(2))
    assert abs(y.mean() - 1) < 5 * (0.3 / 0.7 / y.size) ** 0.5


def test_neighbours_are_dropped_independently(dropout):
    """Four entries share one random word: they must not share their fate."""
    y, _ = dropout.forward(np.ones(400_000), 0.5, np.random.default_rng(3))
    kept = (y != 0).reshape(-1, 4)
    correlations = np.corrcoef(kept.T) - np.eye(4)
    assert np.abs(correlations).max() < 5 / len(kept) ** 0.5


def test_backward_uses_the_mask_of_forward(dropout):
    rng = np.random.default_rng(4)
    x, dy = rng.standard_normal((2, 9, 11)), rng.standard_normal((2, 9, 11))
    y, cache = dropout.forward(x, 0.4, rng)
    np.testing.assert_allclose(dropout.backward(dy, cache), dy * (y / x), rtol=1e-12)


def test_one_seed_means_one_mask(dropout):
    x = np.ones((5, 7))
    first, second, other = (dropout.forward(x, 0.5, np.random.default_rng(seed))[0] for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()
    narrow, _ = dropout.forward(x.astype(np.float32), 0.5, np.random.default_rng(5))
    np.testing.assert_array_equal(narrow != 0, first != 0)


def test_rate_zero_changes_nothing_and_the_generator_moves_on(dropout):
    x = np.random.default_rng(7).standard_normal((5, 7))
    np.testing.assert_array_equal(dropout.forward(x, 0.0, np.random.default_rng(0))[0], x)
    rng = np.random.default_rng(8)
    first, second = (dropout.forward(np.ones(64), 0.5, rng)[0] for _ in range(2))
    assert (first != second).any()


def test_refuses_a_rate_outside_0_to_1(dropout):
    for rate in (1.0, -0.1, 90):
        with pytest.raises(InputError, match="expected 0 ≤ rate < 1"):
            dropout.forward(np.ones(3), rate, np.random.default_rng(0))


def test_a_rate_just_below_1_stays_finite(dropout):
    y, _ = dropout.forward(np.ones(100), 1 - 1e-9, np.random.default_rng(0))
    assert np.isfinite(y).all()
