"""Next sentence prediction: pairs of segments, half of which follow each other (Devlin et al. 2019, section 3.1).

Nothing but content may tell the label, or a model learns the builder instead of the language. So a pair's lengths are
settled first, for both labels alike, and the label is drawn last:

1. Each document is cut into chunks of whole sentences, about one sequence long, and each chunk into A and B.
2. Chunks of two different documents whose B are about equally long become a couple; the longer B is cut to the other.
3. A couple gives four pairs that stay together: each A with its own B and with the other's. Given A alone, B alone and
   all lengths, both labels are equally likely; and in a batch, whatever one segment alone would say for a label it also
   says against it, so that only how A and B belong together leaves a gradient.

(BERT's own code takes another document's text whenever a chunk has one sentence only, so its negatives outnumber its
positives and are longer.)
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from minissl.backend import Array
from minissl.errors import InputError

Documents = Sequence[Sequence[Any]]  # documents of sentences of ids


class Pairs(NamedTuple):
    """N sequences of T ids; label 0: B follows A, 1: it does not (Hugging Face's convention)."""

    input_ids: Array  # (N, T) int32
    token_type_ids: Array  # (N, T) int8: 0 for [CLS] A [SEP] and padding, 1 for B [SEP]
    attention_mask: Array  # (N, T) bool: False at padding
    next_sentence_label: Array | None  # (N,) int64


def make_pairs(
    documents: Documents, seq_len: int, *, cls_id: int, sep_id: int, pad_id: int, rng: np.random.Generator
) -> Pairs:
    """A pass over the corpus as `[CLS] A [SEP] B [SEP]`, each A once with either label; cuts vary with `rng`.

    Couples come in random order, the four pairs of each together, and chunks without a partner last. A sentence longer
    than a sequence is cut into parts; a document of one sentence has nothing that follows. Where one document is more
    than half of the corpus, the B's of the others are negatives more than once.

    Raises InputError for seq_len < 8, ids that are no integers, fewer than two documents of two sentences.
    """
    room = _room(seq_len, 3)
    ids, start, chunks = _chunks(documents, room, 2, rng)
    first, stop, document = chunks.T
    if len(np.unique(document)) < 2:
        raise InputError(
            f"next sentence prediction needs two documents of two or more sentences, found {len(np.unique(document))} "
            f"in {len(documents)}; do blank lines separate them? Masked language modelling alone needs only one"
        )

    target = start[first] + rng.uniform(0.25, 0.75, len(first)) * np.minimum(start[stop] - start[first], room)
    cut = np.searchsorted(start, target)
    cut = np.clip(cut - (2 * target < start[cut - 1] + start[cut]), first + 1, stop - 1)  # the nearer boundary
    length_a, length_b = start[cut] - start[first], start[stop] - start[cut]
    length_b = np.minimum(length_b, np.maximum(room - length_a, room // 4))  # B loses its end,
    length_a = np.minimum(length_a, room - length_b)  # A its beginning: what meets stays whole

    chunk, partner = _partners(length_b, document, rng)
    chunk, partner = chunk.repeat(2), partner.repeat(2)
    negative = np.arange(len(chunk)) % 2 == 1
    length_b = np.minimum(length_b[chunk], length_b[partner])
    a = start[cut[chunk]] - length_a[chunk], length_a[chunk]
    b = start[cut[np.where(negative, partner, chunk)]], length_b
    return _layout(ids, [a, b], seq_len, cls_id, sep_id, pad_id)._replace(next_sentence_label=negative.astype(np.int64))


def make_segments(
    documents: Documents, seq_len: int, *, cls_id: int, sep_id: int, pad_id: int, rng: np.random.Generator
) -> Pairs:
    """One pass over the corpus as `[CLS] A [SEP]` for masked language modelling alone, without labels.

    Raises InputError for seq_len < 8, ids that are no integers, documents without any text.
    """
    room = _room(seq_len, 2)
    ids, start, chunks = _chunks(documents, room, 1, rng)
    first, stop, _ = rng.permutation(chunks).T
    a = start[first], np.minimum(start[stop] - start[first], room)
    return _layout(ids, [a], seq_len, cls_id, sep_id, pad_id)


def _room(seq_len: int, specials: int) -> int:
    if seq_len < 8:
        raise InputError(f"seq_len {seq_len}: expected at least 8, so that words fit between the special tokens")
    return seq_len - specials


def _flatten(documents: Documents, room: int) -> tuple[Array, Array, Array]:
    """All ids one after another, where each sentence starts (and the last one ends), each document's first sentence."""
    sentences = [[sentence for sentence in document if len(sentence)] for document in documents]
    flat = [sentence for document in sentences for sentence in document]
    if not flat:
        raise InputError("the documents hold no ids at all; is the text empty?")
    ids = np.concatenate(flat)
    if ids.dtype.kind not in "iu":
        raise InputError(f"documents: expected sentences of integer ids, got {ids.dtype}; were they tokenized?")
    length = np.array([len(sentence) for sentence in flat])

    # A sentence longer than `room` counts as several parts of about half of it, so that none of it is lost.
    parts = np.where(length > room, -(-length // (room // 2)), 1)
    part = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
    begin = np.repeat(np.cumsum(length) - length, parts) + part * np.repeat(length, parts) // np.repeat(parts, parts)
    sentences_before = np.cumsum([0, *(len(document) for document in sentences)])
    return ids, np.append(begin, len(ids)), np.append(0, np.cumsum(parts))[sentences_before]


def _chunks(documents: Documents, room: int, least: int, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Cut each document into runs of ≥ `least` whole sentences holding ≥ `room` ids, or fewer at the document's end.

    Returns the ids and starts of `_flatten`, and chunks (N, 3): first sentence, sentence after the last, document.
    What exceeds `room` will be cut off: with a probability equal to the share that a chunk's last sentence loses, the
    next chunk begins with that sentence again. So a pass shows every id once on average, and cuts vary between passes.
    """
    ids, starts, document_starts = _flatten(documents, room)
    start, coin = starts.tolist(), rng.random(len(starts)).tolist()
    chunks = []
    for document, (begin, end) in enumerate(pairwise(document_starts.tolist())):
        first = stop = begin
        while stop < end and end - begin >= least:
            first = min(first, end - least)  # a single last sentence takes the one before it along
            stop = bisect_left(start, start[first] + room, first + least, end)
            chunks.append((first, stop, document))
            lost = start[stop] - start[first] - room
            first = stop - 1 if lost > coin[stop] * (start[stop] - start[stop - 1]) else stop
    return ids, starts, np.array(chunks, dtype=np.int64).reshape(-1, 3)


def _couples(length: Array, document: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Join chunks of different documents and about equal length: couples (2, n), and the chunks without a partner.

    Partners are sought among neighbours in order of length first, then in ever larger blocks of that order. With a
    block sorted by document, its halves hold different documents, place by place, unless one document is more than
    half of it; so only such a document's chunks (and an odd one) remain.
    """
    left = rng.permutation(len(length))
    couples, size, blocks = [], 2, 2
    while len(left) > 1 and blocks > 1:
        size = min(size, len(left) // 2 * 2)
        blocks = len(left) // size
        left = left[np.argsort(length[left], kind="stable")]
        left = left[np.lexsort((document[left], np.arange(len(left)) // size))]
        halves = left[: blocks * size].reshape(blocks, 2, size // 2).swapaxes(0, 1).reshape(2, -1)
        apart = document[halves[0]] != document[halves[1]]
        couples.append(halves[:, apart])
        left = np.concatenate([halves[:, ~apart].ravel(), left[blocks * size :]])
        size *= 2
    return np.concatenate(couples, axis=1), left


def _partners(length: Array, document: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Each chunk and its partner in another document: couples in random order, then the chunks outside couples."""
    (one, other), single = _couples(length, document, rng)
    lender = single.copy()  # a chunk that has a partner of its own already, and a B of about the right length
    for name in np.unique(document[single]):
        mine = np.flatnonzero(document[single] == name)
        drawn = rng.choice(np.flatnonzero(document != name), len(mine))
        in_order = mine[np.argsort(length[single[mine]], kind="stable")]
        lender[in_order] = drawn[np.argsort(length[drawn], kind="stable")]
    order = rng.permutation(len(one))
    one, other = one[order], other[order]
    return (
        np.concatenate([np.stack([one, other], axis=1).ravel(), single]),
        np.concatenate([np.stack([other, one], axis=1).ravel(), lender]),
    )


def _layout(
    ids: Array, segments: list[tuple[Array, Array]], seq_len: int, cls_id: int, sep_id: int, pad_id: int
) -> Pairs:
    """Write each row's segments, given as (begins in ids, lengths), behind [CLS], each followed by [SEP]."""
    N = len(segments[0][0])
    input_ids = np.full((N, seq_len), pad_id, dtype=np.int32)
    token_type_ids = np.zeros((N, seq_len), dtype=np.int8)
    input_ids[:, 0] = cls_id
    used = np.ones(N, dtype=np.int64)
    for kind, (begins, lengths) in enumerate(segments):
        ends = used + lengths
        for row, (begin, left, right) in enumerate(zip(begins.tolist(), used.tolist(), ends.tolist(), strict=True)):
            input_ids[row, left:right] = ids[begin : begin + right - left]
            token_type_ids[row, left : right + 1] = kind
        input_ids[np.arange(N), ends] = sep_id
        used = ends + 1
    return Pairs(input_ids, token_type_ids, np.arange(seq_len) < used[:, None], None)
