import math

import numpy as np
import pytest

from minissl.errors import InputError

M, D, V = 4, 3, 7


def logits_and_targets(seed):
    rng = np.random.default_rng(seed)
    return 2 * rng.standard_normal((M, V)), rng.integers(0, V, M)


def masked_example(seed):
    rng = np.random.default_rng(seed)
    h, weight, bias = rng.standard_normal((M, D)), rng.standard_normal((V, D)), rng.standard_normal(V)
    return h, weight, bias, rng.integers(0, V, M)


def by_loops(logits, targets, count):
    return (
        -sum(
            float(row[target]) - math.log(sum(math.exp(z) for z in row))
            for row, target in zip(logits, targets, strict=True)
        )
        / count
    )


def test_matches_the_formula_written_out(cross_entropy):
    logits, targets = logits_and_targets(0)
    loss, cache = cross_entropy.forward(logits, targets)
    np.testing.assert_allclose(loss, by_loops(logits, targets, M), rtol=1e-14)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = (p - np.eye(V)[targets]) / M
    np.testing.assert_allclose(cross_entropy.backward(np.float64(-3), cache), -3 * expected, rtol=1e-12)


def test_equal_logits_lose_log_of_the_classes(cross_entropy):
    loss, _ = cross_entropy.forward(np.full((M, V), 3.0), np.arange(M))
    np.testing.assert_allclose(loss, math.log(V), rtol=1e-15)


def test_gradient_rows_sum_to_zero(cross_entropy):
    logits, targets = logits_and_targets(1)
    _, cache = cross_entropy.forward(logits, targets)
    np.testing.assert_allclose(cross_entropy.backward(np.float64(1), cache).sum(axis=1), 0, atol=1e-16)


def test_shares_add_up_to_the_whole_batch(cross_entropy):
    logits, targets = logits_and_targets(2)
    loss, cache = cross_entropy.forward(logits, targets)
    whole = cross_entropy.backward(np.float64(1), cache)
    total, rows = 0.0, []
    for share in (slice(0, 1), slice(1, M)):
        part, cache = cross_entropy.forward(logits[share], targets[share], count=M)
        total += part
        rows.append(cross_entropy.backward(np.float64(1), cache))
    np.testing.assert_allclose(total, loss, rtol=1e-14)
    np.testing.assert_allclose(np.concatenate(rows), whole, rtol=1e-14)


def test_huge_logits_never_give_nan(cross_entropy):
    logits = np.array([[1e4, -1e4, 0], [-1e4, 1e4, 0], [-1e4, -1e4, -1e4]])
    for dtype in (np.float32, np.float64):
        loss, cache = cross_entropy.forward(logits.astype(dtype), np.array([1, 1, 0]))
        np.testing.assert_allclose(loss, (2e4 + 0 + math.log(3)) / 3, rtol=1e-6)
        expected = np.array([[1, -1, 0], [0, 0, 0], [-2 / 3, 1 / 3, 1 / 3]]) / 3
        np.testing.assert_allclose(cross_entropy.backward(dtype(1), cache), expected, atol=1e-7)


def test_refuses_targets_that_are_no_class(cross_entropy):
    logits, _ = logits_and_targets(3)
    for bad in (V, -1, -100):
        with pytest.raises(InputError, match=f"{bad} is outside 0 … {V - 1}"):
            cross_entropy.forward(logits, np.array([0, bad, 1, 2]))


def test_refuses_a_row_without_a_target(cross_entropy):
    logits, _ = logits_and_targets(3)
    with pytest.raises(InputError, match=r"targets \(3,\) for 4 rows"):
        cross_entropy.forward(logits, np.array([0, 1, 2]))


def test_refuses_an_empty_batch(cross_entropy):
    with pytest.raises(InputError, match="no target"):
        cross_entropy.forward(np.zeros((0, V)), np.zeros(0, int))
    share, _ = cross_entropy.forward(np.zeros((0, V)), np.zeros(0, int), count=M)  # an empty share is fine
    assert share == 0


