"""Whole models on the device: outputs, every gradient, and training, as on the host."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from minissl import (
    BertForMaskedLM,
    BertForNextSentencePrediction,
    BertForPreTraining,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertModel,
    ViTConfig,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
    ViTMAEConfig,
    ViTMAEForPreTraining,
    ViTMAEModel,
    ViTModel,
)
from minissl.backend import product_precision, to_host
from minissl.cli import main
from minissl.errors import InputError
from minissl.models.bert import BertConfig
from minissl.models.bert_heads import BertForTokenClassification
from minissl.nn import Grads
from minissl.training.trainer import Trainer, TrainingOptions

B, T, V, C = 3, 9, 50, 4
CONFIG = BertConfig(
    vocab_size=V, hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=17, num_labels=C,
    max_position_embeddings=10, initializer_range=0.5,
)  # fmt: skip
RNG = np.random.default_rng(3)
INPUTS = {
    "input_ids": RNG.integers(5, V, (B, T)),
    "attention_mask": (np.arange(T) < np.array([T, 5, 7])[:, None]).astype(int),
    "token_type_ids": RNG.integers(0, 2, (B, T)),
}
WORDS = np.where(RNG.random((B, T)) < 0.4, INPUTS["input_ids"], -100)
SIZES = {
    "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 17, "image_size": (8, 12),
    "patch_size": 4, "num_channels": 2, "initializer_range": 0.5,
}  # fmt: skip
DECODER = {"decoder_hidden_size": 8, "decoder_num_attention_heads": 2, "decoder_intermediate_size": 9}
CONFIGS = {
    BertForQuestionAnswering: replace(CONFIG, num_labels=2, id2label=None),
    ViTForImageClassification: ViTConfig(**SIZES, num_labels=C),
    ViTForMaskedImageModeling: ViTConfig(**SIZES, encoder_stride=4),
    ViTModel: ViTConfig(**SIZES),
    ViTMAEModel: ViTMAEConfig(**SIZES, **DECODER),
    ViTMAEForPreTraining: ViTMAEConfig(
        **SIZES, **DECODER, decoder_num_hidden_layers=1, mask_ratio=0.6, norm_pix_loss=True
    ),
}
IMAGES = {"pixel_values": RNG.standard_normal((B, 2, 8, 12)).astype("float32")}
N = 6
BATCHES = {
    BertForPreTraining: {**INPUTS, "labels": WORDS, "next_sentence_label": np.array([1, 0, 1])},
    BertForMaskedLM: {**INPUTS, "labels": WORDS},
    BertForNextSentencePrediction: {**INPUTS, "labels": np.array([1, 0, 1])},
    BertForSequenceClassification: {**INPUTS, "labels": np.array([3, 0, 2])},
    BertForTokenClassification: {**INPUTS, "labels": np.where(WORDS == -100, -100, WORDS % C)},
    BertForQuestionAnswering: {
        **INPUTS, "start_positions": np.array([2, 0, 4]), "end_positions": np.array([4, 3, 6]),
    },
    ViTForImageClassification: {**IMAGES, "labels": np.array([3, 0, 2])},
    ViTForMaskedImageModeling: {**IMAGES, "bool_masked_pos": np.arange(B * N).reshape(B, N) % 4 != 0},
    ViTMAEForPreTraining: {**IMAGES, "noise": RNG.random((B, N))},
}  # fmt: skip

LARGER = {"pixel_values": RNG.standard_normal((B, 2, 12, 16)).astype("float32"), "interpolate_pos_encoding": True}
ENCODERS = {
    BertModel: INPUTS,
    ViTModel: LARGER,
    ViTMAEModel: {**IMAGES, "noise": RNG.random((B, N))},
}
STATES = {"output_hidden_states": True, "output_attentions": True}

HMM = ["--data", "hmm", "--steps", "5", "--batch-size", "4", "--seq-len", "12", "--save-every", "2"]


def model(kind, dtype="float64"):
    return kind(CONFIGS.get(kind, CONFIG), seed=1, dtype=dtype)


every_kind = pytest.mark.parametrize("kind", BATCHES, ids=[kind.__name__ for kind in BATCHES])


def close(found, expected, tolerance, name):
    assert np.abs(to_host(found) - expected).max() <= tolerance * max(1, np.abs(expected).max()), name


@every_kind
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-12)])
def test_loss_gradients_and_outputs_are_those_of_the_host(cupy, kind, dtype, tolerance):
    """The reference is the host's in float64, from numbers that float32 holds."""
    host = model(kind, "float32").astype("float64")
    device = model(kind, "float32").to("cuda").astype(dtype)
    batch = BATCHES[kind]
    loss, gradients = host.loss_and_grads(**batch)
    device_loss, device_gradients = device.loss_and_grads(**batch)
    assert device_loss == pytest.approx(loss, rel=tolerance)
    assert list(device_gradients) == list(gradients)
    for key, gradient in device_gradients.items():
        assert isinstance(gradient, cupy.ndarray)
        assert gradient.dtype == dtype
        close(gradient, gradients[key], tolerance, key)
    expected, found = host(**batch), device(**batch)
    assert list(found) == list(expected)
    for name, value in found.items():
        assert isinstance(value, cupy.ndarray)
        close(value, expected[name], tolerance, name)


