"""`minissl pretrain --precision`: on a device alone, kept with the run, and resumed with its loss scale."""

import json
from pathlib import Path

import numpy as np
import pytest

import stand_in_cublas
from minissl.cli import main
from minissl.kernels import enabled
from minissl.models.bert import PRESETS, BertForPreTraining
from minissl.training import loss_scale
from minissl.training.trainer import Trainer

HMM = ["pretrain", "--data", "hmm", "--steps", "5", "--batch-size", "4", "--seq-len", "12", "--save-every", "2"]
FIELD = ["--data", "gaussian-field", "--preset", "nano", "--steps", "3", "--batch-size", "4"]

rounds = pytest.mark.skipif(not enabled(), reason="MINISSL_KERNELS=off: the reference ops multiply by @")


@pytest.fixture(autouse=True)
def small(cupy, quick, monkeypatch):
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 40}
    monkeypatch.setitem(PRESETS, "tiny", {**PRESETS["tiny"], **sizes})
    monkeypatch.setattr("minissl.recipes.image_pretraining.HELDOUT_IMAGES", 16)
    monkeypatch.setattr("minissl.plots.loss.plot_image_losses", lambda *_: None)
    monkeypatch.setattr("minissl.plots.reconstruction.plot_reconstruction", lambda *_: None)


def metrics(folder):
    return json.loads(Path(folder, "metrics.json").read_text())


@rounds
def test_texts_in_float16_stopped_and_resumed(monkeypatch, capsys):
    """The first scale is too large, so that the scale a run resumes with is not the one that it began with."""
    monkeypatch.setattr(loss_scale, "FIRST", 2.0**22)
    options = [*HMM, "--device", "cuda"]
    assert main([*options, "--out", "float32"]) == 0
    assert main([*options, "--precision", "float16", "--out", "whole"]) == 0
    assert "products in float16" in capsys.readouterr().out
    assert json.loads(Path("whole", "run.json").read_text())["options"]["precision"] == "float16"
    assert metrics("whole")["mlm_loss"] == pytest.approx(metrics("float32")["mlm_loss"], rel=1e-2)

    scales, step = [], Trainer.train_step

    def stopped(trainer, batches):
        if trainer.step == 3:
            raise KeyboardInterrupt
        return step(trainer, batches)

    def watched(trainer, batches):
        scales.append(float(trainer.state()["loss_scale"][0]))
        return step(trainer, batches)

    monkeypatch.setattr(Trainer, "train_step", stopped)
    assert main([*options, "--precision", "float16", "--out", "run"]) == 2
    monkeypatch.setattr(Trainer, "train_step", watched)
    assert main(["pretrain", "--resume", "run"]) == 0
    assert scales[0] < 2.0**22
    assert Path("run", "model.safetensors").read_bytes() == Path("whole", "model.safetensors").read_bytes()
    assert Path("run", "model.safetensors").read_bytes() != Path("float32", "model.safetensors").read_bytes()


@rounds
def test_what_overflows_in_float16_is_found_there(monkeypatch, capsys):
    """In float32 nothing would be wrong with these weights."""
    make = BertForPreTraining.pack

    def large(model):
        model.predictions.dense.weight.data *= 1e6
        return make(model)

    monkeypatch.setattr(BertForPreTraining, "pack", large)
    assert main([*HMM, "--device", "cuda", "--precision", "float16", "--out", "run"]) == 2
    assert "first in the output of the layer predictions.dense" in capsys.readouterr().err


@rounds
@pytest.mark.parametrize(("precision", "code"), [("tf32", 77), ("bfloat16", 68)])
def test_images(precision, code):
    if precision == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed (extra: gpu)")
    stand_in_cublas.CALLS.clear()
    assert main(["pretrain", "mae", *FIELD, "--device", "cuda", "--precision", precision, "--out", "run"]) == 0
    assert {call["computeType"] for call in stand_in_cublas.CALLS if call["Atype"] in (0, 14)} >= {code}
    assert np.isfinite(metrics("run")["loss"])
    assert json.loads(Path("run", "run.json").read_text())["options"]["precision"] == precision


@pytest.mark.parametrize("command", [HMM, ["pretrain", "mae", *FIELD], ["pretrain", "simmim", *FIELD]])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--precision", "float16"], "precision 'float16': only a GPU multiplies faster in it"),
        (["--device", "cuda", "--precision", "fp16"], "precision 'fp16': expected one of float32, tf32, float16, bf"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_no_folder(capsys, command, options, said):
    assert main([*command, *options, "--out", "run"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.strip().splitlines()) == 1
    assert not Path("run").exists()


def test_a_run_goes_on_in_its_own_precision(capsys):
    assert main(["pretrain", "--resume", "run", "--precision", "bfloat16"]) == 2
    assert "--resume goes on with a run's own settings" in capsys.readouterr().err
