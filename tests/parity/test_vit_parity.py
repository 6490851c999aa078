"""ViT, SimMIM and masked autoencoders against Hugging Face's, on PyTorch: outputs, losses, every gradient, folders.

Needs the `parity` extra. As tests/parity/test_bert_parity.py: float64, weights of order 1, every size distinct.
`python tests/parity/test_vit_parity.py` writes what PyTorch computes for some of it into
tests/models/hugging_face/, so that the same proof runs where there is no PyTorch.
"""

import json
from pathlib import Path

import numpy as np
import pytest

import minissl
from minissl.files import read_arrays, write_arrays
from minissl.nn.feed_forward import ACTIVATIONS
from minissl.ops import bicubic_weights, interpolate_positions_forward, sincos_positions

torch = pytest.importorskip("torch", reason="the parity extra is not installed")
transformers = pytest.importorskip("transformers", reason="the parity extra is not installed")
vit_mae = pytest.importorskip("transformers.models.vit_mae.modeling_vit_mae")

FORWARD, BACKWARD, FLOAT32 = 1e-10, 1e-8, 2e-5  # relative to the largest number of each array
SEEDS = range(5)
KEPT = Path(__file__).parents[1] / "models" / "hugging_face"

# what is asked: the model, and how
LEARNING = {
    "classes": ("ViTForImageClassification", {}),
    "classes of larger images": ("ViTForImageClassification", {"interpolate": True}),
    "several labels": ("ViTForImageClassification", {}),
    "numbers": ("ViTForImageClassification", {}),
    "painting": ("ViTForMaskedImageModeling", {}),
    "autoencoder": ("ViTMAEForPreTraining", {}),
    "autoencoder of normalised patches": ("ViTMAEForPreTraining", {"norm_pix_loss": True}),
    "autoencoder of larger images": ("ViTMAEForPreTraining", {"interpolate": True}),
}
SCORES = ("logits", "reconstruction", "mask", "ids_restore")


def draw(seed, learning, **changes):
    """A configuration, and a batch with what is asked."""
    rng = np.random.default_rng(seed)
    model, how = LEARNING[learning]
    heads, width = rng.permutation([2, 3, 5])[:2]
    side, h, w = 2 + seed % 2, 4, 5
    image_size = [side * h, side * w] if seed % 2 and learning == "classes" else side * h
    acts = list(ACTIVATIONS)
    config = {
        "hidden_size": int(4 * heads * width), "num_attention_heads": int(heads),
        "intermediate_size": int(rng.integers(31, 39)), "num_hidden_layers": int(rng.integers(1, 4)),
        "hidden_act": acts[seed % len(acts)], "layer_norm_eps": float(10.0 ** -rng.integers(3, 13)),
        "image_size": image_size, "patch_size": side, "num_channels": (3, 1)[seed % 3 == 1],
        "qkv_bias": seed % 3 != 2,
    }  # fmt: skip
    if "MAE" in model:
        config |= {
            "decoder_hidden_size": 4 * 7, "decoder_num_attention_heads": 7, "decoder_num_hidden_layers": 1 + seed % 2,
            "decoder_intermediate_size": int(rng.integers(41, 47)), "mask_ratio": (0.75, 0.6)[seed % 2],
            "norm_pix_loss": how.get("norm_pix_loss", False),
        }  # fmt: skip
    else:
        config |= {"encoder_stride": side, "id2label": {i: f"kind {i}" for i in range(int(rng.integers(3, 7)))}}
    if learning == "numbers":
        config["problem_type"] = "regression"
    config |= changes
    size = config["image_size"] if isinstance(config["image_size"], list) else [config["image_size"]] * 2
    side = config["patch_size"]
    size = [size[0] + side, size[1] + 2 * side] if how.get("interpolate") else size
    B, N, C = 4, size[0] // side * (size[1] // side), len(config.get("id2label", ()))
    batch = {"pixel_values": rng.standard_normal((B, config["num_channels"], *size))}
    mask = rng.random((B, N)) < 0.6
    mask[0, 0], mask[1, 1] = True, False
    asked = {
        "classes": {"labels": rng.integers(0, max(C, 1), B)},
        "classes of larger images": {"labels": rng.permutation([0, 1, 2, -100])},
        "several labels": {"labels": rng.random((B, C))},
        "numbers": {"labels": rng.standard_normal((B, C))},
        "painting": {"bool_masked_pos": mask},
    }.get(learning, {"noise": rng.random((B, N))})
    if how.get("interpolate"):
        asked["interpolate_pos_encoding"] = True
    return config, batch | asked


