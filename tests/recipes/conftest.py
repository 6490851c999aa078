"""What the tests of images use: small sets in MNIST's format, and small encoders of random weights."""

import numpy as np
import pytest

from minissl.models.mae import ViTMAEConfig, ViTMAEForPreTraining
from minissl.models.vit import ViTConfig, ViTForMaskedImageModeling
from minissl.vision.datasets import load_images
from minissl.vision.images import PixelScale

SIZES = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "image_size": 8,
    "patch_size": 2, "num_channels": 1, "layer_norm_eps": 1e-6,
}  # fmt: skip
DECODER = {
    "decoder_hidden_size": 8, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 16,
}  # fmt: skip


def write_idx(path, array):
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes())


def write_set(folder, train=200, heldout=40, side=8):
    """Ten classes in turn; each has a bright spot at a place of its own, and noise."""
    folder.mkdir()
    rng = np.random.default_rng(side)
    for part, count in (("train", train), ("t10k", heldout)):
        labels = np.arange(count) % 10
        images = rng.integers(0, 60, (count, side, side))
        for image, label in zip(images, labels, strict=True):
            top, left = label // 4 * (side // 4), label % 4 * (side // 4)
            image[top : top + side // 4, left : left + side // 4] += 180
        write_idx(folder / f"{part}-images-idx3-ubyte", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte", labels)
    return str(folder)


def write_mae(folder, data, **changes):
    """A masked autoencoder of random weights, for a set of images; with three channels for none of these."""
    config = ViTMAEConfig(**SIZES | DECODER | changes)
    ViTMAEForPreTraining(config, seed=3).save_pretrained(folder)
    _scale(data, config.num_channels).save(folder, config.size)
    return str(folder)


def write_simmim(folder, data):
    config = ViTConfig(**SIZES, encoder_stride=2)
    ViTForMaskedImageModeling(config, seed=3).save_pretrained(folder)
    _scale(data, 1).save(folder, config.size)
    return str(folder)


def _scale(data, channels):
    scale = PixelScale.of(load_images(data).train)
    return PixelScale(scale.mean * channels, scale.std * channels, scale.rescale)


@pytest.fixture
def image_set(tmp_path):
    """A folder of 200 and 40 images of 8 × 8, grey, of ten classes."""
    return write_set(tmp_path / "spots")


@pytest.fixture
def larger_set(tmp_path):
    """The same of 12 × 12."""
    return write_set(tmp_path / "larger", side=12)


@pytest.fixture
def mae(tmp_path, image_set):
    """The folder of a masked autoencoder for `image_set`."""
    return write_mae(tmp_path / "mae", image_set)


@pytest.fixture
def colour_mae(tmp_path, image_set):
    """The folder of one for images of three channels."""
    return write_mae(tmp_path / "colour", image_set, num_channels=3)


@pytest.fixture
def simmim(tmp_path, image_set):
    """The folder of a SimMIM model for `image_set`."""
    return write_simmim(tmp_path / "simmim", image_set)
