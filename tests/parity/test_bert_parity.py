"""BERT and every head on it against Hugging Face's, on PyTorch: outputs, losses, every parameter's gradient, folders.

Needs the `parity` extra. float64, weights of order 1 (at 0.02 a transposed gradient hides), every size distinct, random
padding on either side. `python tests/parity/test_bert_parity.py` writes what PyTorch computes for some of it into
tests/models/hugging_face/, so that the same proof runs where there is no PyTorch.
"""

import json
from pathlib import Path

import numpy as np
import pytest

import minissl
from minissl.files import read_arrays, write_arrays
from minissl.models import BertConfig, BertForPreTraining, BertModel
from minissl.nn.feed_forward import ACTIVATIONS

torch = pytest.importorskip("torch", reason="the parity extra is not installed")
transformers = pytest.importorskip("transformers", reason="the parity extra is not installed")

FORWARD, BACKWARD, FLOAT32 = 1e-10, 1e-8, 2e-5  # relative to the largest number of each array
SEEDS = range(6)
KEPT = Path(__file__).parents[1] / "models" / "hugging_face"

# what is asked: the model, and the labels in the batch
LEARNING = {
    "pre-training": ("BertForPreTraining", ("words", "next_sentence_label")),
    "words of pre-training": ("BertForPreTraining", ("words",)),
    "pairs of pre-training": ("BertForPreTraining", ("next_sentence_label",)),
    "masked words": ("BertForMaskedLM", ("words",)),
    "next sentence": ("BertForNextSentencePrediction", ("pairs",)),
    "classes": ("BertForSequenceClassification", ("classes",)),
    "several labels": ("BertForSequenceClassification", ("shares",)),
    "numbers": ("BertForSequenceClassification", ("numbers",)),
    "tags": ("BertForTokenClassification", ("tags",)),
    "spans": ("BertForQuestionAnswering", ("start_positions", "end_positions")),
}


def draw(seed, learning="pre-training", **changes):
    """A configuration, and a batch with padding, segments and what is asked."""
    rng = np.random.default_rng(seed)
    heads, width = rng.permutation([2, 3, 5])[:2]
    V, D, F, P = int(rng.integers(40, 60)), int(heads * width), int(rng.integers(31, 39)), int(rng.integers(12, 16))
    acts, (_, asked) = list(ACTIVATIONS), LEARNING[learning]
    config = {
        "vocab_size": V, "hidden_size": D, "num_attention_heads": int(heads), "intermediate_size": F,
        "num_hidden_layers": int(rng.integers(1, 4)), "max_position_embeddings": P,
        "type_vocab_size": int(rng.integers(2, 5)),
        "hidden_act": acts[seed % len(acts)], "layer_norm_eps": float(10.0 ** -rng.integers(3, 13)),
        "pad_token_id": int(rng.integers(0, 3)), "id2label": {i: f"kind {i}" for i in range(int(rng.integers(3, 7)))},
        **changes,
    }  # fmt: skip
    if "numbers" in asked:
        config["problem_type"] = "regression"
    if "start_positions" in asked:
        config["id2label"] = {0: "start", 1: "end"}
    B, T, C, V = 4, 9, len(config["id2label"]), config["vocab_size"]
    lengths = np.array([T, *rng.integers(1, T, B - 1)])[:, None]
    visible = np.arange(T) < lengths if seed % 2 == 0 else np.arange(T)[::-1] < lengths
    labels = {
        "words": np.where(rng.random((B, T)) < 0.4, rng.integers(0, V, (B, T)), -100),
        "next_sentence_label": rng.integers(0, 2, B),
        "pairs": rng.integers(0, 2, B),
        "classes": rng.permutation([0, 1, 2, -100]),
        "shares": rng.random((B, C)),
        "numbers": rng.standard_normal((B, C)),
        "tags": np.where(rng.random((B, T)) < 0.6, rng.integers(0, C, (B, T)), -100),
        "start_positions": rng.permutation([0, 3, T, T - 1]),
        "end_positions": rng.permutation([2, T + 4, T, T - 1]),
    }
    labels["words"][0, 0] = 1
    labels["tags"][1, 1] = 2
    batch = {
        "input_ids": np.where(visible, rng.integers(0, V, (B, T)), config["pad_token_id"]),
        "attention_mask": visible.astype(int),
        "token_type_ids": rng.integers(0, config["type_vocab_size"], (B, T)),
    }
    if seed % 3 == 0:
        batch["position_ids"] = rng.integers(0, config["max_position_embeddings"], (B, T))
    return config, batch | {name if name.endswith(("label", "positions")) else "labels": labels[name] for name in asked}


