import numpy as np
import pytest

from minissl.errors import InputError
from minissl.pretext import make_pairs, make_segments

SPECIAL = {"cls_id": 2, "sep_id": 3, "pad_id": 0}
FIRST = 5


def corpus(sentences_per_document, mean=20, seed=0, longest=None):
    """Documents whose ids count up through the corpus, so that an id says which token of which document it is.

    Returns documents, and for every id (less FIRST) its document, whether it begins a sentence, whether it ends one.
    """
    rng = np.random.default_rng(seed)
    documents, document_of, begins, ends = [], [], [], []
    means = np.broadcast_to(mean, len(sentences_per_document))
    for d, (number, mean_length) in enumerate(zip(sentences_per_document, means, strict=True)):
        documents.append([])
        for _ in range(number):
            length = int(np.clip(rng.geometric(1 / mean_length), 1, longest))
            at = len(document_of) + FIRST
            documents[-1].append(np.arange(at, at + length, dtype=np.int32))
            document_of += [d] * length
            begins += [True] + [False] * (length - 1)
            ends += [False] * (length - 1) + [True]
    return documents, np.array(document_of), np.array(begins), np.array(ends)


def segments(pairs):
    """For each row, A and B as arrays of ids, after checking the frame [CLS] A [SEP] B [SEP] [PAD] …"""
    parts = []
    for ids, types, mask in zip(pairs.input_ids, pairs.token_type_ids, pairs.attention_mask, strict=True):
        used = int(mask.sum())
        (middle, end) = np.flatnonzero(ids == 3)
        assert ids[0] == 2
        assert end == used - 1
        assert mask[:used].all()
        assert not mask[used:].any()
        assert np.all(ids[used:] == 0)
        assert types.tolist() == [0] * (middle + 1) + [1] * (end - middle) + [0] * (len(ids) - used)
        parts.append((ids[1:middle], ids[middle + 1 : end]))
    return parts


@pytest.mark.parametrize(
    ("shape", "mean", "seq_len"),
    [([30] * 12, 20, 64), ([4, 2, 9, 1, 7, 3, 2, 2] * 10, 12, 32), ([90, 10], 20, 48), ([3, 2], 6, 8)],
    ids=["articles", "short", "one dominates", "tiny"],
)
def test_label_says_whether_b_follows_a_in_its_document(shape, mean, seq_len):
    documents, document_of, *_ = corpus(shape, mean)
    pairs = make_pairs(documents, seq_len, rng=np.random.default_rng(1), **SPECIAL)
    assert pairs.input_ids.shape == pairs.token_type_ids.shape == pairs.attention_mask.shape
    assert pairs.input_ids.shape[1] == seq_len
    labels = pairs.next_sentence_label
    for (a, b), label in zip(segments(pairs), labels, strict=True):
        assert len(a)
        assert len(b)
        assert np.all(np.diff(a) == 1)
        assert np.all(np.diff(b) == 1)
        documents_of_a, documents_of_b = set(document_of[a - FIRST]), set(document_of[b - FIRST])
        assert len(documents_of_a) == len(documents_of_b) == 1
        if label == 0:
            assert b[0] == a[-1] + 1  # what meets is whole, even where the outer ends were cut
            assert documents_of_a == documents_of_b
        else:
            assert documents_of_a != documents_of_b
    assert int(labels.sum()) * 2 == len(labels)


def test_segments_are_whole_sentences_except_where_the_sequence_is_full():
    documents, _, begins, ends = corpus([40] * 30, mean=20, longest=60)
    pairs = make_pairs(documents, 64, rng=np.random.default_rng(2), **SPECIAL)
    for a, b in segments(pairs):
        assert ends[a[-1] - FIRST]
        assert begins[b[0] - FIRST]
    a_cut = np.mean([not begins[a[0] - FIRST] for a, _ in segments(pairs)])
    assert a_cut < 0.25  # only an A that would leave less than a quarter to B
    assert pairs.attention_mask.mean() > 0.97


