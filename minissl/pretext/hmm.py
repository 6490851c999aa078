"""A synthetic language whose best possible masked prediction is known exactly: a hidden Markov model.

A hidden state z_1 … z_T walks through a Markov chain, and each state emits one word:

    p(x, z) = initial[z_1] · Π transition[z_j, z_j+1] · Π emission[z_j, x_j]

`mlm.mask_tokens` chooses k of the T words and corrupts them; the model sees y and is scored at the chosen positions.
Its mean loss is E[1/k Σ_i c_i · -log f_i(x_i; y)], with c_i = 1 where position i is chosen. The model sees y only, not
c, so for each y and i the term is p(c_i=1 | y) · E[-log f_i(x_i; y) | y, c_i=1], and by Gibbs' inequality no f_i makes
it smaller than f_i = p(x_i | y, c_i=1): the posterior *given that i is chosen*. (p(x_i | y) would be wrong: a visible
word that was not chosen is certain, but it is never asked about.) The mean of -log p(x_i | y, c_i=1) over sentences
is therefore an unbiased estimate of the lowest expected loss; on a finite sample a model can be below it by chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from minissl.backend import Array, require_ids
from minissl.errors import InputError
from minissl.pretext.mlm import IGNORE, KEPT, MASKED, RANDOM, number_to_mask
from minissl.text.wordpiece import SPECIAL_TOKENS

MASK_ID = SPECIAL_TOKENS.index("[MASK]")
FIRST_WORD = len(SPECIAL_TOKENS)  # word w has id FIRST_WORD + w
SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]


@dataclass(frozen=True)
class HiddenMarkovModel:
    """`initial` (Z,), `transition` (Z, Z) from row to column, `emission` (Z, W); every row sums to one."""

    initial: Array
    transition: Array
    emission: Array

    def __post_init__(self) -> None:
        Z, W = self.emission.shape
        if self.initial.shape != (Z,) or self.transition.shape != (Z, Z):
            raise InputError(
                f"initial {self.initial.shape}, transition {self.transition.shape}, emission {(Z, W)}: "
                "expected (Z,), (Z, Z), (Z, W)"
            )
        if len(SYLLABLES) ** 2 < W:
            raise InputError(f"{W} words: at most {len(SYLLABLES) ** 2} words of two syllables exist")
        for name in ("initial", "transition", "emission"):
            rows = getattr(self, name)
            if np.any(rows < 0) or not np.allclose(rows.sum(axis=-1), 1.0, rtol=0, atol=1e-12):
                raise InputError(f"{name}: expected probabilities, every row ≥ 0 with sum 1")

    @classmethod
    def random(
        cls,
        seed: int = 0,
        states: int = 6,
        words: int = 60,
        stay: float = 0.85,
        onward: float = 0.1,
        peak: float = 16.0,
    ) -> HiddenMarkovModel:
        """Draw a language; the defaults are the one of `minissl pretrain --data hmm`.

        A state stays with probability `stay`, goes on to the next in the cycle with `onward`, else anywhere; so every
        state is equally frequent at every position. Emission weights are u^peak, u uniform: state z prefers about
        2 · words / peak words of its own choice, some of them liked by other states too.
        """
        rng = np.random.default_rng(seed)
        transition = np.full((states, states), (1.0 - stay - onward) / states)
        transition += stay * np.eye(states) + onward * np.roll(np.eye(states), 1, axis=1)
        weights = rng.random((states, words)) ** peak
        return cls(np.full(states, 1.0 / states), transition, weights / weights.sum(axis=1, keepdims=True))

    def tokens(self) -> list[str]:
        """W pronounceable, distinct words in the order of their ids: what follows SPECIAL_TOKENS in `vocab.txt`."""
        number = len(SYLLABLES)
        # A stride without a common factor visits every pair of syllables once, so neighbours do not look alike.
        pairs = [divmod(1009 * index % number**2, number) for index in range(self.emission.shape[1])]
        return [SYLLABLES[first] + SYLLABLES[second] for first, second in pairs]

    def sample(self, rng: np.random.Generator, n: int, length: int) -> Array:
        """Draw n sentences of `length` words: word indices 0 … W-1, (n, length). Vocabulary ids are FIRST_WORD more."""
        u = rng.random((2, length, n))
        start, onward, emit = map(_steps, (self.initial[None], self.transition, self.emission))
        states = np.zeros((length, n), dtype=np.int64)
        for j in range(length):
            states[j] = _draw(onward, states[j - 1], u[0, j]) if j else _draw(start, states[0], u[0, 0])
        return np.ascontiguousarray(_draw(emit, states, u[1]).T)

    def posterior(self, visible: Any, chosen: Any, rate: float = 0.15) -> Array:
        """p(x_i | visible, i is chosen), (M, W) float64, for the M positions with `chosen`, in the order of np.nonzero.

        visible: (n, T) vocabulary ids of whole sentences as `mask_tokens(…, rate=rate)` left them, without [CLS] and
        [SEP]; chosen: (n, T) bool. Forward–backward over the pair (state, number chosen so far), because exactly k of
        the T positions are chosen: a [MASK] here makes a chosen word there less likely.
        Raises InputError for a sentence that the language cannot have produced.
        """
        visible, chosen = np.asarray(visible), np.asarray(chosen, dtype=bool)
        if visible.ndim != 2 or chosen.shape != visible.shape or visible.shape[1] == 0:
            raise InputError(f"visible {visible.shape} and chosen {chosen.shape}: expected one (sentences, words)")
        Z, W = self.emission.shape
        require_ids(visible, FIRST_WORD + W, "visible")
        k = int(number_to_mask(visible.shape[1], rate))

        # A visible word y and a chosen x: p(y | x) = blind + KEPT where y is x, else blind. Not chosen: 1 where y is x.
        blind = MASKED * (visible == MASK_ID) + RANDOM / (FIRST_WORD + W)  # (n, T)
        same = np.concatenate([np.zeros((FIRST_WORD, Z)), self.emission.T])[visible.T]  # (T, n, Z): p(x_j = y_j | z_j)
        evidence = same, blind.T[:, :, None] + KEPT * same  # p(y_j | z_j, not chosen), p(y_j | z_j, chosen)
        before, after = self._before(*evidence, k), self._after(*evidence, k)
        # m chosen before i and i itself leave k-1-m chosen after it: p(z_i, all of y but y_i, i chosen).
        context = (before * after[:, :, ::-1]).sum(axis=2).transpose(1, 0, 2)[chosen]  # (M, Z)
        total = context.sum(axis=1, keepdims=True)
        if not np.all(total > 0):
            raise InputError(
                f"visible: no sentence of this language with {k} of {visible.shape[1]} words chosen; "
                "was it masked at another rate, or are [CLS] and [SEP] still in it?"
            )
        p = (context / total) @ self.emission
        seen, lift = visible[chosen], 1.0 + KEPT / blind[chosen]  # p(y | w, chosen) is `lift` times larger where w is y
        rows = np.flatnonzero(seen >= FIRST_WORD)
        p[rows, seen[rows] - FIRST_WORD] *= lift[rows]
        return np.asarray(p / p.sum(axis=1, keepdims=True))

    def floor(self, visible: Any, labels: Any, rate: float = 0.15) -> float:
        """Mean -log p(x_i | visible, i is chosen) over the chosen positions, in nats: see the top of this file.

        visible, labels: (n, T), what `mask_tokens(…, rate=rate)` returned for whole sentences.
        """
        labels = np.asarray(labels)
        chosen = labels != IGNORE
        k = number_to_mask(labels.shape[-1], rate)
        if np.any(chosen.sum(axis=-1) != k):
            raise InputError(f"labels: expected {k} chosen words in every sentence; were they masked at another rate?")
        words = labels[chosen] - FIRST_WORD
        require_ids(words, self.emission.shape[1], "labels, less the special tokens")
        p = self.posterior(visible, chosen, rate)
        return float(-np.log(p[np.arange(len(p)), words]).mean())

    def _before(self, not_chosen: Array, chosen: Array, k: int) -> Array:
        """(T, n, k, Z) ∝ p(z_j, m of the positions before j chosen, y before j), for m = 0 … k-1."""
        T, n, Z = chosen.shape
        before = np.zeros((T, n, k, Z))
        before[0, :, 0] = self.initial
        for j in range(1, T):
            before[j] = _scaled(_count(before[j - 1], not_chosen[j - 1], chosen[j - 1]) @ self.transition)
        return before

    def _after(self, not_chosen: Array, chosen: Array, k: int) -> Array:
        """(T, n, k, Z) ∝ p(r of the positions after j chosen, y after j | z_j), for r = 0 … k-1."""
        T, n, Z = chosen.shape
        after = np.zeros((T, n, k, Z))
        after[-1, :, 0] = 1.0
        for j in range(T - 2, -1, -1):
            after[j] = _scaled(_count(after[j + 1], not_chosen[j + 1], chosen[j + 1]) @ self.transition.T)
        return after


def _count(message: Array, not_chosen: Array, chosen: Array) -> Array:
    """Take in one position's evidence (n, Z): not chosen keeps the count of a message (n, k, Z), chosen raises it."""
    counted = message * not_chosen[:, None]
    counted[:, 1:] += message[:, :-1] * chosen[:, None]
    return counted


def _scaled(message: Array) -> Array:
    """Give each sentence's message sum 1 against underflow; one that is all zero (no choice is left) stays zero."""
    total = message.sum(axis=(1, 2), keepdims=True)
    return message / np.where(total > 0, total, 1.0)


def _steps(probabilities: Array) -> Array:
    """Cumulative sums, those of row r raised by r: one staircase, in which a single search finds a row's category."""
    return np.asarray(np.cumsum(probabilities, axis=1) + np.arange(len(probabilities))[:, None])


def _draw(steps: Array, row: Array, u: Array) -> Array:
    """The category that each uniform u in [0, 1) meets in its `row` of the staircase."""
    number = steps.shape[1]
    category = np.searchsorted(steps.ravel(), row + u, side="right") - row * number
    return np.asarray(np.minimum(category, number - 1))  # the last one, should rounding overshoot
