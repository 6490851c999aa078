"""Every row once, little padding, and the same batches for the same seed."""

import numpy as np

from minissl.finetuning.batches import bucketed, padded


def test_every_row_once_in_batches_of_like_length():
    lengths = np.random.default_rng(0).integers(3, 60, 501)
    batches = bucketed(lengths, 8, np.random.default_rng(1))
    assert sorted(np.concatenate(batches).tolist()) == list(range(501))
    assert len(batches) == 63
    assert max(len(batch) for batch in batches) == 8
    waste = sum(len(b) * lengths[b].max() for b in batches) / lengths.sum()
    assert waste < 1.15


def test_passes_differ_and_seeds_repeat():
    lengths = np.arange(100) % 7
    first, again, other = (bucketed(lengths, 8, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert [b.tolist() for b in first] == [b.tolist() for b in again]
    assert [b.tolist() for b in first] != [b.tolist() for b in other]
    assert len(first) == len(other)


def test_evaluation_goes_by_length():
    batches = bucketed([5, 1, 3, 2], 3)
    assert [b.tolist() for b in batches] == [[1, 3, 2], [0]]


def test_padding():
    np.testing.assert_array_equal(padded([[5, 6], [7], [8, 9, 1]], 0), [[5, 6, 0], [7, 0, 0], [8, 9, 1]])