def test_a_couple_gives_its_four_pairs_together():
    documents = [[[5, 6], [7, 8]], [[9, 10], [11, 12]]]
    pairs = make_pairs(documents, 16, rng=np.random.default_rng(0), **SPECIAL)
    found = {
        (tuple(a), tuple(b), label) for (a, b), label in zip(segments(pairs), pairs.next_sentence_label, strict=True)
    }
    assert found == {((5, 6), (7, 8), 0), ((5, 6), (11, 12), 1), ((9, 10), (11, 12), 0), ((9, 10), (7, 8), 1)}

    pairs = make_pairs(corpus([20] * 40, 20)[0], 64, rng=np.random.default_rng(1), **SPECIAL)
    parts = segments(pairs)
    whole = sum(
        len({int(a[-1]) for a, _ in parts[i : i + 4]}) == len({int(b[0]) for _, b in parts[i : i + 4]}) == 2
        for i in range(0, len(parts), 4)
    )
    assert (
        whole >= len(parts) // 4 - 1
    )  # an odd number of chunks leaves one that borrows, and shifts nothing but itself


def auc(values, labels):
    """Probability that a value of label 1 exceeds one of label 0: 0.5 where it says nothing about the label."""
    order = np.argsort(np.argsort(values + 1e-6 * np.random.default_rng(0).random(len(values))))
    ones = int(labels.sum())
    return (order[labels == 1].sum() - ones * (ones - 1) / 2) / (ones * (len(labels) - ones))


def give_aways(pairs, document_of, begins, ends):
    """What a model could see, or learn by heart, without reading how A and B belong together."""
    start_of = np.searchsorted(document_of, np.arange(document_of.max() + 1))
    parts = segments(pairs)
    a_first, a_last = (np.array([a[i] for a, _ in parts]) - FIRST for i in (0, -1))
    b_first, b_last = (np.array([b[i] for _, b in parts]) - FIRST for i in (0, -1))
    return {
        "length of A": a_last - a_first,
        "length of B": b_last - b_first,
        "padding": -pairs.attention_mask.sum(axis=1),
        "difference": (a_last - a_first) - (b_last - b_first),
        "A's place in its document": a_first - start_of[document_of[a_first]],
        "B's place in its document": b_first - start_of[document_of[b_first]],
        "A begins with a sentence": begins[a_first],
        "B ends with a sentence": ends[b_last],
        "A's document": document_of[a_first],
        "B's document": document_of[b_first],
    }


@pytest.mark.parametrize(
    ("shape", "mean"),
    [([50] * 100, 20), ([3, 8, 2, 5, 4, 11, 2] * 130, 15), ([1500, 4000], [30, 10])],
    ids=["articles", "short", "two styles"],
)
def test_nothing_but_content_gives_the_label_away(shape, mean):
    documents, *facts = corpus(shape, mean)
    pairs = make_pairs(documents, 64, rng=np.random.default_rng(3), **SPECIAL)
    labels, n = pairs.next_sentence_label, len(pairs.input_ids)
    assert n > 1000
    found = {name: auc(values, labels) for name, values in give_aways(pairs, *facts).items()}
    assert all(abs(value - 0.5) < 4 / np.sqrt(3 * n) for value in found.values()), found
    for name, values in give_aways(pairs, *facts).items():  # and the spread of the values, not only their order
        distance = np.abs(values - np.median(values))
        assert abs(auc(distance, labels) - 0.5) < 4 / np.sqrt(3 * n), name


def test_the_give_away_test_sees_a_naive_builder():
    """Negatives that draw B at random from all sentences differ from positives, and the test above tells."""
    documents, *facts = corpus([50] * 100, 20)
    pairs = make_pairs(documents, 64, rng=np.random.default_rng(3), **SPECIAL)
    labels = pairs.next_sentence_label
    values = give_aways(pairs, *facts)["length of B"].copy()
    rng = np.random.default_rng(0)
    sentences = [len(s) for d in documents for s in d]
    values[labels == 1] = np.minimum(rng.choice(sentences, int(labels.sum())), 60)
    assert abs(auc(values, labels) - 0.5) > 4 / np.sqrt(3 * len(labels))


def test_each_couple_has_one_length_and_each_segment_is_used_once_with_either_label():
    """Positives and negatives have the same lengths exactly, where no document dominates."""
    documents, *_ = corpus([20] * 40, 20)
    parts = segments(make_pairs(documents, 64, rng=np.random.default_rng(4), **SPECIAL))
    assert len({int(a[-1]) for a, _ in parts}) == len(parts) // 2
    assert len({int(b[0]) for _, b in parts}) >= len(parts) // 2 - 1  # an odd number of chunks leaves one that borrows


