"""What the races are about: small languages and patterns whose best possible loss is known, learnt in seconds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from minissl.backend import Array
from minissl.kernels import op
from minissl.models.bert import BertConfig, BertForPreTraining
from minissl.nn import FeedForward, Grads, Init, Module
from minissl.pretext.hmm import FIRST_WORD, MASK_ID, HiddenMarkovModel
from minissl.pretext.mlm import IGNORE, mask_tokens
from minissl.pretext.nsp import make_pairs
from minissl.recipes.head_start import head_start
from minissl.text.tokenizer import BertTokenizer
from minissl.text.wordpiece import SPECIAL_TOKENS

Batch = dict[str, Array]
PAD, CLS, SEP = (SPECIAL_TOKENS.index(token) for token in ("[PAD]", "[CLS]", "[SEP]"))
LENGTH = 32  # positions, and the width of a head too: a transposed key gradient has the right shape
SHORT, LONG = 12, LENGTH - 2  # words in a sentence
HELDOUT_ROWS = 192
WORDS = 110  # so that -100 is a word's index from the end
LANGUAGE: dict[str, Any] = {"words": WORDS, "peak": 30.0}
masked_mse = op("masked_mse")


@dataclass(frozen=True)
class Setting:
    """What a race is run with. `watch` is the loss that is compared, where a task has two."""

    task: str = "words"
    watch: str = ""
    steps: int = 400
    batch_size: int = 32
    learning_rate: float = 3e-3
    hidden_act: str = "gelu"
    dropout: float = 0.0
    pre_norm: bool = False
    threads: int = 1
    accumulate: int = 1
    resume: bool = False


class Task(Protocol):
    """Data, a model to learn them, and the loss on held-out data by which both sides are measured alike."""

    metric: str
    landmarks: dict[str, float]

    def model(self) -> Any:
        """Build the model with its first weights, always the same."""

    def batch(self, number: int) -> Batch:
        """Batch 1, 2, …."""

    def heldout_loss(self, model: Any) -> float:
        """Measure a model on held-out data."""


def make_task(setting: Setting, seed: int) -> Task:
    """Build the task of a setting."""
    tasks: dict[str, Callable[[Setting, int], Task]] = {
        "words": WordsTask,
        "text": TextTask,
        "pairs": PairsTask,
        "patches": PatchesTask,
    }
    return tasks[setting.task](setting, seed)


class WordsTask:
    """Masked words of a hidden Markov model, in short and long sentences, so that there is padding."""

    metric = "mlm"

    def __init__(self, setting: Setting, seed: int):
        self.setting, self.seed = setting, seed
        self.language = HiddenMarkovModel.random(**LANGUAGE)
        self.vocab = self._vocabulary()
        self.heldout = self._batch(np.random.default_rng([9, 9]), HELDOUT_ROWS)
        self.landmarks = self._landmarks()

    def _vocabulary(self) -> list[str]:
        return [*SPECIAL_TOKENS, *self.language.tokens()]

    def model(self) -> BertForPreTraining:
        """A BERT of two layers, D = 64, H = 2."""
        return small_bert(self.setting, len(self.vocab), self.seed)

    def batch(self, number: int) -> Batch:
        """Fresh sentences, freshly masked."""
        return self._batch(np.random.default_rng([self.seed, number]), self.setting.batch_size)

    def _batch(self, rng: np.random.Generator, rows: int) -> Batch:
        words = FIRST_WORD + self.language.sample(rng, rows, LONG)
        return self._masked(self._encode(words), rng)

    def _encode(self, words: Array) -> Batch:
        """[CLS] words [SEP]; every second row is a short one."""
        ids = np.full((len(words), LENGTH), PAD)
        ids[:, 0] = CLS
        for i, row in enumerate(words):
            n = SHORT if i % 2 else LONG
            ids[i, 1 : n + 1] = row[:n]
            ids[i, n + 1] = SEP
        return {"input_ids": ids, "attention_mask": (ids != PAD).astype(int), "token_type_ids": np.zeros_like(ids)}

    def _masked(self, rows: Batch, rng: np.random.Generator) -> Batch:
        ids = rows["input_ids"]
        words = (ids != PAD) & (ids != CLS) & (ids != SEP)
        hidden, labels = mask_tokens(ids, words, mask_id=MASK_ID, vocab_size=len(self.vocab), rng=rng)
        return {**rows, "input_ids": hidden, "labels": labels}

    def _landmarks(self) -> dict[str, float]:
        return {**self._guesses(), "exact floor": self._floor()}

    def _guesses(self) -> dict[str, float]:
        """The loss of guessing evenly, and by how frequent words are."""
        labels = self.heldout["labels"]
        sample = self.language.sample(np.random.default_rng(1), 10_000, LONG)
        counts = np.bincount(FIRST_WORD + sample.ravel(), minlength=len(self.vocab)) + 1
        unigram = -np.log(counts / counts.sum())[labels[labels != IGNORE]].mean()
        return {"chance": math.log(len(self.vocab)), "unigram": float(unigram)}

    def _floor(self) -> float:
        """The mean loss of the best predictor on these very positions, in short and long sentences."""
        labels, total = self.heldout["labels"], 0.0
        for rows, n in ((slice(0, None, 2), LONG), (slice(1, None, 2), SHORT)):
            visible, asked = self.heldout["input_ids"][rows, 1 : n + 1], labels[rows, 1 : n + 1]
            total += self.language.floor(visible, asked) * int((asked != IGNORE).sum())
        return total / int((labels != IGNORE).sum())

    def heldout_loss(self, model: BertForPreTraining) -> float:
        """Mean -log p of the true words at the held-out masked positions, as the model predicts in evaluation."""
        labels = self.heldout["labels"]
        logits = self._evaluate(model).prediction_logits
        return nats(logits[labels != IGNORE], labels[labels != IGNORE])

    def _evaluate(self, model: BertForPreTraining) -> Any:
        rows = self.heldout
        return model(rows["input_ids"], rows["attention_mask"], rows["token_type_ids"])


class TextTask(WordsTask):
    """The same sentences as text, with a capital in front, through the tokenizer."""

    def _vocabulary(self) -> list[str]:
        syllables = sorted({word[i : i + 2] for word in self.language.tokens() for i in (0, 2)})
        return [*super()._vocabulary(), *syllables, *("##" + syllable for syllable in syllables)]

    def _encode(self, words: Array) -> Batch:
        texts = [" ".join(self.vocab[i] for i in row[: SHORT if n % 2 else LONG]) for n, row in enumerate(words)]
        return dict(
            BertTokenizer(vocab=self.vocab)(
                [text.capitalize() for text in texts], padding="max_length", truncation=True, max_length=LENGTH,
                return_tensors="np",
            )
        )  # fmt: skip

    def _landmarks(self) -> dict[str, float]:
        return self._guesses()  # random words may be pieces, of which the language knows nothing


class PairsTask(WordsTask):
    """Two languages: a pair's second segment is the first's continuation, or of the other language."""

    def __init__(self, setting: Setting, seed: int):
        self.setting, self.seed, self.metric = setting, seed, setting.watch or "nsp"
        self.languages = [HiddenMarkovModel.random(seed=i, **LANGUAGE) for i in (0, 1)]
        self.vocab = [*SPECIAL_TOKENS, *self.languages[0].tokens()]
        batches = [self._batch(np.random.default_rng([9, 9, i]), 32) for i in range(6)]
        self.heldout = {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}
        chance = {"nsp": math.log(2), "mlm": math.log(len(self.vocab))}
        self.landmarks = {"chance": chance[self.metric]}

    def _batch(self, rng: np.random.Generator, rows: int) -> Batch:
        sentences = 4 * rows  # of 4 words each: about two rows come of 8 sentences, one of either label
        words = [FIRST_WORD + language.sample(rng, 1, 4 * sentences) for language in self.languages]
        documents = [list(document.reshape(sentences, 4)) for document in words]
        pairs = make_pairs(documents, LENGTH, cls_id=CLS, sep_id=SEP, pad_id=PAD, rng=rng)
        batch = {name: array[:rows].astype(int) for name, array in pairs._asdict().items()}
        return batch | self._masked(batch, rng)

    def heldout_loss(self, model: BertForPreTraining) -> float:
        """Mean -log p of the true labels, of words or of pairs."""
        if self.metric == "mlm":
            return super().heldout_loss(model)
        return nats(self._evaluate(model).seq_relationship_logits, self.heldout["next_sentence_label"])


class PatchesTask:
    """Half of a smooth pattern is hidden and to be restored: masked image modelling at its smallest."""

    metric = "mse"
    size, causes, noise = 16, 3, 0.3

    def __init__(self, setting: Setting, seed: int):
        self.setting, self.seed = setting, seed
        self.shapes = np.random.default_rng(5).standard_normal((self.causes, self.size)) / math.sqrt(self.causes)
        self.heldout = self._batch(np.random.default_rng([9, 9]), HELDOUT_ROWS)
        self.landmarks = {"guessing 0": self._error(0), "exact floor": self._floor()}

    def model(self) -> PatchModel:
        """One hidden layer."""
        return PatchModel(self.size, self.seed)

    def batch(self, number: int) -> Batch:
        """Fresh patterns, freshly hidden."""
        return self._batch(np.random.default_rng([self.seed, number]), self.setting.batch_size)

    def _batch(self, rng: np.random.Generator, rows: int) -> Batch:
        causes = rng.standard_normal((rows, self.causes))
        pattern = causes @ self.shapes + self.noise * rng.standard_normal((rows, self.size))
        hidden = rng.permuted(np.tile(np.arange(self.size) < self.size // 2, (rows, 1)), axis=1)
        return {"pattern": pattern.astype(np.float32), "hidden": hidden}

    def _error(self, guess: Array | float) -> float:
        return float(np.square(self.heldout["pattern"] - guess)[self.heldout["hidden"]].mean())

    def _floor(self) -> float:
        """The error of the posterior mean, exact for a Gaussian."""
        guess = np.zeros_like(self.heldout["pattern"])
        for i, (x, hidden) in enumerate(zip(self.heldout["pattern"], self.heldout["hidden"], strict=True)):
            seen = self.shapes[:, ~hidden]
            causes = np.linalg.solve(seen @ seen.T + self.noise**2 * np.eye(self.causes), seen @ x[~hidden])
            guess[i] = causes @ self.shapes
        return self._error(guess)

    def heldout_loss(self, model: PatchModel) -> float:
        """Mean squared error over what is hidden."""
        visible = np.where(self.heldout["hidden"], 0, self.heldout["pattern"])
        return self._error(model.network.forward(visible)[0])


class PatchModel(Module):
    """A feed-forward network from the visible half to the whole; each number is a patch of its own."""

    def __init__(self, size: int, seed: int):
        self.network = FeedForward(size, 8 * size, "gelu", Init(np.random.default_rng(seed), std=0.2))

    def counts(self, batch: Batch) -> dict[str, int]:
        """How many patches are hidden."""
        return {"mse": int(batch["hidden"].sum())}

    def losses_and_backward(
        self, batch: Batch, counts: dict[str, int], grads: Grads, rng: np.random.Generator | None
    ) -> dict[str, float]:
        """The masked error of a share, and its gradients."""
        y, cache = self.network.forward(np.where(batch["hidden"], np.float32(0), batch["pattern"]))
        hidden = np.flatnonzero(batch["hidden"])
        loss, error = masked_mse.forward(y[..., None], batch["pattern"][..., None], hidden, counts["mse"])
        dy, _ = masked_mse.backward(grads.loss_scale, error)
        self.network.backward(dy[..., 0], cache, grads)
        return {"mse": float(loss)}


def small_bert(setting: Setting, vocabulary: int, seed: int) -> BertForPreTraining:
    """A BERT that learns in seconds; its heads are as wide as its sequences are long."""
    config = BertConfig(
        vocab_size=vocabulary, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=256,
        max_position_embeddings=LENGTH, initializer_range=0.07, hidden_act=setting.hidden_act,
        hidden_dropout_prob=setting.dropout, attention_probs_dropout_prob=setting.dropout,
    )  # fmt: skip
    model = BertForPreTraining(config, seed=seed)
    head_start(model)
    for layer in model.bert.layers:
        layer.pre_norm = setting.pre_norm
    return model


def nats(logits: Array, targets: Array) -> float:
    """Mean -log softmax(logits)[target], written out: no exhibit stands in its way."""
    z = logits.astype(np.float64)
    z -= z.max(axis=-1, keepdims=True)
    return float((np.log(np.exp(z).sum(axis=-1)) - z[np.arange(len(targets)), targets]).mean())
