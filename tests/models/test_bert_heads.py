import itertools
import re

import numpy as np
import pytest

from minissl.errors import InputError
from minissl.gradcheck import check_model
from minissl.models import (
    BertConfig,
    BertForMaskedLM,
    BertForNextSentencePrediction,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTasks,
    BertForTokenClassification,
)
from minissl.models.bert_tasks import MaskedLMTask, SequenceTask, SpanTask, TokenTask
from minissl.nn import Grads

B, T, V, D, H, F, L, P, C = 5, 7, 29, 6, 3, 11, 2, 13, 4
SIZES = {
    "vocab_size": V, "hidden_size": D, "num_attention_heads": H, "intermediate_size": F, "num_hidden_layers": L,
    "max_position_embeddings": P, "num_labels": C, "hidden_dropout_prob": 0.2, "classifier_dropout": 0.4,
}  # fmt: skip
VISIBLE = np.arange(T) < np.array([7, 4, 6, 5, 3])[:, None]


def inputs():
    rng = np.random.default_rng(0)
    ids = np.where(VISIBLE, rng.integers(1, V, (B, T)), 0)
    return {"input_ids": ids, "attention_mask": VISIBLE * 1, "token_type_ids": rng.integers(0, 2, (B, T))}


def token_labels(classes):
    rng = np.random.default_rng(1)
    return np.where(rng.random((B, T)) < 0.5, rng.integers(0, classes, (B, T)), -100)


SPAN = {"start_positions": np.array([0, 3, T + 2, 2, 1]), "end_positions": np.array([1, T, T, 4, 2])}
NUMBERS = np.random.default_rng(2).random((B, C))
LEARNING = {
    "masked words": (BertForMaskedLM, {}, {"labels": token_labels(V)}, ["logits"], (B, T, V)),
    "next sentence": (BertForNextSentencePrediction, {}, {"labels": [0, 1, 1, 0, 1]}, ["logits"], (B, 2)),
    "classes": (BertForSequenceClassification, {}, {"labels": [0, 3, -100, 2, 1]}, ["logits"], (B, C)),
    "several labels": (BertForSequenceClassification, {}, {"labels": NUMBERS}, ["logits"], (B, C)),
    "numbers": (
        BertForSequenceClassification, {"problem_type": "regression"}, {"labels": NUMBERS}, ["logits"], (B, C),
    ),
    "a number": (BertForSequenceClassification, {"num_labels": 1}, {"labels": NUMBERS[:, 0]}, ["logits"], (B, 1)),
    "tags": (BertForTokenClassification, {}, {"labels": token_labels(C)}, ["logits"], (B, T, C)),
    "spans": (BertForQuestionAnswering, {"num_labels": 2}, SPAN, ["start_logits", "end_logits"], (B, T)),
}  # fmt: skip


def new(cls, changes, dtype="float64"):
    return cls(BertConfig(**{**SIZES, **changes}), dtype=dtype)


@pytest.fixture(params=LEARNING)
def learning(request):
    cls, changes, labels, fields, shape = LEARNING[request.param]
    return new(cls, changes), {**inputs(), **labels}, fields, shape


def test_every_gradient(learning):
    model, batch, _, _ = learning
    report = check_model(model, batch, entries=2, directions=1)
    assert report.ok, report


def test_outputs_and_loss(learning):
    model, batch, fields, shape = learning
    out = model(**batch, output_hidden_states=True)
    assert list(out) == ["loss", *fields, "hidden_states"]
    assert [out[name].shape for name in fields] == [shape] * len(fields)
    assert float(out.loss) == pytest.approx(model.loss_and_grads(**batch)[0], rel=1e-12)
    assert list(model(**inputs())) == fields


def test_shares_add_up(learning):
    model, batch, _, _ = learning
    counts = model.counts(batch)
    whole, together = Grads(model), Grads(model)
    losses = model.losses_and_backward(batch, counts, whole, None)
    summed = dict.fromkeys(losses, 0.0)
    for start, stop in itertools.pairwise([0, 1, 3, B]):  # the first share has no span that ends inside
        share = {name: np.asarray(array)[start:stop] for name, array in batch.items()}
        for name, loss in model.losses_and_backward(share, counts, together, None).items():
            summed[name] += loss
    assert summed == pytest.approx(losses, rel=1e-12)
    gradient = whole.collect()
    assert np.abs(together.collect() - gradient).max() <= 1e-12 * np.abs(gradient).max()


def test_dropout_only_with_an_rng(learning):
    model, batch, _, _ = learning
    plain, again = (model.loss_and_grads(**batch)[0] for _ in range(2))
    dropped = model.loss_and_grads(**batch, rng=np.random.default_rng(1))[0]
    assert plain == again != dropped