def test_masked_loss_is_that_of_the_logits(masked_cross_entropy):
    h, weight, bias, targets = masked_example(4)
    logits = [
        [sum(w * x for w, x in zip(row, hm, strict=True)) + b for row, b in zip(weight, bias, strict=True)] for hm in h
    ]
    loss, cache = masked_cross_entropy.forward(h, weight, bias, targets)
    np.testing.assert_allclose(loss, by_loops(logits, targets, M), rtol=1e-13)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    dlogits = (p - np.eye(V)[targets]) / M
    dh, dweight, dbias = masked_cross_entropy.backward(np.float64(1), cache)
    np.testing.assert_allclose(dh, dlogits @ weight, rtol=1e-11)
    np.testing.assert_allclose(dweight, dlogits.T @ h, rtol=1e-11)
    np.testing.assert_allclose(dbias, dlogits.sum(axis=0), rtol=1e-11, atol=1e-15)


def test_masked_shares_add_up_to_the_whole_batch(masked_cross_entropy):
    h, weight, bias, targets = masked_example(5)
    loss, cache = masked_cross_entropy.forward(h, weight, bias, targets)
    _, dweight, dbias = masked_cross_entropy.backward(np.float64(1), cache)
    shares = [slice(0, 1), slice(1, M)]
    results = [masked_cross_entropy.forward(h[s], weight, bias, targets[s], count=M) for s in shares]
    np.testing.assert_allclose(sum(part for part, _ in results), loss, rtol=1e-14)
    gradients = [masked_cross_entropy.backward(np.float64(1), cache) for _, cache in results]
    np.testing.assert_allclose(sum(g[1] for g in gradients), dweight, rtol=1e-12)
    np.testing.assert_allclose(sum(g[2] for g in gradients), dbias, rtol=1e-12, atol=1e-15)


def test_masked_refuses_nothing_masked_and_wrong_targets(masked_cross_entropy):
    h, weight, bias, _ = masked_example(6)
    with pytest.raises(InputError, match="no target"):
        masked_cross_entropy.forward(h[:0], weight, bias, np.zeros(0, int))
    with pytest.raises(InputError, match="-100 marks what is ignored"):
        masked_cross_entropy.forward(h, weight, bias, np.array([1, -100, 2, 3]))


def yes_and_no(seed):
    rng = np.random.default_rng(seed)
    return 2 * rng.standard_normal((M, V)), rng.random((M, V))


def test_binary_matches_the_formula_written_out(binary_cross_entropy):
    logits, targets = yes_and_no(3)
    loss, cache = binary_cross_entropy.forward(logits, targets)
    p = 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(loss, -(targets * np.log(p) + (1 - targets) * np.log(1 - p)).mean(), rtol=1e-13)
    dlogits, dtargets = binary_cross_entropy.backward(np.float64(-3), cache)
    np.testing.assert_allclose(dlogits, -3 * (p - targets) / (M * V), rtol=1e-12)
    np.testing.assert_allclose(dtargets, 3 * logits / (M * V), rtol=1e-12)


def test_binary_shares_add_up(binary_cross_entropy):
    logits, targets = yes_and_no(4)
    whole, _ = binary_cross_entropy.forward(logits, targets)
    parts = [binary_cross_entropy.forward(logits[a:b], targets[a:b], M)[0] for a, b in ((0, 1), (1, M))]
    np.testing.assert_allclose(sum(parts), whole, rtol=1e-14)


def test_binary_does_not_overflow(binary_cross_entropy):
    logits = np.array([[-1e4, 1e4, 1e4, -1e4]])
    loss, cache = binary_cross_entropy.forward(logits, np.array([[0.0, 1.0, 0.0, 1.0]]))
    assert loss == 5000
    assert binary_cross_entropy.backward(4.0, cache)[0].tolist() == [[0, 0, 1, -1]]


@pytest.mark.parametrize(
    ("shape", "count", "message"),
    [((M, 1), None, "differ in shape"), ((M, V), 0, "no row to average over")],
)
def test_binary_refuses(binary_cross_entropy, shape, count, message):
    logits, _ = yes_and_no(5)
    with pytest.raises(InputError, match=message):
        binary_cross_entropy.forward(logits, np.zeros(shape), count)
