"""The bag of words: its gradient, its minimum, and that nothing in it is random."""

import numpy as np
import pytest

from minissl.errors import InputError
from minissl.finetuning.baselines import (
    BagOfWords,
    Bags,
    bags_backward,
    bags_forward,
    majority,
    minimise,
    penalised_loss,
    terms,
)
from minissl.gradcheck import check

ROWS, FEATURES, CLASSES = 5, 7, 3


def bags():
    """Row 3 is empty, feature 2 occurs in several rows."""
    rows, features = np.array([0, 0, 1, 2, 2, 2, 4]), np.array([2, 6, 2, 0, 2, 5, 3])
    values = 1 / np.sqrt(np.array([2, 2, 1, 3, 3, 3, 1.0]))
    return Bags(rows, features, values, ROWS)


def dense(b):
    x = np.zeros((b.size, FEATURES))
    x[b.rows, b.features] = b.values
    return x


def test_scores_are_the_product_with_the_dense_matrix():
    weight = np.random.default_rng(0).standard_normal((FEATURES, CLASSES))
    y, cache = bags_forward(weight, bags())
    np.testing.assert_allclose(y, dense(bags()) @ weight, rtol=1e-12)
    dy = np.random.default_rng(1).standard_normal(y.shape)
    np.testing.assert_allclose(bags_backward(dy, cache), dense(bags()).T @ dy, rtol=1e-12)


def test_gradients():
    rng = np.random.default_rng(0)
    weight, bias = rng.standard_normal((FEATURES, CLASSES)), rng.standard_normal(CLASSES)

    def forward(weight):
        return bags_forward(weight, bags())

    assert check(forward, lambda dy, cache: (bags_backward(dy, cache),), {"weight": weight}).ok

    def loss(weight, bias):
        value, backward = penalised_loss(weight, bias, bags(), np.array([0, 2, 1, 1, 0]), 0.3)
        return np.array(value), backward

    def loss_backward(dy, backward):
        return backward(float(dy))

    assert check(loss, loss_backward, {"weight": weight, "bias": bias}).ok

    def forgets_the_penalty(dy, backward):
        dweight, dbias = backward(float(dy))
        return dweight - 0.3 * float(dy) * weight, dbias

    assert not check(loss, forgets_the_penalty, {"weight": weight, "bias": bias}).ok


def test_the_minimum_of_a_quadratic():
    rng = np.random.default_rng(0)
    root = rng.standard_normal((20, 20))
    matrix, b = root @ root.T + np.eye(20), rng.standard_normal(20)
    x = minimise(lambda x: (x @ matrix @ x / 2 - b @ x, matrix @ x - b), np.zeros(20), 1e-9)
    np.testing.assert_allclose(x, np.linalg.solve(matrix, b), rtol=1e-7)


def test_a_function_without_a_minimum_is_refused():
    with pytest.raises(InputError, match="no minimum"):
        minimise(lambda x: (-x.sum(), -np.ones(3)), np.zeros(3))


def test_words_and_pairs_each_once():
    assert terms("Not good, not  good") == ["not", "good", ",", "not good", "good ,", ", not"]


def corpus(rows, seed):
    """What counts is one pair of words: `not good` is bad, `good` alone is not."""
    rng = np.random.default_rng(seed)
    texts, labels = [], []
    for _ in range(rows):
        filler = [f"w{i}" for i in rng.integers(0, 20, 4)]
        label = int(rng.integers(2))
        words = ["good", *filler[:2], "not", *filler[2:]] if label else [*filler[:2], "not", "good", *filler[2:]]
        texts.append(" ".join(words))
        labels.append(label)
    return texts, labels


def test_it_learns_a_pair_that_no_single_word_tells():
    texts, labels = corpus(120, 0)
    model = BagOfWords(2).fit(texts, labels)
    assert model.pairs
    new_texts, new_labels = corpus(50, 1)
    probabilities = model.predict(new_texts)
    assert probabilities.shape == (50, 2)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert (probabilities.argmax(axis=1) == new_labels).mean() > 0.95
    again = BagOfWords(2).fit(texts, labels)
    np.testing.assert_array_equal(again.predict(new_texts), probabilities)


def test_a_text_of_unknown_words_has_a_prediction_too():
    texts, labels = corpus(30, 0)
    p = BagOfWords(2).fit(texts, labels).predict(["zzz", ""])
    np.testing.assert_allclose(p.sum(axis=1), 1)
    np.testing.assert_array_equal(p[0], p[1])


def test_more_classes_than_two_and_wrong_input():
    texts = [f"{word} x{i}" for i, word in enumerate(["red", "green", "blue"] * 10)]
    model = BagOfWords(3).fit(texts, [0, 1, 2] * 10)
    assert model.predict(["blue", "red", "green"]).argmax(axis=1).tolist() == [2, 0, 1]
    with pytest.raises(InputError, match="0 texts and 0 labels"):
        BagOfWords(2).fit([], [])
    with pytest.raises(InputError, match="1 texts and 2 labels"):
        BagOfWords(2).fit(["a"], [0, 1])


def test_majority():
    assert majority([1, 2, 1, 0]) == 1
