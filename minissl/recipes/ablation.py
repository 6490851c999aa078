"""80/10/10 against all-[MASK]: one small BERT for each corruption and seed, and what each knows where (lesson 6).

The language is a hidden Markov model, so that every loss has its exact floor beside it. Sentences are words alone,
without [CLS] and [SEP].
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minissl.backend import Array
from minissl.models.bert import BertConfig, BertForPreTraining
from minissl.ops import cross_entropy_forward, softmax_forward
from minissl.plots.lessons_attention import Masked, plot_ablation, plot_posteriors
from minissl.pretext.hmm import FIRST_WORD, MASK_ID, HiddenMarkovModel
from minissl.pretext.mlm import IGNORE, mask_tokens
from minissl.recipes.head_start import head_start
from minissl.text.wordpiece import SPECIAL_TOKENS
from minissl.training.trainer import Batch, Trainer, TrainingOptions

CORRUPTIONS = ("80/10/10", "all [MASK]")
LENGTH, ROWS, STEPS = 24, 32, 600
HELDOUT_ROWS = 400
POINTS = 10  # how often in a run the held-out losses are measured
HELDOUT_SEED = 10**6  # of sentences that no training step draws


class Arm(NamedTuple):
    """A trained model, and its held-out losses along the way, in nats."""

    corruption: str
    seed: int
    model: BertForPreTraining
    steps: list[int]
    at_mask: list[float]
    at_visible: list[float]


class Heldout(NamedTuple):
    """The same sentences for every arm: with [MASK] at every chosen position, and as they are, asked everywhere."""

    masked: Batch
    clean: Batch


class AblationLandmarks(NamedTuple):
    """What the held-out losses are compared with, in nats."""

    chance: float
    unigram: float
    floor: float  # at [MASK]: the best possible
    wary: float  # at a visible word: of who knows that 80/10/10 may have swapped it
    blind: float  # at a visible word: of who takes it for a hint about the place, and guesses a word for that place


def small_language() -> HiddenMarkovModel:
    """Four states and 24 words: learnt in seconds."""
    return HiddenMarkovModel.random(states=4, words=24)


def small_bert(language: HiddenMarkovModel, seed: int) -> BertForPreTraining:
    """Two layers of width 32, without dropout: every batch is new, so nothing can be learnt by heart."""
    config = BertConfig(
        vocab_size=FIRST_WORD + language.emission.shape[1], hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=128, max_position_embeddings=LENGTH, initializer_range=0.1,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = BertForPreTraining(config, seed=seed)
    head_start(model)
    return model


def make_batch(language: HiddenMarkovModel, corruption: str, rng: np.random.Generator, rows: int = ROWS) -> Batch:
    """Fresh sentences, corrupted: (rows, LENGTH). Both corruptions choose the same positions for equal `rng`s."""
    words = FIRST_WORD + language.sample(rng, rows, LENGTH)
    everywhere, vocab_size = np.ones(words.shape, bool), FIRST_WORD + language.emission.shape[1]
    visible, labels = mask_tokens(words, everywhere, mask_id=MASK_ID, vocab_size=vocab_size, rng=rng)
    if corruption == "all [MASK]":
        visible = np.where(labels != IGNORE, MASK_ID, visible)
    return {"input_ids": visible, "labels": labels}


def make_heldout(language: HiddenMarkovModel, rows: int = HELDOUT_ROWS) -> Heldout:
    """Draw the held-out sentences."""
    masked = make_batch(language, "all [MASK]", np.random.default_rng(HELDOUT_SEED), rows)
    words = np.where(masked["labels"] != IGNORE, masked["labels"], masked["input_ids"])
    return Heldout(masked, {"input_ids": words, "labels": words})


def train_arm(language: HiddenMarkovModel, heldout: Heldout, corruption: str, seed: int, steps: int = STEPS) -> Arm:
    """Train one model. Both corruptions of a seed begin alike and see the same sentences, chosen at the same places."""
    model = small_bert(language, seed)
    arm = Arm(corruption, seed, model, [], [], [])

    def measure(step: int) -> None:
        arm.steps.append(step)
        arm.at_mask.append(loss_on(model, heldout.masked))
        arm.at_visible.append(loss_on(model, heldout.clean))

    trainer = Trainer(model, TrainingOptions(steps, learning_rate=6e-3, threads=1, seed=seed))
    measure(0)
    for step in range(1, steps + 1):
        trainer.train_step([make_batch(language, corruption, np.random.default_rng([seed, step]))])
        if step % max(1, steps // POINTS) == 0:
            measure(step)
    trainer.close()
    return arm


def loss_on(model: BertForPreTraining, batch: Batch) -> float:
    """Mean -log p(true word) over the labelled positions."""
    logits, ids, _ = model.predict_masked(batch)
    return mean_loss(logits.astype(np.float64), ids)


def mean_loss(logits: Array, ids: Array) -> float:
    """-1/M Σ_m log softmax(logits_m)[id_m]."""
    return float(cross_entropy_forward(logits, ids)[0])


def landmarks(language: HiddenMarkovModel, heldout: Heldout) -> AblationLandmarks:
    """The exact landmarks of these very sentences."""
    visible, labels = heldout.masked["input_ids"], heldout.masked["labels"]
    words = heldout.clean["input_ids"]
    unigram = np.log(language.initial @ language.emission)  # `initial` is stationary: the same at every position
    wary = language.posterior(words, np.ones(words.shape, bool))
    blind = state_posterior(language, words) @ language.emission
    flat = words.ravel() - FIRST_WORD
    return AblationLandmarks(
        chance=float(np.log(FIRST_WORD + language.emission.shape[1])),
        unigram=float(-unigram[labels[labels != IGNORE] - FIRST_WORD].mean()),
        floor=language.floor(visible, labels),
        wary=mean_loss(np.log(wary), flat),
        blind=mean_loss(np.log(blind.reshape(flat.size, -1)), flat),
    )


def state_posterior(language: HiddenMarkovModel, words: Array) -> Array:
    """p(z_j | x_1 … x_T) for whole sentences of vocabulary ids (n, T), by forward–backward: (n, T, Z)."""
    evidence = language.emission.T[words - FIRST_WORD]  # (n, T, Z): p(x_j | z_j)
    before, after = np.ones_like(evidence), np.ones_like(evidence)
    before[:, 0] = language.initial
    for j in range(1, words.shape[1]):
        before[:, j] = _scaled((before[:, j - 1] * evidence[:, j - 1]) @ language.transition)
    for j in range(words.shape[1] - 2, -1, -1):
        after[:, j] = _scaled((after[:, j + 1] * evidence[:, j + 1]) @ language.transition.T)
    return _scaled(before * evidence * after)


def _scaled(p: Array) -> Array:
    return np.asarray(p / p.sum(axis=-1, keepdims=True))


def answers(language: HiddenMarkovModel, model: BertForPreTraining, batch: Batch) -> tuple[Array, Array, Array]:
    """p(word) at the M chosen positions, exact and as the model says, (M, W) each, and the words that stood there."""
    logits, ids, _ = model.predict_masked(batch)
    said, _ = softmax_forward(logits.astype(np.float64))
    return language.posterior(batch["input_ids"], batch["labels"] != IGNORE), said[:, FIRST_WORD:], ids - FIRST_WORD


def posterior_figure(folder: Path, steps: int = STEPS) -> None:
    """Two [MASK]s, one amid words of a kind and one where two kinds meet: the best possible answer and a model's."""
    language = small_language()
    heldout = make_heldout(language)
    model = train_arm(language, heldout, "80/10/10", 0, steps).model
    names = [*SPECIAL_TOKENS, *language.tokens()]
    order = np.lexsort((-language.emission.max(axis=0), language.emission.argmax(axis=0)))  # a state's words together
    panels = []
    for row, column in ((11, 13), (144, 10)):
        batch = {name: array[row : row + 1] for name, array in heldout.masked.items()}
        exact, said, truths = answers(language, model, batch)
        at = np.flatnonzero(batch["labels"] != IGNORE).tolist().index(column)
        around = [names[i] for i in batch["input_ids"][0, column - 6 : column + 7]]
        around[6] = "[ ? ]"
        panels.append(Masked(around, order.tolist().index(truths[at]), exact[at, order], said[at, order]))
    plot_posteriors(panels, [language.tokens()[word] for word in order], folder / "lesson-6-posterior.png")


def ablation_figure(folder: Path, seeds: int = 3, steps: int = STEPS) -> None:
    """Both corruptions' held-out losses, at [MASK] and at visible words, each beside its landmarks."""
    language = small_language()
    heldout = make_heldout(language)
    marks = landmarks(language, heldout)
    arms = [train_arm(language, heldout, c, seed, steps) for c in CORRUPTIONS for seed in range(seeds)]
    at_mask = {"chance": marks.chance, "unigram": marks.unigram, "exact floor": marks.floor}
    at_visible = {"chance": marks.chance, "what would suit here": marks.blind, "best under 80/10/10": marks.wary}
    panels = [
        ("“What stood at [MASK]?”", [(arm.corruption, arm.steps, arm.at_mask) for arm in arms], at_mask),
        (
            "“What stands here?” (a visible word)",
            [(arm.corruption, arm.steps, arm.at_visible) for arm in arms],
            at_visible,
        ),
    ]
    plot_ablation(panels, folder / "lesson-6-ablation.png")


FIGURES: dict[str, Callable[[Path], None]] = {
    "lesson-6-posterior": posterior_figure,
    "lesson-6-ablation": ablation_figure,
}
