"""Questions as a reader of limited length sees them: overlapping windows of the passage, and back to its characters.

A window is `[CLS] question [SEP] part of the passage [SEP]`; neighbouring windows share `stride` tokens, so that what
one cuts through stands whole in another (Devlin et al. 2019, section 4.2; layout and labels as Hugging Face's).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from minissl.backend import Array
from minissl.errors import InputError
from minissl.text.squad import Answer
from minissl.text.tokenizer import BertTokenizer

LEAST_PASSAGE = 8  # tokens of the passage that every window has room for beside its question and `stride`


class Windows(NamedTuple):
    """N windows of T tokens, each question's next to each other and in the passage's order."""

    input_ids: Array  # (N, T) int64
    token_type_ids: Array  # (N, T) int64
    attention_mask: Array  # (N, T) int64
    offsets: Array  # (N, T, 2): of a token of the passage its first character and the one after its last
    in_passage: Array  # (N, T) bool
    sample: Array  # (N,): which question it is of

    def rows(self, chosen: Array) -> Windows:
        """The chosen windows alone."""
        return Windows(*(column[chosen] for column in self))


class Span(NamedTuple):
    """A stretch of a passage by characters, and its score: that of its first token and its last, added."""

    start: int
    stop: int
    score: float


def make_windows(
    pairs: Sequence[tuple[str, str]], tokenizer: BertTokenizer, *, length: int, stride: int, most_question: int
) -> Windows:
    """Cut (question, passage) pairs to windows of up to `length` tokens; T is the longest one's.

    A question of more than `most_question` tokens loses its end. Raises InputError where a window would have no room
    for LEAST_PASSAGE new tokens, and for a passage without a token.
    """
    room = length - 3 - most_question - stride
    if min(stride, most_question - 1) < 0 or room < LEAST_PASSAGE:
        raise InputError(
            f"windows of {length} tokens, {stride} of them shared, for questions of up to {most_question}: expected "
            f"{LEAST_PASSAGE} or more new tokens of the passage in each; make the windows longer or the overlap shorter"
        )
    encoded = tokenizer(
        [_shortened(question, tokenizer, most_question) for question, _ in pairs],
        [passage for _, passage in pairs],
        truncation="only_second", max_length=length, stride=stride, return_overflowing_tokens=True,
        return_offsets_mapping=True, padding="longest", padding_side="right", return_tensors="np",
    )  # fmt: skip
    sample = np.asarray(encoded["overflow_to_sample_mapping"])
    in_passage = np.array([[i == 1 for i in encoded.sequence_ids(row)] for row in range(len(sample))])
    empty = np.flatnonzero(~in_passage.any(axis=1))
    if empty.size:
        passage = pairs[sample[empty[0]]][1]
        raise InputError(f"the passage {passage[:40]!r} has no word in it; there is nothing to answer from")
    ids, types, mask = (encoded[name] for name in ("input_ids", "token_type_ids", "attention_mask"))
    return Windows(ids, types, mask, encoded["offset_mapping"], in_passage, sample)


def answer_positions(windows: Windows, answers: Sequence[Answer]) -> tuple[Array, Array]:
    """The first and the last token of an answer for each question, in each of its windows: two arrays (N,).

    Where a window does not hold the whole answer both are 0, the place of [CLS].
    """
    given = np.array([_bounds(answer) for answer in answers])
    start, stop = given[windows.sample].T[..., None]  # each (N, 1)
    first, last = windows.offsets[..., 0], windows.offsets[..., 1]
    inside = windows.in_passage & (first < stop) & (last > start)
    n = np.arange(len(inside))
    begins, ends = inside.argmax(axis=1), inside.shape[1] - 1 - inside[:, ::-1].argmax(axis=1)
    whole = inside.any(axis=1) & (first[n, begins] <= start[:, 0]) & (last[n, ends] >= stop[:, 0])
    return np.where(whole, begins, 0), np.where(whole, ends, 0)


def best_spans(
    windows: Windows, start_scores: Array, end_scores: Array, *, n_best: int, longest: int
) -> list[list[Span]]:
    """For each question its `n_best` spans of up to `longest` tokens over all of its windows, the best first.

    `start_scores` and `end_scores` are (N, T). Every pair start ≤ end within a window is looked at; a span that stands
    in two windows counts once, with the better score.
    """
    found: list[dict[tuple[int, int], float]] = [{} for _ in range(int(windows.sample.max()) + 1)]
    for row, sample in enumerate(windows.sample.tolist()):
        places = np.flatnonzero(windows.in_passage[row])
        for i, j, total in _best_pairs(start_scores[row, places], end_scores[row, places], n_best, longest):
            span = int(windows.offsets[row, places[i], 0]), int(windows.offsets[row, places[j], 1])
            found[sample][span] = max(total, found[sample].get(span, -np.inf))
    ordered = [sorted(spans.items(), key=lambda item: (-item[1], item[0])) for spans in found]
    return [[Span(*span, total) for span, total in spans[:n_best]] for spans in ordered]


def _best_pairs(start: Array, end: Array, n_best: int, longest: int) -> list[tuple[int, int, float]]:
    """The best (i, j, start[i] + end[j]) with i ≤ j < i + longest."""
    later = np.arange(len(start))[:, None] + np.arange(min(longest, len(start)))  # (n, longest): the j of each i
    total = np.where(later < len(end), start[:, None] + end[np.minimum(later, len(end) - 1)], -np.inf)
    flat = total.ravel()
    best = np.argpartition(flat, -n_best)[-n_best:] if n_best < flat.size else np.arange(flat.size)
    best = best[np.isfinite(flat[best])]
    i, offset = np.divmod(best, total.shape[1])
    return list(zip(i.tolist(), (i + offset).tolist(), flat[best].tolist(), strict=True))


def _shortened(question: str, tokenizer: BertTokenizer, most: int) -> str:
    if len(question) <= most:  # a token has a character or more
        return question
    spans = tokenizer(question, add_special_tokens=False, return_offsets_mapping=True, truncation=False)
    return question if len(spans["input_ids"]) <= most else question[: spans["offset_mapping"][most - 1][1]]


def _bounds(answer: Answer) -> tuple[int, int]:
    """The answer's first character and the one after its last, without white space round it, which no token holds."""
    text = answer.text.strip()
    start = answer.start + answer.text.index(text)
    return start, start + len(text)
