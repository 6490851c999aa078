import math

import numpy as np


def test_matches_the_formula_written_out(softmax):
    x = np.random.default_rng(0).standard_normal((2, 3, 5))
    y, _ = softmax.forward(x)
    assert y.shape == x.shape
    for b, t in np.ndindex(2, 3):
        total = sum(math.exp(v) for v in x[b, t])
        np.testing.assert_allclose(y[b, t], [math.exp(v) / total for v in x[b, t]], rtol=1e-14)


def test_rows_sum_to_one_and_shifts_do_not_matter(softmax):
    x = 5 * np.random.default_rng(1).standard_normal((3, 5))
    y, _ = softmax.forward(x)
    np.testing.assert_allclose(y.sum(axis=-1), 1, rtol=1e-15)
    np.testing.assert_allclose(softmax.forward(x + 1000)[0], y, rtol=1e-10)


def test_each_row_is_safe_whatever_the_other_rows_hold(softmax):
    """The maximum must be the row's own: another row's lets this one overflow or vanish."""
    x = np.array([[-2000.0, -2001], [0, 1], [3000, 2999]])
    y, cache = softmax.forward(x)
    p = 1 / (1 + math.exp(-1))
    np.testing.assert_allclose(y, [[p, 1 - p], [1 - p, p], [p, 1 - p]], rtol=1e-14)
    assert np.isfinite(softmax.backward(np.ones_like(x), cache)).all()


def test_dx_matches_the_jacobian(softmax):
    rng = np.random.default_rng(2)
    y, cache = softmax.forward(rng.standard_normal((3, 5)))
    dy = rng.standard_normal((3, 5))
    dx = softmax.backward(dy, cache)
    for n in range(3):
        np.testing.assert_allclose(dx[n], (np.diag(y[n]) - np.outer(y[n], y[n])) @ dy[n], rtol=1e-12)
    np.testing.assert_allclose(dx.sum(axis=-1), 0, atol=1e-15)


def test_all_ones_upstream_has_no_effect(softmax):
    _, cache = softmax.forward(np.random.default_rng(3).standard_normal((3, 5)))
    np.testing.assert_allclose(softmax.backward(np.ones((3, 5)), cache), 0, atol=1e-15)
