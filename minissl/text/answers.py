"""How good answers are: SQuAD's exact match and F1; and the answers of a random span, a sentence and a person.

The measures are those of Rajpurkar et al. 2016, section 6.1; that of a set is the mean over its questions.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from minissl.errors import InputError
from minissl.text.sentences import split_sentences
from minissl.text.squad import Question

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


class Score(NamedTuple):
    """Shares from 0 to 1: answers that are exactly one of the annotators', and the mean F1."""

    exact_match: float
    f1: float


def normalize_answer(text: str) -> str:
    """Lower-case, without ASCII punctuation, without the words a, an and the, its white space single."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, truth: str) -> bool:
    """Whether the two are the same once normalised."""
    return normalize_answer(prediction) == normalize_answer(truth)


def f1(prediction: str, truth: str) -> float:
    """2 P R / (P + R): precision and recall of the normalised words, counted as often as they occur."""
    words, true_words = normalize_answer(prediction).split(), normalize_answer(truth).split()
    shared = (Counter(words) & Counter(true_words)).total()
    if not shared:
        return 0.0
    precision, recall = shared / len(words), shared / len(true_words)
    return 2 * precision * recall / (precision + recall)


def score_answer(prediction: str, truths: Iterable[str]) -> Score:
    """Both measures against whichever of the annotators' answers is the nearest, for each measure its own."""
    truths = list(truths)
    return Score(max(exact_match(prediction, t) for t in truths), max(f1(prediction, t) for t in truths))


def score(predictions: Mapping[str, str], questions: Sequence[Question]) -> Score:
    """The mean over questions of predictions {id: text}. Raises InputError where one has none, or there is none."""
    missing = [q.id for q in questions if q.id not in predictions]
    if missing or not questions:
        raise InputError(
            f"{len(missing)} of {len(questions)} questions have no prediction"
            + (f", the first is {missing[0]!r}" if missing else "; there is nothing to score")
        )
    scores = [score_answer(predictions[q.id], (a.text for a in q.answers)) for q in questions]
    return Score(*(float(np.mean(column)) for column in zip(*scores, strict=True)))


def random_spans(questions: Sequence[Question], lengths: Sequence[int], rng: np.random.Generator) -> dict[str, str]:
    """For each question some words of its passage that follow each other, as many as one of `lengths` says."""
    spans = {}
    for question in questions:
        words = [match.span() for match in re.finditer(r"\S+", question.context)]
        length = min(int(rng.choice(lengths)), len(words))
        first = int(rng.integers(len(words) - length + 1))
        spans[question.id] = question.context[words[first][0] : words[first + length - 1][1]]
    return spans


def best_sentence(question: Question) -> str:
    """The sentence of the passage that shares the most different words with the question; of several, the first."""
    asked = set(normalize_answer(question.text).split())
    sentences = split_sentences(question.context)
    return max(sentences, key=lambda sentence: len(asked & set(normalize_answer(sentence).split())))


def second_annotator(questions: Sequence[Question]) -> tuple[Score, int]:
    """How one person's answers score against the others': the second of each question, as the paper does it.

    Returns the score and how many questions have two answers or more; without any it is NaN.
    """
    scores = [
        score_answer(q.answers[1].text, (a.text for i, a in enumerate(q.answers) if i != 1))
        for q in questions
        if len(q.answers) > 1
    ]
    if not scores:
        return Score(float("nan"), float("nan")), 0
    return Score(*(float(np.mean(column)) for column in zip(*scores, strict=True))), len(scores)
