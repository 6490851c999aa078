import math

import numpy as np

TINY = [5e-324, 1e-310, 1e-300, 1e-100, 1e-40, 1e-20, 1e-10, 1e-8, 1e-5, 1e-3]
NEAR_SEAM = [1 - 1e-15, 1.0, 1 + 1e-15, 1.1, 5.9, 6.0, 6.1]
POSITIVE = np.concatenate([np.linspace(0, 8, 20_001), TINY, NEAR_SEAM])
GRID = np.concatenate([-POSITIVE[::-1], POSITIVE])


def true_erf(x):
    return np.array([math.erf(float(v)) for v in x])


def test_float64_error_is_at_most_1e_15(erf):
    y = erf(GRID)
    assert y.dtype == np.float64
    assert np.abs(y - true_erf(GRID)).max() <= 1e-15


def test_float32_error_is_at_most_2e_7(erf):
    x = GRID.astype(np.float32)
    y = erf(x)
    assert y.dtype == np.float32
    assert np.abs(y - true_erf(x)).max() <= 2e-7


def test_tiny_arguments_keep_their_relative_precision(erf):
    x = np.array(TINY[2:])
    np.testing.assert_allclose(erf(x), 2 / math.sqrt(math.pi) * x, rtol=1e-6)
    np.testing.assert_array_equal(np.signbit(erf(np.array([0.0, -0.0]))), [False, True])


def test_infinities_and_nan(erf):
    y = erf(np.array([np.inf, -np.inf, np.nan, 1e308, -1e308]))
    np.testing.assert_array_equal(y, [1, -1, np.nan, 1, -1])


def test_is_odd_and_bounded(erf):
    np.testing.assert_array_equal(erf(-GRID), -erf(GRID))
    assert np.abs(erf(GRID)).max() == 1


def test_keeps_the_shape(erf):
    assert erf(np.ones((2, 3, 4))).shape == (2, 3, 4)
