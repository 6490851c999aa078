"""`minissl finetune image`, from images to a folder that says what was learnt."""

import json
import os
import signal

import numpy as np
import pytest

from minissl.cli import main
from minissl.models.vit import ViTForImageClassification
from minissl.recipes.image_encoder import load_image_encoder
from minissl.recipes.image_finetuning import ImageOptions, rows_for
from minissl.recipes.image_pretraining import PRESETS, Sizes
from minissl.vision.datasets import load_images
from minissl.vision.images import ImageParts, Images, PixelScale


@pytest.fixture(autouse=True)
def short_passes(monkeypatch):
    monkeypatch.setattr("minissl.finetuning.image_classification.LEAST_ROWS", 200)


@pytest.fixture
def no_pictures(monkeypatch):
    monkeypatch.setattr("minissl.plots.finetuning.plot_confusion", lambda *_: None)
    monkeypatch.setattr("minissl.plots.finetuning.plot_epochs", lambda *_: None)
    monkeypatch.setattr("minissl.plots.class_attention.plot_class_attention", lambda *_: None)


def run(*arguments):
    return main(["finetune", "image", "--threads", "1", *arguments])


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_from_images_to_a_folder(tmp_path, image_set, mae, capsys):
    out = tmp_path / "out"
    options = ["--epochs", "8", "--learning-rate", "1e-2", "--seeds", "1", "2", "--batch-size", "10", "--patience", "8"]
    assert run("--model", mae, "--data", image_set, "--out", str(out), *options) == 0
    said = capsys.readouterr().out
    metrics = metrics_of(out)
    assert metrics["classes"] == list("0123456789")
    assert (metrics["labelled_images"], metrics["heldout_images"]) == (200, 40)
    assert metrics["accuracy"] == metrics["seeds"]["1"] > 0.6
    assert metrics["majority_accuracy"] == 0.1
    assert metrics["raw_pixel_accuracy"] == 1.0
    assert set(metrics["epochs"][0]["heldout"]) == {"accuracy", "stopping"}
    assert np.sum(metrics["confusion"]) == 40
    assert not metrics["from_scratch"]
    assert f"held-out accuracy {metrics['accuracy']:.1%} (majority 10.0%, logistic regression on raw pixels" in said
    assert "over 2 seeds" in said
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert [line["image"] for line in lines] == list(range(40))
    assert np.mean([line["label"] == line["predicted"] for line in lines]) == pytest.approx(metrics["accuracy"])
    assert {"confusion.png", "epochs.png", "attention.png", "preprocessor_config.json"} <= set(os.listdir(out))
    again, heldout = ViTForImageClassification.from_pretrained(out), load_images(image_set).heldout
    logits = again(PixelScale.load(out).apply(heldout.pixels)).logits.astype(float)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(p, [list(line["probabilities"].values()) for line in lines], atol=1e-5)


def test_frozen_from_scratch_few_labels_and_no_model(tmp_path, image_set, mae, no_pictures, monkeypatch):
    def ended(name, *options):
        assert run("--data", image_set, "--out", str(tmp_path / name), "--epochs", "1", *options) == 0
        return metrics_of(tmp_path / name)

    assert ended("frozen", "--frozen", "--model", mae)["frozen"]
    before, after = load_image_encoder(mae), load_image_encoder(str(tmp_path / "frozen"))
    for name, weight in before.weights.items():
        np.testing.assert_array_equal(after.weights[name], weight)
    assert ended("few", "--labels-per-class", "3", "--model", mae)["labelled_images"] == 30
    assert ended("scratch", "--from-scratch", "--model", mae)["from_scratch"]
    monkeypatch.setitem(PRESETS, "tiny", Sizes(16, 1, 2, 8, 1, 2))
    assert ended("none")["from_scratch"]
    assert ViTForImageClassification.from_pretrained(tmp_path / "none").config.grid == (4, 4)


