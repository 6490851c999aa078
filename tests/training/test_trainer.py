"""The step: its gradient is that of the whole batch, however the batch is cut."""

from dataclasses import replace

import numpy as np
import pytest

from minissl.errors import InputError
from minissl.models.bert import BertConfig, BertForPreTraining
from minissl.training import AdamW, NonFiniteError, Trainer, TrainingOptions

V, B, T = 31, 11, 9
OPTIONS = TrainingOptions(steps=20, learning_rate=1e-2, threads=1, clip_norm=1e9)


def bert(dtype="float64", dropout=0.0, seed=0):
    config = BertConfig(
        vocab_size=V, hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=17,
        max_position_embeddings=13, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout,
    )  # fmt: skip
    return BertForPreTraining(config, seed=seed, dtype=dtype)


def batch(rows=B, seed=0):
    """Padding, both tasks, and rows with very different numbers of masked words: a mean of means would be wrong."""
    rng = np.random.default_rng(seed)
    length = rng.integers(4, T + 1, rows)
    visible = np.arange(T) < length[:, None]
    asked = visible & (np.arange(T) < rng.integers(1, 5, rows)[:, None])
    return {
        "input_ids": np.where(visible, rng.integers(1, V, (rows, T)), 0),
        "attention_mask": visible,
        "token_type_ids": rng.integers(0, 2, (rows, T)),
        "labels": np.where(asked, rng.integers(0, V, (rows, T)), -100),
        "next_sentence_label": rng.integers(0, 2, rows),
    }


def rows(whole, part):
    return {name: array[part] for name, array in whole.items()}


def run(micro_batches, steps=1, dtype="float64", dropout=0.0, **changes):
    """The trainer's state and the last record, after some steps on the same micro-batches."""
    trainer = Trainer(bert(dtype, dropout), replace(OPTIONS, **changes))
    try:
        for _ in range(steps):
            record = trainer.train_step(micro_batches)
    finally:
        trainer.close()
    return trainer.state(), record


def assert_close(got, expected, tolerance):
    for name in expected:
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(got[name], expected[name], rtol=0, atol=tolerance * scale, err_msg=name)


def test_one_step_is_adamw_on_the_models_own_gradient():
    model, data = bert(), batch()
    before = {key: weight.copy() for key, weight in model.state_dict().items()}
    loss, grads = model.loss_and_grads(**data)
    norm = np.sqrt(sum((g**2).sum() for key, g in grads.items() if key not in model.aliases))
    trainer = Trainer(model, replace(OPTIONS, adamw=AdamW(weight_decay=0.1), clip_norm=norm / 3))
    record = trainer.train_step([data])
    trainer.close()
    assert record.step == 1
    assert sum(record.losses.values()) == pytest.approx(loss, rel=1e-12)
    assert record.grad_norm == pytest.approx(norm, rel=1e-12)
    assert record.lr == OPTIONS.learning_rate / 2  # the first of two steps of warm-up
    for key, weight in model.state_dict().items():
        g = grads[key] / 3 * (norm / (norm + 1e-6))
        shrink = 1 - record.lr * 0.1 * (not key.endswith("bias") and "LayerNorm" not in key)
        expected = shrink * before[key] - record.lr * g / (np.abs(g) + 1e-6)
        np.testing.assert_allclose(weight, expected, rtol=1e-10, atol=1e-13, err_msg=key)


def test_decay_touches_matrices_alone():
    def after(decay):
        trainer = Trainer(bert(), replace(OPTIONS, adamw=AdamW(weight_decay=decay)))
        trainer.train_step([batch()])
        trainer.close()
        return trainer.model.state_dict()

    plain, decayed = after(0.0), after(0.5)
    same = {key for key in plain if np.array_equal(plain[key], decayed[key])}
    assert same == {key for key in plain if key.endswith(".bias") or "LayerNorm" in key}
    assert len(same) < len(plain) - 10


