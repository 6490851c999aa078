import itertools
from collections import defaultdict

import numpy as np
import pytest

from minissl.errors import InputError
from minissl.pretext import IGNORE, HiddenMarkovModel, hmm, mask_tokens

MASK, FIRST, W = 4, 5, 3
V = FIRST + W
RATES = {1: 0.15, 2: 0.5}  # k of n = 4 words


def tiny():
    rng = np.random.default_rng(11)
    return HiddenMarkovModel(rng.dirichlet([1, 1]), rng.dirichlet([1, 1], size=2), rng.dirichlet([1, 1, 1], size=2))


def by_enumeration(model, k, kept=0.1, random=0.1, coupled=True, n=4):
    """p(y, i chosen, x_i): sums over every sentence x, every choice of positions, every corruption of them.

    Returns {(y, i): joint probability of the W words}. `coupled=False` chooses each position independently.
    """
    joint = defaultdict(lambda: np.zeros(W))
    masked = 1.0 - kept - random
    choices = [c for c in itertools.product([False, True], repeat=n) if not coupled or sum(c) == k]
    for x in itertools.product(range(W), repeat=n):
        forward = model.initial * model.emission[:, x[0]]
        for word in x[1:]:
            forward = (forward @ model.transition) * model.emission[:, word]
        for c in choices:
            p_choice = 1 / len(choices) if coupled else (k / n) ** sum(c) * (1 - k / n) ** (n - sum(c))
            options = [range(V) if chosen else [FIRST + word] for chosen, word in zip(c, x, strict=True)]
            for y in itertools.product(*options):
                p = forward.sum() * p_choice
                for chosen, word, seen in zip(c, x, y, strict=True):
                    if chosen:
                        p *= masked * (seen == MASK) + random / V + kept * (seen == FIRST + word)
                for i in range(n):
                    if c[i]:
                        joint[y, i][x[i]] += p
    return joint


def largest_difference(model, k, **assumptions):
    """Between `posterior` and enumeration, over every corrupted sentence y and every position that can be chosen."""
    joint = by_enumeration(model, k, **assumptions)
    sentences = sorted({y for y, _ in joint})
    positions = [(row, i) for row, y in enumerate(sentences) for i in range(4) if (y, i) in joint]
    chosen = np.zeros((len(sentences), 4), dtype=bool)
    chosen[tuple(np.transpose(positions))] = True
    expected = np.array([joint[sentences[row], i] for row, i in positions])
    got = model.posterior(np.array(sentences), chosen, RATES[k])
    assert got.shape == expected.shape
    return np.max(np.abs(got - expected / expected.sum(axis=1, keepdims=True)))


@pytest.mark.parametrize("k", [1, 2])
def test_posterior_is_exact(k):
    model = tiny()
    assert {MASK, 0, 1, 2, 3} <= {y[0] for y, _ in by_enumeration(model, k)}  # special tokens as random ids included
    assert largest_difference(model, k) < 1e-12


@pytest.mark.parametrize(
    "wrong",
    [{"kept": 0.0}, {"random": 0.0, "kept": 0.2}, {"kept": 0.05, "random": 0.15}],
    ids=["ignores kept", "ignores random", "wrong shares"],
)
def test_enumeration_sees_another_corruption(wrong, monkeypatch):
    for name in ("kept", "random"):
        monkeypatch.setattr(hmm, name.upper(), wrong.get(name, 0.1))
    monkeypatch.setattr(hmm, "MASKED", 1 - wrong.get("kept", 0.1) - wrong.get("random", 0.1))
    with np.errstate(all="ignore"):
        if wrong.get("random") == 0.0:  # such a model holds special tokens for impossible
            with pytest.raises(InputError, match="no sentence of this language"):
                largest_difference(tiny(), 2)
        else:
            assert largest_difference(tiny(), 2) > 1e-3
            assert largest_difference(tiny(), 2, **wrong) < 1e-12


def test_enumeration_sees_independent_choices():
    """A posterior that ignored that exactly k are chosen would fail: it would agree with this enumeration instead."""
    exact, independent = by_enumeration(tiny(), 2, n=3), by_enumeration(tiny(), 2, n=3, coupled=False)
    shares = [(exact[key] / exact[key].sum(), independent[key] / independent[key].sum()) for key in exact]
    assert max(np.max(np.abs(a - b)) for a, b in shares) > 1e-3


@pytest.mark.parametrize("k", [1, 2])
def test_floor_is_the_conditional_entropy_that_mask_tokens_leaves(k):
    """Monte Carlo over the real `mask_tokens` against the exact -Σ p log p of the enumeration."""
    model, rng, n = tiny(), np.random.default_rng(3), 60_000
    joint = by_enumeration(model, k)
    losses = [-np.sum(p * np.log(p / p.sum(), where=p > 0, out=np.zeros(W))) for p in joint.values()]
    ids = model.sample(rng, n, 4) + FIRST
    masked, labels = mask_tokens(ids, ids > 0, mask_id=MASK, vocab_size=V, rng=rng, rate=RATES[k])
    assert abs(model.floor(masked, labels, RATES[k]) - np.sum(losses) / k) < 4 * 0.6 / np.sqrt(n * k)


