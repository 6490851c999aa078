"""BERT against Hugging Face's, on PyTorch: outputs, losses, every parameter's gradient, and folders both ways.

Needs the `parity` extra. float64, weights of order 1 (at 0.02 a transposed gradient hides), every size distinct.
"""

import numpy as np
import pytest

from minissl.models import BertConfig, BertForPreTraining, BertModel
from minissl.nn.feed_forward import ACTIVATIONS

torch = pytest.importorskip("torch", reason="the parity extra is not installed")
transformers = pytest.importorskip("transformers", reason="the parity extra is not installed")

FORWARD, BACKWARD = 1e-10, 1e-8  # relative to the largest number of each array
SEEDS = range(6)


def draw(seed, **changes):
    """A configuration, and a batch with padding, segments and both tasks."""
    rng = np.random.default_rng(seed)
    heads, width = rng.permutation([2, 3, 5])[:2]
    V, D, F, P = int(rng.integers(40, 60)), int(heads * width), int(rng.integers(31, 39)), int(rng.integers(12, 16))
    acts = list(ACTIVATIONS)
    config = {
        "vocab_size": V, "hidden_size": D, "num_attention_heads": int(heads), "intermediate_size": F,
        "num_hidden_layers": int(rng.integers(1, 4)), "max_position_embeddings": P,
        "type_vocab_size": int(rng.integers(2, 5)),
        "hidden_act": acts[seed % len(acts)], "layer_norm_eps": float(10.0 ** -rng.integers(3, 13)),
        "pad_token_id": int(rng.integers(0, 3)), **changes,
    }  # fmt: skip
    B, T = 4, 9
    visible = np.arange(T) < np.array([T, *rng.integers(1, T, B - 1)])[:, None]
    labels = np.where(rng.random((B, T)) < 0.4, rng.integers(0, V, (B, T)), -100)
    labels[0, 0] = 1
    batch = {
        "input_ids": np.where(visible, rng.integers(0, V, (B, T)), config["pad_token_id"]),
        "attention_mask": visible.astype(int),
        "token_type_ids": rng.integers(0, config["type_vocab_size"], (B, T)),
        "labels": labels,
        "next_sentence_label": rng.integers(0, 2, B),
    }
    return config, batch


def pair(seed, **changes):
    """One model in both libraries, with the same weights of order 1; theirs in evaluation, so without dropout."""
    config, batch = draw(seed, **changes)
    ours = BertForPreTraining(BertConfig(**config), dtype="float64")
    rng = np.random.default_rng(seed)
    for _, param in ours.named_parameters():
        spread = 1.5 / np.sqrt(param.data.shape[-1]) if param.data.ndim == 2 else 0.5
        param.data[...] = param.data.mean() + spread * rng.standard_normal(param.data.shape)
    theirs = transformers.BertForPreTraining(transformers.BertConfig(**config, attn_implementation="eager"))
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


@pytest.mark.parametrize("seed", SEEDS)
def test_every_output(seed):
    ours, theirs, batch = pair(seed)
    wanted = {"output_hidden_states": True, "output_attentions": True}
    got, expected = ours(**batch, **wanted), theirs(**tensors(batch), **wanted)
    for name in ("loss", "prediction_logits", "seq_relationship_logits"):
        close(np.asarray(got[name]), expected[name], FORWARD, name)
    for name in ("hidden_states", "attentions"):
        assert len(got[name]) == len(expected[name])
        for i, (array, tensor) in enumerate(zip(got[name], expected[name], strict=True)):
            close(array, tensor, FORWARD, f"{name} {i}")
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    got, expected = ours.bert(**inputs), theirs.bert(**tensors(inputs))
    for name in ("last_hidden_state", "pooler_output"):
        close(got[name], expected[name], FORWARD, name)


