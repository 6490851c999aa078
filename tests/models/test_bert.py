"""BERT: its gradient, what it returns, and what it refuses."""

import itertools
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from minissl import ops, workers
from minissl.errors import InputError
from minissl.gradcheck import check_model
from minissl.kernels import reference_ops, replace_op
from minissl.models import BertConfig, BertForPreTraining, BertModel, ModelOutput, bert
from minissl.nn import Grads

V, D, H, F, P = 29, 12, 3, 17, 11
B, T, L = 5, 7, 2
SIZES = {
    "vocab_size": V, "hidden_size": D, "num_attention_heads": H, "intermediate_size": F, "max_position_embeddings": P,
    "hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.3,
}  # fmt: skip
VISIBLE = np.arange(T) < np.array([7, 4, 7, 2, 6])[:, None]


def new(kind=BertForPreTraining, dtype="float64", layers=L):
    """A model with weights of order 1, at which a lost factor shows."""
    model = kind(BertConfig(**SIZES, num_hidden_layers=layers), dtype=dtype)
    rng = np.random.default_rng(0)
    for _, param in model.named_parameters():
        spread = 1.5 / np.sqrt(param.data.shape[-1]) if param.data.ndim == 2 else 0.5
        param.data[...] = param.data.mean() + spread * rng.standard_normal(param.data.shape)
    return model


def encoder_inputs(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "input_ids": np.where(VISIBLE, rng.integers(1, V, (B, T)), 0),
        "attention_mask": VISIBLE.astype(int),
        "token_type_ids": rng.integers(0, 2, (B, T)),
    }


def batch(seed=0):
    rng = np.random.default_rng(seed)
    labels = np.where(VISIBLE & (rng.random((B, T)) < 0.4), rng.integers(0, V, (B, T)), -100)
    labels[2] = -100  # a sequence, and so perhaps a whole share, without a masked position
    return {**encoder_inputs(seed), "labels": labels, "next_sentence_label": rng.integers(0, 2, B)}


def test_gradients():
    inputs = {**batch(), "rng": np.random.default_rng(1)}
    inputs["input_ids"] = np.maximum(inputs["input_ids"], 1)  # looking padding up does not train it: a chosen gradient
    report = check_model(new(layers=1), inputs, entries=2, directions=1)
    assert report.ok, report
    assert len(report.arguments) == 5 + 16 + 2 + 5 + 2


def test_looking_padding_up_does_not_train_it_but_decoding_it_does():
    model, inputs = new(), batch()
    key = "bert.embeddings.word_embeddings.weight"
    inputs["input_ids"][0, 3] = 0  # even where it may be attended to
    _, both = model.loss_and_grads(**inputs)
    assert both[key][0].any()
    inputs.pop("labels")  # then nothing is decoded
    _, nsp = model.loss_and_grads(**inputs)
    assert not nsp[key][0].any()
    assert nsp[key][inputs["input_ids"][0, 0]].any()


def test_gradients_of_tied_and_of_unused_weights():
    model, inputs = new(), batch()
    _, gradients = model.loss_and_grads(**inputs)
    assert gradients.keys() == model.state_dict().keys()
    for key, weight in model.state_dict().items():
        assert gradients[key].shape == weight.shape
        assert gradients[key].dtype == weight.dtype
    assert gradients["cls.predictions.decoder.weight"] is gradients["bert.embeddings.word_embeddings.weight"]
    assert gradients["cls.predictions.decoder.bias"] is gradients["cls.predictions.bias"]
    inputs.pop("next_sentence_label")
    _, gradients = model.loss_and_grads(**inputs)
    for key, gradient in gradients.items():
        unused = "pooler" in key or "seq_relationship" in key
        assert gradient.any() != unused, key


