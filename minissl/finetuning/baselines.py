"""What a network has to beat: the most frequent label, and logistic regression on which words occur."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from minissl.backend import Array
from minissl.errors import InputError
from minissl.ops import cross_entropy_backward, cross_entropy_forward, softmax_forward
from minissl.text.wordpiece import split_chunks, split_words

PENALTIES = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3)
FOLDS = 5
STEPS = 1000
MEMORY = 10  # pairs of steps and gradient changes that L-BFGS remembers
TOLERANCE = 1e-6  # of the gradient's largest entry: the loss is then right to ten digits
ROUGHLY = 1e-4  # enough to choose between penalties that lie a factor of three apart


def majority(labels: Sequence[int]) -> int:
    """The most frequent class; among equals, the first."""
    return int(np.bincount(np.asarray(labels)).argmax())


def terms(text: str) -> list[str]:
    """The words of a text, lower-cased, and its pairs of neighbours, each once."""
    words = [word for chunk in split_chunks(text) for word in split_words(chunk)]
    return list(dict.fromkeys([*words, *(f"{a} {b}" for a, b in pairwise(words))]))


class Bags(NamedTuple):
    """N sets of features as one list: row `rows[k]` has feature `features[k]`. Sparse: nothing (N, F) is ever held."""

    rows: Array
    features: Array
    values: Array  # 1/√(how many features the row has)
    size: int  # N

    def take(self, chosen: Array) -> Bags:
        """Keep the rows where `chosen` (N,) is True, numbered afresh."""
        kept = chosen[self.rows]
        rows = (np.cumsum(chosen) - 1)[self.rows[kept]]
        return Bags(rows, self.features[kept], self.values[kept], int(chosen.sum()))


def bags_forward(weight: Array, bags: Bags) -> tuple[Array, tuple[Bags, int]]:
    """y_n = Σ of the weights (F, C) of the features in row n, scaled to unit length: X W with X_nf = 1/√|n| or 0."""
    y = [np.bincount(bags.rows, bags.values * column[bags.features], bags.size) for column in weight.T]
    return np.stack(y, axis=1), (bags, len(weight))


def bags_backward(dy: Array, cache: tuple[Bags, int]) -> Array:
    """dweight = Xᵀ dy, (F, C): each feature collects from the rows that have it."""
    bags, count = cache
    return np.stack([np.bincount(bags.features, bags.values * column[bags.rows], count) for column in dy.T], axis=1)


def penalised_loss(
    weight: Array, bias: Array, bags: Bags, targets: Array, penalty: float
) -> tuple[float, Callable[[float], tuple[Array, Array]]]:
    """L = mean cross-entropy of (X W + b) + penalty/2 |W|², and its backward pass dL -> (dweight, dbias)."""
    scores, bags_cache = bags_forward(weight, bags)
    loss, loss_cache = cross_entropy_forward(scores + bias, targets)

    def backward(dy: float) -> tuple[Array, Array]:
        dscores = cross_entropy_backward(np.asarray(dy), loss_cache)
        return bags_backward(dscores, bags_cache) + dy * penalty * weight, dscores.sum(axis=0)

    return float(loss + penalty / 2 * (weight**2).sum()), backward


@dataclass
class BagOfWords:
    """Multinomial logistic regression on which words, and which pairs of neighbours, a text has.

    The features are the training texts' own; each row has unit length. The strength of the penalty, and whether pairs
    are used at all, are what predicts best in five-fold cross-validation on the training rows. Nothing in it is random.
    """

    classes: int
    penalty: float = field(init=False, default=0.0)
    pairs: bool = field(init=False, default=False)

    def fit(self, texts: Sequence[str], labels: Sequence[int]) -> BagOfWords:
        """Learn. Raises InputError where there is no text, or not a label for each."""
        if not texts or len(texts) != len(labels):
            raise InputError(f"{len(texts)} texts and {len(labels)} labels: expected one label for each text")
        targets = np.asarray(labels)
        fold = _folds(targets)
        tried = []
        for pairs in (False, True):
            vocabulary, bags = self._learn_features(texts, pairs)
            right = dict.fromkeys(PENALTIES, 0)
            surprise = dict.fromkeys(PENALTIES, 0.0)
            for left_out in range(min(FOLDS, len(texts))):
                inside, outside = bags.take(fold != left_out), bags.take(fold == left_out)
                start: Array | None = None
                for penalty in reversed(PENALTIES):  # from the smoothest: each solution is near the one before
                    start = self._solve(inside, targets[fold != left_out], len(vocabulary), penalty, start, ROUGHLY)
                    scores = self._scores(start, outside)
                    truth = targets[fold == left_out]
                    right[penalty] += int((scores.argmax(axis=1) == truth).sum())
                    surprise[penalty] += float(cross_entropy_forward(scores, truth, 1)[0])
            tried += [(-right[p], surprise[p], pairs, p) for p in PENALTIES]
        _, _, self.pairs, self.penalty = min(tried)
        self._vocabulary, bags = self._learn_features(texts, self.pairs)
        self._solution = self._solve(bags, targets, len(self._vocabulary), self.penalty, None, TOLERANCE)
        return self

    def predict(self, texts: Sequence[str]) -> Array:
        """p(class | text), (N, C)."""
        scores = self._scores(self._solution, self._bags(texts, self._vocabulary, self.pairs))
        probabilities: Array = softmax_forward(scores)[0]
        return probabilities

    def _learn_features(self, texts: Sequence[str], pairs: bool) -> tuple[dict[str, int], Bags]:
        counts = Counter(term for text in texts for term in terms(text) if pairs or " " not in term)
        vocabulary = {term: i for i, term in enumerate(counts)}
        return vocabulary, self._bags(texts, vocabulary, pairs)

    def _bags(self, texts: Sequence[str], vocabulary: dict[str, int], pairs: bool) -> Bags:
        known = [[vocabulary[t] for t in terms(text) if t in vocabulary] for text in texts]
        sizes = np.array([len(features) for features in known])
        values = np.repeat(1 / np.sqrt(np.maximum(sizes, 1)), sizes)
        rows, features = np.repeat(np.arange(len(texts)), sizes), [f for row in known for f in row]
        return Bags(rows, np.array(features, int), values, len(texts))

    def _solve(
        self, bags: Bags, targets: Array, features: int, penalty: float, start: Array | None, tolerance: float
    ) -> Array:
        def objective(flat: Array) -> tuple[float, Array]:
            weight = flat.reshape(-1, self.classes)
            loss, backward = penalised_loss(weight[:-1], weight[-1], bags, targets, penalty)
            return loss, np.concatenate([gradient.ravel() for gradient in backward(1.0)])

        return minimise(objective, np.zeros((features + 1) * self.classes) if start is None else start, tolerance)

    def _scores(self, solution: Array, bags: Bags) -> Array:
        weight = solution.reshape(-1, self.classes)
        scores: Array = bags_forward(weight[:-1], bags)[0] + weight[-1]
        return scores


def _folds(targets: Array) -> Array:
    """The fold of each row: every class is dealt out in turn, in file order."""
    fold = np.zeros(len(targets), int)
    fold[np.argsort(targets, kind="stable")] = np.arange(len(targets)) % FOLDS
    return fold


def minimise(objective: Callable[[Array], tuple[float, Array]], start: Array, tolerance: float = TOLERANCE) -> Array:
    """The minimum of a smooth convex function, by L-BFGS with backtracking (Nocedal and Wright 2006, algorithm 7.5).

    `objective(x)` returns the value and the gradient. Ends where no entry of the gradient is over `tolerance`.
    Raises InputError where STEPS do not suffice.
    """
    x = start
    value, gradient = objective(x)
    history: deque[tuple[Array, Array, float]] = deque(maxlen=MEMORY)
    for _ in range(STEPS):
        if np.abs(gradient).max() <= tolerance:
            return x
        direction = -_scaled(gradient, history)
        slope, length = float(direction @ gradient), 1.0
        while True:  # Armijo's rule; a convex function always lets it end
            new = x + length * direction
            new_value, new_gradient = objective(new)
            if new_value <= value + 1e-4 * length * slope + 1e-15 * abs(value):
                break
            length /= 2
        step, change = new - x, new_gradient - gradient
        if step @ change > 0:
            history.append((step, change, float(step @ change)))
        x, value, gradient = new, new_value, new_gradient
    raise InputError(f"no minimum found in {STEPS} steps (gradient {np.abs(gradient).max():.1e})")


def _scaled(gradient: Array, history: Any) -> Array:
    """H g, with H the inverse Hessian as the remembered steps tell it (the two loops of algorithm 7.4)."""
    q, shares = gradient.copy(), []
    for step, change, product in reversed(history):
        shares.append((step @ q) / product)
        q -= shares[-1] * change
    if history:
        _, change, product = history[-1]
        q *= product / (change @ change)
    for (step, change, product), share in zip(history, reversed(shares), strict=True):
        q += (share - (change @ q) / product) * step
    return q