@pytest.mark.parametrize("cuts", [[4], [1, 2, 7]], ids=["two", "four of unequal size"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 2e-5)])
def test_micro_batches_are_one_big_batch(cuts, threads, dtype, tolerance):
    whole = batch()
    pieces = [rows(whole, slice(a, b)) for a, b in zip([0, *cuts], [*cuts, B], strict=True)]
    state, record = run(pieces, dtype=dtype, threads=threads)
    expected, expected_record = run([whole], dtype=dtype)
    assert record.losses == pytest.approx(expected_record.losses, rel=tolerance)
    assert record.grad_norm == pytest.approx(expected_record.grad_norm, rel=tolerance)
    assert_close(state, expected, tolerance)


@pytest.mark.parametrize("threads", [2, 3, 16], ids=["2", "3", "more than rows"])
def test_threads_agree(threads):
    expected, _ = run([batch()], steps=3)
    state, _ = run([batch()], steps=3, threads=threads)
    assert_close(state, expected, 1e-12)


@pytest.mark.parametrize("threads", [1, 3])
def test_the_same_number_of_threads_gives_the_same_bits(threads):
    """With dropout, in float32, twice."""
    runs = [run([batch(), batch(seed=1)], 4, "float32", 0.3, threads=threads) for _ in range(2)]
    assert runs[0][1] == runs[1][1]
    for name, array in runs[0][0].items():
        np.testing.assert_array_equal(array, runs[1][0][name], err_msg=name)


def test_dropout_differs_by_seed_step_micro_batch_and_share(monkeypatch):
    drawn = []

    def watch(self, share, counts, grads, rng):
        drawn.append(tuple(rng.integers(1 << 30, size=4).tolist()))
        return {"mlm": 1.0, "nsp": 1.0}

    monkeypatch.setattr(BertForPreTraining, "losses_and_backward", watch)
    for seed in (0, 1):
        run([batch(), batch()], steps=2, threads=2, seed=seed)
    assert len(set(drawn)) == len(drawn) == 2 * 2 * 2 * 2


def test_a_share_without_a_masked_word_adds_nothing():
    data = batch()
    data["labels"][1:] = -100
    expected, expected_record = run([data])
    state, record = run([data], threads=4)
    assert record.losses == pytest.approx(expected_record.losses, rel=1e-12)
    assert_close(state, expected, 1e-12)


@pytest.mark.parametrize("left_out", ["labels", "next_sentence_label"])
def test_either_task_alone(left_out):
    data = batch()
    del data[left_out]
    expected, record = run([data])
    assert set(record.losses) == {"mlm", "nsp"} - {"mlm" if left_out == "labels" else "nsp"}
    state, _ = run([rows(data, slice(0, 3)), rows(data, slice(3, None))], threads=2)
    assert_close(state, expected, 1e-12)


def test_clipping_scales_to_the_norm_and_leaves_small_gradients_alone():
    free, record = run([batch()])
    clipped, clipped_record = run([batch()], clip_norm=record.grad_norm / 10)
    assert clipped_record.grad_norm == record.grad_norm  # logged as it was before clipping
    np.testing.assert_allclose(clipped["mean"], free["mean"] / 10, rtol=1e-5)
    loose, _ = run([batch()], clip_norm=record.grad_norm * 2)
    np.testing.assert_array_equal(loose["mean"], free["mean"])


@pytest.mark.parametrize("threads", [1, 2])
def test_a_step_that_fails_leaves_no_trace(threads):
    """Weights, moments, the step count and the next step's gradient are as if it had never been tried."""
    expected, expected_record = run([batch()], threads=threads)
    trainer = Trainer(bert(), replace(OPTIONS, threads=threads))
    before = {name: array.copy() for name, array in trainer.state().items()}
    weight = trainer.weights[7]
    trainer.weights[7] = np.inf
    with np.errstate(all="ignore"), pytest.raises(NonFiniteError, match=r"step 1: .* no longer finite \(mlm nan, nsp"):
        trainer.train_step([batch()])
    trainer.weights[7] = weight
    wrong = batch()
    wrong["input_ids"][0, 0] = V
    with pytest.raises(InputError, match=f"{V} is outside"):
        trainer.train_step([batch(seed=5), wrong])
    assert trainer.step == 0
    for name, array in trainer.state().items():
        np.testing.assert_array_equal(array, before[name])
    record = trainer.train_step([batch()])
    trainer.close()
    assert record == expected_record
    for name, array in trainer.state().items():
        np.testing.assert_array_equal(array, expected[name])


