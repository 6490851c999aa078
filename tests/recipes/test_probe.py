"""`minissl probe`, from a folder and images to a table, two pictures and a file of numbers."""

import json
import os
import sys

import numpy as np
import pytest

from minissl.cli import main
from minissl.recipes.image_encoder import load_image_encoder
from minissl.recipes.image_finetuning import load_material
from minissl.recipes.probe import NAMES, judge
from minissl.workers import Workers


def run(*arguments):
    return main(["probe", "--threads", "1", *arguments])


def test_from_a_folder_to_a_table_and_pictures(tmp_path, image_set, mae, capsys):
    out = tmp_path / "out"
    options = ["--labels-per-class", "6", "--seeds", "0", "1"]
    assert run("--model", mae, "--data", image_set, "--out", str(out), *options) == 0
    said = capsys.readouterr().out
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics["accuracy"]) == {"linear", "neighbours"}
    for by_name in metrics["accuracy"].values():
        assert list(by_name) == list(NAMES)
        assert all(len(scores) == 2 for scores in by_name.values())
        assert by_name["raw pixels"] == [1.0, 1.0]
    assert metrics["majority_accuracy"] == 0.1
    assert (metrics["labelled_images"], metrics["heldout_images"]) == (60, 40)
    assert {"features.png", "attention.png", "metrics.json", "run.json"} == set(os.listdir(out))
    table = [" ".join(line.split()) for line in said.splitlines()]
    assert "raw pixels 100.0% ± 0.0% 100.0% ± 0.0%" in table
    assert "majority 10.0%" in table


def test_the_untrained_encoder_is_drawn_by_the_seed_and_the_trained_one_stays(image_set, mae):
    material = load_material(image_set, None, mae)
    workers, model = Workers(1), material.encoder.model(0)
    before = {name: weight.copy() for name, weight in model.state_dict().items()}
    try:
        first, again, other = (judge(material, model, material.parts.train, seed, workers) for seed in (0, 0, 1))
    finally:
        workers.close()
    assert first == again
    assert first["encoder"] == other["encoder"]
    assert first["raw pixels"] == other["raw pixels"] == (1.0, 1.0)
    for name, weight in model.state_dict().items():
        np.testing.assert_array_equal(weight, before[name])
        np.testing.assert_array_equal(weight, load_image_encoder(mae).weights[name])


def test_without_scikit_learn_the_map_is_pca_alone(tmp_path, image_set, mae, monkeypatch, capsys):
    drawn = {}
    monkeypatch.setitem(sys.modules, "sklearn.manifold", None)
    monkeypatch.setattr("minissl.plots.feature_map.plot_feature_map", lambda panels, *_: drawn.update(panels))
    assert run("--model", mae, "--data", image_set, "--out", str(tmp_path / "out")) == 0
    assert "features.png: PCA alone; t-SNE comes with scikit-learn" in capsys.readouterr().out
    ((name, points),) = drawn.items()
    assert name.startswith("PCA: ")
    assert points.shape == (40, 2)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--labels-per-class", "500"], "class '0' has 20 training images"),
        (["--labels-per-class", "-1"], "--labels-per-class -1: expected"),
        (["--seeds", "-1"], "--seeds (-1,): expected numbers from 0"),
        (["--threads", "0"], "--threads 0: expected 1 or more"),
        (["--data", "nothing"], "nothing: No such"),
    ],
)
def test_wrong_use_is_one_line_and_leaves_nothing(tmp_path, image_set, mae, capsys, options, says):
    out = tmp_path / "deep" / "out"
    assert run("--model", mae, "--data", image_set, "--out", str(out), *options) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not out.parent.exists()


def test_grey_images_for_a_model_of_colours(tmp_path, image_set, colour_mae, capsys):
    assert run("--model", colour_mae, "--data", image_set, "--out", str(tmp_path / "out")) == 2
    assert "takes images of 3 channel(s), colour" in capsys.readouterr().err
