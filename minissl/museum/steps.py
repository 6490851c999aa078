"""Inspections of the steps around a model, in words that hold for any implementation of the step.

Each takes the implementation, calls it on inputs whose right answer is plain to see, and says what is not as it
should be. None looks inside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from typing import Any

import numpy as np

from minissl.backend import Array
from minissl.gradcheck import Finding
from minissl.nn import Grads, Init, Linear, Module
from minissl.pretext.mlm import mask_tokens
from minissl.pretext.nsp import make_pairs
from minissl.text.tokenizer import BertTokenizer
from minissl.training.adamw import AdamW, adamw_update
from minissl.training.schedule import warmup_linear
from minissl.training.trainer import Trainer, TrainingOptions

CLS, SEP, MASK, IGNORE = 2, 3, 4, -100


def _said(sentences: Iterator[str]) -> list[Finding]:
    return [Finding("pipeline", "", None, sentence) for sentence in sentences]


def inspect_masking(mask: Callable[..., Any]) -> Iterator[str]:
    """Look at `mask_tokens`: which positions are asked about, what stands there, what is asked."""
    vocabulary, rng = 1000, np.random.default_rng(0)
    ids = rng.integers(5, vocabulary, (400, 40))
    ids[:, 0], ids[:200, 39], ids[200:, 20], ids[200:, 21:] = CLS, SEP, SEP, 0
    words = ids > 4
    before = ids.copy()
    hidden, labels = mask(ids, words, mask_id=MASK, vocab_size=vocabulary, rng=np.random.default_rng(1))
    again, _ = mask(ids, words, mask_id=MASK, vocab_size=vocabulary, rng=np.random.default_rng(1))
    other, _ = mask(ids, words, mask_id=MASK, vocab_size=vocabulary, rng=np.random.default_rng(2))
    asked = labels != IGNORE
    if (ids != before).any():
        yield "the ids that were given are changed"
    if (hidden != again).any():
        yield "two calls with equal generators differ"
    if (hidden == other).all():
        yield "another generator hides the very same positions"
    if (asked & ~words).any():
        yield "special tokens or padding are asked about"
    if (labels != ids)[asked].any():
        yield "a label is not the word that stood there"
    if (hidden != ids)[~asked].any():
        yield "a word is changed that is not asked about"
    for name, rows in (("full", slice(0, 200)), ("half-empty", slice(200, 400))):
        share = asked[rows].sum() / words[rows].sum()
        if abs(share - 0.15) > 0.02:
            yield f"{share:.0%} of the words of {name} rows are asked about, expected 15 %"
    masked, kept = ((hidden == what)[asked].mean() if asked.any() else 0.0 for what in (MASK, ids))
    for name, share, expected in (("[MASK]", masked, 0.8), ("the word itself", kept, 0.1)):
        if abs(share - expected) > 0.04:
            yield f"{share:.0%} of the asked positions show {name}, expected {expected:.0%}"


def inspect_pairs(make: Callable[..., Any]) -> Iterator[str]:
    """Look at `make_pairs` on documents whose ids tell the document and the place."""
    rng = np.random.default_rng(0)
    documents = []
    for n in range(40):
        lengths = rng.integers(2, 7, 20)
        ids = 1000 * (n + 1) + np.arange(lengths.sum())
        documents.append(np.split(ids, np.cumsum(lengths)[:-1]))
    pairs = make(documents, 32, cls_id=CLS, sep_id=SEP, pad_id=0, rng=np.random.default_rng(1))
    ids, label, tokens = pairs.input_ids, pairs.next_sentence_label, np.asarray(pairs.attention_mask)
    first, second = (np.argsort(ids != SEP, axis=1, kind="stable")[:, i] for i in (0, 1))
    rows, column = np.arange(len(ids)), np.arange(32)
    follows = ids[rows, first + 1] == ids[rows, first - 1] + 1
    if (ids[:, 0] != CLS).any() or ((ids == SEP).sum(axis=1) != 2).any():
        yield "a row is not [CLS] A [SEP] B [SEP]"
    if (tokens != (ids != 0)).any():
        yield "the attention mask is not 1 at the tokens and 0 at the padding"
    segments = (column > first[:, None]) & (column <= second[:, None])
    if (np.asarray(pairs.token_type_ids) != segments).any():
        yield "token_type_ids are not 1 from behind the first [SEP] to the second, and 0 elsewhere"
    if not follows[label == 0].all():
        yield "a pair with label 0 (is next) does not follow"
    if (ids[rows, first + 1] // 1000 == ids[rows, first - 1] // 1000)[label == 1].any():
        yield "a pair with label 1 (is not next) comes from one document"
    if abs(label.mean() - 0.5) > 0.1:
        yield f"{label.mean():.0%} of the pairs are no neighbours, expected half"
    lengths = second - first
    if abs(lengths[label == 0].mean() - lengths[label == 1].mean()) > 1:
        yield "the second segment's length tells the label"


def inspect_tokenizer(new: Callable[..., Any]) -> Iterator[str]:
    """Look at a BERT tokenizer with a vocabulary of a few words and pieces."""
    pieces = ["un", "unable", "##able", "##a", "##b", "able", "do", "we", "[", "##s"]
    tokenizer = new(vocab=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces])
    for text, expected in (
        ("unable", ["unable"]),
        ("undo", ["[UNK]"]),
        ("doable", ["do", "##able"]),
        ("We do", ["we", "do"]),
        ("unables xyz", ["unable", "##s", "[UNK]"]),
        ("we [MASK]", ["we", "[MASK]"]),
    ):
        if tokenizer.tokenize(text) != expected:
            yield f"{text!r} becomes {tokenizer.tokenize(text)}, expected {expected}"
    batch = tokenizer([("we do", "able"), ("we", "do")], padding=True, return_tensors="np")
    for name, rows in (
        ("input_ids", [[2, 12, 11, 3, 10, 3], [2, 12, 3, 11, 3, 0]]),
        ("token_type_ids", [[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 0]]),
        ("attention_mask", [[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]]),
    ):
        if batch[name].tolist() != rows:
            yield f"a padded pair has {name} {batch[name].tolist()}, expected {rows}"
    if tokenizer("we do able", truncation=True, max_length=4)["input_ids"] != [2, 12, 11, 3]:
        yield "a truncated text does not end in [SEP]"


def inspect_adamw(update: Callable[..., None]) -> Iterator[str]:
    """Compare `adamw_update` with the formula, one weight at a time."""
    rng = np.random.default_rng(0)
    gradients = rng.standard_normal((3, 7)) * [0, 1e-3, 1e-2, 0.1, 1, 2, 3]
    for settings, decay, scale in (
        (AdamW(weight_decay=0.1), True, 1.0),
        (AdamW(eps=0.01), False, 0.5),
        (AdamW(bias_correction=False), True, 1.0),
    ):
        w, mean, square = rng.standard_normal(7), np.zeros(7), np.zeros(7)
        expected = np.array(
            [list(plain_adamw(*one, settings, decay, scale)) for one in zip(w, gradients.T, strict=True)]
        )
        for step in (1, 2, 3):
            update(w, gradients[step - 1], mean, square, settings, lr=0.1, step=step, decay=decay, scale=scale)
            if not np.allclose(w, expected[:, step - 1], rtol=1e-9, atol=1e-12):
                yield f"step {step} with {settings}, decay {decay}, scale {scale}: the weights are not the formula's"
                break


def plain_adamw(
    w: float, gradients: Array, s: AdamW, decay: bool, scale: float, lr: Iterable[float] = repeat(0.1)
) -> Iterator[float]:
    """One weight after each step, as the article writes it (Loshchilov & Hutter 2019, algorithm 2)."""
    m = v = 0.0
    for t, (gradient, rate) in enumerate(zip(gradients, lr), start=1):  # noqa: B905 - the rates may go on for ever
        m = s.beta1 * m + (1 - s.beta1) * scale * gradient
        v = s.beta2 * v + (1 - s.beta2) * (scale * gradient) ** 2
        m_hat, v_hat = (m / (1 - s.beta1**t), v / (1 - s.beta2**t)) if s.bias_correction else (m, v)
        w = w - rate * m_hat / (math.sqrt(v_hat) + s.eps) - (rate * s.weight_decay * w if decay else 0)
        yield w


def inspect_schedule(schedule: Callable[[int, int, int], float]) -> Iterator[str]:
    """Look at the learning rate's share: up in equal steps to 1 at the end of the warm-up, then down, never to 0."""
    steps, warmup = 20, 5
    share = np.array([schedule(step, steps, warmup) for step in range(1, steps + 1)])
    if not np.allclose(share[:warmup], np.arange(1, warmup + 1) / warmup):
        yield f"over a warm-up of {warmup} steps the rate is {share[:warmup]}, expected equal steps up to 1"
    falls = np.diff(share[warmup - 1 :])
    if not (falls < 0).all() or not np.allclose(falls, falls[0]):
        yield "after the warm-up the rate does not fall in equal steps"
    if not 0 < share[-1] < 2 / (steps - warmup):
        yield f"at the last step the rate is {share[-1]:.3g} of its peak, expected a little above 0"


