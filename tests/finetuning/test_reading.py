import numpy as np
import pytest

from minissl.errors import InputError
from minissl.finetuning.reading import Reading, TrainingWindows, inputs, reply
from minissl.models import BertConfig, BertForQuestionAnswering, ModelOutput
from minissl.text import BertTokenizer
from minissl.text.squad import Answer, Question
from minissl.workers import Workers

WORDS = [f"{a}{b}" for a in "bdfgklmnprst" for b in "aeiou"]
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
READING = Reading(length=24, stride=5, most_question=4, longest_answer=3, n_best=4)


@pytest.fixture
def tokenizer():
    return BertTokenizer(vocab=VOCAB)


def questions(lengths, seed=0):
    """Questions whose passages name each word once; each has three annotators."""
    rng = np.random.default_rng(seed)
    made = []
    for i, length in enumerate(lengths):
        words = rng.permutation(WORDS)[:length].tolist()
        context = " ".join(words)
        given = [words[int(k)] for k in rng.permutation(length)[:3]]
        answers = tuple(Answer(w, context.index(w)) for w in given)
        made.append(Question(f"q{i}", f"{WORDS[i]} {given[0]}", context, answers))
    return made


class Finder:
    """A model that knows which word is wanted, by the question's first token."""

    def __init__(self, wanted):
        self.wanted = wanted

    def __call__(self, input_ids, attention_mask, token_type_ids):
        hit = (input_ids == np.array([self.wanted[int(q)] for q in input_ids[:, 1]])[:, None]) * 5.0
        hit[:, :3] = 9  # the question and [CLS] are no answer, however well they score
        return ModelOutput(start_logits=hit, end_logits=hit)


@pytest.mark.parametrize("threads", [0, 1, 2])
def test_reply_finds_the_place_in_whichever_window_it_is(tokenizer, threads):
    asked = [q for q in questions([50, 3, 22, 40, 9]) for _ in range(2)]
    wanted = {}
    for q in asked:
        wanted[tokenizer.encode_words(q.text)[0]] = tokenizer.encode_words(q.answers[2].text)[0]
    windows = READING.windows([(q.text, q.context) for q in asked], tokenizer)
    assert len(windows.sample) > len(asked)
    workers = Workers(threads) if threads else None
    try:
        found = reply(Finder(wanted), windows, READING, workers)
    finally:
        if workers:
            workers.close()
    for q, given in zip(asked, found, strict=True):
        assert (given[0].start, given[0].stop) == (q.answers[2].start, q.answers[2].stop)
        assert len(given) == 4
        assert sum(r.probability for r in given) == pytest.approx(1)
        assert [r.probability for r in given] == sorted((r.probability for r in given), reverse=True)
        assert given[0].probability > 0.95


def test_reply_is_the_same_whatever_shares_a_batch(tokenizer):
    asked = questions([50, 30, 9], seed=3)
    config = BertConfig(len(VOCAB), 12, 2, 3, 20, max_position_embeddings=24)
    model = BertForQuestionAnswering(config, dtype="float64")
    together = reply(model, READING.windows([(q.text, q.context) for q in asked], tokenizer), READING)
    for q, given in zip(asked, together, strict=True):
        (alone,) = reply(model, READING.windows([(q.text, q.context)], tokenizer), READING)
        assert [(r.start, r.stop) for r in alone] == [(r.start, r.stop) for r in given]
        np.testing.assert_allclose([r.probability for r in alone], [r.probability for r in given], rtol=1e-9)


def test_training_windows_deal_out_each_once_with_an_annotators_answer(tokenizer):
    asked = questions([50, 3, 22, 40, 9], seed=1)
    windows = TrainingWindows(asked, tokenizer, READING, seed=4)
    given = {q.id: set() for q in asked}
    for number in range(12):
        batches = windows.batches(number, 3)
        assert sum(len(b["input_ids"]) for b in batches) == len(windows.windows.sample)
        rows = []
        for batch in batches:
            assert batch["attention_mask"].sum(axis=1).max() == batch["input_ids"].shape[1]  # no column of padding
            for ids, start, end in zip(
                batch["input_ids"], batch["start_positions"], batch["end_positions"], strict=True
            ):
                rows.append(ids[ids > 0].tolist())
                assert start == end  # every answer is one token
                q = next(q for q in asked if tokenizer.encode_words(q.text) == ids[1:3].tolist())
                word = tokenizer.convert_ids_to_tokens(int(ids[start]))
                assert start == 0 or word in [a.text for a in q.answers]
                given[q.id].add(word)
        every = [row[row > 0].tolist() for row in windows.windows.input_ids]
        assert sorted(rows) == sorted(every)
    for q in asked:
        assert given[q.id] - {"[CLS]"} == {a.text for a in q.answers}
    assert "[CLS]" in given["q0"]  # its windows without the answer
    for again in (windows, TrainingWindows(asked, tokenizer, READING, seed=4)):
        for a, b in zip(windows.batches(5, 3), again.batches(5, 3), strict=True):
            for name in a:
                np.testing.assert_array_equal(a[name], b[name])


def test_inputs_leave_out_common_padding(tokenizer):
    windows = READING.windows([("ba", "ko mi"), ("ba", " ".join(WORDS[:15]))], tokenizer)
    assert inputs(windows, np.array([0]))["input_ids"].shape == (1, 6)
    assert inputs(windows, np.array([0, 1]))["token_type_ids"].shape == (2, 19)


@pytest.mark.parametrize("name", ["longest_answer", "n_best"])
def test_reading_refuses_nothing_to_find(name):
    with pytest.raises(InputError, match=f"{name} 0"):
        Reading(**{name: 0})