@pytest.mark.parametrize("edges", [[0, 2, 5], [0, 2, 3, 5], [0, 1, 2, 3, 4, 5]])
def test_the_gradients_of_shares_add_up_to_that_of_the_batch(edges):
    model, whole = new(), batch()
    counts = model.counts(whole)
    assert counts == {"mlm": (whole["labels"] != -100).sum(), "nsp": B}
    expected, together = Grads(model), Grads(model)
    losses = model.losses_and_backward(whole, counts, expected, None)
    summed = {"mlm": 0.0, "nsp": 0.0}
    for start, stop in itertools.pairwise(edges):
        share = {name: array[start:stop] for name, array in whole.items()}
        for name, loss in model.losses_and_backward(share, counts, together, None).items():
            summed[name] += loss
    assert summed == pytest.approx(losses, rel=1e-12)
    gradient = expected.collect()
    assert np.abs(together.collect() - gradient).max() <= 1e-12 * np.abs(gradient).max()


def test_the_loss_of_evaluation_is_the_loss_of_training_without_dropout():
    model, inputs = new(), batch()
    for asked in (("labels",), ("next_sentence_label",), ("labels", "next_sentence_label")):
        chosen = encoder_inputs() | {name: inputs[name] for name in asked}
        assert float(model(**chosen).loss) == pytest.approx(model.loss_and_grads(**chosen)[0], rel=1e-12)


def test_the_loss_is_the_sum_of_both_means():
    model, inputs = new(), batch()
    out = model(**inputs)
    log_p = out.prediction_logits - np.log(np.exp(out.prediction_logits).sum(-1, keepdims=True))
    asked = inputs["labels"] != -100
    mlm = -log_p[asked, inputs["labels"][asked]].mean()
    log_p = out.seq_relationship_logits - np.log(np.exp(out.seq_relationship_logits).sum(-1, keepdims=True))
    nsp = -log_p[np.arange(B), inputs["next_sentence_label"]].mean()
    assert float(out.loss) == pytest.approx(mlm + nsp, rel=1e-12)
    assert model.losses_and_backward(inputs, model.counts(inputs), Grads(model), None) == pytest.approx(
        {"mlm": mlm, "nsp": nsp}, rel=1e-12
    )


def test_a_new_model_is_at_chance():
    """Devlin et al.'s initial values: ln V + ln 2."""
    model = BertForPreTraining(BertConfig(**SIZES, num_hidden_layers=L))
    assert float(model(**batch()).loss) == pytest.approx(np.log(V) + np.log(2), abs=0.1)


def test_an_rng_means_dropout_and_the_same_seed_the_same_dropout():
    model, inputs = new(), batch()
    plain = model.loss_and_grads(**inputs)[0]
    first, again, other = (model.loss_and_grads(**inputs, rng=np.random.default_rng(seed))[0] for seed in (1, 1, 2))
    assert plain == model.loss_and_grads(**inputs)[0]
    assert first == again
    assert len({plain, first, other}) == 3


def test_where_dropout_happens():
    """After the embeddings, on every layer's attention weights and after both of its parts; nowhere in evaluation."""
    model, inputs, calls = new(), batch(), []

    def dropout_forward(x, rate, rng):
        calls.append((x.shape, rate))
        return ops.dropout_forward(x, rate, rng)

    def attention_forward(q, k, v, mask, rate, rng):
        if rng is not None:
            calls.append(("attention", rate))
        return ops.attention_forward(q, k, v, mask, rate, rng)

    with (
        replace_op("dropout", dropout_forward, ops.dropout_backward),
        replace_op("attention", attention_forward, ops.attention_backward),
    ):
        model(**inputs)
        model.loss_and_grads(**inputs)
        assert calls == []
        model.loss_and_grads(**inputs, rng=np.random.default_rng(0))
    hidden = ((B, T, D), 0.2)
    assert calls == [hidden, *[("attention", 0.3), hidden, hidden] * L]


