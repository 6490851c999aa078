import math

import numpy as np
import pytest

from minissl.errors import InputError

B, H, T, S, K, W = 2, 3, 4, 5, 6, 7  # W: width of the values


def example(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    q, k = scale * rng.standard_normal((B, H, T, K)), rng.standard_normal((B, H, S, K))
    mask = rng.random((B, 1, T, S)) < 0.6
    mask[..., 0] = True
    mask[1, 0, 2] = False  # a query that sees nothing
    return q, k, rng.standard_normal((B, H, S, W)), mask


def by_loops(q, k, v, mask):
    y = np.zeros((B, H, T, W))
    for b, h, t in np.ndindex(B, H, T):
        seen = [s for s in range(S) if mask[b, 0, t, s]]
        scores = {s: sum(q[b, h, t, i] * k[b, h, s, i] for i in range(K)) / math.sqrt(K) for s in seen}
        total = sum(math.exp(score) for score in scores.values())
        for s in seen:
            y[b, h, t] += math.exp(scores[s]) / total * v[b, h, s]
    return y


def test_matches_the_formula_written_out(attention):
    q, k, v, mask = example(0)
    y, _ = attention.forward(q, k, v, mask)
    assert y.shape == (B, H, T, W)
    np.testing.assert_allclose(y, by_loops(q, k, v, mask), rtol=1e-12, atol=1e-15)
    unmasked, _ = attention.forward(q, k, v)
    np.testing.assert_allclose(unmasked, by_loops(q, k, v, np.ones((B, 1, T, S))), rtol=1e-12, atol=1e-15)


def test_a_query_that_sees_nothing_gets_zeros_and_gives_none(attention):
    q, k, v, mask = example(1)
    y, cache = attention.forward(q, k, v, mask)
    assert np.array_equal(y[1, :, 2], np.zeros((H, W)))
    dy = np.zeros_like(y)
    dy[1, :, 2] = np.random.default_rng(2).standard_normal((H, W))
    for gradient in attention.backward(dy, cache):
        assert np.array_equal(gradient, np.zeros_like(gradient))


def test_hidden_keys_and_values_get_exactly_no_gradient(attention):
    q, k, v, _ = example(3)
    padding = (np.arange(S) < 3)[None, None, None, :]
    y, cache = attention.forward(q, k, v, padding)
    dq, dk, dv = attention.backward(np.random.default_rng(4).standard_normal(y.shape), cache)
    assert (dq.shape, dk.shape, dv.shape) == (q.shape, k.shape, v.shape)
    assert not dk[:, :, 3:].any()
    assert not dv[:, :, 3:].any()
    assert dk[:, :, :3].all()
    assert dv[:, :, :3].all()


def test_what_is_hidden_does_not_reach_y(attention):
    q, k, v, _ = example(5)
    causal = np.tri(T, S, dtype=bool)
    before, _ = attention.forward(q, k, v, causal)
    k[:, :, 2:] += 5
    v[:, :, 2:] -= 9
    after, _ = attention.forward(q, k, v, causal)
    np.testing.assert_array_equal(after[:, :, :2], before[:, :, :2])
    assert (after[:, :, 2:] != before[:, :, 2:]).all()


def test_a_key_bias_has_gradient_zero(attention):
    """It shifts all scores of a query alike, which softmax does not see."""
    q, k, v, mask = example(6)
    y, cache = attention.forward(q, k, v, mask)
    _, dk, _ = attention.backward(np.random.default_rng(7).standard_normal(y.shape), cache)
    np.testing.assert_allclose(dk.sum(axis=-2), 0, atol=1e-13)


def test_scores_of_very_different_size_stay_finite(attention):
    q, k, v, mask = example(8)
    q[:, :, 0] *= 1e4
    q[:, :, 1] *= -1e4
    y, cache = attention.forward(q, k, v, mask)
    every = [y, *attention.backward(np.random.default_rng(9).standard_normal(y.shape), cache)]
    assert all(np.isfinite(array).all() for array in every)
    ordinary_rows = mask & (np.arange(T) > 1)[:, None]
    np.testing.assert_allclose(y[:, :, 2:], by_loops(q, k, v, ordinary_rows)[:, :, 2:], rtol=1e-11, atol=1e-15)


def test_rows_far_below_others_keep_their_weights(attention):
    """One key for every query, so that all weights are 1 whatever the scores: a foreign maximum would underflow."""
    q = np.array([[1000.0, 0], [-1000, 0]])  # scores +707 and -707
    y, _ = attention.forward(q, np.array([[1.0, 0]]), np.array([[3.0]]))
    np.testing.assert_array_equal(y, [[3.0], [3.0]])


def test_dropout_acts_on_the_weights_and_only_with_an_rng(attention):
    q, k, v, mask = example(10)
    rate = 0.5
    plain, _ = attention.forward(q, k, v, mask)
    np.testing.assert_array_equal(attention.forward(q, k, v, mask, rate)[0], plain)
    np.testing.assert_array_equal(attention.forward(q, k, v, mask, 0.0, np.random.default_rng(0))[0], plain)
    identity = np.broadcast_to(np.eye(S), (B, H, S, S))  # values that let the weights through as y
    weights, _ = attention.forward(q, k, identity, mask)
    dropped, _ = attention.forward(q, k, identity, mask, rate, np.random.default_rng(0))
    kept = dropped != 0
    np.testing.assert_allclose(dropped[kept], weights[kept] / (1 - rate), rtol=1e-12)
    assert 0.35 < kept[weights > 0].mean() < 0.65
    mean = sum(attention.forward(q, k, v, mask, rate, np.random.default_rng(i))[0] for i in range(400)) / 400
    assert np.abs(mean - plain).max() < 0.25 * np.abs(plain).max()
    with pytest.raises(InputError, match="rate"):
        attention.forward(q, k, v, mask, 1.5, np.random.default_rng(0))