class Toy(Module):
    """Linear regression on the rows that are asked about; `draws` notes a random number of every call."""

    def __init__(self) -> None:
        self.linear = Linear(3, 2, Init(np.random.default_rng(0), "float64", std=0.5))
        self.draws: list[float] = []

    def counts(self, batch: dict[str, Array]) -> dict[str, int]:
        """How many rows are asked about."""
        return {"loss": int(batch["asked"].sum())}

    def losses_and_backward(
        self, batch: dict[str, Array], counts: dict[str, int], grads: Grads, rng: np.random.Generator | None
    ) -> dict[str, float]:
        """1/count Σ |x Wᵀ + b - y|² and its gradients."""
        if rng is not None:
            self.draws.append(float(rng.random()))
        y, cache = self.linear.forward(batch["x"])
        error = (y - batch["y"]) * batch["asked"][:, None]
        self.linear.backward(2 * error / counts["loss"], cache, grads)
        return {"loss": float((error * error).sum() / counts["loss"])}


def inspect_trainer(new: Callable[..., Any]) -> Iterator[str]:
    """Compare steps of a trainer with the formula; then its random numbers, and a run that is resumed."""
    rng = np.random.default_rng(0)
    rows = {"x": rng.standard_normal((24, 3)), "y": rng.standard_normal((24, 2)), "asked": np.arange(24) % 7 < 3}
    steps = [{name: array[i : i + 8] for name, array in rows.items()} for i in (0, 8, 16)]
    for threads, micro, clip in ((1, 1, 100.0), (1, 1, 0.1), (1, 2, 100.0), (2, 1, 100.0)):
        options = TrainingOptions(3, 0.1, 0.5, clip, threads, adamw=AdamW(eps=0.1, weight_decay=0.5))
        trainer = new(Toy(), options)
        expected = _plain_steps(trainer.weights.copy(), steps, options)
        for step, batch in enumerate(steps):
            cuts = [{k: a[8 * i // micro : 8 * (i + 1) // micro] for k, a in batch.items()} for i in range(micro)]
            trainer.train_step(cuts)
            if not np.allclose(trainer.weights, expected[step], rtol=1e-9):
                yield (
                    f"step {step + 1} with {threads} thread(s), {micro} micro-batch(es) and clip_norm {clip}: "
                    "the weights are not those of one plain step on the whole batch"
                )
                break
        trainer.close()
    trainer = new(Toy(), TrainingOptions(3, 0.1, threads=2))
    for batch in steps:
        trainer.train_step([batch, batch])
    trainer.close()
    if len(set(trainer.model.draws)) < len(trainer.model.draws):
        yield "two steps, micro-batches or threads draw the same random numbers"
    yield from _resumed(new, steps)


def _resumed(new: Callable[..., Any], steps: list[dict[str, Array]]) -> Iterator[str]:
    options = TrainingOptions(3, 0.1, 0.9, threads=1)
    whole, first, second = (new(Toy(), options) for _ in range(3))
    for batch in steps:
        whole.train_step([batch])
    for batch in steps[:2]:
        first.train_step([batch])
    second.load_state(first.state(), 2)
    second.train_step([steps[2]])
    for trainer in (whole, first, second):
        trainer.close()
    if not np.allclose(whole.weights, second.weights, rtol=1e-12):
        yield "a run that is stopped and resumed does not reach the weights of one that was not"


def _plain_steps(weights: Array, batches: list[dict[str, Array]], o: TrainingOptions) -> list[Array]:
    """Train the toy as the formulas have it, one weight at a time: the weights after each step."""
    gradients: list[Array] = []
    rates: list[float] = []
    after: list[Array] = []
    for t, batch in enumerate(batches, start=1):
        w, b = (weights if t == 1 else after[-1])[:6].reshape(2, 3), (weights if t == 1 else after[-1])[6:]
        error = 2 * (batch["x"] @ w.T + b - batch["y"]) * batch["asked"][:, None] / batch["asked"].sum()
        gradient = np.concatenate([(error.T @ batch["x"]).ravel(), error.sum(axis=0)])
        gradients.append(gradient * min(1.0, o.clip_norm / (float(np.linalg.norm(gradient)) + 1e-6)))
        warmup = max(1, round(o.warmup * o.steps))
        rates.append(o.learning_rate * (t / warmup if t <= warmup else (o.steps + 1 - t) / (o.steps + 1 - warmup)))
        numbers = [
            list(plain_adamw(float(weights[i]), np.array(gradients)[:, i], o.adamw, i < 6, 1.0, rates))[-1]
            for i in range(len(weights))
        ]
        after.append(np.array(numbers))
    return after


STEPS: dict[str, tuple[str, Callable[[], list[Finding]]]] = {
    "minissl.pretext.mlm.": ("inspection of the masking", lambda: _said(inspect_masking(mask_tokens))),
    "minissl.pretext.nsp.": ("inspection of the pairs", lambda: _said(inspect_pairs(make_pairs))),
    "minissl.text.": ("inspection of the tokens", lambda: _said(inspect_tokenizer(BertTokenizer))),
    "minissl.training.adamw.": ("inspection of AdamW", lambda: _said(inspect_adamw(adamw_update))),
    "minissl.training.schedule.": ("inspection of the schedule", lambda: _said(inspect_schedule(warmup_linear))),
    "minissl.training.trainer.": ("inspection of the step", lambda: _said(inspect_trainer(Trainer))),
    "minissl.training.pairs.": ("inspection of the step", lambda: _said(inspect_trainer(Trainer))),
    "minissl.nn.module.Grads.collect": ("inspection of the step", lambda: _said(inspect_trainer(Trainer))),
}
