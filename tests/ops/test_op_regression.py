import numpy as np
import pytest

from minissl.errors import InputError

POSITIONS = np.array([6, 1, 3])


def example(seed):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((2, 4, 5)), rng.standard_normal((2, 4, 5))


def by_loops(prediction, target, positions, count, error):
    pairs = [(prediction[m // 4, m % 4, p], target[m // 4, m % 4, p]) for m in positions for p in range(5)]
    return sum(error(a - b) for a, b in pairs) / (count * 5)


def matches(op, error, slope):
    prediction, target = example(0)
    for count in (None, 11):
        loss, cache = op.forward(prediction, target, POSITIONS, count)
        divisor = 3 if count is None else count
        np.testing.assert_allclose(loss, by_loops(prediction, target, POSITIONS, divisor, error), rtol=1e-13)
        dprediction, dtarget = op.backward(np.float64(-2), cache)
        expected = np.zeros_like(prediction)
        for m in POSITIONS:
            expected[m // 4, m % 4] = -2 * slope((prediction - target)[m // 4, m % 4]) / (divisor * 5)
        np.testing.assert_allclose(dprediction, expected, rtol=1e-13)
        np.testing.assert_allclose(dtarget, -expected, rtol=1e-13)


def shares_add_up(op):
    prediction, target = example(1)
    whole, cache = op.forward(prediction, target, POSITIONS)
    shares = [op.forward(prediction, target, part, count=3) for part in (POSITIONS[:1], POSITIONS[1:])]
    np.testing.assert_allclose(sum(loss for loss, _ in shares), whole, rtol=1e-14)
    gradients = [op.backward(np.float64(1), part)[0] for _, part in shares]
    np.testing.assert_allclose(sum(gradients), op.backward(np.float64(1), cache)[0], rtol=1e-14)


def refuses(op):
    prediction, target = example(2)
    with pytest.raises(InputError, match="differ in shape"):
        op.forward(prediction, target[0], POSITIONS)
    with pytest.raises(InputError, match="no position chosen"):
        op.forward(prediction, target, POSITIONS[:0])
    for bad in (8, -1):
        with pytest.raises(InputError, match=f"{bad} is outside 0 … 7"):
            op.forward(prediction, target, np.array([0, bad]))


def test_mse_matches_the_formula_written_out(masked_mse):
    matches(masked_mse, lambda d: d * d, lambda d: 2 * d)


def test_l1_matches_the_formula_written_out(masked_l1):
    matches(masked_l1, abs, np.sign)


def test_mse_shares_add_up_to_the_whole_batch(masked_mse):
    shares_add_up(masked_mse)


def test_l1_shares_add_up_to_the_whole_batch(masked_l1):
    shares_add_up(masked_l1)


def test_mse_refuses_what_does_not_fit(masked_mse):
    refuses(masked_mse)


def test_l1_refuses_what_does_not_fit(masked_l1):
    refuses(masked_l1)


def test_l1_has_no_slope_where_prediction_equals_target(masked_l1):
    prediction, _ = example(3)
    loss, cache = masked_l1.forward(prediction, prediction.copy(), POSITIONS)
    assert loss == 0
    assert not masked_l1.backward(np.float64(1), cache)[0].any()
