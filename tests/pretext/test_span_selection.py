import numpy as np
import pytest

from minissl.errors import InputError
from minissl.pretext.span_selection import LEAST_WORDS, MOST_WORDS, make_span_questions, unlikely_answers

CLS, SEP, PAD, MASK, FIRST = 2, 3, 0, 4, 5


def corpus(sentences_per_document, seed=0, longest=30):
    """Documents whose ids count up, so that an id says which token of which sentence it is.

    Returns the documents and, for every id, its sentence, whether it begins a word, and whether it is unlikely.
    """
    rng = np.random.default_rng(seed)
    documents, sentence_of, number = [], [-1] * FIRST, 0
    for count in sentences_per_document:
        documents.append([])
        for _ in range(count):
            length = int(rng.integers(3, longest))
            documents[-1].append(np.arange(len(sentence_of), len(sentence_of) + length))
            sentence_of += [number] * length
            number += 1
    size = len(sentence_of)
    word_start = rng.random(size) < 0.7
    return documents, np.array(sentence_of), word_start, rng.random(size) < 0.4


def ask(documents, seq_len, word_start, unlikely, seed=0):
    special = {"cls_id": CLS, "sep_id": SEP, "pad_id": PAD, "mask_id": MASK}
    rng = np.random.default_rng(seed)
    return make_span_questions(documents, seq_len, word_start=word_start, unlikely=unlikely, rng=rng, **special)


@pytest.mark.parametrize(("shape", "seq_len"), [([9] * 40, 64), ([1, 4, 30, 2], 48), ([12] * 6, 128)])
def test_the_answer_is_what_the_question_lacks_of_one_sentence(shape, seq_len):
    documents, sentence_of, word_start, unlikely = corpus(shape)
    made = ask(documents, seq_len, word_start, unlikely)
    begins_sentence = np.diff(sentence_of, prepend=-2) != 0
    assert made.input_ids.shape == made.token_type_ids.shape == made.attention_mask.shape == (len(made[3]), seq_len)
    for ids, types, mask, start, end in zip(*made, strict=True):
        used = int(mask.sum())
        middle, last = np.flatnonzero(ids == SEP)
        assert (ids[0], last, mask[:used].all(), (ids[used:] == PAD).all()) == (CLS, used - 1, True, True)
        assert types.tolist() == [0] * (middle + 1) + [1] * (used - middle - 1) + [0] * (seq_len - used)
        question, passage = ids[1:middle], ids[middle + 1 : last]
        assert len(question) <= seq_len // 4
        assert (np.diff(passage) == 1).all()  # neighbouring text
        assert middle < start <= end < last
        answer = ids[start : end + 1]
        rest = question[question != MASK]
        assert len(rest) == len(question) - 1 > 0
        (sentence,) = set(sentence_of[answer].tolist())
        assert set(sentence_of[rest].tolist()) == {sentence}
        assert not set(answer.tolist()) & set(rest.tolist())
        assert set(np.flatnonzero(sentence_of == sentence).tolist()) <= set(passage.tolist())

        starts_word = word_start | begins_sentence
        words = np.flatnonzero(starts_word[answer[0] : answer[-1] + 1]) + answer[0]
        assert words[0] == answer[0]  # whole words
        assert answer[-1] + 1 == len(starts_word) or starts_word[answer[-1] + 1]
        assert len(words) <= MOST_WORDS
        assert not unlikely[words[[0, -1]]].any()
        place = int(np.flatnonzero(question == MASK)[0])
        before, after = rest[rest < answer[0]], rest[rest > answer[-1]]
        in_place, first = [*before, *after], [*after, *before]
        assert rest.tolist() in ([in_place] if place else [in_place, first])
        assert place in (0, len(before))


def test_every_passage_comes_once_and_a_seed_says_which_questions():
    documents, _, word_start, _ = corpus([9] * 40, longest=14)
    unlikely = np.zeros(len(word_start), bool)
    first, again, other = (ask(documents, 64, word_start, unlikely, seed) for seed in (1, 1, 2))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert first.input_ids.shape != other.input_ids.shape or (first.input_ids != other.input_ids).any()
    shown = np.concatenate([ids[types == 1] for ids, types in zip(first.input_ids, first.token_type_ids, strict=True)])
    shown = shown[shown != SEP]
    assert len(set(shown.tolist())) == len(shown)
    assert len(shown) > 0.9 * len(np.concatenate([s for d in documents for s in d]))  # short ones cannot be asked about


def test_how_questions_are_drawn():
    documents, sentence_of, _, _ = corpus([8] * 400, longest=24)
    everywhere = np.ones(len(sentence_of), bool)
    made = ask(documents, 128, everywhere, ~everywhere)
    rows = [(ids[1 : np.flatnonzero(ids == SEP)[0]], s, e) for ids, s, e in zip(*made[:1], *made[3:], strict=True)]
    words = np.array([e - s + 1 for _, s, e in rows])
    assert set(words.tolist()) == set(range(1, MOST_WORDS + 1))
    assert 0.4 < (words == 1).mean() < 0.6  # geometric: 45 %, and more where the sentence ends
    assert 0.45 < np.mean([q[0] == MASK for q, _, _ in rows]) < 0.65  # half of them, and those that begin so anyway
    size = np.bincount(sentence_of[FIRST:])
    kept = [
        (len(q) - 1) / (size[sentence_of[ids[s]]] - (e - s + 1))
        for (q, s, e), ids in zip(rows, made.input_ids, strict=True)
        if len(q) < 32  # not cut
    ]
    assert 0.72 < np.mean(kept) < 0.78


def test_a_long_question_keeps_what_is_around_the_mask():
    documents, sentence_of, _, _ = corpus([2] * 60, longest=30)
    everywhere = np.ones(len(sentence_of), bool)
    made = ask(documents, 48, everywhere, ~everywhere)
    longest = max(int(np.flatnonzero(ids == SEP)[0]) - 1 for ids in made.input_ids)
    assert longest == 12
    assert all((ids == MASK).sum() == 1 for ids in made.input_ids)


def test_unlikely_answers_are_the_most_frequent():
    assert unlikely_answers(np.array([5, 0, 9, 7, 1]), 0.4).tolist() == [False, False, True, True, False]


def test_what_cannot_be_asked():
    documents, _, word_start, unlikely = corpus([3, 3])
    with pytest.raises(InputError, match="seq_len 15"):
        ask(documents, 15, word_start, unlikely)
    with pytest.raises(InputError, match=f"no sentence of {LEAST_WORDS} words"):
        ask(documents, 64, word_start, np.ones_like(unlikely))
    with pytest.raises(InputError, match="in 0 documents"):
        ask([], 64, word_start, unlikely)
