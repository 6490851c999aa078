"""Span selection: a passage is asked about itself, and the answer is where a sentence's missing words stand.

A sentence of the passage becomes a question: words that follow each other are taken out and [MASK] stands for them,
some of the others are dropped. The model reads `[CLS] question [SEP] passage [SEP]` and selects the missing words'
first and last token in the passage, with the head that answers people's questions. So it has to find the sentence by
the words that both share, and in it what the question lacks; labels cost nothing.

Cloze questions are those of Lewis et al. 2019 (section 2.2, here without translation); selecting a span as
pre-training is Ram et al. 2021 (there of spans that recur).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from minissl.backend import Array
from minissl.errors import InputError
from minissl.pretext.nsp import Documents

LEAST_WORDS = 6  # of a sentence to ask about
MORE_WORDS = 0.55  # the chance that an answer goes on for another word, up to MOST_WORDS
MOST_WORDS = 6
KEPT = (0.5, 1.0)  # the share of a sentence's other words that its question keeps is drawn from here
MASK_FIRST = 0.5  # the share of questions that begin with [MASK], as people's begin with "who" or "when"
QUESTION = 4  # a question has up to 1/QUESTION of the sequence


class SpanQuestions(NamedTuple):
    """N sequences of T ids, and where the answer's first and last token are."""

    input_ids: Array  # (N, T) int32
    token_type_ids: Array  # (N, T) int8: 0 for [CLS] question [SEP] and padding, 1 for passage [SEP]
    attention_mask: Array  # (N, T) bool
    start_positions: Array  # (N,) int64
    end_positions: Array  # (N,) int64


def make_span_questions(
    documents: Documents, seq_len: int, *, cls_id: int, sep_id: int, pad_id: int, mask_id: int,
    word_start: Array, unlikely: Array, rng: np.random.Generator,
) -> SpanQuestions:  # fmt: skip
    """A pass over the documents: passages of neighbouring sentences, a question about one sentence of each.

    `word_start` (V,) is False for "##" pieces; `unlikely` (V,) is True for words with which no answer begins or ends,
    such as the most frequent ones. Passages without a sentence to ask about are left out; the order is the documents'.
    Raises InputError for seq_len < 16, and where nothing at all can be asked.
    """
    if seq_len < 16:
        raise InputError(f"seq_len {seq_len}: expected at least 16, for a question and a passage")
    most_question = seq_len // QUESTION
    room = seq_len - 3 - most_question
    rows, places = [], []
    for sentences in _passages(documents, room, rng):
        asked = _ask(sentences, room, word_start, unlikely, rng)
        if asked is None:
            continue
        before, after, first, last = asked
        question = [mask_id, *after, *before] if rng.random() < MASK_FIRST else [*before, mask_id, *after]
        head = [cls_id, *_around(question, question.index(mask_id), most_question), sep_id]
        passage = [token for sentence in sentences for token in sentence][:room]
        rows.append((head, [*passage, sep_id]))
        places.append((len(head) + first, len(head) + last))
    if not rows:
        raise InputError(
            f"no sentence of {LEAST_WORDS} words or more with a word that may be an answer in {len(documents)} "
            "documents; is the text too short?"
        )
    shape = len(rows), seq_len
    ids, types, mask = np.full(shape, pad_id, np.int32), np.zeros(shape, np.int8), np.zeros(shape, bool)
    for i, (head, passage) in enumerate(rows):
        used = len(head) + len(passage)
        ids[i, :used] = head + passage
        types[i, len(head) : used] = 1
        mask[i, :used] = True
    start, end = np.array(places, np.int64).T
    return SpanQuestions(ids, types, mask, start, end)


def unlikely_answers(counts: Array, share: float = 0.02) -> Array:
    """The most frequent `share` of the vocabulary by its counts (V,) in a text: grammar's words, as flags (V,)."""
    flags = np.zeros(len(counts), bool)
    flags[np.argsort(-counts, kind="stable")[: round(share * len(counts))]] = True
    return flags


def _passages(documents: Documents, room: int, rng: np.random.Generator) -> Iterator[list[list[int]]]:
    """Cut each document to runs of whole sentences of at least one, and up to a length drawn from room/2 … room."""
    for document in documents:
        passage: list[list[int]] = []
        used, most = 0, int(rng.integers(room // 2, room + 1))
        for sentence in document:
            tokens = [int(token) for token in sentence]
            if passage and used + len(tokens) > most:
                yield passage
                passage, used, most = [], 0, int(rng.integers(room // 2, room + 1))
            if tokens:
                passage.append(tokens)
                used += len(tokens)
        if passage:
            yield passage


def _ask(
    sentences: list[list[int]], room: int, word_start: Array, unlikely: Array, rng: np.random.Generator
) -> tuple[list[int], list[int], int, int] | None:
    """Choose a sentence and an answer in it.

    Returns the kept tokens before and after the answer, and the places in the passage of its first and last token.
    """
    begins = np.cumsum([0, *map(len, sentences)])
    for i in rng.permutation(len(sentences)).tolist():
        sentence = sentences[i]
        if begins[i + 1] > room:
            continue
        words = _words(sentence, word_start)
        # an answer's first and last word: one that is likely by the piece with which it begins
        likely = [w for w, word in enumerate(words) if not unlikely[word[0]]]
        if len(words) < LEAST_WORDS or not likely:
            continue
        first = likely[int(rng.integers(len(likely)))]
        most = min(int(rng.geometric(1 - MORE_WORDS)), MOST_WORDS, len(words) - first)
        last = max(w for w in likely if first <= w < first + most)
        kept = (rng.random(len(words)) < rng.uniform(*KEPT)).tolist()
        before = [token for w in range(first) if kept[w] for token in words[w]]
        after = [token for w in range(last + 1, len(words)) if kept[w] for token in words[w]]
        if before or after:
            start = int(begins[i]) + sum(map(len, words[:first]))
            return before, after, start, start + sum(map(len, words[first : last + 1])) - 1
    return None


def _words(sentence: Sequence[int], word_start: Array) -> list[list[int]]:
    """The tokens of each word: a "##" piece goes on with the word before it."""
    words: list[list[int]] = []
    for token in sentence:
        if words and not word_start[token]:
            words[-1].append(token)
        else:
            words.append([token])
    return words


def _around(tokens: list[int], place: int, most: int) -> list[int]:
    """Up to `most` tokens, those around `place`."""
    first = max(0, min(place - most // 2, len(tokens) - most))
    return tokens[first : first + most]
