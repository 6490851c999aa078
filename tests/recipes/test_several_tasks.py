"""`minissl finetune tasks`: one encoder, whose gradient is the weighted sum of the tasks'."""

import json

import numpy as np
import pytest

from minissl.cli import main
from minissl.finetuning.loop import FinetuneOptions
from minissl.gradcheck import check_model
from minissl.models.bert import BertConfig, BertForPreTraining
from minissl.models.bert_heads import BertForSequenceClassification
from minissl.nn import Grads
from minissl.recipes.several_tasks import TasksOptions, build, gradients_meet, load_tasks, passes
from minissl.text.labelled import read_questions
from minissl.text.tokenizer import BertTokenizer

WORDS = ["good", "bad", "film", "plot", "actor", "is", "the", "a", "who", "where"]


@pytest.fixture
def model(tmp_path):
    tokenizer = BertTokenizer(vocab=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=17,
        max_position_embeddings=16, initializer_range=0.3,
    )  # fmt: skip
    BertForPreTraining(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def squad(path, articles=3, questions=8):
    rng = np.random.default_rng(5)
    data = []
    for i in range(articles):
        qas = [
            {"id": f"{i}-{j}", "question": f"{['who', 'where', 'a'][i]} is the {WORDS[rng.integers(5)]} ?",
             "answers": [{"text": "film", "answer_start": 4}]}
            for j in range(questions)
        ]  # fmt: skip
        data.append({"title": f"Title {i}", "paragraphs": [{"context": "the film is good", "qas": qas}]})
    path.write_text(json.dumps({"version": "1.1", "data": data}))
    return str(path)


@pytest.fixture
def tasks(tmp_path):
    rng = np.random.default_rng(0)
    lines = []
    for i in range(40):
        word, label = ("good", "yes") if i % 2 else ("bad", "no")
        lines.append(f"the {WORDS[rng.integers(2, 5)]} is {word}\t{label}\n")
    (tmp_path / "reviews.tsv").write_text("".join(lines))
    return (f"sentiment={tmp_path / 'reviews.tsv'}", f"topic={squad(tmp_path / 'squad.json')}")


def together(model, tasks, masked_words=0.5, weights=("topic=0.25",)):
    options = TasksOptions(model, tasks, weights, masked_words, dropout=0.0)
    data = load_tasks(options)
    names = [*data.tasks, "mlm"] if masked_words else list(data.tasks)
    batches = passes(data, names, options, FinetuneOptions(batch_size=4, threads=1), 1)(0)[0]
    return build(data, names, options, 0).astype("float64"), dict(zip(names, batches, strict=True))


def test_questions_are_labelled_with_their_article(tmp_path):
    found = read_questions(squad(tmp_path / "a.json"))
    assert len(found.texts) == 24
    assert found.labels[0] == "Title 0"
    assert found.texts[-1].startswith("a is the")


def test_the_shared_gradient_is_the_weighted_sum(model, tasks):
    bert, batches = together(model, tasks)
    assert bert.weights == {"sentiment": 1.0, "topic": 0.25, "mlm": 0.5}
    shared = gradients_meet(bert, batches)
    assert shared.difference < 1e-12
    assert set(shared.cosines) == {"sentiment, topic", "sentiment, mlm", "topic, mlm"}
    assert all(-1 <= cosine <= 1 for cosine in shared.cosines.values())
    # by hand: the whole gradient of every parameter, heads and encoder
    counts = {name: count for batch in batches.values() for name, count in bert.counts(batch).items()}
    whole = Grads(bert)
    for batch in batches.values():
        bert.losses_and_backward(batch, counts, whole, None)
    expected = 0
    for name, batch in batches.items():
        own = Grads(bert)
        weights, bert.weights = bert.weights, dict.fromkeys(bert.weights, 1.0)
        bert.losses_and_backward(batch, counts, own, None)
        bert.weights = weights
        expected = expected + weights[name] * own.collect()
    np.testing.assert_allclose(whole.collect(), expected, rtol=1e-10, atol=1e-14)


def test_a_task_that_keeps_an_encoder_of_its_own_is_found(model, tasks, monkeypatch):
    """The check can fail: where a task's gradient does not reach the encoder, whole and sum differ."""
    bert, batches = together(model, tasks, masked_words=0.0)
    backward = type(bert.tasks["topic"]).backward
    calls = []

    def cut(self, encoder, dloss, cache, grads):
        calls.append(self.name)
        return backward(self, encoder, dloss, cache, grads) * (0 if len(calls) < 3 and self.name == "topic" else 1)

    monkeypatch.setattr(type(bert.tasks["topic"]), "backward", cut)
    assert gradients_meet(bert, batches).difference > 1e-3


def test_every_gradient_of_several_tasks_at_once(model, tasks):
    bert, batches = together(model, tasks)
    rows = batches["sentiment"]
    both = {**rows, "topic_labels": np.array([0, 2, 1, 1]), "mlm_labels": np.where(rows["input_ids"] > 4, 7, -100)}
    assert check_model(bert, both).ok


def test_one_command(model, tasks, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["finetune", "tasks", "--model", model, "--task", tasks[0], "--task", tasks[1], "--masked-words", "0.3"]
    options = ["--epochs", "15", "--learning-rate", "5e-3", "--batch-size", "4", "--threads", "1", "--dropout", "0"]
    assert main([*arguments, *options, "--out", str(out)]) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics["accuracy"]) == {"sentiment", "topic"}
    for scores in metrics["accuracy"].values():
        assert set(scores) == {"together", "alone", "bag of words", "majority"}
    losses = [epoch["losses"] for epoch in metrics["epochs"]]
    assert all(losses[-1][name] < 0.9 * losses[0][name] for name in ("topic", "mlm"))
    assert metrics["gradient_difference"] < 1e-5
    assert metrics["weights"] == {"sentiment": 1.0, "topic": 1.0, "mlm": 0.3}
    single = BertForSequenceClassification.from_pretrained(out / "topic")
    assert single.config.id2label == {0: "Title 0", 1: "Title 1", 2: "Title 2"}
    assert sum(p.data.size for _, p in single.bert.named_parameters()) == metrics["encoder_weights"]
    other = BertForSequenceClassification.from_pretrained(out / "sentiment")
    for (key, one), (_, two) in zip(single.bert.named_parameters(), other.bert.named_parameters(), strict=True):
        np.testing.assert_array_equal(one.data, two.data, err_msg=key)
    said = capsys.readouterr().out
    assert "one encoder of" in said
    assert (out / "tasks.png").is_file()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--task", "a=x.tsv"], "expected two or more NAME=PATH"),
        (["--task", "a=x.tsv", "--task", "a=y.tsv"], "expected two or more NAME=PATH"),
        (["--task", "a=x.tsv", "--task", "mlm=y.tsv"], "none of them mlm"),
        (["--task", "x.tsv", "--task", "b=y.tsv"], "--task x.tsv: expected NAME="),
        (["--task", "a=x.tsv", "--task", "b=y.tsv", "--weight", "c=1"], "there is no task 'c'"),
        (["--task", "a=x.tsv", "--task", "b=y.tsv", "--weight", "a=much"], "'much' is no number"),
        (["--task", "a=x.tsv", "--task", "b=y.tsv", "--weight", "a=0"], "expected a number above 0"),
        (["--task", "a=x.tsv", "--task", "b=y.tsv", "--masked-words", "-1"], "--masked-words -1.0"),
        (["--task", "a=x.tsv", "--task", "b=y.tsv"], "x.tsv: no such file"),
    ],
)
def test_wrong_use(model, tmp_path, capsys, options, says):
    assert main(["finetune", "tasks", "--model", model, "--out", str(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
