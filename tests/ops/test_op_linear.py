import numpy as np


def rows(rng, *leading):
    return rng.standard_normal((*leading, 5)), rng.standard_normal((3, 5)), rng.standard_normal(3)


def test_matches_the_sum_written_out(linear):
    x, weight, bias = rows(np.random.default_rng(0), 2, 4)
    y, _ = linear.forward(x, weight, bias)
    assert y.shape == (2, 4, 3)
    for b, t, f in np.ndindex(y.shape):
        expected = sum(x[b, t, d] * weight[f, d] for d in range(5)) + bias[f]
        np.testing.assert_allclose(y[b, t, f], expected, rtol=1e-13)


def test_leading_axes_are_free(linear):
    rng = np.random.default_rng(1)
    for leading in ((), (4,), (2, 4), (2, 3, 4)):
        x, weight, bias = rows(rng, *leading)
        y, cache = linear.forward(x, weight, bias)
        assert y.shape == (*leading, 3)
        dx, dweight, dbias = linear.backward(rng.standard_normal(y.shape), cache)
        assert (dx.shape, dweight.shape, dbias.shape) == (x.shape, weight.shape, bias.shape)


def test_gradients_of_one_entry_of_y(linear):
    x, weight, bias = rows(np.random.default_rng(2), 2, 4)
    y, cache = linear.forward(x, weight, bias)
    dy = np.zeros_like(y)
    dy[1, 2, 0] = 1  # y[1, 2, 0] alone
    dx, dweight, dbias = linear.backward(dy, cache)
    expected_dx = np.zeros_like(x)
    expected_dx[1, 2] = weight[0]
    np.testing.assert_array_equal(dx, expected_dx)
    np.testing.assert_array_equal(dweight, [x[1, 2], np.zeros(5), np.zeros(5)])
    np.testing.assert_array_equal(dbias, [1, 0, 0])