def test_images_of_another_size_with_interpolated_positions(tmp_path, larger_set, mae, no_pictures):
    options = ["--model", mae, "--data", larger_set, "--epochs", "1", "--out", str(tmp_path / "out")]
    assert run(*options, "--interpolate") == 0
    assert ViTForImageClassification.from_pretrained(tmp_path / "out").config.size == (12, 12)


def test_the_same_seed_gives_the_same_weights(tmp_path, image_set, mae, no_pictures):
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        options = ["--model", mae, "--epochs", "1", "--flip", "--crop", "1", "--labels-per-class", "2"]
        assert run("--data", image_set, "--seeds", seed, *options, "--out", str(tmp_path / name)) == 0
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b != c


def test_rows_of_each_class_are_drawn_by_the_seed(image_set):
    parts = load_images(image_set)
    rows = rows_for(parts, 4, 0)
    assert np.bincount(parts.train.labels[rows]).tolist() == [4] * 10
    assert len(set(rows.tolist())) == 40
    assert not np.array_equal(rows, rows_for(parts, 4, 1))
    assert len(rows_for(parts, 0, 0)) == 200


def test_crop_follows_the_size_of_the_images():
    def augmentation(side, **chosen):
        return ImageOptions(**chosen).augmentation(Images(np.zeros((1, 1, side, side), np.uint8)))

    assert augmentation(28) == (False, 2)
    assert augmentation(8) == (False, 0)
    assert augmentation(28, flip=True, crop=5) == (True, 5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--epochs", "0"], "--epochs 0: expected 1 or more"),
        (["--labels-per-class", "500"], "--labels-per-class 500: class '0' has 20 training images"),
        (["--labels-per-class", "-3"], "--labels-per-class -3: expected"),
        (["--frozen", "--from-scratch"], "nothing was learnt yet"),
        (["--model", "", "--frozen"], "beside --model"),
        (["--model", "", "--interpolate"], "beside --model"),
        (["--seeds", "-1"], "--seeds (-1,): expected numbers from 0"),
        (["--crop", "-1"], "--crop -1: expected"),
        (["--crop", "8"], "--crop 8: the images are 8 pixels wide or high"),
        (["--dropout", "1"], "--dropout 1.0: expected a share"),
        (["--image-size", "16"], "only PNG and JPEG files are resized"),
        (["--data", "nothing"], "nothing: No such"),
        (["--model", "nowhere/at/all"], "nowhere/at/all: no such folder"),
    ],
)
def test_wrong_use_is_one_line_and_leaves_nothing(tmp_path, image_set, mae, capsys, options, says):
    out = tmp_path / "deep" / "out"
    assert run("--model", mae, "--data", image_set, "--out", str(out), *options) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not out.parent.exists()


@pytest.mark.parametrize(
    ("classes", "labels", "says"),
    [((), None, "images without labels"), (("cat",), np.zeros(3, int), "only the class 'cat'")],
)
def test_nothing_to_tell_apart(tmp_path, monkeypatch, capsys, classes, labels, says):
    images = Images(np.zeros((3, 1, 8, 8), np.uint8), labels)
    parts = ImageParts.of("pets", classes, images, images)
    monkeypatch.setattr("minissl.recipes.image_finetuning.load_images", lambda *_: parts)
    assert run("--data", "pets", "--out", str(tmp_path / "out")) == 2
    assert f"pets: {says}; expected images of two classes" in capsys.readouterr().err


def test_ctrl_c_leaves_nothing(tmp_path, image_set, mae, monkeypatch, capsys):
    from minissl.training.trainer import Trainer

    step = Trainer.train_step

    def interrupted(self, batches):
        os.kill(os.getpid(), signal.SIGINT)
        return step(self, batches)

    monkeypatch.setattr(Trainer, "train_step", interrupted)
    assert run("--model", mae, "--data", image_set, "--out", str(tmp_path / "out")) == 2
    assert "stopped at step 1 of" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