def test_a_training_step_leaves_inputs_and_weights_alone():
    model, inputs = new(), batch()
    before = {key: weight.copy() for key, weight in model.state_dict().items()}
    model.loss_and_grads(**inputs, rng=np.random.default_rng(0))
    for key, weight in model.state_dict().items():
        np.testing.assert_array_equal(weight, before[key])
    for name, array in batch().items():
        np.testing.assert_array_equal(inputs[name], array)


def test_evaluation_is_deterministic_and_has_the_documented_fields():
    model = new(BertModel)
    out, again = (model(**encoder_inputs(), output_hidden_states=True, output_attentions=True) for _ in range(2))
    assert list(out) == ["last_hidden_state", "pooler_output", "hidden_states", "attentions"]
    assert out.last_hidden_state.shape == (B, T, D)
    assert out.pooler_output.shape == (B, D)
    assert [state.shape for state in out.hidden_states] == [(B, T, D)] * (L + 1)
    assert [weights.shape for weights in out.attentions] == [(B, H, T, T)] * L
    np.testing.assert_array_equal(out.hidden_states[-1], out.last_hidden_state)
    np.testing.assert_array_equal(out.last_hidden_state, again.last_hidden_state)
    np.testing.assert_array_equal(out.pooler_output, again.pooler_output)
    assert list(model(**encoder_inputs())) == ["last_hidden_state", "pooler_output"]


def test_attention_weights_sum_to_one_and_hide_the_padding():
    out = new()(**encoder_inputs(), output_attentions=True)
    for weights in out.attentions:
        np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-12)
        assert not weights[np.broadcast_to(~VISIBLE[:, None, None, :], weights.shape)].any()


def test_padding_changes_nothing():
    model, inputs = new(), encoder_inputs()
    out = model(**inputs)
    alone = model(**{name: array[1:2, :4] for name, array in inputs.items()})  # the second row has 4 tokens
    np.testing.assert_allclose(out.prediction_logits[1, :4], alone.prediction_logits[0], rtol=1e-10)
    np.testing.assert_allclose(out.seq_relationship_logits[1], alone.seq_relationship_logits[0], rtol=1e-10)


def test_pretraining_outputs():
    model = new()
    out = model(**encoder_inputs(), output_hidden_states=True)
    assert list(out) == ["prediction_logits", "seq_relationship_logits", "hidden_states"]
    assert out.prediction_logits.shape == (B, T, V)
    assert out.seq_relationship_logits.shape == (B, 2)
    assert len(out.hidden_states) == L + 1


def test_what_is_left_out_has_its_default():
    model, ids = new(), encoder_inputs()["input_ids"]
    plain = model(ids).prediction_logits
    for given in (
        {"attention_mask": np.ones((B, T))},
        {"attention_mask": np.ones((B, T), bool)},
        {"token_type_ids": np.zeros((B, T), int)},
        {"position_ids": np.arange(T)},
        {"position_ids": np.tile(np.arange(T), (B, 1))},
    ):
        np.testing.assert_allclose(model(ids, **given).prediction_logits, plain, rtol=1e-10, err_msg=str(given))
    np.testing.assert_array_equal(model(ids.tolist()).prediction_logits, plain)
    assert not np.allclose(model(ids, position_ids=np.arange(T)[::-1].copy()).prediction_logits, plain)
    assert not np.allclose(model(ids, token_type_ids=np.ones((B, T), int)).prediction_logits, plain)


def test_position_gradients_with_one_row_of_positions_and_with_many():
    model, inputs = new(), batch()
    _, one = model.loss_and_grads(**inputs)
    _, many = model.loss_and_grads(**inputs, position_ids=np.tile(np.arange(T), (B, 1)))
    key = "bert.embeddings.position_embeddings.weight"
    np.testing.assert_allclose(one[key], many[key], rtol=1e-10, atol=1e-13)
    assert one[key][:T].any(axis=1).all()
    assert not one[key][T:].any()


