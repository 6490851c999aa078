import math

import numpy as np
import pytest

from minissl.errors import InputError
from minissl.ops import bicubic_weights, sincos_positions

h, w, D = 3, 5, 4


def test_sincos_positions_by_loops_with_the_column_first():
    table = sincos_positions((h, w), 12)
    assert table.shape == (1 + h * w, 12)
    assert not table[0].any()
    for y in range(h):
        for x in range(w):
            for i in range(3):
                angle = 10000 ** (-i / 3)
                expected = math.sin(x * angle), math.cos(x * angle), math.sin(y * angle), math.cos(y * angle)
                np.testing.assert_allclose(table[1 + y * w + x][i::3], expected, rtol=1e-12, atol=1e-15)


def test_sincos_positions_need_a_width_that_divides_by_4():
    with pytest.raises(InputError, match="width 6 does not divide by 4"):
        sincos_positions((h, w), 6)


def test_bicubic_weights_add_up_and_reproduce_a_straight_line():
    weights = bicubic_weights(8, 13)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-14)
    np.testing.assert_array_equal(bicubic_weights(5, 5), np.eye(5))
    halved = bicubic_weights(8, 4)  # halfway between two points: -3/32, 19/32, 19/32, -3/32
    np.testing.assert_allclose(halved[1], np.array([0, -3, 19, 19, -3, 0, 0, 0]) / 32, rtol=1e-14)
    np.testing.assert_allclose(halved[0], np.array([16, 19, -3, 0, 0, 0, 0, 0]) / 32, rtol=1e-14)


def test_interpolate_positions_resamples_each_axis_and_keeps_the_class_token(interpolate_positions):
    table = np.random.default_rng(0).standard_normal((1 + h * w, D))
    y, cache = interpolate_positions.forward(table, (h, w), (4, 7))
    rows, columns = bicubic_weights(h, 4), bicubic_weights(w, 7)
    np.testing.assert_array_equal(y[0], table[0])
    expected = np.einsum("ik,jl,kld->ijd", rows, columns, table[1:].reshape(h, w, D))
    np.testing.assert_allclose(y[1:], expected.reshape(-1, D), rtol=1e-12, atol=1e-14)
    dy = np.random.default_rng(1).standard_normal(y.shape)
    dtable = interpolate_positions.backward(dy, cache)
    np.testing.assert_allclose((dtable * table).sum(), (dy * y).sum(), rtol=1e-12)  # the transpose
    np.testing.assert_array_equal(dtable[0], dy[0])


def test_interpolate_positions_to_the_same_grid_changes_nothing(interpolate_positions):
    table = np.random.default_rng(2).standard_normal((1 + h * w, D))
    np.testing.assert_array_equal(interpolate_positions.forward(table, (h, w), (h, w))[0], table)


def test_interpolate_positions_refuses_a_table_of_another_grid(interpolate_positions):
    with pytest.raises(InputError, match="a table of 16 rows given, a grid of 4 × 4 has 17"):
        interpolate_positions.forward(np.zeros((16, D)), (4, 4), (h, w))
