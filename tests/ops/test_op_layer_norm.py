import math

import numpy as np


def example(seed, *leading):
    rng = np.random.default_rng(seed)
    return 3 * rng.standard_normal((*leading, 5)) + 2, rng.uniform(0.5, 1.5, 5), rng.standard_normal(5)


def test_matches_the_formula_written_out(layer_norm):
    for eps in (1e-12, 0.5):  # the large one shows where eps goes
        x, gain, bias = example(0, 2, 4)
        y, _ = layer_norm.forward(x, gain, bias, eps)
        assert y.shape == x.shape
        for b, t in np.ndindex(2, 4):
            row = [float(v) for v in x[b, t]]
            mean = sum(row) / 5
            variance = sum((v - mean) ** 2 for v in row) / 5
            expected = [g * (v - mean) / math.sqrt(variance + eps) + c for v, g, c in zip(row, gain, bias, strict=True)]
            np.testing.assert_allclose(y[b, t], expected, rtol=1e-12)


def test_neither_shift_nor_scale_of_x_matters(layer_norm):
    x, gain, bias = example(1, 4)
    y, _ = layer_norm.forward(x, gain, bias, 0.0)
    shifted, _ = layer_norm.forward(5 * x - 3, gain, bias, 0.0)
    np.testing.assert_allclose(shifted, y, rtol=1e-11)


def test_dx_sums_to_zero_and_is_orthogonal_to_x(layer_norm):
    x, gain, bias = example(2, 3, 4)
    y, cache = layer_norm.forward(x, gain, bias, 0.0)
    dx, _, _ = layer_norm.backward(np.random.default_rng(3).standard_normal(y.shape), cache)
    assert np.abs(dx).max() > 0.1
    np.testing.assert_allclose(dx.sum(axis=-1), 0, atol=1e-14)
    np.testing.assert_allclose((dx * x).sum(axis=-1), 0, atol=1e-14)


def test_dx_matches_the_jacobian(layer_norm):
    x, gain, bias = example(4)
    eps = 0.5
    _, cache = layer_norm.forward(x, gain, bias, eps)
    sigma = math.sqrt(x.var() + eps)
    n = (x - x.mean()) / sigma
    jacobian = gain[:, None] * (np.eye(5) - 1 / 5 - np.outer(n, n) / 5) / sigma  # dy_i/dx_j
    dy = np.random.default_rng(5).standard_normal(5)
    dx, dgain, dbias = layer_norm.backward(dy, cache)
    np.testing.assert_allclose(dx, dy @ jacobian, rtol=1e-12)
    np.testing.assert_allclose(dgain, dy * n, rtol=1e-12)
    np.testing.assert_array_equal(dbias, dy)


def test_gain_and_bias_gradients_sum_over_leading_axes(layer_norm):
    x, gain, bias = example(6, 2, 3, 4)
    y, cache = layer_norm.forward(x, gain, bias, 1e-5)
    dy = np.random.default_rng(7).standard_normal(y.shape)
    _, dgain, dbias = layer_norm.backward(dy, cache)
    np.testing.assert_allclose(dgain, ((y - bias) / gain * dy).reshape(-1, 5).sum(axis=0), rtol=1e-11)
    np.testing.assert_allclose(dbias, dy.reshape(-1, 5).sum(axis=0), rtol=1e-12)


def test_a_constant_row_gives_the_bias(layer_norm):
    _, gain, bias = example(8)
    y, cache = layer_norm.forward(np.full((2, 5), 3.0), gain, bias, 1e-12)
    np.testing.assert_array_equal(y, [bias, bias])
    assert np.isfinite(layer_norm.backward(np.ones((2, 5)), cache)[0]).all()
