"""Rows, passes and predictions of a classifier, on texts whose label one word decides."""

import numpy as np
import pytest

from minissl.finetuning.classification import Rows, drop_words, encode, fine_tune, inputs, predict, special
from minissl.finetuning.frozen import FrozenEncoder
from minissl.finetuning.loop import FinetuneOptions
from minissl.gradcheck import check_model
from minissl.models.bert import BertConfig
from minissl.models.bert_heads import BertForSequenceClassification
from minissl.text.labelled import Labelled
from minissl.text.tokenizer import BertTokenizer
from minissl.workers import Workers

WORDS = ["good", "bad", "film", "plot", "actor", "is", "the", "a", "very"]
TOKENIZER = BertTokenizer(vocab=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])
NAMES = ["no", "yes"]
IDS = special(TOKENIZER)
OPTIONS = FinetuneOptions(epochs=4, batch_size=8, learning_rate=1e-2, threads=1)


def labelled(count, seed):
    rng = np.random.default_rng(seed)
    texts, labels = [], []
    for _ in range(count):
        yes = bool(rng.integers(2))
        words = [WORDS[i] for i in rng.integers(2, len(WORDS), rng.integers(1, 7))]
        words.insert(int(rng.integers(len(words) + 1)), "good" if yes else "bad")
        texts.append(" ".join(words))
        labels.append("yes" if yes else "no")
    return Labelled(texts, labels)


def bert(seed=0, dtype="float32", dropout=0.0):
    config = BertConfig(
        vocab_size=len(TOKENIZER), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=12, initializer_range=0.2, hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout, id2label=dict(enumerate(NAMES)),
    )  # fmt: skip
    return BertForSequenceClassification(config, seed=seed, dtype=dtype)


def rows(count, seed):
    return encode(TOKENIZER, labelled(count, seed), NAMES, 12)


def weights(model):
    return {name: p.data.copy() for name, p in model.named_parameters()}


def test_rows_have_their_special_tokens_and_are_cut_at_the_end():
    data = Labelled(["the film is good", "bad"], ["yes", "no"])
    made = encode(TOKENIZER, data, NAMES, 5)
    tokens = [TOKENIZER.convert_ids_to_tokens(row) for row in made.ids]
    assert tokens == [["[CLS]", "the", "film", "is", "[SEP]"], ["[CLS]", "bad", "[SEP]"]]
    assert made.classes.tolist() == [1, 0]
    batch = inputs(made, [1, 0], IDS)
    assert batch["input_ids"].tolist() == [[2, 6, 3, 0, 0], [2, 11, 7, 10, 3]]
    assert batch["attention_mask"].tolist() == [[True] * 3 + [False] * 2, [True] * 5]


def test_dropped_words_are_masked_and_nothing_else_is():
    made = rows(200, 0)
    batch = inputs(made, range(200), IDS)
    before = batch["input_ids"].copy()
    dropped = drop_words(batch, 0.3, IDS, np.random.default_rng(0))["input_ids"]
    np.testing.assert_array_equal(batch["input_ids"], before)
    changed = dropped != before
    assert (dropped[changed] == IDS.mask).all()
    words = batch["attention_mask"] & ~np.isin(before, [IDS.cls, IDS.sep])
    assert not changed[~words].any()
    assert abs(changed[words].mean() - 0.3) < 0.05


@pytest.mark.parametrize("frozen", [False, True])
def test_it_learns(frozen):
    model = bert()
    before = weights(model)
    epochs = fine_tune(model, rows(160, 0), rows(60, 1), IDS, OPTIONS, frozen=frozen)
    assert epochs[-1].heldout["accuracy"] > (0.75 if frozen else 0.95)
    moved = {name for name, value in weights(model).items() if not np.array_equal(value, before[name])}
    head = {name for name in before if "pooler" in name or "classifier" in name}
    assert moved == (head if frozen else set(before))


def test_the_frozen_encoder_sees_what_the_whole_model_sees():
    """One step of it moves the head as the whole model's does; gradients agree with numerical ones."""
    model = bert(dtype="float64")
    batch = {**inputs(rows(6, 0), range(6), IDS), "labels": rows(6, 0).classes}
    hidden = FrozenEncoder.features(model, batch)
    assert hidden.shape == (6, 1, 16)
    _, whole = model.loss_and_grads(**batch)
    head = FrozenEncoder(model)
    from minissl.nn import Grads

    grads = Grads(head)
    alone = {"hidden": hidden, "labels": batch["labels"]}
    head.losses_and_backward(alone, head.counts(alone), grads, None)
    np.testing.assert_allclose(grads[head.pooler.dense.weight], whole["bert.pooler.dense.weight"], rtol=1e-12)
    np.testing.assert_allclose(grads[head.task.classifier.weight], whole["classifier.weight"], rtol=1e-12)
    assert check_model(model, batch).ok


def test_early_stopping_looks_at_training_rows():
    """A tenth of them is set aside; the held-out rows decide nothing."""
    model = bert()
    epochs = fine_tune(model, rows(100, 0), rows(40, 1), IDS, FinetuneOptions(epochs=3, patience=3, threads=1))
    assert set(epochs[0].heldout) == {"accuracy", "stopping"}
    elsewhere = bert()
    other = Rows(rows(40, 1).ids, 1 - rows(40, 1).classes)
    fine_tune(elsewhere, rows(100, 0), other, IDS, FinetuneOptions(epochs=3, patience=3, threads=1))
    for name, value in weights(model).items():
        np.testing.assert_array_equal(value, weights(elsewhere)[name])


def test_predictions_come_in_the_rows_order():
    model = bert()
    made = rows(130, 3)
    workers = Workers(2)
    try:
        together = predict(model, made, IDS, workers)
    finally:
        workers.close()
    assert together.shape == (130, 2)
    np.testing.assert_allclose(together.sum(axis=1), 1)
    for i in (0, 57, 129):
        logits = model(**inputs(made, [i], IDS)).logits[0].astype(float)
        p = np.exp(logits) / np.exp(logits).sum()
        np.testing.assert_allclose(together[i], p, atol=1e-5)


def test_the_same_seed_gives_the_same_bits():
    def run(seed):
        model = bert(dropout=0.1)
        options = FinetuneOptions(epochs=2, batch_size=8, learning_rate=1e-2, threads=2, seed=seed)
        fine_tune(model, rows(50, 0), rows(10, 1), IDS, options, word_dropout=0.2)
        return np.concatenate([p.ravel() for p in weights(model).values()])

    np.testing.assert_array_equal(run(3), run(3))
    assert not np.array_equal(run(3), run(4))
