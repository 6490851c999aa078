"""Images, and the scale between pixels and inputs."""

import json

import numpy as np
import pytest

from minissl.errors import InputError
from minissl.vision import ImageParts, Images, PixelScale

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, [[[[256]], [[64]], [[9]]]], (2050, 3, 5, 4)).astype(np.uint8)


def test_rows_are_taken_in_order_with_their_labels():
    images = Images(PIXELS, np.arange(2050) % 7)
    some = images.take([5, 2, 2])
    np.testing.assert_array_equal(some.pixels, PIXELS[[5, 2, 2]])
    assert some.labels.tolist() == [5, 2, 2]
    assert Images(PIXELS).take([1]).labels is None
    assert images.take([]).pixels.shape == (0, 3, 5, 4)


def test_the_fingerprint_sees_values_labels_shapes_and_parts():
    images, labels = Images(PIXELS), Images(PIXELS, np.zeros(2050, np.int64))
    prints = {
        ImageParts.of("a", names, *parts).fingerprint
        for names, parts in [
            ((), (images, images)),
            (("0",), (images, images)),
            ((), (labels, images)),
            ((), (images.take(range(2049)), images)),
            ((), (Images(PIXELS.reshape(2050, 3, 4, 5)), images)),
            ((), (Images(PIXELS.view(np.int8)), images)),
        ]
    }
    assert len(prints) == 6
    assert ImageParts.of("b", (), images, images).fingerprint in prints  # whatever it is called


def test_measured_inputs_have_mean_0_and_variance_1_in_every_channel():
    scale = PixelScale.of(Images(PIXELS))
    np.testing.assert_allclose(scale.mean, PIXELS.mean(axis=(0, 2, 3)) / 255, rtol=1e-12)
    np.testing.assert_allclose(scale.std, PIXELS.std(axis=(0, 2, 3)) / 255, rtol=1e-12)
    inputs = scale.apply(PIXELS)
    assert inputs.dtype == np.float32
    assert inputs.shape == PIXELS.shape
    np.testing.assert_allclose(inputs.mean(axis=(0, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(inputs.std(axis=(0, 2, 3)), 1, atol=1e-4)
    np.testing.assert_allclose(scale.undo(inputs), PIXELS / 255, atol=1e-6)


def test_floats_are_not_rescaled():
    pixels = RNG.normal(3, 2, (50, 1, 4, 4)).astype(np.float32)
    scale = PixelScale.of(Images(pixels))
    assert scale.rescale == 1
    np.testing.assert_allclose(scale.apply(pixels), (pixels - pixels.mean()) / pixels.std(), atol=1e-5)
    np.testing.assert_allclose(scale.undo(scale.apply(pixels)), pixels, atol=1e-5)


def test_what_cannot_be_scaled():
    with pytest.raises(InputError, match="channel 1 has the same value in every training image"):
        PixelScale.of(Images(PIXELS * np.array([1, 0, 1], np.uint8)[:, None, None]))
    with pytest.raises(InputError, match="no images"):
        PixelScale.of(Images(PIXELS[:0]))
    grey = PixelScale((0.5,), (0.2,), 1 / 255)
    for images in (PIXELS, PIXELS[0], PIXELS[:, 0]):
        with pytest.raises(InputError, match=r"expected \(images, 1 channel.*grey"):
            grey.apply(images)
        with pytest.raises(InputError, match="expected"):
            grey.undo(images)


@pytest.mark.parametrize("rescale", [1 / 255, 1.0, 1 / 127.5])
def test_the_scale_is_kept_in_a_folder(tmp_path, rescale):
    scale = PixelScale((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), rescale)
    scale.save(tmp_path, (28, 32))
    assert PixelScale.load(tmp_path) == scale
    config = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert config["size"] == {"height": 28, "width": 32}
    assert config["do_rescale"] == (rescale != 1)


def test_what_other_folders_say_and_leave_out(tmp_path):
    path = tmp_path / "preprocessor_config.json"
    path.write_text('{"size": 224, "do_resize": true}')
    assert PixelScale.load(tmp_path) == ((0.5,) * 3, (0.5,) * 3, 1 / 255)
    path.write_text('{"do_normalize": false, "do_rescale": false, "image_mean": [0.4], "image_std": [0.2]}')
    assert PixelScale.load(tmp_path) == ((0.0,), (1.0,), 1.0)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"image_mean": [0.1], "image_std": [0.1, 0.2]}', r"image_std .* expected 1 number"),
        ('{"image_mean": [0.1], "image_std": [0]}', "image_std .* above 0"),
        ('{"image_mean": 0.1}', "image_mean 0.1: expected a list of numbers"),
        ('{"image_mean": []}', "image_mean .*: expected a list"),
        ('{"image_mean": [true, 0, 0]}', "image_mean .*: expected a list"),
        ('{"image_std": [NaN, 1, 1]}', "image_std .*: expected a list"),
        ('{"image_std": ["1", 1, 1]}', "image_std .*: expected a list"),
        ('{"do_rescale": "yes"}', "do_rescale 'yes': expected true or false"),
        ('{"do_normalize": 1}', "do_normalize 1: expected true or false"),
        ('{"rescale_factor": -1}', "rescale_factor -1"),
        ('{"rescale_factor": null}', "rescale_factor None"),
        ("{", "not readable JSON"),
        ("[]", "expected a JSON object"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, content, says):
    path = tmp_path / "preprocessor_config.json"
    path.write_text(content)
    with pytest.raises(InputError, match=says) as caught:
        PixelScale.load(tmp_path)
    assert str(path) in str(caught.value)
