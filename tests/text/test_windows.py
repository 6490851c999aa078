from itertools import pairwise

import numpy as np
import pytest

from minissl.errors import InputError
from minissl.text import BertTokenizer
from minissl.text.squad import Answer
from minissl.text.windows import Windows, answer_positions, best_spans, make_windows

WORDS = [f"{a}{b}" for a in "bdfgklmnprst" for b in "aeiou"]
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "?", ",", *WORDS, *(f"##{w}" for w in WORDS)]


@pytest.fixture
def tokenizer():
    return BertTokenizer(vocab=VOCAB)


def passage(rng, words):
    return " ".join("".join(rng.choice(WORDS, rng.integers(1, 4))) + ("," if rng.random() < 0.1 else "")
                    for _ in range(words))  # fmt: skip


def test_a_short_passage_is_one_window_laid_out_as_bert_reads_it(tokenizer):
    windows = make_windows([("ba ?", "Ko, Mida!")], tokenizer, length=40, stride=4, most_question=10)
    tokens = tokenizer.convert_ids_to_tokens(windows.input_ids[0])
    assert tokens == ["[CLS]", "ba", "?", "[SEP]", "ko", ",", "mi", "##da", "[UNK]", "[SEP]"]
    assert windows.token_type_ids[0].tolist() == [0] * 4 + [1] * 6
    assert windows.attention_mask[0].tolist() == [1] * 10
    assert windows.in_passage[0].tolist() == [False] * 4 + [True] * 5 + [False]
    places = windows.offsets[0][windows.in_passage[0]]
    assert ["Ko, Mida!"[a:b] for a, b in places] == ["Ko", ",", "Mi", "da", "!"]


@pytest.mark.parametrize(("length", "stride"), [(30, 0), (30, 7), (41, 20)])
def test_windows_cover_the_passage_and_share_the_stride(tokenizer, length, stride):
    rng = np.random.default_rng(1)
    pairs = [("ba ko ?", passage(rng, n)) for n in (40, 3, 90, 1)]
    windows = make_windows(pairs, tokenizer, length=length, stride=stride, most_question=5)
    assert windows.input_ids.shape[1] <= length
    assert windows.sample.tolist() == sorted(windows.sample.tolist())
    for i, (_, text) in enumerate(pairs):
        whole = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        rows = windows.rows(windows.sample == i)
        parts = [list(map(tuple, r[p].tolist())) for r, p in zip(rows.offsets, rows.in_passage, strict=True)]
        joined = parts[0] + [place for part in parts[1:] for place in part[stride:]]
        assert joined == whole
        for before, after in pairwise(parts):
            assert before[len(before) - stride :] == after[:stride]
        assert len(parts) == 1 or min(map(len, parts[:-1])) == length - 3 - 3


def test_a_long_question_loses_its_end_alone(tokenizer):
    question = " ".join(WORDS[:9])
    windows = make_windows([(question, "ko mi")], tokenizer, length=40, stride=4, most_question=6)
    assert tokenizer.convert_ids_to_tokens(windows.input_ids[0]) == [
        "[CLS]", *WORDS[:6], "[SEP]", "ko", "mi", "[SEP]",
    ]  # fmt: skip


def test_answers_come_back_from_the_windows_that_hold_them_whole(tokenizer):
    rng = np.random.default_rng(2)
    pairs, answers = [], []
    for _ in range(60):
        text = passage(rng, int(rng.integers(5, 60)))
        words = text.split()
        first = int(rng.integers(len(words)))
        last = min(first + int(rng.integers(4)), len(words) - 1)
        start = len(" ".join(words[:first])) + (first > 0)
        pairs.append(("ba ?", text))
        answers.append(Answer(" ".join(words[first : last + 1]), start))
        assert text[start : answers[-1].stop] == answers[-1].text
    windows = make_windows(pairs, tokenizer, length=36, stride=14, most_question=5)
    begins, ends = answer_positions(windows, answers)
    held = np.zeros(len(pairs), int)
    for row, i in enumerate(windows.sample.tolist()):
        places = windows.offsets[row][windows.in_passage[row]]
        whole = places[0, 0] <= answers[i].start and places[-1, 1] >= answers[i].stop
        if whole:
            held[i] += 1
            assert windows.in_passage[row, begins[row]]
            assert windows.in_passage[row, ends[row]]
            assert (windows.offsets[row, begins[row], 0], windows.offsets[row, ends[row], 1]) == (
                answers[i].start, answers[i].stop,
            )  # fmt: skip
        else:
            assert begins[row] == ends[row] == 0
    assert held.min() >= 1  # the windows overlap by more than an answer's length
    assert (begins == 0).any()