def pair(seed, learning="pre-training", dtype="float64", **changes):
    """One model in both libraries, with the same weights of order 1; theirs in evaluation, so without dropout."""
    config, batch = draw(seed, learning, **changes)
    name = LEARNING[learning][0]
    ours = getattr(minissl, name)(BertConfig(**config), dtype=dtype)
    rng = np.random.default_rng(seed)
    for _, param in ours.named_parameters():
        spread = 1.5 / np.sqrt(param.data.shape[-1]) if param.data.ndim == 2 else 0.5
        param.data[...] = param.data.mean() + spread * rng.standard_normal(param.data.shape)
    theirs = getattr(transformers, name)(transformers.BertConfig(**config, attn_implementation="eager"))
    theirs = theirs.double().eval()
    theirs.load_state_dict({key: torch.tensor(weight) for key, weight in ours.state_dict().items()})
    return ours, theirs, batch


def tensors(batch):
    return {name: torch.tensor(array) for name, array in batch.items()}


def close(got, expected, tolerance, what):
    expected = expected.detach().numpy()
    assert got.shape == expected.shape, what
    error = np.abs(got - expected).max() / np.abs(expected).max()
    assert error <= tolerance, f"{what}: relative error {error:.1e}"


def logits_of(out):
    """The names of a model's scores, of which Hugging Face's output has no others."""
    return [name for name in out if name.endswith("logits")]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("learning", LEARNING)
def test_every_output(seed, learning):
    ours, theirs, batch = pair(seed, learning)
    wanted = {"output_hidden_states": True, "output_attentions": True}
    got, expected = ours(**batch, **wanted), their_output(theirs, batch, **wanted)
    for name in ("loss", *logits_of(got)):
        close(np.asarray(got[name]), expected[name], FORWARD, name)
    for name in ("hidden_states", "attentions"):
        assert len(got[name]) == len(expected[name])
        for i, (array, tensor) in enumerate(zip(got[name], expected[name], strict=True)):
            close(array, tensor, FORWARD, f"{name} {i}")
    inputs = {name: array for name, array in batch.items() if not name.endswith(("label", "labels", "_positions"))}
    got, expected = ours.bert(**inputs), theirs.bert(**tensors(inputs))
    for name in got:
        close(got[name], expected[name], FORWARD, name)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("learning", LEARNING)
def test_outputs_in_float32(seed, learning):
    ours, theirs, batch = pair(seed, learning, dtype="float32")
    got, expected = ours(**batch), their_output(theirs, batch)  # theirs is in float64, with our float32 weights
    for name in ("loss", *logits_of(got)):
        close(np.asarray(got[name], np.float64), expected[name], FLOAT32, name)


def their_output(model, batch, **wanted):
    """Hugging Face's output; where of its two pre-training losses one is asked, that mean taken from its logits."""
    given = tensors(batch)
    if not isinstance(model, transformers.BertForPreTraining) or {"labels", "next_sentence_label"} <= given.keys():
        return model(**given, **wanted)
    labels = {name: given.pop(name) for name in ("labels", "next_sentence_label") if name in given}
    out = model(**given, **wanted)
    logits = {"labels": out.prediction_logits.flatten(0, 1), "next_sentence_label": out.seq_relationship_logits}
    ((name, label),) = labels.items()
    out["loss"] = torch.nn.functional.cross_entropy(logits[name], label.flatten())
    return out


def their_gradients(model, batch):
    model.zero_grad(set_to_none=True)
    loss = their_output(model, batch).loss
    loss.backward()
    return loss, {key: p.grad for key, p in model.named_parameters()}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("learning", LEARNING)
def test_the_gradient_of_every_parameter(seed, learning):
    ours, theirs, batch = pair(seed, learning)
    loss, gradients = ours.loss_and_grads(**batch)
    expected_loss, expected = their_gradients(theirs, batch)
    assert loss == pytest.approx(expected_loss.item(), rel=FORWARD)
    assert {key for key, _ in ours.named_parameters()} == expected.keys()
    largest = max(gradient.abs().max().item() for gradient in expected.values() if gradient is not None)
    for key, gradient in expected.items():
        if gradient is None:  # not on the way to this loss
            assert not gradients[key].any(), key
            continue
        scale = gradient.abs().max().item()
        if scale < 1e-12 * largest:  # zero but for rounding: a softmax ignores what all of its scores share
            scale = 1e-3 * largest
        error = np.abs(gradients[key] - gradient.numpy()).max() / (scale or 1)
        assert error <= BACKWARD, f"{key}: relative error {error:.1e}"


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_every_activation(act):
    ours, theirs, batch = pair(11, hidden_act=act)
    close(ours(**batch).prediction_logits, theirs(**tensors(batch)).prediction_logits, FORWARD, act)


def test_without_mask_segments_and_positions():
    ours, theirs, batch = pair(0)
    ids = batch["input_ids"]
    close(ours(ids).prediction_logits, theirs(torch.tensor(ids)).prediction_logits, FORWARD, "ids alone")
    positions = np.random.default_rng(0).integers(0, 12, ids.shape)
    got, expected = ours(ids, position_ids=positions), theirs(torch.tensor(ids), position_ids=torch.tensor(positions))
    close(got.prediction_logits, expected.prediction_logits, FORWARD, "positions")