@pytest.mark.parametrize("kind", [*ENCODERS, *BATCHES], ids=lambda kind: kind.__name__)
def test_every_state_and_weight_of_attention_is_that_of_the_host(cupy, kind):
    batch = {**ENCODERS, **BATCHES}[kind]
    expected, found = model(kind)(**batch, **STATES), model(kind).to("cuda")(**batch, **STATES)
    assert list(found) == list(expected)
    assert {"hidden_states", "attentions"} <= set(found)
    for name, value in found.items():
        values, of_host = (x if isinstance(x, tuple) else (x,) for x in (value, expected[name]))
        assert len(values) == len(of_host)
        for one, other in zip(values, of_host, strict=True):
            assert isinstance(one, cupy.ndarray)
            close(one, other, 1e-12, name)


@pytest.mark.parametrize("precision", ["tf32", "float16", "bfloat16"])
def test_products_in_fewer_bits_stay_near_the_float64_reference(cupy, precision):
    if precision == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed (extra: gpu)")
    config = replace(CONFIG, initializer_range=0.1)
    host, device = (BertForPreTraining(config) for _ in range(2))
    host.astype("float64")
    device.to("cuda")
    _, expected = host.loss_and_grads(**BATCHES[BertForPreTraining])
    with product_precision(precision, device.decoder):
        _, found = device.loss_and_grads(**BATCHES[BertForPreTraining])
    off, whole = (
        np.sqrt(sum(np.square(x).sum() for x in gradients))
        for gradients in ([to_host(found[key]) - expected[key] for key in expected], expected.values())
    )
    assert 1e-5 < off / whole <= 1e-2  # more than float32 rounds, or the precision reached no product


@pytest.mark.parametrize(("labels", "classes"), [((B, C), C), ((B,), 1)], ids=["several at once", "a number"])
def test_labels_that_are_numbers(cupy, labels, classes):
    config = replace(CONFIG, num_labels=classes, id2label=None)
    batch = {**INPUTS, "labels": RNG.random(labels)}
    of_host, moved = (
        BertForSequenceClassification(config, dtype="float64").to(where).loss_and_grads(**batch)
        for where in ("cpu", "cuda")
    )
    assert moved[0] == pytest.approx(of_host[0], rel=1e-12)
    for key, gradient in moved[1].items():
        close(gradient, of_host[1][key], 1e-12, key)


@pytest.mark.parametrize("kind", BATCHES, ids=[kind.__name__ for kind in BATCHES])
def test_the_loss_scale_multiplies_every_gradient_and_no_loss(kind):
    found = []
    for scale in (1.0, 1024.0):
        scaled = model(kind)
        grads = Grads(scaled)
        grads.loss_scale = scale
        losses = scaled.losses_and_backward(BATCHES[kind], scaled.counts(BATCHES[kind]), grads, None)
        found.append((losses, grads.collect()))
    (losses, gradient), (same_losses, scaled_gradient) = found
    assert same_losses == losses
    np.testing.assert_array_equal(scaled_gradient, 1024 * gradient)


def test_training_steps_with_dropout_are_those_of_the_host(cupy):
    """The masks of dropout are the same bits wherever they are drawn; float32, as people train."""
    batch = BATCHES[BertForPreTraining]
    weights = []
    for device in ("cpu", "cuda"):
        trained = model(BertForPreTraining, "float32").to(device)
        trainer = Trainer(trained, TrainingOptions(4, 1e-2, threads=1))
        try:
            losses = [trainer.train_step([batch]).losses["mlm"] for _ in range(4)]
        finally:
            trainer.close()
        weights.append((losses, {key: to_host(w) for key, w in trained.state_dict().items()}))
    (losses, of_host), (device_losses, of_device) = weights
    assert losses[-1] < losses[0]
    assert device_losses == pytest.approx(losses, rel=1e-4)
    for key, weight in of_host.items():
        if not key.endswith("key.bias"):  # whose gradient is nothing but rounding, of which AdamW makes whole steps
            np.testing.assert_allclose(of_device[key], weight, atol=2e-4, err_msg=key)


def test_the_command_pretrains_evaluates_and_resumes_on_the_device(cupy, quick):
    """The whole of `minissl pretrain --device cuda`, and the same run on the host."""
    options = [*HMM, "--threads", "1", "--dropout", "0.1"]
    for device in ("cpu", "cuda"):
        assert main(["pretrain", *options, "--device", device, "--out", device]) == 0
    host, moved = (json.loads(Path(folder, "metrics.json").read_text()) for folder in ("cpu", "cuda"))
    assert moved["mlm_loss"] == pytest.approx(host["mlm_loss"], rel=1e-4)
    assert moved["mlm_accuracy"] == pytest.approx(host["mlm_accuracy"], abs=0.02)
    assert json.loads(Path("cuda", "run.json").read_text())["options"]["device"] == "cuda"


