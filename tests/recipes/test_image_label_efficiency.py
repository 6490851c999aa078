"""`minissl finetune image-label-efficiency`: the four learn from the same images, and the numbers lie beside."""

import json

import pytest

from minissl.cli import main


def run(*arguments):
    return main(["finetune", "image-label-efficiency", "--threads", "1", "--epochs", "1", *arguments])


def test_one_command_from_a_folder_to_the_figure(tmp_path, image_set, mae, monkeypatch, capsys):
    monkeypatch.setattr("minissl.finetuning.image_classification.LEAST_ROWS", 50)
    out = tmp_path / "figures"
    options = ["--labels", "4", "2", "--seeds", "0", "1", "--out", str(out)]
    assert run("--model", mae, "--data", image_set, *options) == 0
    found = json.loads((out / "image-label-efficiency.json").read_text())
    assert set(found["accuracy"]) == {"pre-trained", "from scratch", "raw pixels", "linear probe"}
    for by_count in found["accuracy"].values():
        assert {count: len(scores) for count, scores in by_count.items()} == {"2": 2, "4": 2}
        assert all(0 <= score <= 1 for scores in by_count.values() for score in scores)
    assert found["accuracy"]["raw pixels"]["4"] == [1.0, 1.0]
    assert found["majority"] == 0.1
    assert (out / "image-label-efficiency.png").stat().st_size > 10_000
    assert "2 of each class: pre-trained" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--seeds", "1", "1"], "expected different numbers"),
        (["--labels", "0"], "expected numbers of images of each class"),
        (["--labels", "2", "21"], "class '0' has 20 training images"),
        (["--dropout", "2"], "--dropout 2.0"),
    ],
)
def test_wrong_use(tmp_path, image_set, mae, capsys, options, says):
    assert run("--model", mae, "--data", image_set, "--out", str(tmp_path / "out"), *options) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
