"""`minissl finetune label-efficiency`: the three learn from the same rows, and the figure's numbers lie beside it."""

import json

import numpy as np
import pytest

from minissl.cli import main
from minissl.models.bert import PRESETS

WORDS = ["good", "bad", "film", "plot", "actor", "is", "the", "a", "very"]


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.delenv("MINISSL_DATA", raising=False)
    rng = np.random.default_rng(0)
    lines = []
    for i in range(120):
        word, label = ("good", "yes") if i % 2 else ("bad", "no")
        words = [WORDS[j] for j in rng.integers(2, len(WORDS), 9)]
        lines.append(f"{' '.join([*words[:4], word, *words[4:]])} n{i}\t{label}\n")
    path = tmp_path / "reviews.tsv"
    path.write_text("".join(lines))
    return str(path)


def run(*arguments):
    return main(["finetune", "label-efficiency", "--threads", "1", "--epochs", "1", *arguments])


def test_one_command_from_texts_to_the_figure(tmp_path, data, quick, monkeypatch, capsys):
    monkeypatch.setitem(PRESETS, "tiny", {**PRESETS["tiny"], "hidden_size": 16, "intermediate_size": 32})
    monkeypatch.setattr("minissl.finetuning.classification.LEAST_ROWS", 50)
    monkeypatch.setattr("minissl.recipes.sentiment.PRETRAINING", {"nsp": False, "vocab_size": 300, "seq_len": 16})
    out = tmp_path / "figures"
    options = ["--data", data, "--texts", data, "--steps", "3", "--labels", "20", "--seeds", "0", "1"]
    assert run(*options, "--out", str(out)) == 0
    found = json.loads((out / "label-efficiency.json").read_text())
    assert set(found["accuracy"]) == {"pre-trained", "from scratch", "bag of words"}
    for by_count in found["accuracy"].values():
        assert {count: len(scores) for count, scores in by_count.items()} == {"20": 2, "108": 2}
        assert all(0 <= score <= 1 for scores in by_count.values() for score in scores)
    assert found["accuracy"]["bag of words"]["108"] == [1.0, 1.0]
    assert (out / "label-efficiency.png").stat().st_size > 10_000
    said = capsys.readouterr().out
    assert "20 labels: pre-trained" in said
    assert (tmp_path / "runs" / "label-efficiency-1" / "model.safetensors").is_file()
    # what is there already is not trained again
    assert run("--data", data, "--model", "runs/label-efficiency-1", "--labels", "20", "--out", str(out)) == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--model", "m", "--steps", "5"], "leave out --texts and --steps"),
        (["--seeds", "1", "1"], "expected different numbers"),
        (["--labels", "0"], "expected numbers of labelled texts"),
        (["--steps", "-1"], "--steps -1"),
        ([], "--data: expected a TSV or CSV"),
    ],
)
def test_wrong_use(tmp_path, data, monkeypatch, capsys, options, says):
    monkeypatch.chdir(tmp_path)
    assert run(*options) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
