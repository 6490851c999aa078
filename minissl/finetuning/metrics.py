"""How good a classifier is: counts of what was said against what was true, and what follows from them."""

from __future__ import annotations

import numpy as np

from minissl.backend import Array, require_ids
from minissl.errors import InputError


def confusion_matrix(truth: Array, predicted: Array, classes: int) -> Array:
    """counts[i, j]: how many of class i were called j, (C, C).

    Raises InputError where the two differ in shape, are empty, or name a class outside 0 … C-1.
    """
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if truth.shape != predicted.shape or truth.ndim != 1 or not truth.size:
        raise InputError(f"truth {truth.shape} and predictions {predicted.shape}: expected one of each for every row")
    for name, ids in (("true classes", truth), ("predicted classes", predicted)):
        require_ids(ids, classes, name)
    return np.bincount(truth * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def accuracy(confusion: Array) -> float:
    """The share on the diagonal."""
    return float(np.trace(confusion) / confusion.sum())


def macro_f1(confusion: Array) -> float:
    """The mean over the classes of F1 = 2 right / (true + said); a class neither true nor said counts as 0."""
    right, asked = np.diag(confusion), confusion.sum(axis=0) + confusion.sum(axis=1)
    return float(np.mean(2 * right / np.maximum(asked, 1)))
