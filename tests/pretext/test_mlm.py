import numpy as np
import pytest

from minissl.errors import InputError
from minissl.pretext import IGNORE, mask_tokens, number_to_mask

MASK, V = 4, 97


def batch(rng, B=64, T=41):
    """Rows of different lengths with [CLS] … [SEP] and padding; ids 5 … V-1."""
    ids = rng.integers(5, V, size=(B, T))
    maskable = np.arange(T) < rng.integers(3, T, size=(B, 1))
    maskable[:, 0] = False
    ids[:, 0] = 2
    ids[:, 1:][~maskable[:, 1:]] = 0
    return ids, maskable


@pytest.mark.parametrize("rate", [0.15, 0.4, 1.0])
def test_every_row_has_exactly_the_rate_and_labels_hold_the_originals(rate):
    rng = np.random.default_rng(0)
    ids, maskable = batch(rng)
    before = ids.copy(), maskable.copy()
    masked, labels = mask_tokens(ids, maskable, mask_id=MASK, vocab_size=V, rng=rng, rate=rate)
    chosen = labels != IGNORE
    assert IGNORE == -100
    assert masked.shape == labels.shape == ids.shape
    assert not chosen[~maskable].any()
    wanted = [max(1, round(rate * int(n))) for n in maskable.sum(axis=1)]
    assert chosen.sum(axis=1).tolist() == wanted == number_to_mask(maskable.sum(axis=1), rate).tolist()
    np.testing.assert_array_equal(labels[chosen], ids[chosen])
    np.testing.assert_array_equal(masked[~chosen], ids[~chosen])
    np.testing.assert_array_equal(ids, before[0])
    np.testing.assert_array_equal(maskable, before[1])


def test_half_positions_round_to_even_as_python_does():
    assert [int(number_to_mask(n)) for n in (1, 10, 30, 50)] == [max(1, round(0.15 * n)) for n in (1, 10, 30, 50)]


def test_positions_are_chosen_uniformly_and_become_80_10_10():
    rng = np.random.default_rng(1)
    B, T, rounds = 400, 20, 100
    ids, maskable = np.full((B, T), 50), np.ones((B, T), dtype=bool)
    counts, masked_ids = np.zeros(T), []
    for _ in range(rounds):
        masked, labels = mask_tokens(ids, maskable, mask_id=MASK, vocab_size=V, rng=rng)
        counts += (labels != IGNORE).sum(axis=0)
        masked_ids.append(masked[labels != IGNORE])
    got = np.concatenate(masked_ids)  # 120,000 chosen ids
    expected = B * rounds * 3 / T
    assert np.all(np.abs(counts - expected) < 5 * np.sqrt(expected))
    frequency = np.bincount(got, minlength=V) / len(got)
    p = np.full(V, 0.1 / V)  # the whole vocabulary, special tokens included
    p[MASK] += 0.8
    p[50] += 0.1
    assert np.all(np.abs(frequency - p) < 5 * np.sqrt(p / len(got)))


def test_pairs_of_positions_are_drawn_without_replacement():
    rng = np.random.default_rng(2)
    _, labels = mask_tokens(np.full((30_000, 5), 7), np.ones((30_000, 5)), mask_id=4, vocab_size=V, rng=rng, rate=0.4)
    pairs, counts = np.unique(labels != IGNORE, axis=0, return_counts=True)
    assert len(pairs) == 10
    assert np.all(np.abs(counts - 3000) < 5 * np.sqrt(3000))


def test_same_generator_same_masks_next_epoch_other_masks():
    ids, maskable = batch(np.random.default_rng(3))
    rng, again = np.random.default_rng(7), np.random.default_rng(7)
    first = mask_tokens(ids, maskable, mask_id=MASK, vocab_size=V, rng=rng)
    same = mask_tokens(ids, maskable, mask_id=MASK, vocab_size=V, rng=again)
    second = mask_tokens(ids, maskable, mask_id=MASK, vocab_size=V, rng=rng)
    np.testing.assert_array_equal(first, same)
    assert np.mean((first[1] != IGNORE) != (second[1] != IGNORE)) > 0.05


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int32])
def test_small_id_types_keep_the_ignored_label(dtype):
    rng = np.random.default_rng(4)
    _, labels = mask_tokens(np.full((2, 9), 60, dtype), np.ones((2, 9), bool), mask_id=MASK, vocab_size=V, rng=rng)
    assert sorted(set(labels.ravel().tolist())) == [IGNORE, 60]


