"""Batches are a function of the options and the step alone, and ask only what may be asked."""

import math
from dataclasses import replace

import numpy as np
import pytest

from minissl.errors import InputError
from minissl.pretext.mlm import IGNORE
from minissl.recipes.tasks import HELDOUT_BATCH, HmmTask, TaskOptions, TextTask, make_task, unigram_loss
from minissl.text.corpora import load_corpus

HMM = TaskOptions("hmm", seq_len=16, batch_size=6, vocab_size=8192, nsp=False)


@pytest.fixture
def text_options(small_text):
    return TaskOptions(str(small_text), seq_len=24, batch_size=6, vocab_size=150)


@pytest.fixture(params=["pairs", "segments", "whole words", "hmm"])
def options(request, text_options):
    return {
        "pairs": text_options,
        "segments": replace(text_options, nsp=False),
        "whole words": replace(text_options, whole_word=True),
        "hmm": HMM,
    }[request.param]


def same(one, other):
    return set(one) == set(other) and all(np.array_equal(one[name], other[name]) for name in one)


def restored(batch):
    """The ids before masking."""
    return np.where(batch["labels"] == IGNORE, batch["input_ids"], batch["labels"])


def test_a_batch_depends_on_nothing_but_options_and_step(options):
    task = make_task(options)
    steps = [1, 2, 3, 29, 30, 31, 32, 90]
    in_order = {step: task.batch(step) for step in steps}
    again = make_task(options)
    for step in [90, 1, 31, 2, 30, 1, 3, 32, 29]:
        assert same(again.batch(step), in_order[step]), step
    assert not any(same(in_order[a], in_order[b]) for a in steps for b in steps if a < b)
    assert same(make_task(options).batch(31), in_order[31])
    assert not same(make_task(replace(options, seed=1)).batch(1), in_order[1])


def test_the_held_out_part_is_the_same_whatever_the_seed_and_the_batch(options):
    first = make_task(options).heldout(100)
    task = make_task(replace(options, seed=7, batch_size=13))
    task.batch(40)
    second = task.heldout(100)
    assert len(first) == len(second)
    assert all(same(a, b) for a, b in zip(first, second, strict=True))
    rows = [len(batch["input_ids"]) for batch in first]
    assert sum(rows) >= 100
    assert max(rows) <= HELDOUT_BATCH


def test_only_words_are_asked_about(options):
    task = make_task(options)
    t = task.tokenizer
    for batch in [*map(task.batch, range(1, 40)), *task.heldout(60)]:
        ids, labels = batch["input_ids"], batch["labels"]
        visible = np.asarray(batch.get("attention_mask", np.ones_like(ids)), bool)
        asked = labels != IGNORE
        assert asked.any(axis=1).all()
        assert not (asked & ~visible).any()
        assert not np.isin(labels[asked], [t.pad_token_id, t.cls_token_id, t.sep_token_id]).any()
        assert (ids[:, 0] == t.cls_token_id).all()
        assert (restored(batch)[~visible] == t.pad_token_id).all()
        ends = visible.sum(axis=1) - 1
        assert (ids[np.arange(len(ids)), ends] == t.sep_token_id).all()
        share = asked.sum() / (visible.sum() - (ids == t.cls_token_id).sum() - (ids == t.sep_token_id).sum())
        assert 0.08 < share < 0.25


def test_eighty_ten_ten(options):
    task = make_task(options)
    batches = [task.batch(step) for step in range(1, 300)]
    labels = np.concatenate([b["labels"] for b in batches])
    ids = np.concatenate([b["input_ids"] for b in batches])
    asked = labels != IGNORE
    masked = (ids == task.tokenizer.mask_token_id)[asked].mean()
    kept = (ids == labels)[asked].mean()
    assert masked == pytest.approx(0.8, abs=0.03)
    assert kept == pytest.approx(0.1, abs=0.03)


def test_every_epoch_has_other_masks_and_other_cuts(text_options):
    task = TextTask(replace(text_options, batch_size=1))
    steps = task._batches_per_epoch
    epochs = [[task.batch(epoch * steps + i) for i in range(1, steps + 1)] for epoch in range(2)]
    first, second = ({restored(batch).tobytes() for batch in epoch} for epoch in epochs)
    assert len(first & second) < 0.5 * len(first)
    pairs = [{(b["input_ids"].tobytes(), b["labels"].tobytes()) for b in epoch} for epoch in epochs]
    assert not pairs[0] & pairs[1]


def test_an_epoch_shows_nearly_every_row_once(text_options):
    task = TextTask(text_options)
    steps = task._batches_per_epoch
    rows = [row.tobytes() for i in range(1, steps + 1) for row in restored(task.batch(i))]
    assert len(set(rows)) == len(rows) == steps * text_options.batch_size
    total = sum(len(sentence) for document in task._train for sentence in document)
    assert sum(int(task.batch(i)["attention_mask"].sum()) for i in range(1, steps + 1)) > 0.85 * total