def assign(model):
    _, param = next(model.named_parameters())
    param.data = param.data.copy()


@pytest.mark.parametrize("move", [lambda model: model.astype("float32"), assign], ids=["astype", "assignment"])
def test_weights_that_were_moved_are_not_trained_in_their_old_place(move):
    model = bert()
    trainer = Trainer(model, OPTIONS)
    trainer.train_step([batch()])
    move(model)
    with pytest.raises(InputError, match="has moved the model's weights; make a new trainer"):
        trainer.train_step([batch()])
    assert trainer.step == 1


def test_two_trainers_train_the_same_weights():
    model = bert()
    first, second = Trainer(model, OPTIONS), Trainer(model, OPTIONS)
    losses = [sum(trainer.train_step([batch()]).losses.values()) for trainer in (first, second, first, second)]
    assert losses == sorted(losses, reverse=True)
    assert len(set(losses)) == 4
    np.testing.assert_array_equal(first.weights, second.weights)


def test_state_is_all_that_a_trainer_needs_to_go_on():
    expected, _ = run([batch()], steps=5, dtype="float32", dropout=0.2, threads=2)
    first = Trainer(bert("float32", 0.2), replace(OPTIONS, threads=2))
    for _ in range(2):
        first.train_step([batch()])
    saved = {name: array.copy() for name, array in first.state().items()}
    first.close()
    second = Trainer(bert("float32", 0.2, seed=99), replace(OPTIONS, threads=2))
    second.load_state(saved, 2)
    for _ in range(3):
        second.train_step([batch()])
    second.close()
    for name, array in second.state().items():
        np.testing.assert_array_equal(array, expected[name])


def test_a_state_that_does_not_fit_is_refused_whole():
    trainer = Trainer(bert(), OPTIONS)
    good = {name: np.ones_like(array) for name, array in trainer.state().items()}
    before = trainer.weights.copy()
    short = {**good, "square": good["square"][:-1]}
    for bad in ({}, {**good, "mean": good["mean"].astype("float32")}, short):
        with pytest.raises(InputError, match="missing or has another size"):
            trainer.load_state(bad, 3)
    trainer.close()
    assert trainer.step == 0
    np.testing.assert_array_equal(trainer.weights, before)


def test_the_last_rate_is_above_zero_and_no_warm_up_begins_at_the_peak():
    trainer = Trainer(bert(), replace(OPTIONS, steps=4, warmup=0.0))
    rates = [trainer.train_step([batch()]).lr / OPTIONS.learning_rate for _ in range(4)]
    trainer.close()
    assert rates == [1.0, 0.75, 0.5, 0.25]


def test_a_factor_scales_a_parameters_own_rate_and_nothing_else():
    """Its weights move by the factor times as far; 0 leaves them; the moments are as without."""
    model = bert()
    names = [name for name, _ in model.named_parameters()]
    factors = {names[0]: 0.25, names[3]: 0.0, "bert.encoder.layer.0.intermediate.dense.bias": 0.5}
    before = {name: p.data.copy() for name, p in model.named_parameters()}

    def moved(factors, threads):
        trainer = Trainer(bert(), replace(OPTIONS, threads=threads, adamw=AdamW(weight_decay=0.1)), factors)
        trainer.train_step([batch()])
        trainer.close()
        return {name: p.data - before[name] for name, p in trainer.model.named_parameters()}, trainer.state()

    whole, state = moved({}, 1)
    for threads in (1, 3):
        scaled, scaled_state = moved(factors, threads)
        for name in names:
            np.testing.assert_allclose(scaled[name], factors.get(name, 1.0) * whole[name], rtol=1e-9, atol=1e-13)
        np.testing.assert_allclose(scaled_state["mean"], state["mean"], rtol=1e-9, atol=1e-15)
    assert np.abs(whole[names[3]]).max() > 0


def test_a_factor_for_a_name_that_the_model_has_not():
    with pytest.raises(InputError, match=r"no parameter 'bert\.layer'"):
        Trainer(bert(), OPTIONS, {"bert.layer": 0.5})