def test_predict_masked_gives_the_logits_of_evaluation_at_the_masked_positions():
    model, inputs = new(), batch()
    out = model(**inputs)
    logits, ids, nsp = model.predict_masked(inputs)
    asked = inputs["labels"] != -100
    np.testing.assert_array_equal(ids, inputs["labels"][asked])
    np.testing.assert_allclose(logits, out.prediction_logits[asked], rtol=1e-10)
    np.testing.assert_allclose(nsp, out.seq_relationship_logits, rtol=1e-10)


def test_output_by_attribute_and_by_key():
    out = ModelOutput(loss=1.0, logits=2.0)
    assert out.loss == out["loss"] == 1.0
    with pytest.raises(AttributeError, match="no 'los'; it has: loss, logits"):
        out.los  # noqa: B018
    with pytest.raises(KeyError):
        out["los"]


def test_an_unknown_attribute_of_a_model_raises():
    model = new()
    for name in ("embeddings", "encoder", "config_", "bert_"):
        with pytest.raises(AttributeError):
            getattr(model, name)


def changed(name, value, where=...):
    """The batch with one array changed at `where`."""
    inputs = batch()
    inputs[name] = np.array(inputs[name])
    inputs[name][where] = value
    return inputs


NOTHING_MASKED = {**batch(), "labels": np.full((B, T), -100)}
BAD = {
    "an id past the vocabulary": (changed("input_ids", V, (3, 1)), f"input_ids: {V} is outside 0 … {V - 1}"),
    "a negative id": (changed("input_ids", -1, (0, 0)), "input_ids: -1 is outside"),
    "float ids": ({**batch(), "input_ids": np.ones((B, T))}, "input_ids: expected integers, got dtype float64"),
    "words for ids": ({**batch(), "input_ids": [["the", "cat"]]}, "input_ids: expected integers"),
    "one sequence": ({"input_ids": [1, 2, 3], "next_sentence_label": [0]}, "input_ids: shape (3,)"),
    "no sequence": ({"input_ids": np.zeros((0, T), int), "next_sentence_label": []}, "input_ids: shape (0, 7)"),
    "no tokens": ({"input_ids": np.zeros((B, 0), int), "next_sentence_label": [0] * B}, "input_ids: shape (5, 0)"),
    "ragged rows": ({"input_ids": [[1, 2], [3]], "next_sentence_label": [0, 1]}, "input_ids: the rows differ"),
    "too long": ({"input_ids": np.ones((B, P + 1), int), "next_sentence_label": [0] * B}, f"length {P + 1} is over"),
    "a row of padding": (changed("attention_mask", 0, 3), "attention_mask: row 3 is all padding"),
    "a mask of scores": ({**batch(), "attention_mask": np.where(VISIBLE, 0, -1e4)}, "attention_mask: -10000.0 given"),
    "a mask of another shape": ({**batch(), "attention_mask": np.ones((B, T + 1))}, "attention_mask: shape (5, 8)"),
    "a transposed mask": ({**batch(), "attention_mask": np.ones((T, B))}, "attention_mask: shape (7, 5)"),
    "a third segment": (changed("token_type_ids", 2, (1, 1)), "token_type_ids: 2 is outside 0 … 1"),
    "segments of another shape": ({**batch(), "token_type_ids": np.zeros(T, int)}, "token_type_ids: shape (7,)"),
    "a position too far": ({**batch(), "position_ids": np.arange(T) + P}, "position_ids: 17 is outside 0 … 10"),
    "positions of another shape": ({**batch(), "position_ids": np.arange(T - 1)}, "position_ids: shape (1, 6)"),
    "a label outside": (changed("labels", V, (0, 0)), f"labels: {V} is outside 0 … {V - 1}"),
    "a label of -1": (changed("labels", -1, (0, 0)), "labels: -1 is outside"),
    "labels of another shape": ({**batch(), "labels": batch()["labels"].ravel()}, "labels: shape (35,)"),
    "float labels": ({**batch(), "labels": batch()["labels"].astype(float)}, "labels: expected integers"),
    "ragged labels": ({**batch(), "labels": [[1, 2], [3]]}, "labels: the rows differ in length"),
    "no masked position": (NOTHING_MASKED, "labels: all are -100"),
    "nothing asked": (encoder_inputs(), "nothing to learn from: give labels, next_sentence_label or both"),
    "a third NSP class": (changed("next_sentence_label", 2, 1), "next_sentence_label (0 = is next, 1 = is not): 2 is"),
    "an ignored NSP label": (changed("next_sentence_label", -100, 1), "next_sentence_label (0 = is next, 1 = is not)"),
    "too few NSP labels": ({**batch(), "next_sentence_label": [0, 1]}, "next_sentence_label: 2 given"),
    "no NSP labels": ({**batch(), "next_sentence_label": []}, "next_sentence_label: 0 given"),
    "float NSP labels": ({**batch(), "next_sentence_label": np.zeros(B)}, "next_sentence_label (0 = is next"),
}