@pytest.mark.parametrize("objective", ["mae", "simmim"])
def test_images_pretrain_on_the_device(cupy, quick, monkeypatch, objective):
    monkeypatch.setattr("minissl.recipes.image_pretraining.HELDOUT_IMAGES", 16)
    monkeypatch.setattr("minissl.plots.loss.plot_image_losses", lambda *_: None)
    monkeypatch.setattr("minissl.plots.reconstruction.plot_reconstruction", lambda *_: None)
    options = ["--data", "digits", "--preset", "nano", "--steps", "3", "--batch-size", "4", "--threads", "1"]
    pytest.importorskip("sklearn", reason="digits come from scikit-learn")
    for device in ("cpu", "cuda"):
        assert main(["pretrain", objective, *options, "--device", device, "--out", device]) == 0
    host, moved = (json.loads(Path(folder, "metrics.json").read_text()) for folder in ("cpu", "cuda"))
    assert moved["loss"] == pytest.approx(host["loss"], rel=1e-4)


def test_a_run_on_the_device_goes_on_from_its_checkpoint(cupy, quick, monkeypatch):
    options = [*HMM, "--device", "cuda"]
    assert main(["pretrain", *options, "--out", "whole"]) == 0
    step = Trainer.train_step

    def stopped(trainer, batches):
        if trainer.step == 3:
            raise KeyboardInterrupt
        return step(trainer, batches)

    monkeypatch.setattr(Trainer, "train_step", stopped)
    assert main(["pretrain", *options, "--out", "run"]) == 2
    monkeypatch.setattr(Trainer, "train_step", step)
    assert main(["pretrain", "--resume", "run"]) == 0
    assert Path("run", "model.safetensors").read_bytes() == Path("whole", "model.safetensors").read_bytes()


@pytest.mark.parametrize("kind", [*ENCODERS, *BATCHES], ids=lambda kind: kind.__name__)
def test_a_folder_is_read_onto_the_device_and_written_from_it(cupy, tmp_path, kind):
    host = model(kind, "float32")
    host.save_pretrained(tmp_path / "host")
    device = kind.from_pretrained(tmp_path / "host", device="cuda")
    assert (host.device, device.device) == ("cpu", "cuda")
    assert all(isinstance(weight, cupy.ndarray) for weight in device.state_dict().values())
    device.save_pretrained(tmp_path / "device")
    assert device.device == "cuda"
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "device" / name).read_bytes() == (tmp_path / "host" / name).read_bytes()
    other = model(kind, "float32").to("cuda")
    other.load_state_dict(device.state_dict())  # from the device, tied weights twice, and from the host
    other.load_state_dict(host.state_dict())


def test_moved_and_converted_in_either_order(cupy):
    expected = model(BertForPreTraining).astype("float32").state_dict()
    for converted in (
        model(BertForPreTraining).astype("float32").to("cuda"),
        model(BertForPreTraining).to("cuda").astype("float32"),
    ):
        assert converted.device == "cuda"
        for key, weight in converted.state_dict().items():
            np.testing.assert_array_equal(to_host(weight), expected[key], err_msg=key)


@every_kind
@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_inputs_on_the_device_are_refused_with_what_to_do(cupy, kind, where):
    bert = model(kind).to(where)
    for name, array in BATCHES[kind].items():
        batch = {**BATCHES[kind], name: cupy.asarray(array)}
        for use in (bert.loss_and_grads, bert):
            with pytest.raises(InputError, match=rf"^{name}: an array on the GPU given.*; give {name}\.get\(\)"):
                use(**batch)


def test_ids_are_checked_on_the_host_before_they_go(cupy):
    """CuPy would wrap them."""
    device = model(BertForPreTraining).to("cuda")
    batch = BATCHES[BertForPreTraining]
    for name, wrong in (("input_ids", V), ("token_type_ids", -1), ("labels", V + 3), ("next_sentence_label", 2)):
        bad = batch[name].copy()
        bad.reshape(-1)[0] = wrong
        with pytest.raises(InputError, match=f"^{name}.*: {wrong} is outside"):
            device.loss_and_grads(**{**batch, name: bad})
    reader = model(BertForQuestionAnswering).to("cuda")
    with pytest.raises(InputError, match=r"start_positions.*: -1 is outside"):
        reader.loss_and_grads(**{**BATCHES[BertForQuestionAnswering], "start_positions": np.array([-1, 0, 1])})


def test_a_model_comes_back_to_the_host_as_it_was(cupy):
    there_and_back = model(BertForPreTraining).to("cuda").to("cpu")
    for key, weight in model(BertForPreTraining).state_dict().items():
        assert np.array_equal(there_and_back.state_dict()[key], weight), key


@pytest.mark.parametrize(
    ("device", "said"), [("gpu", "'gpu': expected 'cpu' or 'cuda'"), ("cuda", "CuPy is missing; pip")]
)
def test_a_device_that_is_not_there_is_one_line(monkeypatch, device, said):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(InputError, match=said):
        model(BertForMaskedLM).to(device)
    with pytest.raises(InputError, match=said):  # before the folder is looked for
        BertForMaskedLM.from_pretrained("nowhere", device=device)
