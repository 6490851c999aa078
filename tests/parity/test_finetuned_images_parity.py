"""A folder of `minissl finetune image` opens in `transformers`, which then says what predictions.jsonl says."""

import json

import numpy as np
import pytest

from minissl.cli import main
from minissl.models.mae import ViTMAEConfig, ViTMAEForPreTraining
from minissl.recipes.image_encoder import load_image_encoder
from minissl.vision.datasets import load_images
from minissl.vision.images import PixelScale

torch = pytest.importorskip("torch", reason="needs the extra `parity`")
transformers = pytest.importorskip("transformers", reason="needs the extra `parity`")


def write_idx(path, array):
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes())


def write_set(folder):
    folder.mkdir()
    rng = np.random.default_rng(0)
    for part, count in (("train", 60), ("t10k", 30)):
        labels = np.arange(count) % 10
        images = rng.integers(0, 80, (count, 8, 8))
        images[np.arange(count), labels // 2, labels % 8] = 255
        write_idx(folder / f"{part}-images-idx3-ubyte", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte", labels)
    return str(folder)


def test_transformers_opens_the_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("minissl.finetuning.image_classification.LEAST_ROWS", 60)
    data = write_set(tmp_path / "dots")
    parts = load_images(data)
    config = ViTMAEConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=8, patch_size=2,
        num_channels=1, decoder_hidden_size=8, decoder_num_hidden_layers=1, decoder_num_attention_heads=2,
        decoder_intermediate_size=16, initializer_range=0.3, layer_norm_eps=1e-6,
    )  # fmt: skip
    ViTMAEForPreTraining(config).save_pretrained(tmp_path / "mae")
    PixelScale.of(parts.train).save(tmp_path / "mae", (8, 8))
    out = tmp_path / "out"
    options = ["--epochs", "2", "--learning-rate", "1e-2", "--threads", "1", "--model", str(tmp_path / "mae")]
    assert main(["finetune", "image", "--data", data, "--out", str(out), *options]) == 0
    theirs = transformers.AutoModelForImageClassification.from_pretrained(out).eval()
    assert type(theirs).__name__ == "ViTForImageClassification"
    assert theirs.config.id2label == dict(enumerate(parts.classes))
    inputs = torch.from_numpy(PixelScale.load(out).apply(parts.heldout.pixels))
    with torch.no_grad():
        p = theirs(pixel_values=inputs).logits.double().softmax(-1).numpy()
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    np.testing.assert_allclose(p, [list(line["probabilities"].values()) for line in lines], atol=1e-5)
    assert [theirs.config.id2label[int(i)] for i in p.argmax(axis=1)] == [line["predicted"] for line in lines]


@pytest.mark.parametrize("kind", ["ViTMAEForPreTraining", "ViTForImageClassification", "ViTForMaskedImageModeling"])
def test_an_encoder_that_transformers_wrote(tmp_path, kind):
    sizes = {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "image_size": 12,
        "patch_size": 3, "num_channels": 3,
    }  # fmt: skip
    if kind == "ViTMAEForPreTraining":
        decoder = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
        about = transformers.ViTMAEConfig(**sizes, **{f"decoder_{key}": value for key, value in decoder.items()})
    else:
        about = transformers.ViTConfig(**sizes, encoder_stride=3)
    torch.manual_seed(0)
    theirs = getattr(transformers, kind)(about).eval()
    theirs.save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size={"height": 12, "width": 12}).save_pretrained(tmp_path)
    encoder = load_image_encoder(str(tmp_path))
    assert encoder.scale == PixelScale((0.5,) * 3, (0.5,) * 3, 1 / 255)
    images = np.random.default_rng(0).standard_normal((4, 3, 12, 12)).astype(np.float32)
    with torch.no_grad():
        if kind == "ViTMAEForPreTraining":
            theirs.vit.embeddings.config.mask_ratio = theirs.vit.config.mask_ratio = 0.0
            noise = torch.arange(16.0).repeat(4, 1)
            expected = theirs.vit(pixel_values=torch.from_numpy(images), noise=noise).last_hidden_state.numpy()
        else:
            expected = theirs.vit(pixel_values=torch.from_numpy(images)).last_hidden_state.numpy()
    np.testing.assert_allclose(encoder.model(0)(images).last_hidden_state, expected, atol=1e-5)
