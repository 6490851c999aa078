"""Masked autoencoders: the gradient, what the encoder and the loss see, and what is refused."""

import itertools

import numpy as np
import pytest

from minissl.errors import InputError
from minissl.files import read_arrays, write_arrays
from minissl.gradcheck import check_model
from minissl.models import ViTMAEConfig, ViTMAEForPreTraining, ViTMAEModel
from minissl.nn import Grads
from minissl.ops import sincos_positions
from minissl.training import Trainer, TrainingOptions

B, C, P, h, w, D = 5, 3, 4, 2, 4, 12
N = h * w
SIZES = {
    "hidden_size": D, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 17, "patch_size": P,
    "image_size": (h * P, w * P), "num_channels": C, "decoder_hidden_size": 8, "decoder_num_attention_heads": 2,
    "decoder_num_hidden_layers": 1, "decoder_intermediate_size": 9,
}  # fmt: skip
FIXED = ("vit.embeddings.position_embeddings", "decoder.decoder_pos_embed")


def new(kind=ViTMAEForPreTraining, dtype="float64", **changes):
    return kind(ViTMAEConfig(**(SIZES | changes)), dtype=dtype)


def batch(seed=0, size=(h * P, w * P)):
    rng = np.random.default_rng(seed)
    return {
        "pixel_values": rng.standard_normal((B, C, *size)),
        "noise": rng.random((B, size[0] // P * (size[1] // P))),
    }


def over_pixels(mask):
    return np.broadcast_to(mask.reshape(B, 1, h, w).repeat(P, axis=2).repeat(P, axis=3) > 0, (B, C, h * P, w * P))


@pytest.mark.parametrize(
    ("changes", "inputs"),
    [
        ({"norm_pix_loss": True}, batch()),
        (
            {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.3},
            batch() | {"rng": np.random.default_rng(1)},
        ),
        ({"qkv_bias": False}, batch(size=(3 * P, 5 * P)) | {"interpolate_pos_encoding": True}),
    ],
    ids=["normalised patches", "dropout", "larger images"],
)
def test_gradients(changes, inputs):
    report = check_model(new(**changes), inputs, entries=2, directions=1)
    assert report.ok, report


def test_the_positions_are_fixed():
    model = new(dtype="float32")
    _, gradients = model.loss_and_grads(**batch())
    assert all(gradients[key].any() != (key in FIXED) for key in gradients if not key.endswith("key.bias"))
    assert model.untrained().keys() == set(FIXED)
    tables = {key: model.state_dict()[key].copy() for key in FIXED}
    for table, d in zip(tables.values(), (D, 8), strict=True):
        np.testing.assert_array_equal(table, sincos_positions((h, w), d)[None].astype(np.float32))
    trainer = Trainer(model, TrainingOptions(steps=20, learning_rate=1e-2, threads=2))
    inputs = {"pixel_values": batch()["pixel_values"]}
    records = [trainer.train_step([inputs]) for _ in range(20)]
    trainer.close()
    assert records[-1].losses["mae"] < 0.9 * records[0].losses["mae"]
    for key, table in tables.items():
        np.testing.assert_array_equal(model.state_dict()[key], table)


def test_the_encoder_sees_the_visible_patches_alone():
    model, inputs, other = new(), batch(), batch(1)["pixel_values"]
    out = model(**inputs)
    changed = np.where(over_pixels(out.mask), other, inputs["pixel_values"])
    again = model(changed, inputs["noise"])
    np.testing.assert_array_equal(again.logits, out.logits)
    assert float(again.loss) != float(out.loss)
    seen = np.where(over_pixels(out.mask), inputs["pixel_values"], other)
    assert np.abs(model(seen, inputs["noise"]).logits - out.logits).max() > 1e-3


@pytest.mark.parametrize("normalised", [False, True])
def test_the_loss_is_that_of_the_hidden_patches(normalised):
    model, inputs = new(norm_pix_loss=normalised), batch()
    out = model(**inputs)
    assert list(out) == ["loss", "logits", "mask", "ids_restore"]
    assert out.logits.shape == (B, N, P * P * C)
    assert (out.mask.sum(axis=1) == N - int(N * 0.25)).all()
    errors = []
    for b, n in np.argwhere(out.mask):
        row, column = divmod(n, w)
        patch = inputs["pixel_values"][b, :, row * P : (row + 1) * P, column * P : (column + 1) * P]
        target = patch.transpose(1, 2, 0).reshape(-1)
        if normalised:
            target = (target - target.mean()) / np.sqrt(target.var(ddof=1) + 1e-6)
        errors.append(((out.logits[b, n] - target) ** 2).mean())
    assert float(out.loss) == pytest.approx(np.mean(errors), rel=1e-12)
    assert float(out.loss) == pytest.approx(model.loss_and_grads(**inputs)[0], rel=1e-12)


@pytest.mark.parametrize("edges", [[0, 2, 5], [0, 1, 2, 3, 4, 5]])
def test_the_gradients_of_shares_add_up_to_that_of_the_batch(edges):
    model, whole = new(), batch()
    counts = model.counts(whole)
    assert counts == {"mae": B * (N - int(N * 0.25))}
    expected, together = Grads(model), Grads(model)
    loss = model.losses_and_backward(whole, counts, expected, None)["mae"]
    shares = [{key: array[a:b] for key, array in whole.items()} for a, b in itertools.pairwise(edges)]
    assert sum(model.losses_and_backward(s, counts, together, None)["mae"] for s in shares) == pytest.approx(loss)
    gradient = expected.collect()
    assert np.abs(together.collect() - gradient).max() <= 1e-12 * np.abs(gradient).max()


def test_noise_comes_from_the_rng_and_without_one_is_always_the_same():
    model, inputs = new(), {"pixel_values": batch()["pixel_values"]}
    np.testing.assert_array_equal(model(**inputs).mask, model(**inputs).mask)
    given = np.random.default_rng(7).random((B, N))
    drawn, _ = model.loss_and_grads(**inputs, rng=np.random.default_rng(7))
    assert drawn == model.loss_and_grads(**inputs, noise=given)[0]
    assert drawn != model.loss_and_grads(**inputs)[0]


def test_with_nothing_hidden_there_are_features_and_no_loss():
    model, inputs = new(mask_ratio=0.0), batch()
    out = model.vit(**inputs)
    assert list(out) == ["last_hidden_state", "mask", "ids_restore"]
    assert out.last_hidden_state.shape == (B, 1 + N, D)
    assert not out.mask.any()
    assert "loss" not in model(**inputs)
    with pytest.raises(InputError, match="at mask_ratio 0 no patch is hidden: nothing to learn from"):
        model.loss_and_grads(**inputs)
    in_order = model.vit(inputs["pixel_values"], np.arange(B * N).reshape(B, N)).last_hidden_state
    restored = np.take_along_axis(out.last_hidden_state[:, 1:], out.ids_restore[..., None], axis=1)
    np.testing.assert_allclose(restored, in_order[:, 1:], rtol=1e-10, atol=1e-12)  # the order does not matter


def test_states_and_attentions_are_of_the_visible_patches():
    out = new(ViTMAEModel)(**batch(), output_hidden_states=True, output_attentions=True)
    assert [state.shape for state in out.hidden_states] == [(B, 1 + 2, D)] * 2
    assert [weights.shape for weights in out.attentions] == [(B, 3, 1 + 2, 1 + 2)]


def test_a_folder_in_either_spelling(tmp_path):
    model, inputs = new(), batch()
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    arrays, about = read_arrays(path)
    assert "decoder.decoder_layers.0.attention.attention.query.weight" in arrays
    expected = float(model(**inputs).loss)
    assert float(ViTMAEForPreTraining.from_pretrained(tmp_path, dtype="float64")(**inputs).loss) == expected
    renamed = {k.replace("decoder.decoder_layers.", "decoder.decoder_encoder.layer."): a for k, a in arrays.items()}
    assert renamed.keys() != arrays.keys()
    write_arrays(path, renamed, about)  # as transformers 5 writes it
    assert float(ViTMAEForPreTraining.from_pretrained(tmp_path, dtype="float64")(**inputs).loss) == expected
    with pytest.warns(UserWarning, match="in the file, not used: decoder"):
        encoder = ViTMAEModel.from_pretrained(tmp_path, dtype="float64")
    np.testing.assert_array_equal(encoder(**inputs).last_hidden_state, model.vit(**inputs).last_hidden_state)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"pixel_values": batch()["pixel_values"][:, :1]}, "the config's num_channels is 3; grey images"),
        (batch(size=(3 * P, 5 * P)), "images of 12 × 20 given, the config's image_size is 8 × 16"),
        ({"pixel_values": np.full((B, C, 8, 16), np.nan)}, "pixel_values: image 0 has NaN or infinite pixels"),
        ({"noise": np.zeros((B, N - 1))}, r"noise: shape \(5, 7\) given, expected \(images, patches\) = \(5, 8\)"),
        ({"noise": np.zeros((B - 1, N))}, r"noise: shape \(4, 8\) given, expected \(images, patches\) = \(5, 8\)"),
        ({"noise": np.full((B, N), np.nan)}, "noise: .* expected finite numbers"),
    ],
)
def test_bad_inputs_are_refused(given, said):
    for call in (new(), new().loss_and_grads, new(ViTMAEModel)):
        with pytest.raises(InputError, match=said):
            call(**(batch() | given))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mask_ratio": 75.0}, r"config: mask_ratio: masking rate 75.0: expected a share in \[0, 1\), such as 0.75"),
        ({"mask_ratio": 0.95}, "of 8 patches none is left to see"),
        ({"norm_pix_loss": "yes"}, "norm_pix_loss is 'yes', expected something like False"),
        ({"image_size": (8, 18)}, "config: images of 8 × 18 pixels do not divide into patches of 4 × 4"),
        ({"decoder_hidden_size": 6}, "sine-cosine positions: width 6 does not divide by 4"),
    ],
)
def test_bad_configs_are_refused(changes, said):
    with pytest.raises(InputError, match=said):
        new(**changes)