def test_answers_with_white_space_round_them_and_within_a_word(tokenizer):
    windows = make_windows([("ba", "ko mida ru")] * 3, tokenizer, length=30, stride=2, most_question=5)
    begins, ends = answer_positions(windows, [Answer(" mida ", 2), Answer("id", 4), Answer("a", 6)])
    assert tokenizer.convert_ids_to_tokens(windows.input_ids[0, begins]) == ["mi", "mi", "##da"]
    assert tokenizer.convert_ids_to_tokens(windows.input_ids[0, ends]) == ["##da", "##da", "##da"]


def test_best_spans_are_those_of_a_search_through_all_pairs(tokenizer):
    rng = np.random.default_rng(3)
    pairs = [("ba ?", passage(rng, n)) for n in (30, 12, 1)]
    windows = make_windows(pairs, tokenizer, length=26, stride=6, most_question=5)
    scores = rng.standard_normal((2, *windows.input_ids.shape))
    scores[:, ~windows.in_passage] += 100  # no answer lies outside the passage, whatever the scores say
    longest, n_best = 3, 7
    for i, spans in enumerate(best_spans(windows, *scores, n_best=n_best, longest=longest)):
        expected = {}
        for row in np.flatnonzero(windows.sample == i):
            for a in np.flatnonzero(windows.in_passage[row]):
                for b in range(a, min(a + longest, len(windows.in_passage[row]))):
                    if windows.in_passage[row, b]:
                        place = int(windows.offsets[row, a, 0]), int(windows.offsets[row, b, 1])
                        total = scores[0, row, a] + scores[1, row, b]
                        expected[place] = max(total, expected.get(place, -np.inf))
        order = sorted(expected, key=lambda place: -expected[place])[:n_best]
        assert [(s.start, s.stop) for s in spans] == order
        np.testing.assert_allclose([s.score for s in spans], [expected[place] for place in order], rtol=1e-15)


def test_best_span_where_the_scores_point_backwards():
    """The end's peak stands before the start's: the answer is the best pair that is in order."""
    n = 6
    offsets = np.stack([np.arange(n), np.arange(n) + 1], axis=1)[None]
    windows = Windows(*[np.zeros((1, n), int)] * 3, offsets, np.arange(n)[None] > 0, np.zeros(1, int))
    start, end = np.zeros((2, 1, n))
    start[0, 4], end[0, 2], end[0, 5] = 9, 8, 1
    ((best, *_),) = best_spans(windows, start, end, n_best=2, longest=4)
    assert best == (4, 6, 10)


@pytest.mark.parametrize(
    ("length", "stride", "most_question"), [(20, 8, 10), (64, 60, 4), (64, -1, 8), (64, 8, 0), (10, 0, 4)]
)
def test_windows_without_room(tokenizer, length, stride, most_question):
    with pytest.raises(InputError, match="8 or more new tokens"):
        make_windows([("ba", "ko")], tokenizer, length=length, stride=stride, most_question=most_question)


def test_a_passage_without_a_word(tokenizer):
    with pytest.raises(InputError, match="no word in it"):
        make_windows([("ba", "ko"), ("ba", " \u200b ")], tokenizer, length=64, stride=8, most_question=9)
