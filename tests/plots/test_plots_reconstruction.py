"""What the picture of a reconstruction shows, and what must never get into it."""

import numpy as np
import pytest
from matplotlib.image import imread

from minissl.errors import InputError
from minissl.plots.loss import differences, plot_image_losses, ratios
from minissl.plots.reconstruction import COVER, plot_reconstruction


def example(channels=1, n=3, size=(8, 12)):
    rng = np.random.default_rng(0)
    images, painted = rng.random((2, n, channels, *size))
    hidden = np.zeros((n, *size), bool)
    hidden[:, :4, :6] = True
    return images, hidden, painted


def drawn(monkeypatch, images, hidden, rows, path):
    """What each row of pictures holds."""
    found = []
    monkeypatch.setattr("minissl.plots.reconstruction._draw", lambda pictures, caption: found.append(pictures))
    monkeypatch.setattr("minissl.plots.reconstruction.save", lambda figure, path: None)
    plot_reconstruction(images, hidden, rows, "", path)
    return found[0]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_is_written_the_same_every_time(tmp_path, channels):
    images, hidden, painted = example(channels)
    for name in ("a.png", "b.png"):
        plot_reconstruction(images, hidden, {"reconstructed": painted}, "A caption. " * 20, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    height, width, _ = imread(tmp_path / "a.png").shape
    assert height > 300
    assert width > 500


@pytest.mark.parametrize("channels", [1, 3])
def test_hidden_pixels_are_the_models_and_visible_ones_the_images(monkeypatch, channels):
    images, hidden, painted = example(channels)
    rows = drawn(monkeypatch, images, hidden, {"reconstructed": painted}, "x.png")
    assert list(rows) == ["original", "what the model sees", "reconstructed"]
    for picture, made in zip(rows["reconstructed"], painted, strict=True):
        np.testing.assert_array_equal(picture[:4, :6], np.broadcast_to(made.transpose(1, 2, 0)[:4, :6], (4, 6, 3)))
    for i, image in enumerate(images):
        shown = np.broadcast_to(image.transpose(1, 2, 0), (8, 12, 3))
        np.testing.assert_array_equal(rows["original"][i], shown)
        for name in ("what the model sees", "reconstructed"):
            np.testing.assert_array_equal(rows[name][i][4:], shown[4:])
            np.testing.assert_array_equal(rows[name][i][:, 6:], shown[:, 6:])
    assert (rows["what the model sees"][:, :4, :6] == COVER).all()


def test_the_truth_behind_the_hidden_patches_does_not_show(monkeypatch):
    images, hidden, painted = example()
    others = np.where(hidden[:, None], 1 - images, images)
    pictures = [drawn(monkeypatch, x, hidden, {"reconstructed": painted}, "x.png") for x in (images, others)]
    for name in ("what the model sees", "reconstructed"):
        np.testing.assert_array_equal(pictures[0][name], pictures[1][name])
    assert (pictures[0]["original"] != pictures[1]["original"]).any()


def test_values_beyond_black_and_white_are_drawn_as_these(monkeypatch):
    images, hidden, painted = example()
    rows = drawn(monkeypatch, images, hidden, {"reconstructed": painted * 4 - 2}, "x.png")
    assert rows["reconstructed"].min() == 0
    assert rows["reconstructed"].max() == 1


def test_arrays_that_do_not_fit():
    images, hidden, painted = example()
    for wrong in (
        (images[:0], hidden[:0], {}), (images.repeat(2, axis=1), hidden, {}), (images, hidden[:, :4], {}),
        (images, hidden, {"reconstructed": painted[:, :, :4]}),
    ):  # fmt: skip
        with pytest.raises(InputError, match="expected"):
            plot_reconstruction(*wrong, "", "x.png")


def test_the_loss_beside_its_landmarks(tmp_path):
    records = [{"step": i, "mae": 1 / i, "heldout_mae_loss": 1 / i} for i in range(1, 30)]
    for marks in ({"mean_image": 0.7, "patch_mean": 0.3, "floor": None}, {"mean_image": 1.0, "floor": 0.4}):
        plot_image_losses(records, "mae", marks, tmp_path / "loss.png")
        assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="no loss 'simmim'"):
        plot_image_losses(records, "simmim", {}, tmp_path / "none.png")


def test_a_loss_is_compared_with_what_does_not_see_the_truth():
    marks = {"training mean image": 0.8, "true patch mean": 0.3, "exact floor": 0.2}
    assert ratios(0.4, marks, 3) == ", 0.50 × training mean image, 2.00 × exact floor"
    assert differences(5.0, {"chance ln V": 8.0, "unigram": 6.0}, 2) == ", 1.00 below unigram"
