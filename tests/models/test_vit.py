"""ViT and SimMIM: their gradients, what they return, and what they refuse."""

import itertools

import numpy as np
import pytest

from minissl.errors import InputError
from minissl.gradcheck import check_model
from minissl.models import (
    ViTConfig,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
    ViTMAEConfig,
    ViTMAEForPreTraining,
    ViTModel,
)
from minissl.nn import Grads
from minissl.training import Trainer, TrainingOptions

B, C, P, h, w, D = 5, 3, 4, 2, 3, 12
N = h * w
SIZES = {
    "hidden_size": D, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 17, "patch_size": P,
    "image_size": (h * P, w * P), "num_channels": C, "encoder_stride": P, "num_labels": 4,
}  # fmt: skip
DROPOUT = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.3}


def new(kind=ViTForImageClassification, dtype="float64", seed=0, **changes):
    return kind(ViTConfig(**(SIZES | changes)), seed=seed, dtype=dtype)


def images(seed=0, size=(h * P, w * P), channels=C):
    return np.random.default_rng(seed).standard_normal((B, channels, *size))


def mask(seed=0):
    hidden = np.random.default_rng(seed).random((B, N)) < 0.5
    hidden[0], hidden[1, 0] = False, True  # an image, and so perhaps a whole share, of which nothing is hidden
    return hidden


LABELS = np.array([3, 0, -100, 2, 2])
LEARNING = {
    ViTForImageClassification: ("classification", {"labels": LABELS}),
    ViTForMaskedImageModeling: ("simmim", {"bool_masked_pos": mask()}),
}
each = pytest.mark.parametrize("kind", LEARNING)


def batch(kind):
    return {"pixel_values": images(), **LEARNING[kind][1]}


@each
def test_gradients(kind):
    inputs = {**batch(kind), "rng": np.random.default_rng(1)}
    report = check_model(new(kind, **DROPOUT), inputs, entries=2, directions=1)
    assert report.ok, report
    assert len(report.arguments) == 4 + 16 + 2 + (2 if kind is ViTForImageClassification else 3)


def test_gradients_of_interpolated_positions_and_without_biases():
    larger = {"pixel_values": images(size=(3 * P, 5 * P)), "labels": LABELS, "interpolate_pos_encoding": True}
    report = check_model(new(qkv_bias=False), larger, entries=2, directions=1)
    assert report.ok, report
    assert not [name for name in report.arguments if "attention.attention" in name and name.endswith("bias")]


@each
@pytest.mark.parametrize("edges", [[0, 2, 5], [0, 1, 2, 3, 4, 5]])
def test_the_gradients_of_shares_add_up_to_that_of_the_batch(kind, edges):
    model, whole, name = new(kind), batch(kind), LEARNING[kind][0]
    counts = model.counts(whole)
    assert counts == {name: 4 if kind is ViTForImageClassification else mask().sum()}
    expected, together = Grads(model), Grads(model)
    loss = model.losses_and_backward(whole, counts, expected, None)[name]
    shares = [{key: array[a:b] for key, array in whole.items()} for a, b in itertools.pairwise(edges)]
    losses = [model.losses_and_backward(share, counts, together, None)[name] for share in shares]
    assert sum(losses) == pytest.approx(loss, rel=1e-12)
    gradient = expected.collect()
    assert np.abs(together.collect() - gradient).max() <= 1e-12 * np.abs(gradient).max()


@each
def test_the_loss_of_evaluation_is_the_loss_of_training_without_dropout(kind):
    model, inputs = new(kind, **DROPOUT), batch(kind)
    assert float(model(**inputs).loss) == pytest.approx(model.loss_and_grads(**inputs)[0], rel=1e-12)


@each
def test_training_lowers_the_loss(kind):
    model, inputs = new(kind, dtype="float32"), batch(kind)
    trainer = Trainer(model, TrainingOptions(steps=20, learning_rate=1e-2, threads=2))
    records = [trainer.train_step([inputs]) for _ in range(20)]
    trainer.close()
    name = LEARNING[kind][0]
    assert records[-1].losses[name] < 0.9 * records[0].losses[name]