def test_no_other_prediction_beats_the_floor():
    model, rng = HiddenMarkovModel.random(seed=2, states=4, words=20), np.random.default_rng(4)
    ids = model.sample(rng, 3000, 12) + FIRST
    masked, labels = mask_tokens(ids, ids > 0, mask_id=MASK, vocab_size=25, rng=rng)
    floor, chosen = model.floor(masked, labels), labels != IGNORE
    p, words = model.posterior(masked, chosen), labels[chosen] - FIRST
    rivals = [p**0.8, p**1.25, 0.9 * p + 0.1 / 20, np.roll(p, 1, axis=0)]
    losses = [-np.mean(np.log((q / q.sum(axis=1, keepdims=True))[np.arange(len(q)), words])) for q in rivals]
    assert all(floor < loss for loss in losses)


def test_samples_follow_the_model():
    model = tiny()
    n = 100_000
    x = model.sample(np.random.default_rng(5), n, 3)
    assert x.shape == (n, 3)
    share = np.bincount(x @ [9, 3, 1], minlength=27) / n
    forward = [model.initial[:, None] * model.emission]  # (Z, W), then (Z, W, W), …
    for _ in range(2):
        forward.append(np.einsum("z...,zy,yw->y...w", forward[-1], model.transition, model.emission))
    expected = forward[-1].sum(axis=0).ravel()
    assert np.all(np.abs(share - expected) < 5 * np.sqrt(expected / n))


def test_long_sentences_do_not_underflow():
    model, rng = HiddenMarkovModel.random(), np.random.default_rng(6)
    ids = model.sample(rng, 3, 600) + FIRST
    masked, labels = mask_tokens(ids, ids > 0, mask_id=MASK, vocab_size=FIRST + model.emission.shape[1], rng=rng)
    p = model.posterior(masked, labels != IGNORE)
    assert np.all(np.isfinite(p))
    np.testing.assert_allclose(p.sum(axis=1), 1.0, atol=1e-12)


def test_standard_language_needs_its_context():
    model, rng = HiddenMarkovModel.random(), np.random.default_rng(7)
    W = model.emission.shape[1]
    ids = model.sample(rng, 2000, 30) + FIRST
    masked, labels = mask_tokens(ids, ids > 0, mask_id=MASK, vocab_size=FIRST + W, rng=rng)
    floor = model.floor(masked, labels)
    word = model.initial @ model.emission  # the same at every position, because `initial` is stationary
    np.testing.assert_allclose(model.initial @ model.transition, model.initial, atol=1e-15)
    assert -np.sum(word * np.log(word)) - floor > 1.0


def test_a_seed_fixes_the_language_and_the_sample():
    model, again = HiddenMarkovModel.random(), HiddenMarkovModel.random()
    np.testing.assert_array_equal(model.emission, again.emission)
    assert not np.array_equal(model.emission, HiddenMarkovModel.random(seed=1).emission)
    x = model.sample(np.random.default_rng(0), 2, 5)
    np.testing.assert_array_equal(x, again.sample(np.random.default_rng(0), 2, 5))


def test_tokens_are_distinct_words_for_a_vocabulary():
    tokens = HiddenMarkovModel.random(words=1200).tokens()
    assert len(tokens) == len(set(tokens)) == 1200
    assert all(token.isascii() and token.islower() and token.isalpha() and len(token) == 4 for token in tokens)
    assert hmm.SPECIAL_TOKENS.index("[MASK]") == hmm.MASK_ID
    assert len(hmm.SPECIAL_TOKENS) == hmm.FIRST_WORD


def test_mistakes_are_named():
    model, rng = tiny(), np.random.default_rng(8)
    ids = model.sample(rng, 5, 4) + FIRST
    masked, labels = mask_tokens(ids, ids > 0, mask_id=MASK, vocab_size=V, rng=rng)
    with pytest.raises(InputError, match="another rate"):
        model.floor(masked, labels, rate=0.5)
    with pytest.raises(InputError, match="no sentence of this language"):
        model.posterior([[MASK, MASK, 5, 5]], [[True, False, False, False]])
    with pytest.raises(InputError, match="less the special tokens"):
        model.floor(masked, np.where(labels == IGNORE, IGNORE, 2))
    with pytest.raises(InputError, match="8 is outside"):
        model.posterior([[8]], [[True]])
    with pytest.raises(InputError, match=r"expected one \(sentences, words\)"):
        model.posterior(masked, [True])
    with pytest.raises(InputError, match="transition: expected probabilities"):
        HiddenMarkovModel.random(stay=0.9, onward=0.3)
    with pytest.raises(InputError, match=r"expected \(Z,\), \(Z, Z\), \(Z, W\)"):
        HiddenMarkovModel(np.ones(1), np.eye(2), np.eye(2))
    with pytest.raises(InputError, match="at most 4900 words"):
        HiddenMarkovModel.random(words=5000)