def their_name(key):
    """The name in memory, where transformers 5 has others than on disk."""
    for disk, memory in (
        ("encoder.layer.", "layers."), ("attention.attention.query", "attention.q_proj"),
        ("attention.attention.key", "attention.k_proj"), ("attention.attention.value", "attention.v_proj"),
        ("attention.output.dense", "attention.o_proj"), ("intermediate.dense", "mlp.fc1"), ("output.dense", "mlp.fc2"),
    ):  # fmt: skip
        key = key.replace(disk, memory)
    return key


def pair(seed, learning, dtype="float64", attention="sdpa", **changes):
    """One model in both libraries, with the same weights of order 1.

    "sdpa", because their "eager" attention computes its softmax in float32 whatever the weights are.
    """
    config, batch = draw(seed, learning, **changes)
    name = LEARNING[learning][0]
    family = "ViTMAEConfig" if "MAE" in name else "ViTConfig"
    ours = getattr(minissl, name)(getattr(minissl, family)(**config), dtype=dtype)
    rng = np.random.default_rng(seed)
    for _, param in ours.named_parameters():
        shape = [n for n in param.data.shape if n > 1]
        spread = 1.5 / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 0.5
        param.data[...] = param.data.mean() + spread * rng.standard_normal(param.data.shape)
    theirs = getattr(transformers, name)(getattr(transformers, family)(**config, attn_implementation=attention))
    theirs = theirs.double().eval()
    theirs.load_state_dict({their_name(key): torch.tensor(weight) for key, weight in ours.state_dict().items()})
    return ours, theirs, batch


def tensors(batch):
    return {name: torch.tensor(value) if isinstance(value, np.ndarray) else value for name, value in batch.items()}


def close(got, expected, tolerance, what):
    expected = expected.detach().numpy()
    assert got.shape == expected.shape, what
    error = np.abs(got - expected).max() / np.abs(expected).max()
    assert error <= tolerance, f"{what}: relative error {error:.1e}"


def scores_of(out):
    return [name for name in SCORES if name in out]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("learning", LEARNING)
def test_every_output(seed, learning, monkeypatch):
    ours, theirs, batch = pair(seed, learning, attention="eager")
    softmax = torch.nn.functional.softmax
    monkeypatch.setattr(torch.nn.functional, "softmax", lambda x, dim, dtype=None: softmax(x, dim))  # in float64
    wanted = {"output_hidden_states": True, "output_attentions": True}
    got, expected = ours(**batch, **wanted), theirs(**tensors(batch), **wanted)
    for name in ("loss", *scores_of(expected)):
        close(np.asarray(got[name]), expected[name], FORWARD, name)
    for name in ("hidden_states", "attentions"):
        assert len(got[name]) == len(expected[name])
        for i, (array, tensor) in enumerate(zip(got[name], expected[name], strict=True)):
            close(array, tensor, FORWARD, f"{name} {i}")
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    if learning != "painting":
        got, expected = ours.vit(**inputs), theirs.vit(**tensors(inputs))
        assert list(got) == list(expected)
        for name in got:
            close(got[name], expected[name], FORWARD, name)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("learning", LEARNING)
def test_outputs_in_float32(seed, learning):
    ours, theirs, batch = pair(seed, learning, dtype="float32")
    got, expected = ours(**batch), theirs(**tensors(batch))  # theirs is in float64, with our float32 weights
    for name in ("loss", *scores_of(expected)):
        close(np.asarray(got[name], np.float64), expected[name], FLOAT32, name)


def their_gradients(model, batch):
    model.zero_grad(set_to_none=True)
    loss = model(**tensors(batch)).loss
    loss.backward()
    return loss, {key: p.grad for key, p in model.named_parameters()}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("learning", LEARNING)
def test_the_gradient_of_every_parameter(seed, learning):
    ours, theirs, batch = pair(seed, learning)
    loss, gradients = ours.loss_and_grads(**batch)
    expected_loss, expected = their_gradients(theirs, batch)
    assert loss == pytest.approx(expected_loss.item(), rel=FORWARD)
    assert {their_name(key) for key, _ in ours.named_parameters()} == expected.keys()
    largest = max(gradient.abs().max().item() for gradient in expected.values() if gradient is not None)
    for key in gradients:
        gradient = expected[their_name(key)]
        if gradient is None:  # the positions of an autoencoder, which are fixed
            assert not gradients[key].any(), key
            continue
        scale = gradient.abs().max().item()
        if scale < 1e-12 * largest:  # zero but for rounding: a softmax ignores what all of its scores share
            scale = 1e-3 * largest
        error = np.abs(gradients[key] - gradient.numpy()).max() / (scale or 1)
        assert error <= BACKWARD, f"{key}: relative error {error:.1e}"