@pytest.mark.parametrize("learning", LEARNING)
def test_our_folder_opens_in_transformers(tmp_path, learning):
    ours, theirs, batch = pair(1, learning)
    ours.save_pretrained(tmp_path)
    opened, notes = type(theirs).from_pretrained(
        tmp_path, dtype=torch.float64, attn_implementation="eager", output_loading_info=True
    )
    assert not any(notes.values()), notes
    for name, value in vars(ours.config).items():
        assert getattr(opened.config, name) == value
    for key, weight in ours.state_dict().items():
        np.testing.assert_array_equal(opened.state_dict()[key].numpy(), weight)
    close(np.asarray(ours(**batch).loss), their_output(opened.eval(), batch).loss, FORWARD, "loss")


def test_our_encoder_opens_in_transformers(tmp_path):
    ours, _, batch = pair(1)
    ours.bert.save_pretrained(tmp_path)
    opened = transformers.AutoModel.from_pretrained(tmp_path, dtype=torch.float64).eval()
    expected = opened(torch.tensor(batch["input_ids"])).pooler_output
    close(ours.bert(batch["input_ids"]).pooler_output, expected, FORWARD, "pooler_output")


@pytest.mark.parametrize("learning", LEARNING)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_their_folder_opens_here(tmp_path, dtype, learning):
    ours, theirs, batch = pair(2, learning)
    theirs = theirs.to(getattr(torch, dtype))
    theirs.save_pretrained(tmp_path)
    opened = type(ours).from_pretrained(tmp_path, dtype="float64")
    assert opened.config.id2label == ours.config.id2label
    weights = theirs.state_dict()
    for key, weight in opened.state_dict().items():
        np.testing.assert_array_equal(weight, weights[key].double().numpy())
    out, got = their_output(theirs.double(), batch), opened(**batch)
    for name in ("loss", *logits_of(got)):
        close(np.asarray(got[name]), out[name], FORWARD, name)


def test_the_encoder_of_their_folder_opens_here(tmp_path):
    _, theirs, batch = pair(2)
    theirs.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="in the file, not used: cls.predictions.bias"):
        encoder = BertModel.from_pretrained(tmp_path, dtype="float64")
    ids = batch["input_ids"]
    close(encoder(ids).pooler_output, theirs.bert(torch.tensor(ids)).pooler_output, FORWARD, "pooler_output")


def test_our_defaults_are_theirs():
    theirs = transformers.BertConfig()
    assert {name: getattr(theirs, name, None) for name in vars(BertConfig())} == vars(BertConfig())


def test_a_new_model_starts_as_theirs_does():
    """The same mean and spread in every parameter, within six standard errors of what is drawn."""
    torch.manual_seed(0)
    config = {**draw(0)[0], "hidden_size": 60, "vocab_size": 500, "num_attention_heads": 3}
    ours = BertForPreTraining(BertConfig(**config)).state_dict()
    theirs = transformers.BertForPreTraining(transformers.BertConfig(**config)).state_dict()
    for key, weight in ours.items():
        expected = theirs[key].numpy()
        error = expected.std() * (2 / expected.size) ** 0.5  # of the difference between two means of drawn weights
        assert weight.mean() == pytest.approx(expected.mean(), abs=float(6 * error + 1e-6)), key
        assert weight.std() == pytest.approx(expected.std(), rel=6 / expected.size**0.5, abs=1e-6), key
    pad = config["pad_token_id"]
    assert not ours["bert.embeddings.word_embeddings.weight"][pad].any()
    assert not theirs["bert.embeddings.word_embeddings.weight"][pad].any()


def kept(learning):
    """What PyTorch computes for one tiny model: its weights, a batch, the loss, the scores and every gradient."""
    number = list(LEARNING).index(learning)
    config, _ = draw(number, learning)
    small = {
        "vocab_size": 23, "hidden_size": 6, "num_attention_heads": 3, "intermediate_size": 7,
        "num_hidden_layers": 1 + number % 2, "max_position_embeddings": 11,
    }  # fmt: skip
    _, theirs, batch = pair(number, learning, **small)
    loss, gradients = their_gradients(theirs, batch)
    out = their_output(theirs, batch)
    arrays = {f"weights/{key}": p.detach().numpy() for key, p in theirs.named_parameters()}
    arrays |= {f"batch/{name}": array for name, array in batch.items()}
    arrays |= {f"out/{name}": out[name].detach().numpy() for name in logits_of(out)} | {"loss": loss.detach().numpy()}
    arrays |= {f"gradients/{key}": g.numpy() for key, g in gradients.items() if g is not None}
    return arrays, {"model": LEARNING[learning][0], "config": json.dumps({**config, **small})}


@pytest.mark.parametrize("learning", LEARNING)
def test_what_is_kept_is_what_pytorch_computes(learning):
    arrays, about = kept(learning)
    stored, said = read_arrays(KEPT / f"{learning.replace(' ', '-')}.safetensors")
    assert said == about
    assert stored.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_allclose(stored[name], array, rtol=1e-9, atol=1e-12, err_msg=name)


if __name__ == "__main__":
    KEPT.mkdir(exist_ok=True)
    for name in LEARNING:
        write_arrays(KEPT / f"{name.replace(' ', '-')}.safetensors", *kept(name))
