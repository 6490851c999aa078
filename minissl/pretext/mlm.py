"""Masked language modelling: which ids are hidden, by what, and what is asked (Devlin et al. 2019, section 3.1)."""

from __future__ import annotations

from typing import Any

import numpy as np

from minissl.backend import Array, require_ids
from minissl.errors import InputError

IGNORE = -100  # the label of a position that is not asked about (Hugging Face's convention)
MASKED, RANDOM, KEPT = 0.8, 0.1, 0.1  # what happens to a chosen position


def number_to_mask(maskable: Any, rate: float = 0.15) -> Any:
    """max(1, round(rate · n)) for n maskable positions, a number or an array; exact halves round to even."""
    if not 0.0 < rate <= 1.0:
        raise InputError(f"masking rate {rate}: expected a share in (0, 1], such as 0.15; was it meant in per cent?")
    return np.maximum(1, np.rint(rate * np.asarray(maskable))).astype(np.int64)


def mask_tokens(
    input_ids: Any,
    maskable: Any,
    *,
    mask_id: int,
    vocab_size: int,
    rng: np.random.Generator,
    rate: float = 0.15,
    word_starts: Any = None,
) -> tuple[Array, Array]:
    """Hide some ids of each row: returns (masked_ids, labels), both (B, T) int64; the inputs are not changed.

    Exactly `number_to_mask(n, rate)` of a row's n `maskable` positions are chosen, uniformly without replacement. Of
    the chosen, 80 % become `mask_id`, 10 % a random id of the whole vocabulary, 10 % stay. Labels: the original id
    where chosen, IGNORE elsewhere. (Hugging Face's collator decides for each position independently instead, so its
    count varies, down to rows without a label.)

    `word_starts` (B, T), False at a "##" piece, chooses whole words: a word's pieces share one 80/10/10 decision (a
    random id is drawn for each), and the number of positions comes as close to the rate as the words allow.

    Raises InputError for ids outside the vocabulary, shapes that differ, a row without a maskable position.
    """
    ids, maskable = np.asarray(input_ids), np.asarray(maskable, dtype=bool)
    _require_rows(ids, maskable, mask_id, vocab_size)
    starts = np.ones(ids.shape, dtype=bool) if word_starts is None else np.asarray(word_starts, dtype=bool)
    if starts.shape != ids.shape:
        raise InputError(f"word_starts has shape {starts.shape}, input_ids {ids.shape}: expected one flag per position")

    word, sizes = _words(maskable, starts)
    chosen_word = _choose_words(sizes, number_to_mask(maskable.sum(axis=1), rate), rng)
    chosen = np.take_along_axis(chosen_word, word, axis=1) & maskable
    decision = np.take_along_axis(rng.random(ids.shape), word, axis=1)  # one number per word
    random_ids = rng.integers(vocab_size, size=ids.shape)

    hidden = np.where(decision < MASKED, mask_id, np.where(decision < MASKED + RANDOM, random_ids, ids))
    return np.where(chosen, hidden, ids).astype(np.int64), np.where(chosen, ids.astype(np.int64), IGNORE)


def _words(maskable: Array, starts: Array) -> tuple[Array, Array]:
    """Number each row's words: the word of every position (B, T), and each word's count of positions (B, T), 0-padded.

    The first piece after a special token begins a word even if it is a "##" piece: truncation cut off its head.
    """
    B, T = maskable.shape
    after_gap = np.ones_like(maskable)
    after_gap[:, 1:] = ~maskable[:, :-1]
    word = np.maximum(np.cumsum(maskable & (starts | after_gap), axis=1) - 1, 0)
    slot = word + T * np.arange(B)[:, None]
    return word, np.bincount(slot[maskable], minlength=B * T).reshape(B, T)


def _choose_words(sizes: Array, wanted: Array, rng: np.random.Generator) -> Array:
    """Go through each row's words in random order and take each one that brings the count nearer to `wanted` (B,).

    With words of one piece that is a uniform choice of exactly `wanted` positions. A row all of whose words are more
    than twice too long takes a shortest one. The loop is over places in the order, for all rows at once.
    """
    B, T = sizes.shape
    order = np.argsort(np.where(sizes > 0, rng.random(sizes.shape), 2.0), axis=1)  # empty slots last
    sizes = np.take_along_axis(sizes, order, axis=1)
    taken, missing = np.zeros((B, T), dtype=bool), wanted
    for place in range(T):
        size = sizes[:, place]
        taken[:, place] = (size > 0) & (size < 2 * missing)  # |missing - size| < |missing|
        missing = missing - size * taken[:, place]
        if np.all(missing <= 0):
            break
    shortest = np.argmin(np.where(sizes > 0, sizes, T + 1), axis=1)
    taken[np.arange(B), shortest] |= ~taken.any(axis=1)
    chosen = np.zeros_like(taken)
    np.put_along_axis(chosen, order, taken, axis=1)
    return chosen


def _require_rows(ids: Array, maskable: Array, mask_id: int, vocab_size: int) -> None:
    if ids.ndim != 2 or maskable.shape != ids.shape:
        raise InputError(f"input_ids {ids.shape} and maskable {maskable.shape}: expected one shape (batch, length)")
    require_ids(ids, vocab_size, "input_ids")
    require_ids(np.array([mask_id]), vocab_size, "mask_id")
    empty = np.flatnonzero(~maskable.any(axis=1))
    if len(empty):
        raise InputError(
            f"row {empty[0]} has no position that may be masked, only special tokens or padding; leave such rows out"
        )