def their_gradients(model, batch, asked):
    """Hugging Face's own loss for both tasks; for one of them alone the same means, taken from its logits."""
    model.zero_grad(set_to_none=True)
    given = tensors(batch)
    if len(asked) == 2:
        loss = model(**given).loss
    else:
        labels = {name: given.pop(name) for name in ("labels", "next_sentence_label")}
        out = model(**given)
        logits = {"labels": out.prediction_logits.flatten(0, 1), "next_sentence_label": out.seq_relationship_logits}
        (name,) = asked
        loss = torch.nn.functional.cross_entropy(logits[name], labels[name].flatten())
    loss.backward()
    return loss, {key: p.grad for key, p in model.named_parameters()}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("asked", [("labels", "next_sentence_label"), ("labels",), ("next_sentence_label",)])
def test_the_gradient_of_every_parameter(seed, asked):
    ours, theirs, batch = pair(seed)
    loss, gradients = ours.loss_and_grads(
        **{name: array for name, array in batch.items() if name in asked or "label" not in name}
    )
    expected_loss, expected = their_gradients(theirs, batch, asked)
    assert loss == pytest.approx(expected_loss.item(), rel=FORWARD)
    assert {key for key, _ in ours.named_parameters()} == expected.keys()
    largest = max(gradient.abs().max().item() for gradient in expected.values() if gradient is not None)
    for key, gradient in expected.items():
        if gradient is None:  # not on the way to this loss
            assert not gradients[key].any(), key
            continue
        scale = gradient.abs().max().item()
        scale = max(scale, 1e-3 * largest) if key.endswith("key.bias") else scale  # zero but for rounding
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


def test_our_folder_opens_in_transformers(tmp_path):
    ours, _, batch = pair(1)
    ours.save_pretrained(tmp_path)
    opened, notes = transformers.BertForPreTraining.from_pretrained(
        tmp_path, dtype=torch.float64, attn_implementation="eager", output_loading_info=True
    )
    assert not any(notes.values()), notes
    close(np.asarray(ours(**batch).loss), opened.eval()(**tensors(batch)).loss, FORWARD, "loss")
    for key, weight in ours.state_dict().items():
        np.testing.assert_array_equal(opened.state_dict()[key].numpy(), weight)
    for name, value in vars(ours.config).items():
        assert getattr(opened.config, name) == value


def test_our_encoder_opens_in_transformers(tmp_path):
    ours, _, batch = pair(1)
    ours.bert.save_pretrained(tmp_path)
    opened = transformers.AutoModel.from_pretrained(tmp_path, dtype=torch.float64).eval()
    expected = opened(torch.tensor(batch["input_ids"])).pooler_output
    close(ours.bert(batch["input_ids"]).pooler_output, expected, FORWARD, "pooler_output")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_their_folder_opens_here(tmp_path, dtype):
    _, theirs, batch = pair(2)
    theirs = theirs.to(getattr(torch, dtype))
    theirs.save_pretrained(tmp_path)
    opened = BertForPreTraining.from_pretrained(tmp_path, dtype="float64")
    weights = theirs.state_dict()
    for key, weight in opened.state_dict().items():
        np.testing.assert_array_equal(weight, weights[key].double().numpy())
    out = theirs.double()(**tensors(batch))
    close(opened(**batch).prediction_logits, out.prediction_logits, FORWARD, "prediction_logits")
    close(np.asarray(opened(**batch).loss), out.loss, FORWARD, "loss")
    with pytest.warns(UserWarning, match="in the file, not used: cls.predictions.bias"):
        encoder = BertModel.from_pretrained(tmp_path, dtype="float64")
    ids = batch["input_ids"]
    close(encoder(ids).pooler_output, theirs.bert(torch.tensor(ids)).pooler_output, FORWARD, "pooler_output")


def test_our_defaults_are_theirs():
    theirs = transformers.BertConfig()
    assert {name: getattr(theirs, name) for name in vars(BertConfig())} == vars(BertConfig())


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
