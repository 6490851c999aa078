"""What a run learns from: batches as a function of (seed, step), held-out batches, and the landmarks of the loss."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from minissl.backend import Array
from minissl.errors import InputError
from minissl.pretext.hmm import FIRST_WORD, MASK_ID, HiddenMarkovModel
from minissl.pretext.mlm import IGNORE, mask_tokens
from minissl.pretext.nsp import Pairs, make_pairs, make_segments
from minissl.text.corpora import load_corpus
from minissl.text.tokenizer import BertTokenizer
from minissl.text.wordpiece import SPECIAL_TOKENS, train_wordpiece

Batch = dict[str, Array]
EPOCHS, MASKS, HELDOUT, LANGUAGE = range(1, 5)  # which stream of random numbers: one seed, no two alike (0: weights)
HELDOUT_BATCH = 32  # whatever the training batch, so that runs compare, and memory stays small


class Landmarks(NamedTuple):
    """Masked-LM losses to compare with, in nats: guessing evenly, by frequency, and the best possible if known."""

    chance: float
    unigram: float
    floor: float | None


@dataclass(frozen=True)
class TaskOptions:
    """How batches are made. The first `short_batches` have twice the rows at half the length."""

    data: str
    seq_len: int
    batch_size: int
    vocab_size: int
    short_batches: int = 0
    nsp: bool = True
    whole_word: bool = False
    seed: int = 0


@dataclass
class TextTask:
    """Masked words (and next sentences) of a corpus: built in, a file or a folder."""

    options: TaskOptions
    tokenizer: BertTokenizer = field(init=False)
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        o = self.options
        corpus = load_corpus(o.data, seed=0)  # the split is the corpus's own: no seed moves a text to the other side
        if o.nsp and not corpus.has_next_sentence_pairs:
            raise InputError(
                f"{o.data}: has too few documents of two or more sentences "
                "for next sentence prediction, which needs two to train on and two held out; "
                "separate documents by blank lines, or train on masked words alone with --no-nsp"
            )
        sentences = (s for document in corpus.train for s in document.sentences)
        self.tokenizer = BertTokenizer(vocab=train_wordpiece(sentences, o.vocab_size))
        self.fingerprint = corpus.sha256
        self._train, self._heldout = (
            [[self.tokenizer.encode_words(s) for s in document.sentences] for document in part]
            for part in (corpus.train, corpus.heldout)
        )
        self._current = (0, o.seq_len)  # the epoch and the length that `_pairs` are made for
        self._pairs = self._rows(self._train, o.seq_len, EPOCHS, 0)
        self._batches_per_epoch = max(1, len(self._pairs.input_ids) // o.batch_size)

    def _rows(self, documents: list[list[list[int]]], length: int, stream: int, number: int) -> Pairs:
        t = self.tokenizer
        rng = np.random.default_rng([self.options.seed if stream == EPOCHS else 0, stream, number])
        make = make_pairs if self.options.nsp else make_segments
        return make(documents, length, cls_id=t.cls_token_id, sep_id=t.sep_token_id, pad_id=t.pad_token_id, rng=rng)

    def batch(self, number: int) -> Batch:
        """Batch 1, 2, …: every epoch has other cuts and pairs, every batch its own masks."""
        o = self.options
        length, size = o.seq_len, o.batch_size
        if number <= o.short_batches:
            length, size = max(8, length // 2), size * 2
        epoch, index = divmod(number - 1, self._batches_per_epoch)
        if (epoch, length) != self._current:
            self._current, self._pairs = (epoch, length), self._rows(self._train, length, EPOCHS, epoch)
        rows = (index * size + np.arange(size)) % len(self._pairs.input_ids)
        return self._masked(self._pairs, rows, np.random.default_rng([o.seed, MASKS, number]))

    def heldout(self, least_rows: int) -> list[Batch]:
        """At least `least_rows` rows, whatever the seed: as many passes over the held-out text as it takes."""
        batches: list[Batch] = []
        number = rows = 0
        while rows < least_rows:
            pairs = self._rows(self._heldout, self.options.seq_len, HELDOUT, number)
            rng = np.random.default_rng([0, HELDOUT, number, 1])
            size = len(pairs.input_ids)
            for start in range(0, size, HELDOUT_BATCH):
                batches.append(self._masked(pairs, np.arange(start, min(size, start + HELDOUT_BATCH)), rng))
            number, rows = number + 1, rows + size
        return batches

    @property
    def summary(self) -> str:
        """How much text there is on either side."""
        parts = []
        for name, documents in (("train", self._train), ("held out", self._heldout)):
            sentences = sum(len(document) for document in documents)
            pieces = sum(len(s) for document in documents for s in document)
            parts.append(f"{name} {len(documents):,} documents, {sentences:,} sentences, {pieces:,} word pieces")
        return "; ".join(parts)

    def example(self) -> Batch:
        """One held-out sequence, unmasked, without padding: something to look at."""
        pairs = self._rows(self._heldout, self.options.seq_len, HELDOUT, 0)
        length = pairs.attention_mask[0].sum()
        return {"input_ids": pairs.input_ids[:1, :length], "token_type_ids": pairs.token_type_ids[:1, :length]}

    def _masked(self, pairs: Pairs, rows: Array, rng: np.random.Generator) -> Batch:
        ids, visible = pairs.input_ids[rows], pairs.attention_mask[rows]
        words = visible & (ids != self.tokenizer.cls_token_id) & (ids != self.tokenizer.sep_token_id)
        starts = self.tokenizer.word_start[ids] if self.options.whole_word else None
        masked, labels = mask_tokens(
            ids,
            words,
            mask_id=self.tokenizer.mask_token_id,
            vocab_size=len(self.tokenizer),
            rng=rng,
            word_starts=starts,
        )
        batch = {
            "input_ids": masked,
            "attention_mask": visible,
            "token_type_ids": pairs.token_type_ids[rows],
            "labels": labels,
        }
        if pairs.next_sentence_label is not None:
            batch["next_sentence_label"] = pairs.next_sentence_label[rows]
        return batch

    def landmarks(self, heldout: list[Batch]) -> Landmarks:
        """Chance, and the training text's word frequencies (one added to each) on the held-out masked positions."""
        ids = np.concatenate([np.asarray(s, np.int64) for document in self._train for s in document])
        counts = np.bincount(ids, minlength=len(self.tokenizer))
        return Landmarks(math.log(len(counts)), unigram_loss(counts, heldout), None)