def test_the_classifiers_own_dropout():
    """It alone is left where the encoder's is 0, and falls back on the encoder's rate."""
    batch = {**inputs(), "labels": [0, 3, 1, 2, 1]}
    losses = []
    for rates in ((0.0, 0.4), (0.0, None), (0.0, 0.0)):
        changes = {
            "hidden_dropout_prob": rates[0], "attention_probs_dropout_prob": 0.0, "classifier_dropout": rates[1],
        }  # fmt: skip
        model = new(BertForSequenceClassification, changes)
        losses.append(model.loss_and_grads(**batch, rng=np.random.default_rng(1))[0])
    assert losses[0] != losses[1] == losses[2]


def test_cross_entropy_written_out():
    model = new(BertForTokenClassification, {})
    labels = token_labels(C)
    out = model(**inputs(), labels=labels)
    log_p = out.logits - np.log(np.exp(out.logits).sum(-1, keepdims=True))
    expected = -np.mean([log_p[b, t, labels[b, t]] for b in range(B) for t in range(T) if labels[b, t] != -100])
    assert float(out.loss) == pytest.approx(expected, rel=1e-12)


def test_the_span_loss_is_the_mean_of_both_and_leaves_out_what_lies_outside():
    model = new(BertForQuestionAnswering, {"num_labels": 2})
    out = model(**inputs(), **SPAN)
    losses = []
    for logits, positions in zip((out.start_logits, out.end_logits), SPAN.values(), strict=True):
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        losses.append(-np.mean([log_p[b, p] for b, p in enumerate(positions) if p < T]))
    assert float(out.loss) == pytest.approx(sum(losses) / 2, rel=1e-12)


def test_one_side_of_a_span_may_lie_outside_everywhere():
    model = new(BertForQuestionAnswering, {"num_labels": 2})
    batch = {**inputs(), "start_positions": np.arange(B), "end_positions": np.full(B, T)}
    assert model.counts(batch) == {"span_start": B, "span_end": 0}
    out = model(**batch)
    assert float(out.loss) == pytest.approx(model.loss_and_grads(**batch)[0], rel=1e-12)


def test_masked_words_alone_give_what_pre_training_gives():
    pretraining, alone = new(BertForPreTraining, {}), new(BertForMaskedLM, {})
    weights = pretraining.state_dict()
    alone.load_state_dict({key: weights[key] for key in alone.state_dict()})
    batch = {**inputs(), "labels": token_labels(V)}
    (loss, gradients), (expected, all_gradients) = alone.loss_and_grads(**batch), pretraining.loss_and_grads(**batch)
    assert loss == expected
    for key, gradient in gradients.items():
        np.testing.assert_allclose(gradient, all_gradients[key], rtol=1e-12, atol=1e-15)


def several(weights=None):
    tasks = [
        lambda config, init: SequenceTask(config, init, 3, "sentiment", "sentiment_labels"),
        lambda config, init: TokenTask(config, init, C, "tagging", "tags"),
        lambda config, init: MaskedLMTask(config, init, labels="words"),
        SpanTask,
    ]
    return BertForTasks(BertConfig(**SIZES), tasks, weights, dtype="float64")


TASK_LABELS = {
    "sentiment": {"sentiment_labels": np.array([2, 0, -100, 1, -100])},
    "tagging": {"tags": token_labels(C)},
    "mlm": {"words": token_labels(V)},
    "span": SPAN,
}
EVERY_LABEL = {name: array for labels in TASK_LABELS.values() for name, array in labels.items()}


def test_several_tasks_every_gradient():
    report = check_model(several({"mlm": 0.3, "span": 2.0}), {**inputs(), **EVERY_LABEL}, entries=2, directions=1)
    assert report.ok, report


def test_several_tasks_share_the_encoder():
    """The gradient of the weighted sum is the weighted sum of the gradients, and there is one encoder."""
    weights = {"sentiment": 0.5, "tagging": 1.0, "mlm": 0.3, "span": 2.0}
    together, alone = several(weights), several()
    loss, gradients = together.loss_and_grads(**inputs(), **EVERY_LABEL)
    expected_loss, expected = 0.0, dict.fromkeys(gradients, 0.0)
    for name, labels in TASK_LABELS.items():
        one_loss, one = alone.loss_and_grads(**inputs(), **labels)
        expected_loss += weights[name] * one_loss
        expected = {key: expected[key] + weights[name] * one[key] for key in gradients}
        others = [key for key in one if key.startswith("tasks.") and not key.startswith(f"tasks.{name}.")]
        assert others
        assert not any(one[key].any() for key in others)
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    for key, gradient in gradients.items():
        np.testing.assert_allclose(gradient, expected[key], rtol=1e-9, atol=1e-13, err_msg=key)
    assert sum(key.endswith("word_embeddings.weight") for key in gradients) == 1