@pytest.mark.parametrize("label", BAD)
def test_what_training_refuses(label):
    inputs, message = BAD[label]
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        new().loss_and_grads(**inputs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("label", [label for label in BAD if label != "nothing asked"])
def test_what_evaluation_refuses(label):
    inputs, message = BAD[label]
    with pytest.raises(InputError, match=re.escape(message)):
        new()(**inputs)


def test_a_misspelt_input_is_refused():
    for name in ("token_types", "label", "input_id"):
        with pytest.raises(TypeError, match=name):
            new().loss_and_grads(**batch(), **{name: np.zeros((B, T), int)})
        with pytest.raises(TypeError, match=name):
            new()(**batch(), **{name: np.zeros((B, T), int)})


def test_a_batch_split_over_threads_gives_what_its_rows_give_alone(monkeypatch):
    model, inputs = new(BertModel), encoder_inputs()
    inputs["position_ids"] = np.random.default_rng(2).integers(0, P, (B, T))
    whole = model(**inputs, output_hidden_states=True, output_attentions=True)
    monkeypatch.setattr(bert, "WORTH_SPLITTING", 0)
    monkeypatch.setattr(workers, "SHARE_TOKENS", 2 * T)
    for asked in ({}, {"output_hidden_states": True, "output_attentions": True}):
        split = model(**inputs, **asked)
        np.testing.assert_allclose(split.last_hidden_state, whole.last_hidden_state, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(split.pooler_output, whole.pooler_output, rtol=1e-10)
    for name in ("hidden_states", "attentions"):
        assert len(split[name]) == len(whole[name])
        for ours, expected in zip(split[name], whole[name], strict=True):
            np.testing.assert_allclose(ours, expected, rtol=1e-10, atol=1e-12)
    del inputs["position_ids"], inputs["attention_mask"]  # one row of positions, no mask: nothing to split
    split = model(**inputs).last_hidden_state
    monkeypatch.undo()
    np.testing.assert_allclose(split, model(**inputs).last_hidden_state, rtol=1e-10, atol=1e-12)


def test_a_split_batch_has_the_same_bits_from_several_threads_and_inside_workers(monkeypatch):
    monkeypatch.setattr(bert, "WORTH_SPLITTING", 0)
    monkeypatch.setattr(workers, "SHARE_TOKENS", 2 * T)
    model, inputs = new(dtype="float32"), encoder_inputs()
    alone = model(**inputs).prediction_logits.tobytes()
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda i: model(**inputs).prediction_logits.tobytes(), range(12))) == {alone}
    training = workers.Workers(2)
    try:
        assert set(training.map(lambda i: model(**inputs).prediction_logits.tobytes(), 4)) == {alone}
    finally:
        training.close()


def test_evaluation_with_and_without_twins_agrees():
    model = new(dtype="float32")
    ours = model(**encoder_inputs()).prediction_logits
    with reference_ops():
        plain = model(**encoder_inputs()).prediction_logits
    np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-4)