@dataclass
class HmmTask:
    """Masked words of a synthetic language whose lowest possible loss is known. Every batch is new; no pairs."""

    options: TaskOptions
    tokenizer: BertTokenizer = field(init=False)
    fingerprint: str = "hmm"

    def __post_init__(self) -> None:
        self.language = HiddenMarkovModel.random()
        self.tokenizer = BertTokenizer(vocab=[*SPECIAL_TOKENS, *self.language.tokens()])

    def batch(self, number: int) -> Batch:
        """Batch 1, 2, …: fresh sentences, freshly masked."""
        return self._masked(np.random.default_rng([self.options.seed, MASKS, number]), self.options.batch_size)

    def heldout(self, least_rows: int) -> list[Batch]:
        """At least `least_rows` sentences that no training step draws."""
        rng = np.random.default_rng([0, HELDOUT])
        return [self._masked(rng, HELDOUT_BATCH) for _ in range(-(-least_rows // HELDOUT_BATCH))]

    @property
    def summary(self) -> str:
        """What the language is made of."""
        states, words = self.language.emission.shape
        return f"a hidden Markov model of {states} states and {words} words; every sentence is drawn anew"

    def example(self) -> Batch:
        """One masked sentence that no training step draws: something to look at."""
        return {"input_ids": self.heldout(1)[0]["input_ids"][:1]}

    def _masked(self, rng: np.random.Generator, rows: int) -> Batch:
        t = self.tokenizer
        words = FIRST_WORD + self.language.sample(rng, rows, self.options.seq_len - 2)
        masked, labels = mask_tokens(
            words, np.ones_like(words, bool), mask_id=MASK_ID, vocab_size=len(self.tokenizer), rng=rng
        )
        cls, sep = (np.full((rows, 1), i) for i in (t.cls_token_id, t.sep_token_id))
        unasked = np.full((rows, 1), IGNORE)
        return {
            "input_ids": np.concatenate([cls, masked, sep], axis=1),
            "labels": np.concatenate([unasked, labels, unasked], axis=1),
        }

    def landmarks(self, heldout: list[Batch]) -> Landmarks:
        """Chance, word frequencies from a large sample, and the best predictor's loss on these very sentences."""
        words = self.language.sample(np.random.default_rng([0, LANGUAGE]), 20_000, self.options.seq_len - 2)
        counts = np.bincount(FIRST_WORD + words.ravel(), minlength=len(self.tokenizer))
        visible, labels = (np.concatenate([b[name][:, 1:-1] for b in heldout]) for name in ("input_ids", "labels"))
        floor = self.language.floor(visible, labels)
        return Landmarks(math.log(len(counts)), unigram_loss(counts, heldout), floor)


def unigram_loss(counts: Array, heldout: list[Batch]) -> float:
    """Mean -log((count + 1)/(total + V)) over the masked positions: prediction without a look at the context."""
    labels = np.concatenate([batch["labels"].ravel() for batch in heldout])
    log_p = np.log((counts + 1) / (counts.sum() + len(counts)))
    return float(-log_p[labels[labels != IGNORE]].mean())


def make_task(options: TaskOptions) -> TextTask | HmmTask:
    """Build the task of `options.data`. Raises InputError for a text that cannot be used."""
    if options.data == "hmm":
        return HmmTask(options)
    return TextTask(options)