def test_each_task_answers_from_the_same_encoding():
    answers = several().answers(**inputs())
    assert {name: list(out) for name, out in answers.items()} == {
        "sentiment": ["logits"], "tagging": ["logits"], "mlm": ["logits"], "span": ["start_logits", "end_logits"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("tasks", "weights", "message"),
    [
        ([], None, "tasks: none; expected one or more"),
        ([SpanTask, SpanTask], None, "tasks: span, span; expected one or more, each with its own name"),
        ([SpanTask], {"mlm": 1.0}, "weights: there is no task 'mlm'; there are: span"),
        ([SpanTask], {"span": 0.0}, "weights: 0.0 for 'span', expected a number above 0"),
        ([SpanTask], {"span": float("nan")}, "weights: nan for 'span'"),
    ],
)
def test_tasks_that_cannot_be(tasks, weights, message):
    with pytest.raises(InputError, match=re.escape(message)):
        BertForTasks(BertConfig(**SIZES), tasks, weights)


BAD = {
    "a class too many": (BertForSequenceClassification, {"labels": [0, C, 1, 1, 1]}, "labels (of 4 classes): 4 is"),
    "a class below 0": (BertForSequenceClassification, {"labels": [0, -1, 1, 1, 1]}, f"labels (of {C} classes): -1 is"),
    "too few labels": (BertForSequenceClassification, {"labels": [0, 1]}, "labels: shape (2,) given, expected (5,)"),
    "none asked": (BertForSequenceClassification, {"labels": [-100] * B}, "labels: none is asked"),
    "no labels": (BertForSequenceClassification, {}, "nothing to learn from: give labels"),
    "words": (BertForSequenceClassification, {"labels": [["a"] * C] * B}, "labels: expected finite numbers"),
    "infinite": (BertForSequenceClassification, {"labels": NUMBERS * np.inf}, "labels: expected finite numbers"),
    "no share": (BertForSequenceClassification, {"labels": NUMBERS + 1}, "labels: expected 0 (no) or 1 (yes)"),
    "another width": (BertForSequenceClassification, {"labels": NUMBERS[:, 1:]}, "expected (rows, labels) = (5, 4)"),
    "a label a row": (BertForTokenClassification, {"labels": [0] * B}, "labels: shape (5,) given, expected (5, 7)"),
    "half a span": (BertForQuestionAnswering, {"end_positions": [1] * B}, "end_positions: given alone"),
    "a negative position": (
        BertForQuestionAnswering, {**SPAN, "start_positions": [-1] * B}, "start_positions (of 7 classes): -1 is",
    ),
    "spans outside": (
        BertForQuestionAnswering, dict.fromkeys(SPAN, [T] * B), "every one lies outside its sequence",
    ),
    "no spans": (BertForQuestionAnswering, {}, "nothing to learn from: give start_positions and end_positions"),
}  # fmt: skip


def test_a_span_has_two_scores():
    with pytest.raises(InputError, match="num_labels is 4, expected 2: an answer's start and end"):
        new(BertForQuestionAnswering, {})


@pytest.mark.parametrize("label", BAD)
def test_what_is_refused(label):
    cls, labels, message = BAD[label]
    with pytest.raises(InputError, match=re.escape(message)):
        new(cls, {"num_labels": 2} if cls is BertForQuestionAnswering else {}).loss_and_grads(**inputs(), **labels)


def test_the_labels_of_a_configuration():
    config = BertConfig(**{**SIZES, "num_labels": 2}, id2label={"1": "good", "0": "bad", "2": "fair"})
    assert (config.num_labels, config.id2label) == (3, {0: "bad", 1: "good", 2: "fair"})
    assert config.label2id == {"bad": 0, "good": 1, "fair": 2}
    written = config.to_dict()
    assert written["id2label"] == {"0": "bad", "1": "good", "2": "fair"}
    assert BertConfig.from_dict(written) == config
    assert BertConfig(num_labels=3).id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id2label": {0: "bad", 2: "good"}}, "id2label has the numbers [0, 2]"),
        ({"id2label": {}}, "id2label has the numbers []"),
        ({"id2label": ["bad", "good"]}, "id2label is ['bad', 'good']"),
        ({"problem_type": "classes"}, "problem_type 'classes' given, expected one of: single_label_classification"),
        ({"classifier_dropout": 1.0}, "classifier_dropout is 1.0"),
        ({"num_labels": 0}, "num_labels is 0"),
    ],
)
def test_configurations_that_cannot_be(changes, message):
    with pytest.raises(InputError, match=re.escape(message)):
        BertConfig(**{**SIZES, **changes})
