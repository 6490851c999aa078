"""The loop: it learns, it stops early and keeps the best, layers learn at their own rates, Ctrl-C ends it cleanly."""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest

from minissl.errors import InputError
from minissl.finetuning.loop import Epoch, FinetuneOptions, best_epoch, finetune, layer_factors
from minissl.models.bert import BertConfig, BertForPreTraining
from minissl.training.loop import Interrupted

V, T = 20, 6
OPTIONS = FinetuneOptions(epochs=6, batch_size=16, learning_rate=5e-3, threads=1)


def bert(seed=0):
    config = BertConfig(
        vocab_size=V, hidden_size=12, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=T, initializer_range=0.2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return BertForPreTraining(config, seed=seed)


def rows(count, seed):
    """The class is whether word 7 stands first; any model with a class of two will do, so this is next sentence's."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(8, V, (count, T))
    label = rng.integers(0, 2, count)
    ids[label == 1, 0] = 7
    return {"input_ids": ids, "next_sentence_label": label}


TRAIN, HELDOUT = rows(256, 0), rows(64, 1)


def batches(epoch):
    order = np.random.default_rng(epoch).permutation(256).reshape(-1, 16)
    return [{name: array[part] for name, array in TRAIN.items()} for part in order]


def measure(model):
    def evaluate(workers):
        logits = model(input_ids=HELDOUT["input_ids"]).seq_relationship_logits
        return {"accuracy": float((logits.argmax(axis=1) == HELDOUT["next_sentence_label"]).mean())}

    return evaluate


def run(model, evaluate=None, **changes):
    return finetune(model, replace(OPTIONS, **changes), batches, evaluate or measure(model), better="accuracy")


def test_it_learns_and_repeats_to_the_bit():
    first, second = bert(), bert()
    epochs = run(first)
    assert [e.number for e in epochs] == [1, 2, 3, 4, 5, 6]
    assert epochs[-1].heldout["accuracy"] > 0.95
    assert epochs[-1].losses["nsp"] < 0.3 < epochs[0].losses["nsp"]
    assert run(second) == epochs
    np.testing.assert_array_equal(first.pack(), second.pack())


def test_early_stopping_keeps_the_best_pass():
    script = iter([0.5, 0.8, 0.8, 0.7, 0.9])
    model = bert()
    seen = []

    def evaluate(workers):
        seen.append(np.concatenate([p.data.ravel() for _, p in model.named_parameters()]))
        return {"accuracy": next(script)}

    epochs = run(model, evaluate, patience=2)
    assert [e.heldout["accuracy"] for e in epochs] == [0.5, 0.8, 0.8, 0.7]
    kept = np.concatenate([p.data.ravel() for _, p in model.named_parameters()])
    np.testing.assert_array_equal(kept, seen[1])
    assert not np.array_equal(seen[1], seen[3])


def test_the_first_of_equal_passes_is_best():
    epochs = [Epoch(i, {}, {"f1": score}) for i, score in enumerate([0.1, 0.7, 0.7, 0.3], start=1)]
    assert best_epoch(epochs, "f1") == 2


def test_layer_factors_fall_from_the_head_to_the_embeddings():
    factors = layer_factors(bert(), 0.5)
    for name, factor in factors.items():
        expected = 1.0
        for part, value in (("layer.1.", 0.5), ("layer.0.", 0.25), ("embeddings", 0.125)):
            if part in name:
                expected = value
        assert factor == expected, name
    assert {1.0, 0.5, 0.25, 0.125} == set(factors.values())


def test_layer_decay_reaches_the_weights():
    plain, decayed = bert(), bert()
    before = {name: p.data.copy() for name, p in plain.named_parameters()}
    for model, decay in ((plain, 1.0), (decayed, 0.1)):
        run(model, epochs=1, layer_decay=decay)

    def moved(model, part):
        return sum(np.abs(p.data - before[n]).sum() for n, p in model.named_parameters() if part in n)

    assert moved(decayed, "embeddings") < 0.1 * moved(plain, "embeddings")
    assert moved(decayed, "seq_relationship") > 0.5 * moved(plain, "seq_relationship")


def test_an_interruption_ends_after_the_step():
    model = bert()
    handler = signal.getsignal(signal.SIGINT)

    def evaluate(workers):
        os.kill(os.getpid(), signal.SIGINT)
        return {"accuracy": 0.5}

    with pytest.raises(Interrupted, match="stopped at step 17 of 96; nothing was written"):
        run(model, evaluate)
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_loss_that_diverges_is_said_in_one_line():
    model = bert()
    model.seq_relationship.weight.data[...] = np.nan
    with pytest.raises(InputError, match=r"step 1: .*no longer finite.*learning rate"):
        run(model)


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"learning_rate": float("nan")}, {"layer_decay": 0.0},
     {"layer_decay": 1.5}, {"patience": -1}, {"warmup": 2.0}, {"threads": 0}, {"seed": -1}, {"weight_decay": -0.1}],
)  # fmt: skip
def test_options_that_cannot_be(wrong):
    option = "--" + next(iter(wrong)).replace("_", "-")
    with pytest.raises(InputError, match=f"{option} .*expected"):
        replace(OPTIONS, **wrong)