def test_whole_words_share_one_fate_and_come_as_close_to_the_rate_as_words_allow():
    rng = np.random.default_rng(5)
    ids, maskable = batch(rng, B=500)
    starts = rng.random(ids.shape) < 0.6
    masked, labels = mask_tokens(ids, maskable, mask_id=MASK, vocab_size=V, rng=rng, word_starts=starts)
    fates = {"mask": 0, "random": 0, "kept": 0}
    missing_counts = []
    for row in range(len(ids)):
        positions = np.flatnonzero(maskable[row])
        begins = [i for i, p in enumerate(positions) if i == 0 or starts[row, p]]
        words = np.split(positions, begins[1:])
        chosen = [w for w in words if labels[row, w[0]] != IGNORE]
        assert all(len(set((labels[row, w] != IGNORE).tolist())) == 1 for w in words)
        assert chosen
        missing = int(number_to_mask(len(positions))) - sum(map(len, chosen))
        missing_counts.append(missing)
        others = [len(w) for w in words if labels[row, w[0]] == IGNORE]
        if len(chosen) > 1:  # no other word would bring the count nearer
            assert all(abs(missing - size) >= abs(missing) for size in others)
        for w in (w for w in chosen if len(w) > 1):
            same = np.array_equal(masked[row, w], ids[row, w])
            fates["mask" if np.all(masked[row, w] == MASK) else "kept" if same else "random"] += 1
    assert abs(np.mean(missing_counts)) < 0.3
    total = sum(fates.values())
    assert abs(fates["mask"] / total - 0.8) < 5 * np.sqrt(0.16 / total)
    assert abs(fates["kept"] / total - 0.1) < 5 * np.sqrt(0.09 / total)


def test_a_word_is_taken_where_going_over_is_nearer_than_staying_under():
    starts = np.arange(15) % 3 == 0  # five words of three pieces, 8 positions wanted: 9 is nearer than 6
    _, labels = mask_tokens(
        np.full((50, 15), 8), np.ones((50, 15)), mask_id=MASK, vocab_size=V, rng=np.random.default_rng(0), rate=0.5,
        word_starts=np.tile(starts, (50, 1)),
    )  # fmt: skip
    assert np.all((labels != IGNORE).sum(axis=1) == 9)


def test_random_words_draw_an_id_for_each_piece():
    rng = np.random.default_rng(6)
    starts = np.zeros((4000, 3), dtype=bool)
    starts[:, 0] = True
    masked, labels = mask_tokens(
        np.full((4000, 3), 8), np.ones((4000, 3)), mask_id=MASK, vocab_size=V, rng=rng, word_starts=starts
    )
    assert np.all(labels == 8)  # one word of three pieces: at least one word per row
    random_rows = masked[(masked != MASK).any(axis=1) & (masked != 8).any(axis=1)]
    assert len(random_rows) > 300
    assert np.mean(random_rows[:, 0] == random_rows[:, 1]) < 0.05


def test_whole_words_of_one_piece_are_ordinary_masking():
    ids, maskable = batch(np.random.default_rng(8))
    kwargs = {"mask_id": MASK, "vocab_size": V}
    plain = mask_tokens(ids, maskable, rng=np.random.default_rng(1), **kwargs)
    words = mask_tokens(ids, maskable, rng=np.random.default_rng(1), word_starts=np.ones(ids.shape, bool), **kwargs)
    np.testing.assert_array_equal(plain, words)


def test_a_piece_without_its_head_does_not_join_the_word_before_a_separator():
    starts = np.array([[True, True, False, False]])
    maskable = np.array([[True, False, True, True]])  # word [SEP] ##piece ##piece
    seen = set()
    for seed in range(40):
        _, labels = mask_tokens(
            [[9, 3, 10, 11]], maskable, mask_id=MASK, vocab_size=V, rng=np.random.default_rng(seed), rate=0.5,
            word_starts=starts,
        )  # fmt: skip
        seen.add(tuple((labels[0] != IGNORE).tolist()))
    assert seen == {(False, False, True, True)} | {(True, False, False, False)}


def test_mistakes_are_named():
    rng = np.random.default_rng(0)
    ids, maskable = batch(rng, B=6)
    maskable[3] = False
    kwargs = {"mask_id": MASK, "vocab_size": V, "rng": rng}
    with pytest.raises(InputError, match="row 3 has no position"):
        mask_tokens(ids, maskable, **kwargs)
    with pytest.raises(InputError, match="97 is outside"):
        mask_tokens(np.full((1, 4), V), np.ones((1, 4)), **kwargs)
    with pytest.raises(InputError, match="mask_id"):
        mask_tokens(ids[:1], maskable[:1], mask_id=V, vocab_size=V, rng=rng)
    with pytest.raises(InputError, match=r"maskable \(6, 3\)"):
        mask_tokens(ids, maskable[:, :3], **kwargs)
    with pytest.raises(InputError, match="word_starts"):
        mask_tokens(ids[:1], maskable[:1], word_starts=np.ones((1, 2)), **kwargs)
    with pytest.raises(InputError, match="per cent"):
        mask_tokens(ids[:1], maskable[:1], rate=15, **kwargs)
