"""`minissl finetune sentiment`, from a file to a folder that says what was learnt."""

import json
import os
import signal

import numpy as np
import pytest

from minissl.cli import main
from minissl.models.bert import BertConfig, BertForPreTraining
from minissl.models.bert_heads import BertForSequenceClassification
from minissl.text.tokenizer import BertTokenizer

WORDS = ["good", "bad", "film", "plot", "actor", "is", "the", "a", "very"]


@pytest.fixture
def model(tmp_path):
    tokenizer = BertTokenizer(vocab=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16, initializer_range=0.2,
    )  # fmt: skip
    BertForPreTraining(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture
def data(tmp_path):
    rng = np.random.default_rng(0)
    lines = []
    for i in range(120):
        word, label = ("good", "yes") if i % 3 else ("bad", "no")
        words = [WORDS[j] for j in rng.integers(2, len(WORDS), 4)]
        lines.append(f"{' '.join([*words[:2], word, *words[2:]])}\t{label}\n")
    path = tmp_path / "reviews.tsv"
    path.write_text("".join(lines))
    return str(path)


def run(*arguments):
    return main(["finetune", "sentiment", "--threads", "1", *arguments])


def test_from_a_file_to_a_folder(tmp_path, model, data, capsys):
    out = tmp_path / "out"
    options = ["--epochs", "6", "--learning-rate", "1e-2", "--seeds", "1", "2", "--dropout", "0", "--batch-size", "8"]
    assert run("--model", model, "--data", data, "--out", str(out), *options) == 0
    said = capsys.readouterr().out
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["labels"] == ["no", "yes"]
    assert metrics["heldout_rows"] == 12
    assert metrics["labelled_rows"] == 108
    assert set(metrics["seeds"]) == {"1", "2"}
    assert metrics["accuracy"] == metrics["seeds"]["1"] > 0.9
    assert metrics["bag_of_words_accuracy"] == 1.0
    assert np.sum(metrics["confusion"]) == 12
    assert f"held-out accuracy {metrics['accuracy']:.1%} (majority" in said
    assert "over 2 seeds" in said
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 12
    right = np.mean([line["label"] == line["predicted"] for line in lines])
    assert right == pytest.approx(metrics["accuracy"])
    for line in lines:
        assert line["predicted"] == max(line["probabilities"], key=line["probabilities"].get)
        assert sum(line["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert {"confusion.png", "epochs.png"} <= set(os.listdir(out))
    again = BertForSequenceClassification.from_pretrained(out)
    assert again.config.id2label == {0: "no", 1: "yes"}
    inputs = BertTokenizer.from_pretrained(out)(lines[0]["text"], return_tensors="np")
    logits = again(**inputs).logits[0].astype(float)
    p = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(p, list(lines[0]["probabilities"].values()), atol=1e-5)


def test_frozen_from_scratch_and_few_labels(tmp_path, model, data):
    def metrics(name, *options):
        assert run("--model", model, "--data", data, "--out", str(tmp_path / name), "--epochs", "1", *options) == 0
        return json.loads((tmp_path / name / "metrics.json").read_text())

    assert metrics("frozen", "--frozen")["frozen"]
    saved, first = (BertForSequenceClassification.from_pretrained(tmp_path / "frozen"),
                    BertForPreTraining.from_pretrained(model))  # fmt: skip
    encoder = {n: p.data for n, p in first.bert.named_parameters() if "pooler" not in n}
    for name, param in saved.bert.named_parameters():
        if name in encoder:
            np.testing.assert_array_equal(param.data, encoder[name])
    assert metrics("few", "--labels", "20")["labelled_rows"] == 20
    assert metrics("scratch", "--from-scratch")["from_scratch"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--epochs", "0"], "--epochs 0: expected 1 or more"),
        (["--labels", "1"], "--labels: 1 labelled rows asked for, expected 2"),
        (["--labels", "5000"], "expected 2 (one of each label) to 108"),
        (["--labels", "-3"], "--labels -3: expected"),
        (["--frozen", "--from-scratch"], "nothing was learnt yet"),
        (["--word-dropout", "1"], "--word-dropout 1.0: expected a share"),
        (["--seeds", "-1"], "--seeds (-1,): expected numbers from 0"),
        (["--text-column", "opinion"], "no column 'opinion'"),
        (["--data", "none.tsv"], "none.tsv: no such file"),
        (["--model", "."], "tokenizer"),
    ],
)
def test_wrong_use_is_one_line_and_leaves_nothing(tmp_path, model, data, capsys, options, says):
    out = tmp_path / "deep" / "out"
    assert run("--model", model, "--data", data, "--out", str(out), *options) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not out.parent.exists()


def test_no_data_named(monkeypatch, tmp_path, model, capsys):
    monkeypatch.delenv("MINISSL_DATA", raising=False)
    assert run("--model", model, "--out", str(tmp_path / "out")) == 2
    assert "--data: expected a TSV or CSV" in capsys.readouterr().err


def test_a_vocabulary_of_another_run(tmp_path, model, data, capsys):
    with open(f"{model}/vocab.txt", "a") as file:
        file.write("more\n")
    assert run("--model", model, "--data", data, "--out", str(tmp_path / "out")) == 2
    assert "not of one run" in capsys.readouterr().err


def test_a_run_that_has_not_ended(tmp_path, model, data, capsys):
    with open(f"{model}/run.json", "w") as file:
        file.write("{}")
    assert run("--model", model, "--data", data, "--out", str(tmp_path / "out")) == 2
    assert "this run has not ended" in capsys.readouterr().err


def test_ctrl_c_leaves_nothing(tmp_path, model, data, monkeypatch, capsys):
    from minissl.training.trainer import Trainer

    step = Trainer.train_step

    def interrupted(self, batches):
        os.kill(os.getpid(), signal.SIGINT)
        return step(self, batches)

    monkeypatch.setattr(Trainer, "train_step", interrupted)
    assert run("--model", model, "--data", data, "--out", str(tmp_path / "out")) == 2
    assert "stopped at step 1 of" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