@pytest.mark.parametrize("act", ["gelu", "relu"])
def test_the_encoder_with_its_pooler_and_mask_token(act):
    config, batch = draw(1, "painting", pooler_act=act, pooler_output_size=11)
    ours = minissl.ViTModel(minissl.ViTConfig(**config), dtype="float64", use_mask_token=True)
    rng = np.random.default_rng(1)
    for _, param in ours.named_parameters():
        param.data[...] = 0.3 * rng.standard_normal(param.data.shape)
    theirs = transformers.ViTModel(transformers.ViTConfig(**config), use_mask_token=True).double().eval()
    theirs.load_state_dict({their_name(key): torch.tensor(weight) for key, weight in ours.state_dict().items()})
    got, expected = ours(**batch), theirs(**tensors(batch))
    for name in ("last_hidden_state", "pooler_output"):
        close(got[name], expected[name], FORWARD, name)


@pytest.mark.parametrize(("size", "new_size"), [(4, 7), (7, 4), (3, 3), (1, 5), (5, 1), (14, 16)])
def test_interpolation_is_pytorchs_bicubic(size, new_size):
    table = np.random.default_rng(0).standard_normal((1 + size * 6, 5))
    x = torch.tensor(table[1:].reshape(1, size, 6, 5)).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(x, size=(new_size, 8), mode="bicubic", align_corners=False)
    got = interpolate_positions_forward(table, (size, 6), (new_size, 8))[0][1:]
    close(got.reshape(new_size, 8, 5), expected[0].permute(1, 2, 0), 1e-14, "table")
    assert bicubic_weights(size, new_size).shape == (new_size, size)


@pytest.mark.parametrize("learning", ["classes", "painting", "autoencoder"])
def test_our_folder_opens_in_transformers(tmp_path, learning):
    ours, theirs, batch = pair(1, learning)
    ours.save_pretrained(tmp_path)
    opened, notes = type(theirs).from_pretrained(tmp_path, dtype=torch.float64, output_loading_info=True)
    assert not any(notes.values()), notes
    for name, value in vars(ours.config).items():
        assert getattr(opened.config, name) == value, name
    for key, weight in ours.state_dict().items():
        np.testing.assert_array_equal(opened.state_dict()[their_name(key)].numpy(), weight)
    close(np.asarray(ours(**batch).loss), opened.eval()(**tensors(batch)).loss, FORWARD, "loss")


