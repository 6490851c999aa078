"""`transformers` reads the preprocessor_config.json written here and makes the same inputs; and the reverse."""

import numpy as np
import pytest

from minissl.vision import Images, PixelScale

pytest.importorskip("torch", reason="needs the extra: parity")
transformers = pytest.importorskip("transformers", reason="needs the extra: parity")

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_the_same_inputs_from_the_same_pixels(tmp_path, channels, dtype):
    pixels = RNG.integers(0, 200, (5, channels, 12, 8)).astype(np.uint8)
    if dtype == np.float32:
        pixels = (pixels / 255 + RNG.normal(size=pixels.shape)).astype(np.float32)
    scale = PixelScale.of(Images(pixels))
    scale.save(tmp_path, (12, 8))
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    assert "ViTImageProcessor" in type(processor).__name__
    inputs = processor(list(pixels), return_tensors="np", input_data_format="channels_first")["pixel_values"]
    np.testing.assert_allclose(inputs, scale.apply(pixels), atol=2e-6)


def test_what_transformers_writes_is_read(tmp_path):
    mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    processor = transformers.ViTImageProcessor(image_mean=mean, image_std=std, size={"height": 12, "width": 8})
    processor.save_pretrained(tmp_path)
    scale = PixelScale.load(tmp_path)
    assert scale == (tuple(mean), tuple(std), 1 / 255)
    pixels = RNG.integers(0, 256, (5, 3, 12, 8)).astype(np.uint8)
    inputs = processor(list(pixels), return_tensors="np", input_data_format="channels_first")["pixel_values"]
    np.testing.assert_allclose(inputs, scale.apply(pixels), atol=2e-6)