@pytest.mark.parametrize("make", [make_pairs, make_segments])
def test_a_pass_shows_every_id_about_once_and_passes_differ(make):
    documents, document_of, *_ = corpus([30] * 40, 20)
    rng = np.random.default_rng(5)
    seen, passes = np.zeros(len(document_of)), []
    for _ in range(20):
        pairs = make(documents, 64, rng=rng, **SPECIAL)
        passes.append({row.tobytes() for row in pairs.input_ids})
        ids = pairs.input_ids[pairs.input_ids >= FIRST] - FIRST
        seen += np.bincount(ids, minlength=len(seen))
    assert abs(seen.mean() / 20 / (2 if make is make_pairs else 1) - 1) < 0.03  # a pair's text stands in two pairs
    assert np.mean(seen == 0) < 0.003
    same = len(passes[0] & passes[1]) / len(passes[0])
    assert same < (0.2 if make is make_pairs else 0.8), same
    again = make(documents, 64, rng=np.random.default_rng(5), **SPECIAL)
    assert {row.tobytes() for row in again.input_ids} == passes[0]


def test_segments_alone():
    documents, document_of, begins, _ = corpus([6, 1, 3, 14], 20, longest=60)
    out = make_segments(documents, 64, rng=np.random.default_rng(6), **SPECIAL)
    assert out.next_sentence_label is None
    assert not out.token_type_ids.any()
    for ids, mask in zip(out.input_ids, out.attention_mask, strict=True):
        used = int(mask.sum())
        text = ids[1 : used - 1]
        assert ids[0] == 2
        assert ids[used - 1] == 3
        assert np.all(ids[used:] == 0)
        assert np.all(np.diff(text) == 1)
        assert begins[text[0] - FIRST]
        assert len(set(document_of[text - FIRST])) == 1
    assert make_segments([[[7]]], 8, rng=np.random.default_rng(0), **SPECIAL).input_ids.tolist() == [
        [2, 7, 3, 0, 0, 0, 0, 0]
    ]


def test_a_sentence_longer_than_the_sequence_is_not_lost():
    documents = [[np.arange(100, 400)], [np.arange(500, 620), np.arange(700, 703)]]
    for make in (make_pairs, make_segments):
        rng = np.random.default_rng(7)
        shown = {int(i) for _ in range(30) for i in make(documents, 32, rng=rng, **SPECIAL).input_ids.ravel()}
        assert {*range(100, 400), *range(500, 620), *range(700, 703)} <= shown


def test_inputs_may_be_lists_and_empty_parts_are_skipped():
    documents, *_ = corpus([9, 8, 7], 10)
    lists = [[[]] + [s.tolist() for s in d] for d in documents] + [[], [[]]]
    got, expected = (make_pairs(d, 32, rng=np.random.default_rng(8), **SPECIAL) for d in (lists, documents))
    for x, y in zip(got, expected, strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_large_corpus_has_little_padding():
    rng = np.random.default_rng(9)
    documents = [[rng.integers(5, 8000, 20).astype(np.int16) for _ in range(100)] for _ in range(225)]
    pairs = make_pairs(documents, 64, rng=rng, **SPECIAL)
    assert pairs.attention_mask.mean() > 0.98


def test_mistakes_are_named():
    documents, *_ = corpus([9, 8], 10)
    kwargs = {"rng": np.random.default_rng(0), **SPECIAL}
    with pytest.raises(InputError, match=r"needs two documents .* found 1 in 1; .* modelling alone needs only one"):
        make_pairs(documents[:1], 32, **kwargs)
    with pytest.raises(InputError, match="found 1 in 2"):
        make_pairs([documents[0], [[5, 6, 7]]], 32, **kwargs)
    with pytest.raises(InputError, match="found 0 in 2"):
        make_pairs([[[5]], [[6]]], 32, **kwargs)
    for make in (make_pairs, make_segments):
        with pytest.raises(InputError, match="seq_len 7: expected at least 8"):
            make(documents, 7, **kwargs)
        with pytest.raises(InputError, match="no ids at all"):
            make([[], [[]]], 32, **kwargs)
        with pytest.raises(InputError, match="integer ids"):
            make([[[0.5, 1.5]], [[2.5]]], 32, **kwargs)
