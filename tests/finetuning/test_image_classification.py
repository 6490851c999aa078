"""Passes over images, features, and a classifier's training on images whose class a bright corner decides."""

import numpy as np
import pytest

from minissl.errors import InputError
from minissl.finetuning import image_classification
from minissl.finetuning.frozen import FrozenImageEncoder
from minissl.finetuning.image_classification import Augmentation, Passes, encode, fine_tune, predict
from minissl.finetuning.loop import FinetuneOptions
from minissl.models.vit import ViTConfig, ViTForImageClassification
from minissl.nn import Grads
from minissl.vision.images import Images, PixelScale
from minissl.workers import Workers

OPTIONS = FinetuneOptions(epochs=4, batch_size=8, learning_rate=1e-2, threads=1)
SCALE = PixelScale((0.2,), (0.3,), 1 / 255)


@pytest.fixture(autouse=True)
def short_passes(monkeypatch):
    monkeypatch.setattr(image_classification, "LEAST_ROWS", 40)


@pytest.fixture
def workers():
    made = Workers(2)
    yield made
    made.close()


def images(count, seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(3, size=count)
    pixels = rng.integers(0, 90, (count, 1, 6, 6)).astype(np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        image[0, 2 * label : 2 * label + 2, :3] = 250
    return Images(pixels, labels)


def vit(seed=0, dtype="float32"):
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=6, patch_size=2,
        num_channels=1, num_labels=3, initializer_range=0.2,
    )  # fmt: skip
    return ViTForImageClassification(config, seed=seed, dtype=dtype)


def test_a_pass_shows_every_image_as_often_as_it_says():
    some = Images(np.arange(10, dtype=np.uint8).repeat(36).reshape(10, 1, 6, 6), np.arange(10))
    made = list(Passes(some, PixelScale((0.0,), (1.0,), 1.0), 4, [0, 1], Augmentation(), repeats=3))
    assert [len(batch["labels"]) for batch in made] == [4] * 7 + [2]
    labels = np.concatenate([batch["labels"] for batch in made])
    assert np.bincount(labels).tolist() == [3] * 10
    assert sorted(labels[:10]) == sorted(labels[10:20]) == list(range(10))  # all once before any again
    np.testing.assert_array_equal(np.concatenate([b["pixel_values"][:, 0, 0, 0] for b in made]), labels)


def test_a_pass_is_a_function_of_its_seed_and_augmentation_of_that_too():
    def made(seed, augmentation):
        passes = Passes(images(12, 0), SCALE, 5, [seed, 1], augmentation, repeats=1)
        return np.concatenate([batch["pixel_values"] for batch in passes])

    plain, moved = Augmentation(), Augmentation(flip=True, crop=2)
    np.testing.assert_array_equal(made(0, moved), made(0, moved))
    assert not np.array_equal(made(0, moved), made(1, moved))
    assert not np.array_equal(made(0, moved), made(0, plain))


def test_features_are_the_class_token_and_the_mean_of_the_patches(workers, monkeypatch):
    monkeypatch.setattr(image_classification, "EVALUATION_ROWS", 4)
    model, some = vit(), images(11, 0)
    found = encode(model.vit, some, SCALE, workers)
    hidden = model.vit(SCALE.apply(some.pixels)).last_hidden_state
    np.testing.assert_allclose(found.class_token, hidden[:, 0], atol=1e-5)
    np.testing.assert_allclose(found.patches, hidden[:, 1:].mean(axis=1), atol=1e-5)
    np.testing.assert_array_equal(found.both, np.concatenate([found.class_token, found.patches], axis=1))
    logits = model(SCALE.apply(some.pixels)).logits.astype(float)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(predict(model, some, SCALE, workers), p, atol=1e-5)


@pytest.mark.parametrize("frozen", [False, True])
def test_it_learns_and_a_frozen_encoder_stays(frozen):
    model = vit()
    before = {name: p.data.copy() for name, p in model.named_parameters()}
    epochs = fine_tune(model, images(120, 0), images(60, 1), SCALE, OPTIONS, frozen=frozen)
    assert epochs[-1].losses["classification"] < epochs[0].losses["classification"]
    assert epochs[-1].heldout["accuracy"] > (0.4 if frozen else 0.95)  # one in three by chance
    changed = {name for name, p in model.named_parameters() if not np.array_equal(p.data, before[name])}
    if frozen:
        assert changed == {"classifier.weight", "classifier.bias"}
    else:
        assert changed == set(before)


def test_the_frozen_encoders_gradient_is_the_whole_models():
    model, some = vit(dtype="float64"), images(7, 0)
    inputs = SCALE.apply(some.pixels).astype(np.float64)
    loss, expected = model.loss_and_grads(pixel_values=inputs, labels=some.labels)
    head = FrozenImageEncoder(model)
    batch = {"hidden": model.vit(inputs).last_hidden_state[:, 0], "labels": some.labels}
    grads = Grads(head)
    losses = head.losses_and_backward(batch, head.counts(batch), grads, None)
    assert losses["classification"] == pytest.approx(loss)
    for name in ("weight", "bias"):
        found = grads[getattr(model.classifier, name)]
        np.testing.assert_allclose(found, expected[f"classifier.{name}"], atol=1e-12)


def test_early_stopping_looks_at_training_images_alone():
    options = FinetuneOptions(epochs=9, batch_size=8, learning_rate=1e-2, threads=1, patience=1)
    train, heldout = images(60, 0), images(30, 1)
    epochs = fine_tune(vit(), train, heldout, SCALE, options)
    other = fine_tune(vit(), train, images(30, 2), SCALE, options)
    assert [e.heldout["stopping"] for e in epochs] == [e.heldout["stopping"] for e in other]
    assert len(epochs) < 9


def test_images_without_labels():
    some = images(5, 0)
    with pytest.raises(InputError, match="no labels"):
        fine_tune(vit(), Images(some.pixels), some, SCALE, OPTIONS)
