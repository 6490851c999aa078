import numpy as np
import pytest

from minissl.errors import InputError


def test_embedding_reads_rows(embedding):
    weight = np.random.default_rng(0).standard_normal((7, 3))
    ids = np.array([[4, 0], [6, 4], [1, 2], [4, 4]])
    y, _ = embedding.forward(ids, weight)
    assert y.shape == (4, 2, 3)
    for i, j in np.ndindex(ids.shape):
        np.testing.assert_array_equal(y[i, j], weight[ids[i, j]])


def test_embedding_gradient_sums_repeated_ids(embedding):
    rng = np.random.default_rng(1)
    ids = np.array([[4, 0, 4], [6, 4, 0]])
    y, cache = embedding.forward(ids, rng.standard_normal((7, 3)))
    dy = rng.standard_normal(y.shape)
    expected = np.zeros((7, 3))
    for i, j in np.ndindex(ids.shape):
        expected[ids[i, j]] += dy[i, j]
    dweight = embedding.backward(dy, cache)
    np.testing.assert_allclose(dweight, expected, rtol=1e-14)
    assert not dweight[[1, 2, 3, 5]].any()


def test_embedding_gradient_has_the_same_bits_on_every_call(embedding):
    rng = np.random.default_rng(2)
    ids = rng.integers(0, 5, 4000)
    y, cache = embedding.forward(ids, rng.standard_normal((5, 8)).astype(np.float32))
    dy = rng.standard_normal(y.shape).astype(np.float32)
    np.testing.assert_array_equal(embedding.backward(dy, cache), embedding.backward(dy, cache))


def test_embedding_refuses_ids_outside_the_table(embedding):
    weight = np.zeros((7, 3))
    for bad in (7, -1, -100):
        with pytest.raises(InputError, match=f"{bad} is outside 0 … 6"):
            embedding.forward(np.array([2, bad]), weight)
    with pytest.raises(InputError, match="expected integers"):
        embedding.forward(np.array([2.0]), weight)


def test_take_positions_counts_through_the_leading_axes(take_positions):
    x = np.random.default_rng(3).standard_normal((2, 4, 3))
    y, _ = take_positions.forward(x, np.array([6, 0, 3]))
    np.testing.assert_array_equal(y, [x[1, 2], x[0, 0], x[0, 3]])


def test_take_positions_gradient_is_zero_elsewhere(take_positions):
    rng = np.random.default_rng(4)
    x = rng.standard_normal((2, 4, 3))
    _, cache = take_positions.forward(x, np.array([6, 0, 6]))
    dy = rng.standard_normal((3, 3))
    expected = np.zeros_like(x)
    expected[1, 2] = dy[0] + dy[2]
    expected[0, 0] = dy[1]
    np.testing.assert_array_equal(take_positions.backward(dy, cache), expected)


def test_take_positions_refuses_positions_outside_x(take_positions):
    for bad in (8, -1):
        with pytest.raises(InputError, match=f"{bad} is outside 0 … 7"):
            take_positions.forward(np.zeros((2, 4, 3)), np.array([bad]))