def test_a_batch_larger_than_the_text_is_filled_all_the_same(text_options):
    task = TextTask(replace(text_options, batch_size=5000))
    batch = task.batch(3)
    assert batch["input_ids"].shape == (5000, 24)
    assert batch["next_sentence_label"].mean() == pytest.approx(0.5, abs=0.02)


def test_no_held_out_sentence_is_trained_on(text_options):
    task = TextTask(replace(text_options, nsp=False))
    corpus = load_corpus(text_options.data)
    train, heldout = ({s for d in part for s in d.sentences} for part in (corpus.train, corpus.heldout))
    assert len(heldout) >= 20
    assert not train & heldout
    ids = {tuple(sentence) for document in task._heldout for sentence in document}
    assert ids == {tuple(task.tokenizer.encode_words(s)) for s in heldout}

    def shown(sentence):
        text = ",".join(map(str, sentence))
        return any(f",{text}," in row for row in rows)

    rows = {",".join(map(str, row)) for step in range(1, 60) for row in restored(task.batch(step)).tolist()}
    assert not any(shown(sentence) for sentence in ids)
    assert shown(task._train[0][1])  # the search finds what is there


def test_next_sentence_labels_are_even_and_more_than_two_thousand_are_held_out(text_options):
    task = TextTask(text_options)
    heldout = task.heldout(2048)
    labels = np.concatenate([batch["next_sentence_label"] for batch in heldout])
    assert len(labels) >= 2000
    assert labels.mean() == pytest.approx(0.5, abs=0.03)
    trained = np.concatenate([task.batch(step)["next_sentence_label"] for step in range(1, 200)])
    assert trained.mean() == pytest.approx(0.5, abs=0.05)
    assert "next_sentence_label" not in TextTask(replace(text_options, nsp=False)).batch(1)


def test_landmarks(options):
    task = make_task(options)
    landmarks = task.landmarks(task.heldout(300))
    assert landmarks.chance == pytest.approx(math.log(len(task.tokenizer)))
    assert 0 < landmarks.unigram < landmarks.chance
    if options.data == "hmm":
        assert 0 < landmarks.floor < landmarks.unigram
    else:
        assert landmarks.floor is None


def test_the_unigram_loss_is_that_of_add_one_frequencies():
    labels = np.array([[IGNORE, 0, 2], [2, IGNORE, 1]])
    counts = np.array([3, 0, 6, 0])
    expected = -(np.log(4 / 13) + 2 * np.log(7 / 13) + np.log(1 / 13)) / 4
    assert unigram_loss(counts, [{"labels": labels[:1]}, {"labels": labels[1:]}]) == pytest.approx(expected)


def test_the_example_is_one_plain_sequence(options):
    task = make_task(options)
    ids = task.example()["input_ids"]
    assert ids.shape[0] == 1
    assert ids[0, 0] == task.tokenizer.cls_token_id
    assert ids[0, -1] == task.tokenizer.sep_token_id
    if options.data != "hmm":
        assert task.tokenizer.mask_token_id not in ids
        assert task.tokenizer.pad_token_id not in ids


def test_streams_of_random_numbers_do_not_coincide():
    """The weights' seed [0], epochs, masks, held-out rows and language: no two give the same numbers."""
    from minissl.recipes.tasks import EPOCHS, HELDOUT, LANGUAGE, MASKS

    seeds = [0, [0, EPOCHS, 0], [0, EPOCHS, 1], [0, MASKS, 1], [0, MASKS, 2], [0, HELDOUT], [0, LANGUAGE]]
    seeds += [[0, HELDOUT, 0, 1], [0, HELDOUT, 1], [1, EPOCHS, 0], [1, MASKS, 1]]
    drawn = {tuple(np.random.default_rng(seed).integers(1 << 62, size=2).tolist()) for seed in seeds}
    assert len(drawn) == len(seeds)


def test_the_fingerprint_follows_the_text(text_options, small_text):
    before = TextTask(text_options).fingerprint
    assert TextTask(replace(text_options, seed=3, batch_size=2)).fingerprint == before
    small_text.write_text(small_text.read_text() + "\nOne more line stands here.\n")
    assert TextTask(text_options).fingerprint != before


def test_one_document_allows_masked_words_alone(text_options, tmp_path, small_text):
    path = tmp_path / "one.txt"
    path.write_text("\n".join(line for line in small_text.read_text().splitlines() if line))
    one = replace(text_options, data=str(path))
    assert not load_corpus(path).has_next_sentence_pairs
    with pytest.raises(InputError, match=r"too few documents .* --no-nsp"):
        TextTask(one)
    assert len(TextTask(replace(one, nsp=False)).batch(1)["input_ids"]) == 6


def test_hmm_sentences_are_drawn_anew_and_never_held_out():
    task = HmmTask(HMM)
    seen = [row.tobytes() for step in range(1, 100) for row in restored(task.batch(step))]
    assert len(set(seen)) == len(seen)
    assert not set(seen) & {row.tobytes() for batch in task.heldout(500) for row in restored(batch)}
