import math

import numpy as np
import pytest

from minissl.errors import InputError
from minissl.text.answers import (
    best_sentence,
    exact_match,
    f1,
    normalize_answer,
    random_spans,
    score,
    score_answer,
    second_annotator,
)
from minissl.text.squad import Answer, Question

CONTEXT = "The owl sleeps by day. An owl hunts mice at night, and rests in old oaks. Mice fear it."


def question(text="What does an owl hunt?", answers=("mice",), name="q"):
    return Question(name, text, CONTEXT, tuple(Answer(a, CONTEXT.index(a)) for a in answers))


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  Cat,\n a dog!", "cat dog"),
        ("a.m.", "am"),
        ("theatre", "theatre"),  # an article is a whole word
        ("U.S.A. the", "usa"),
        ("“Ünï”", "“ünï”"),  # the definition takes out ASCII punctuation only
        ("an A the", ""),
        ("state-of-the-art", "stateoftheart"),  # punctuation goes first
        ("$5,000", "5000"),
    ],
)
def test_normalisation(text, normal):
    assert normalize_answer(text) == normal


@pytest.mark.parametrize(
    ("prediction", "truth", "exact", "expected"),
    [
        ("the Mice.", "mice", True, 1.0),
        ("old oaks", "in old oaks", False, 2 * 1 * (2 / 3) / (1 + 2 / 3)),
        ("mice at night", "day", False, 0.0),
        ("owl owl owl", "owl owl", False, 2 * (2 / 3) * 1 / (2 / 3 + 1)),  # words count as often as they occur
        ("oaks old", "old oaks", False, 1.0),  # F1 has no order
        ("the", "a", True, 0.0),  # nothing is left: the same, yet no word is shared
        ("", "mice", False, 0.0),
    ],
)
def test_exact_match_and_f1(prediction, truth, exact, expected):
    assert exact_match(prediction, truth) is exact
    assert f1(prediction, truth) == pytest.approx(expected, abs=1e-15)


def test_each_measure_takes_its_best_annotator_and_questions_are_averaged():
    assert score_answer("in old oaks", ["oaks", "old oaks", "mice"]) == (False, pytest.approx(0.8))
    questions = [question(name="1"), question(answers=("in old oaks", "oaks"), name="2")]
    assert score({"1": "mice", "2": "old oaks", "other": "x"}, questions) == pytest.approx((0.5, (1 + 0.8) / 2))


def test_a_question_without_prediction_is_an_error():
    with pytest.raises(InputError, match="1 of 1 questions have no prediction, the first is 'q'"):
        score({}, [question()])
    with pytest.raises(InputError, match="nothing to score"):
        score({}, [])


def test_random_spans_are_whole_words_of_the_passage_of_the_given_lengths():
    words = CONTEXT.split()
    seen = set()
    for seed in range(300):
        span = random_spans([question()], [1, 3], np.random.default_rng(seed))["q"]
        assert span in CONTEXT
        parts = span.split()
        assert len(parts) in (1, 3)
        assert any(words[i : i + len(parts)] == parts for i in range(len(words)))
        seen.add(span)
    assert {words[0], words[-1]} <= seen  # both ends are reached
    short = Question("q", "?", "Two words.", (Answer("Two", 0),))
    assert random_spans([short], [9], np.random.default_rng(0)) == {"q": "Two words."}
    again = [random_spans([question()], [1, 2, 3], np.random.default_rng(5)) for _ in range(2)]
    assert again[0] == again[1]


def test_best_sentence_shares_most_words_and_the_first_wins():
    assert best_sentence(question("When does the owl sleep by day?")) == "The owl sleeps by day."
    assert best_sentence(question("Which mice does it fear?")) == "Mice fear it."
    assert best_sentence(question("Who?")) == "The owl sleeps by day."
    assert best_sentence(question("owl owl owl or mice at night?")).startswith("An owl hunts")


def test_second_annotator_is_scored_against_the_others():
    questions = [question(answers=("mice", "mice at night", "mice")), question(answers=("mice",))]
    assert second_annotator(questions) == ((0.0, pytest.approx(0.5)), 1)
    result, count = second_annotator([question()])
    assert count == 0
    assert math.isnan(result.f1)