@pytest.mark.parametrize("learning", ["classes", "painting", "autoencoder"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_their_folder_opens_here(tmp_path, dtype, learning, recwarn):
    ours, theirs, batch = pair(2, learning)
    theirs = theirs.to(getattr(torch, dtype))
    theirs.save_pretrained(tmp_path)
    opened = type(ours).from_pretrained(tmp_path, dtype="float64")
    assert not [w for w in recwarn if "from_pretrained" in str(w.message) or "drawn anew" in str(w.message)]
    assert opened.config == ours.config
    weights = theirs.state_dict()
    for key, weight in opened.state_dict().items():
        np.testing.assert_array_equal(weight, weights[their_name(key)].double().numpy())
    out, got = theirs.double()(**tensors(batch)), opened(**batch)
    for name in ("loss", *scores_of(got)):
        close(np.asarray(got[name]), out[name], FORWARD, name)


@pytest.mark.filterwarnings("ignore:ViTModel from .*drawn anew. pooler")
def test_encoders_of_either_side_open_on_the_other(tmp_path):
    for learning, kind in (("classes", "ViTModel"), ("autoencoder", "ViTMAEModel")):
        ours, theirs, batch = pair(2, learning)
        inputs = {name: value for name, value in batch.items() if name in ("pixel_values", "noise")}
        expected = theirs.vit(**tensors(inputs)).last_hidden_state
        ours.vit.save_pretrained(tmp_path / "ours" / kind)
        opened = getattr(transformers, kind).from_pretrained(tmp_path / "ours" / kind, dtype=torch.float64).eval()
        close(ours.vit(**inputs).last_hidden_state, opened(**tensors(inputs)).last_hidden_state, FORWARD, "ours")
        theirs.vit.save_pretrained(tmp_path / "theirs" / kind)
        mine = type(ours.vit).from_pretrained(tmp_path / "theirs" / kind, dtype="float64")
        close(mine(**inputs).last_hidden_state, expected, FORWARD, "theirs")


def test_an_autoencoder_is_fine_tuned_on_either_side(tmp_path):
    _, theirs, batch = pair(2, "autoencoder")
    theirs.save_pretrained(tmp_path)
    with pytest.warns(
        UserWarning, match=r"drawn anew: classifier.weight, classifier.bias; in the file, not used: decod"
    ):
        classifier = minissl.ViTForImageClassification.from_pretrained(tmp_path, dtype="float64", num_labels=3)
    opened = transformers.ViTForImageClassification.from_pretrained(tmp_path, dtype=torch.float64, num_labels=3).eval()
    hidden = opened.vit(torch.tensor(batch["pixel_values"])).last_hidden_state
    close(classifier.vit(batch["pixel_values"]).last_hidden_state, hidden, FORWARD, "last_hidden_state")


def test_our_defaults_are_theirs():
    for name in ("ViTConfig", "ViTMAEConfig"):
        theirs, ours = getattr(transformers, name)(), getattr(minissl, name)()
        assert {field: getattr(theirs, field, None) for field in vars(ours)} == vars(ours)


def test_fixed_positions_are_theirs():
    """By their function, because a new model of transformers 5.24 leaves the table at zero."""
    rows_first = vit_mae.build_2d_sinusoidal_position_embedding(3, 5, 24, cls_token=True, dtype=torch.float64)
    close(sincos_positions((3, 5), 24), torch.roll(rows_first, 12, dims=1), 1e-14, "positions")


def test_a_new_vit_starts_as_theirs_does():
    """The same mean and spread in every parameter, within six standard errors of what is drawn."""
    torch.manual_seed(0)
    config, _ = draw(0, "painting", hidden_size=60, num_attention_heads=3)
    ours = minissl.ViTForMaskedImageModeling(minissl.ViTConfig(**config)).state_dict()
    theirs = transformers.ViTForMaskedImageModeling(transformers.ViTConfig(**config)).state_dict()
    for key, weight in ours.items():
        expected = theirs[their_name(key)].numpy()
        error = expected.std() * (2 / expected.size) ** 0.5  # of the difference between two means of drawn weights
        assert weight.mean() == pytest.approx(expected.mean(), abs=float(6 * error + 1e-6)), key
        assert weight.std() == pytest.approx(expected.std(), rel=6 / expected.size**0.5, abs=1e-6), key


def kept(learning):
    """What PyTorch computes for one tiny model: its weights, a batch, the loss, the scores and every gradient."""
    number = list(LEARNING).index(learning)
    small = {
        "hidden_size": 12, "num_attention_heads": 3, "intermediate_size": 7, "num_hidden_layers": 1,
        "image_size": 6, "patch_size": 2,
    }  # fmt: skip
    if "autoencoder" in learning:
        small |= {"decoder_hidden_size": 8, "decoder_num_attention_heads": 2, "decoder_intermediate_size": 9}
        small |= {"decoder_num_hidden_layers": 1}
    else:
        small |= {"encoder_stride": 2}
    config, _ = draw(number, learning, **small)
    ours, theirs, batch = pair(number, learning, **small)
    loss, gradients = their_gradients(theirs, batch)
    out = theirs(**tensors(batch))
    arrays = {f"weights/{key}": theirs.state_dict()[their_name(key)].numpy() for key in ours.state_dict()}
    arrays |= {f"batch/{name}": np.asarray(value) for name, value in batch.items()}
    arrays |= {f"out/{name}": out[name].detach().numpy() for name in scores_of(out)} | {"loss": loss.detach().numpy()}
    for key in ours.state_dict():
        if gradients[their_name(key)] is not None:
            arrays[f"gradients/{key}"] = gradients[their_name(key)].numpy()
    return arrays, {"model": LEARNING[learning][0], "config": json.dumps(config)}


KEEP = ["classes of larger images", "painting", "autoencoder of normalised patches", "autoencoder of larger images"]


@pytest.mark.parametrize("learning", KEEP)
def test_what_is_kept_is_what_pytorch_computes(learning):
    arrays, about = kept(learning)
    stored, said = read_arrays(KEPT / f"{learning.replace(' ', '-')}.safetensors")
    assert said == about
    assert stored.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_allclose(stored[name], array, rtol=1e-9, atol=1e-12, err_msg=name)


if __name__ == "__main__":
    KEPT.mkdir(exist_ok=True)
    for name in KEEP:
        write_arrays(KEPT / f"{name.replace(' ', '-')}.safetensors", *kept(name))