def test_what_the_encoder_returns():
    model = new(ViTModel, num_hidden_layers=2, pooler_output_size=7)
    out = model(images(), output_hidden_states=True, output_attentions=True)
    assert list(out) == ["last_hidden_state", "pooler_output", "hidden_states", "attentions"]
    assert out.last_hidden_state.shape == (B, 1 + N, D)
    assert out.pooler_output.shape == (B, 7)
    assert [state.shape for state in out.hidden_states] == [(B, 1 + N, D)] * 3
    assert [weights.shape for weights in out.attentions] == [(B, 3, 1 + N, 1 + N)] * 2
    assert "pooler_output" not in ViTModel(model.config, add_pooling_layer=False)(images())


def test_the_mask_token_stands_for_hidden_patches():
    model = ViTModel(ViTConfig(**SIZES), dtype="float64", use_mask_token=True)
    model.embeddings.mask_token.data[...] = 1
    seen, other = images(), images(1)
    hidden = mask()
    pixels = hidden.reshape(B, 1, h, w).repeat(P, axis=2).repeat(P, axis=3)
    changed = np.where(pixels, other, seen)
    got = model(seen, bool_masked_pos=hidden).last_hidden_state
    np.testing.assert_array_equal(got, model(changed, bool_masked_pos=hidden).last_hidden_state)
    assert np.abs(got - model(seen).last_hidden_state).max() > 1e-3
    with pytest.raises(InputError, match="this model has no mask token; make it with use_mask_token=True"):
        new(ViTModel)(seen, bool_masked_pos=hidden)


def test_painting_is_asked_of_the_hidden_patches_alone():
    model, seen, hidden = new(ViTForMaskedImageModeling), images(), mask()
    out = model(seen, bool_masked_pos=hidden)
    assert list(out) == ["loss", "reconstruction"]
    assert out.reconstruction.shape == seen.shape
    pixels = np.broadcast_to(hidden.reshape(B, 1, h, w).repeat(P, axis=2).repeat(P, axis=3), seen.shape)
    expected = np.abs(out.reconstruction - seen)[pixels].mean()
    assert float(out.loss) == pytest.approx(expected, rel=1e-6)  # Hugging Face adds 1e-5 to the count
    assert list(model(seen)) == ["reconstruction"]
    larger = new(ViTForMaskedImageModeling, encoder_stride=2 * P)
    assert larger(seen).reconstruction.shape == (B, C, 2 * h * P, 2 * w * P)
    with pytest.raises(InputError, match="patch_size 4 and encoder_stride 8 differ"):
        larger.loss_and_grads(pixel_values=seen, bool_masked_pos=hidden)


def test_larger_images_need_to_be_asked_for():
    model, larger = new(), images(size=(3 * P, 5 * P))
    with pytest.raises(InputError, match="images of 12 × 20 given, the config's image_size is 8 × 12; crop or resize"):
        model(larger)
    assert model(larger, interpolate_pos_encoding=True).logits.shape == (B, 4)
    same = model(images(), interpolate_pos_encoding=True).logits
    np.testing.assert_array_equal(same, model(images()).logits)


def pixels(**changes):
    bad = images()
    bad[3, 0, 1, 2] = changes.get("value", 0)
    return bad


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (images(channels=1), r"1 channel\(s\) given, the config's num_channels is 3; grey images for a model of col"),
        (images().transpose(0, 2, 3, 1), r"the channels come first: transpose\(0, 3, 1, 2\)"),
        (images()[0], r"shape \(3, 8, 12\) given, expected \(batch, channels, height, width\); one image is \[image\]"),
        (images()[:0], r"shape \(0, 3, 8, 12\) given"),
        (pixels(value=np.nan), "image 3 has NaN or infinite pixels"),
        (pixels(value=np.inf), "image 3 has NaN or infinite pixels"),
        ((255 * pixels()).astype(np.uint8), "dtype uint8 given, expected floating-point numbers; divide bytes by 255"),
        ([np.zeros((C, 8, 12)), np.zeros((C, 8, 8))], "the images of a batch have one size: crop or resize them"),
    ],
)
@each
def test_bad_images_are_refused(kind, given, said):
    with pytest.raises(InputError, match=f"^pixel_values: .*{said}"):
        new(kind)(given)
    with pytest.raises(InputError, match=f"^pixel_values: .*{said}"):
        new(kind).loss_and_grads(**{**batch(kind), "pixel_values": given})


