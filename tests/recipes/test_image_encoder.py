"""From a folder to a ViT with its encoder's weights, or fresh ones of the same sizes."""

import json
import warnings

import numpy as np
import pytest

from minissl.errors import InputError
from minissl.models.bert import BertConfig, BertModel
from minissl.models.mae import ViTMAEModel
from minissl.models.vit import ViTForImageClassification, ViTForMaskedImageModeling
from minissl.ops import interpolate_positions_forward, sincos_positions
from minissl.recipes.image_encoder import encoder_for, fresh_weights, load_image_encoder, preset_config
from minissl.vision.datasets import load_images
from minissl.vision.images import PixelScale

CLASSES = tuple("abc")
IMAGES = np.random.default_rng(0).standard_normal((5, 1, 8, 8)).astype(np.float32)


def test_a_masked_autoencoders_encoder_sees_the_same_with_nothing_hidden(mae):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its decoder is left
        theirs = ViTMAEModel.from_pretrained(mae, mask_ratio=0.0)
    in_order = np.tile(np.arange(16.0), (5, 1))
    expected = theirs(IMAGES, noise=in_order).last_hidden_state
    encoder = load_image_encoder(mae)
    np.testing.assert_allclose(encoder.model(0)(IMAGES).last_hidden_state, expected, atol=1e-5)
    classifier = encoder.classifier(CLASSES, 0)
    np.testing.assert_allclose(classifier.vit(IMAGES).last_hidden_state, expected, atol=1e-5)
    assert classifier.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert classifier(IMAGES).logits.shape == (5, 3)


def test_a_simmim_encoder_too(simmim):
    theirs = ViTForMaskedImageModeling.from_pretrained(simmim)
    expected = theirs.vit(IMAGES).last_hidden_state
    np.testing.assert_allclose(load_image_encoder(simmim).model(0)(IMAGES).last_hidden_state, expected, atol=1e-5)


def test_a_classifiers_encoder_and_scale_come_back_and_its_head_does_not(mae, tmp_path):
    first = load_image_encoder(mae)
    saved = first.classifier(CLASSES, 0)
    saved.save_pretrained(tmp_path / "saved")
    first.scale.save(tmp_path / "saved", (8, 8))
    again = load_image_encoder(str(tmp_path / "saved"))
    assert again.scale == first.scale
    model = again.classifier(tuple("de"), 1)
    np.testing.assert_array_equal(model.vit(IMAGES).last_hidden_state, saved.vit(IMAGES).last_hidden_state)
    assert model.config.id2label == {0: "d", 1: "e"}


def test_fresh_weights_begin_as_an_autoencoder_does_and_by_their_seed(mae):
    encoder = load_image_encoder(mae)
    weights = fresh_weights(encoder.config, 1)
    np.testing.assert_allclose(weights["embeddings.position_embeddings"][0], sincos_positions((4, 4), 16), atol=1e-6)
    some = "encoder.layer.0.attention.attention.query.weight"
    assert not np.array_equal(weights[some], encoder.weights[some])
    assert not np.array_equal(weights[some], fresh_weights(encoder.config, 2)[some])
    model = encoder.classifier(CLASSES, 1, from_scratch=True)
    np.testing.assert_array_equal(model.vit.state_dict()[some], weights[some])
    table = dict(model.named_parameters())["vit.embeddings.position_embeddings"]
    _, grads = model.loss_and_grads(pixel_values=IMAGES, labels=np.array([0, 1, 2, 0, 1]))
    assert np.abs(grads["vit.embeddings.position_embeddings"]).max() > 0  # unlike the autoencoder's, it is trained
    assert table.data.shape == (1, 17, 16)


def test_positions_are_fitted_to_larger_images_on_request(mae, larger_set):
    parts = load_images(larger_set)
    with pytest.raises(InputError, match=r"takes images of 8 × 8 pixels, those of larger have 12 × 12.*--interpolate"):
        encoder_for(parts, mae)
    before, after = load_image_encoder(mae), encoder_for(parts, mae, interpolate=True)
    assert after.config.size == (12, 12)
    expected, _ = interpolate_positions_forward(before.weights["embeddings.position_embeddings"][0], (4, 4), (6, 6))
    np.testing.assert_array_equal(after.weights["embeddings.position_embeddings"][0], expected)
    inputs = after.scale.apply(parts.heldout.pixels[:3])
    theirs = before.model(0)(inputs, interpolate_pos_encoding=True).last_hidden_state
    np.testing.assert_allclose(after.model(0)(inputs).last_hidden_state, theirs, atol=1e-5)


def test_without_a_model_the_preset_and_the_images_own_scale(image_set):
    parts = load_images(image_set)
    encoder = encoder_for(parts, "")
    assert encoder.weights is None
    assert encoder.scale == PixelScale.of(parts.train)
    assert (encoder.config.size, encoder.config.num_channels) == ((8, 8), 1)


@pytest.mark.parametrize(
    ("size", "side"), [((28, 28), 4), ((32, 32), 4), ((8, 8), 2), ((224, 224), 32), ((28, 56), 4), ((29, 29), 1)]
)
def test_the_presets_patches(size, side):
    config = preset_config(size, 3)
    assert config.patch_size == side
    assert config.size == size


def test_colour_asked_and_grey_given(colour_mae, image_set):
    with pytest.raises(InputError, match=r"takes images of 3 channel\(s\), colour, those of spots have 1 .*grey"):
        encoder_for(load_images(image_set), colour_mae)


def test_what_is_wrong_with_a_folder_is_said(mae, tmp_path, image_set):
    preprocessor = tmp_path / "mae" / "preprocessor_config.json"
    about = json.loads(preprocessor.read_text())
    preprocessor.write_text(json.dumps(about | {"image_mean": [0.1] * 3, "image_std": [0.1] * 3}))
    with pytest.raises(InputError, match=r"means of 3 channel\(s\), the model takes 1: not of one run"):
        load_image_encoder(mae)
    preprocessor.unlink()
    with pytest.raises(InputError, match=r"preprocessor_config\.json"):
        load_image_encoder(mae)
    (tmp_path / "mae" / "run.json").write_text("{}")
    with pytest.raises(InputError, match="this run has not ended"):
        load_image_encoder(mae)
    config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    BertModel(config).save_pretrained(tmp_path / "bert")
    with pytest.raises(InputError, match="model_type 'bert' given"):
        load_image_encoder(str(tmp_path / "bert"))
    with pytest.raises(InputError, match="no such folder"):
        load_image_encoder(str(tmp_path / "nothing"))


def test_a_file_without_the_whole_encoder(mae, tmp_path):
    from minissl.files import read_arrays, write_arrays

    path = tmp_path / "mae" / "model.safetensors"
    arrays, about = read_arrays(path)
    del arrays["vit.encoder.layer.1.layernorm_before.weight"]
    write_arrays(path, arrays, about)
    with pytest.raises(InputError, match=r"lacks 1 of the encoder's weights, encoder.layer.1.layernorm_before.weight"):
        load_image_encoder(mae)


def test_a_classifier_trains_from_there(mae):
    model = load_image_encoder(mae).classifier(CLASSES, 0, dropout=0.2)
    assert isinstance(model, ViTForImageClassification)
    assert model.config.hidden_dropout_prob == model.config.attention_probs_dropout_prob == 0.2
