import itertools

import numpy as np
import pytest

from minissl.pretext.hmm import FIRST_WORD, MASK_ID, HiddenMarkovModel
from minissl.pretext.mlm import IGNORE
from minissl.recipes import ablation
from minissl.recipes.ablation import answers, landmarks, make_batch, make_heldout, state_posterior, train_arm


@pytest.fixture(scope="module")
def language():
    return ablation.small_language()


@pytest.fixture(scope="module")
def heldout(language):
    return make_heldout(language, 64)


def by_enumeration(language, words):
    """p(z, words) summed over the states: (T, Z), where a word of -1 may be any."""
    T, Z = len(words), len(language.initial)
    joint = np.zeros((T, Z))
    for z in itertools.product(range(Z), repeat=T):
        p = language.initial[z[0]] * np.prod([language.transition[a, b] for a, b in itertools.pairwise(z)])
        p *= np.prod([language.emission[state, word] for state, word in zip(z, words, strict=True) if word >= 0])
        joint[np.arange(T), z] += p
    return joint / joint.sum(axis=1, keepdims=True)


def test_both_corruptions_ask_for_the_same_words_of_the_same_sentences(language):
    mixed, masked = (make_batch(language, c, np.random.default_rng(3), rows=50) for c in ablation.CORRUPTIONS)
    np.testing.assert_array_equal(mixed["labels"], masked["labels"])
    chosen = masked["labels"] != IGNORE
    assert (masked["input_ids"][chosen] == MASK_ID).all()
    np.testing.assert_array_equal(mixed["input_ids"][~chosen], masked["input_ids"][~chosen])
    assert 0.7 < (mixed["input_ids"][chosen] == MASK_ID).mean() < 0.9


def test_heldout_sentences_are_whole_and_masked(heldout):
    np.testing.assert_array_equal(heldout.clean["input_ids"], heldout.clean["labels"])
    chosen = heldout.masked["labels"] != IGNORE
    np.testing.assert_array_equal(heldout.masked["labels"][chosen], heldout.clean["labels"][chosen])
    assert (heldout.clean["input_ids"] >= FIRST_WORD).all()


def test_state_posterior_is_exact():
    rng = np.random.default_rng(4)
    tiny = HiddenMarkovModel(rng.dirichlet([1, 1]), rng.dirichlet([1, 1], 2), rng.dirichlet([1, 1, 1], 2))
    words = np.array(list(itertools.product(range(3), repeat=4)))
    expected = [by_enumeration(tiny, row) for row in words]
    np.testing.assert_allclose(state_posterior(tiny, FIRST_WORD + words), expected, atol=1e-12)


def test_the_posterior_of_80_10_10_is_exact_for_all_mask_too(language):
    """Where all that may be chosen is [MASK], no visible word can have been swapped: a gap is a gap."""
    rng = np.random.default_rng(5)
    words = language.sample(rng, 9, 5)  # one of 5 words is chosen
    visible = FIRST_WORD + words
    visible[:, 3] = MASK_ID
    words[:, 3] = -1
    expected = [by_enumeration(language, row)[3] @ language.emission for row in words]
    np.testing.assert_allclose(language.posterior(visible, visible == MASK_ID), expected, atol=1e-12)


def test_landmarks_are_in_order(language, heldout):
    marks = landmarks(language, heldout)
    assert marks.floor < marks.unigram < marks.chance == pytest.approx(np.log(29))
    assert 0 < marks.wary < marks.blind < marks.floor


def test_an_arm_is_the_same_again(language, heldout):
    arm, again = (train_arm(language, heldout, "80/10/10", 1, steps=12) for _ in range(2))
    assert arm.steps == list(range(13))
    assert (arm.at_mask, arm.at_visible) == (again.at_mask, again.at_visible)


def test_only_who_was_asked_about_visible_words_learns_to_read_them(language, heldout):
    mixed, masked = (train_arm(language, heldout, c, 1, steps=60) for c in ablation.CORRUPTIONS)
    assert mixed.at_mask[0] == masked.at_mask[0]  # the same weights to begin with
    for arm in (mixed, masked):
        assert arm.at_mask[-1] < arm.at_mask[0] - 0.5
    assert masked.at_visible[-1] > mixed.at_visible[-1] + 0.3


def test_answers_are_probabilities_beside_the_true_words(language, heldout):
    exact, said, words = answers(language, ablation.small_bert(language, 0), heldout.masked)
    assert exact.shape == said.shape == (64 * 4, 24)
    np.testing.assert_allclose(exact.sum(axis=1), 1)
    assert (said.sum(axis=1) < 1).all()  # the rest is on the special ids
    np.testing.assert_array_equal(FIRST_WORD + words, heldout.masked["labels"][heldout.masked["labels"] != IGNORE])
    assert -np.log(exact[np.arange(len(words)), words]).mean() == pytest.approx(landmarks(language, heldout).floor)


def test_figures_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr(ablation, "POINTS", 1)
    ablation.posterior_figure(tmp_path, steps=1)
    ablation.ablation_figure(tmp_path, seeds=1, steps=1)
    assert sorted(path.stem for path in tmp_path.iterdir()) == sorted(ablation.FIGURES)