def test_images_that_do_not_divide_into_patches_are_refused():
    with pytest.raises(InputError, match="images of 10 × 12 pixels do not divide into patches of 4 × 4"):
        new()(images(size=(10, 12)), interpolate_pos_encoding=True)
    with pytest.raises(InputError, match="config: images of 30 × 30 pixels do not divide into patches of 4 × 4"):
        ViTConfig(image_size=30, patch_size=4)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([0, 4, 1, 2, 3], r"labels \(of 4 classes\): 4 is outside 0 … 3; is num_labels the data's"),
        ([0, 1, 2], r"labels: shape \(3,\) given, expected \(5,\), one for each row"),
        ([-100] * 5, "labels: none is asked"),
        (None, "nothing to learn from: give labels"),
    ],
)
def test_bad_labels_are_refused(labels, said):
    given = None if labels is None else np.array(labels)
    with pytest.raises(InputError, match=said):
        new().loss_and_grads(pixel_values=images(), labels=given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (mask()[:, 1:], r"bool_masked_pos: shape \(5, 5\) given, expected \(images, patches\) = \(5, 6\)"),
        (mask()[:3], r"bool_masked_pos: shape \(3, 6\) given"),
        (2 * mask().astype(int), r"bool_masked_pos: expected True \(hidden\) or False \(visible\)"),
        (np.zeros((B, N), bool), "bool_masked_pos: no patch is hidden, so the loss has nothing to average over"),
        (None, "nothing to learn from: give bool_masked_pos"),
    ],
)
def test_bad_masks_are_refused(given, said):
    model = new(ViTForMaskedImageModeling)
    with pytest.raises(InputError, match=said):
        model.loss_and_grads(pixel_values=images(), bool_masked_pos=given)
    if given is not None:
        with pytest.raises(InputError, match=said):
            model(images(), bool_masked_pos=given)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image_size": (8, 12, 3)}, r"image_size is \(8, 12, 3\), expected something like 224"),
        ({"image_size": (8, 0)}, r"image_size is \(8, 0\), expected 1 or more"),
        ({"image_size": [8, "12"]}, "image_size is .*expected something like 224"),
        ({"patch_size": [4, 4]}, r"patch_size is \[4, 4\], expected something like 16"),
        ({"qkv_bias": 1}, "qkv_bias is 1, expected something like True"),
        ({"num_channels": True}, "num_channels is True, expected something like 3"),
        ({"pooler_output_size": "7"}, "pooler_output_size is '7', expected 1 or more"),
    ],
)
def test_bad_configs_are_refused(changes, said):
    with pytest.raises(InputError, match=f"config: {said}"):
        ViTConfig(**(SIZES | changes))


def test_a_folder_and_back(tmp_path):
    for kind, (_, asked) in LEARNING.items():
        model = new(kind, qkv_bias=False)
        model.save_pretrained(tmp_path / kind.__name__)
        again = kind.from_pretrained(tmp_path / kind.__name__, dtype="float64")
        assert again.config.size == model.config.size
        assert not again.config.qkv_bias
        assert float(again(images(), **asked).loss) == float(model(images(), **asked).loss)


def test_an_autoencoders_folder_is_fine_tuned(tmp_path):
    sizes = {name: SIZES[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "patch_size")}
    sizes |= {"intermediate_size": 17, "image_size": (h * P, w * P), "mask_ratio": 0.5}
    decoder = {"decoder_hidden_size": 8, "decoder_num_attention_heads": 2, "decoder_num_hidden_layers": 1}
    mae = ViTMAEForPreTraining(ViTMAEConfig(**sizes, **decoder, decoder_intermediate_size=9), dtype="float64")
    mae.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=r"drawn anew: classifier.weight, classifier.bias; in the file, not used: dec"):
        model = ViTForImageClassification.from_pretrained(tmp_path, dtype="float64", num_labels=4)
    shared = {key: weight for key, weight in mae.state_dict().items() if key.startswith("vit.")}
    assert shared.keys() == model.state_dict().keys() - {"classifier.weight", "classifier.bias"}
    for key, weight in shared.items():
        np.testing.assert_array_equal(model.state_dict()[key], weight)
    with pytest.raises(InputError, match="model_type 'bert' given, ViTConfig expects 'vit'"):
        ViTConfig.from_dict({"model_type": "bert"})
