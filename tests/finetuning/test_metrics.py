"""Counts worked out by hand."""

import numpy as np
import pytest

from minissl.errors import InputError
from minissl.finetuning.metrics import accuracy, confusion_matrix, macro_f1

TRUTH, SAID = [0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 2, 1]


def test_counts_and_what_follows():
    confusion = confusion_matrix(np.array(TRUTH), np.array(SAID), 4)
    np.testing.assert_array_equal(confusion, [[2, 1, 0, 0], [0, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]])
    assert accuracy(confusion) == 0.5
    assert macro_f1(confusion[:3, :3]) == pytest.approx((4 / 5 + 2 / 5 + 0) / 3)


@pytest.mark.parametrize(
    ("truth", "said", "says"),
    [([0], [0, 1], "expected one of each"), ([], [], "expected one of each"), ([0, 2], [0, 1], "true classes"),
     ([0, 1], [-1, 1], "predicted classes")],
)  # fmt: skip
def test_what_cannot_be_counted(truth, said, says):
    with pytest.raises(InputError, match=says):
        confusion_matrix(np.array(truth, int), np.array(said, int), 2)
