"""Checkpoints both ways between minissl and Hugging Face's transformers, and the same words where something is amiss.

Needs the `parity` extra. Weights of order 1, every size distinct.
"""

import logging
import warnings

import numpy as np
import pytest

import minissl
from minissl.files import read_arrays, read_json, write_arrays

torch = pytest.importorskip("torch", reason="the parity extra is not installed")
transformers = pytest.importorskip("transformers", reason="the parity extra is not installed")

KINDS = [
    "BertModel", "BertForPreTraining", "BertForMaskedLM", "BertForNextSentencePrediction",
    "BertForSequenceClassification", "BertForTokenClassification", "BertForQuestionAnswering",
]  # fmt: skip
CONFIG = {
    "vocab_size": 43, "hidden_size": 15, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 31,
    "max_position_embeddings": 13, "type_vocab_size": 4, "pad_token_id": 2,
    "id2label": {0: "good", 1: "bad", 2: "neither"}, "label2id": {"good": 0, "bad": 1, "neither": 2},
}  # fmt: skip
SPANS = {"id2label": {0: "LABEL_0", 1: "LABEL_1"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}  # begin and end
IDS = np.random.default_rng(0).integers(0, 43, (3, 7))


@pytest.fixture
def logged():
    """What transformers logs as a warning or worse."""
    records = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = records.append
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)


def config_of(kind):
    return CONFIG | SPANS if kind == "BertForQuestionAnswering" else CONFIG


def theirs(kind, seed=0, dtype="float64"):
    torch.manual_seed(seed)
    model = getattr(transformers, kind)(transformers.BertConfig(**config_of(kind), attn_implementation="eager"))
    with torch.no_grad():
        for param in model.parameters():
            param.copy_(0.5 * torch.randn(param.shape) + 0.1)
    return model.to(getattr(torch, dtype)).eval()


def ours(kind, seed=0, dtype="float64"):
    config = {name: value for name, value in config_of(kind).items() if name != "label2id"}
    model, rng = getattr(minissl, kind)(minissl.BertConfig(**config), dtype=dtype), np.random.default_rng(seed)
    for _, param in model.named_parameters():
        param.data[...] = 0.5 * rng.standard_normal(param.data.shape) + 0.1
    return model


def read(kind, folder, dtype="float64", **options):
    """Our model, and what did not fit."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model, info = getattr(minissl, kind).from_pretrained(folder, dtype, output_loading_info=True, **options)
    assert len(caught) == any(info.values())
    return model, info


def read_theirs(kind, folder, **options):
    options = {"dtype": torch.float64, "attn_implementation": "eager", "output_loading_info": True} | options
    model, info = getattr(transformers, kind).from_pretrained(folder, **options)
    return model.eval(), info


def same_outputs(our_model, their_model, tolerance=1e-10):
    got, expected = our_model(IDS), their_model(torch.tensor(IDS))
    assert list(got) == [name for name in expected if name != "past_key_values"]
    for name, array in got.items():
        wanted = expected[name].detach().double().numpy()
        assert np.abs(array - wanted).max() <= tolerance * np.abs(wanted).max(), name


@pytest.mark.parametrize("kind", KINDS)
def test_their_folder_opens_here(tmp_path, kind):
    model = theirs(kind)
    model.save_pretrained(tmp_path)
    again, info = read(kind, tmp_path)
    assert not any(info.values()), info
    assert again.state_dict().keys() == model.state_dict().keys()
    same_outputs(again, model)
    assert again.config.id2label == config_of(kind)["id2label"]


@pytest.mark.parametrize("kind", KINDS)
def test_our_folder_opens_there_without_a_word(tmp_path, kind, logged):
    model = ours(kind)
    model.save_pretrained(tmp_path)
    again, info = read_theirs(kind, tmp_path)
    assert not any(info.values()), info
    assert not logged, [record.getMessage() for record in logged]
    same_outputs(model, again)
    assert again.config.id2label == config_of(kind)["id2label"]
    assert again.config.architectures == [kind]
    assert again.config.dtype == torch.float64
    automatic = transformers.AutoConfig.from_pretrained(tmp_path)
    assert automatic.architectures == [kind]


def test_there_and_back_gives_the_same_bits(tmp_path):
    model = ours("BertForPreTraining", dtype="float32")
    model.save_pretrained(tmp_path / "ours")
    there = transformers.BertForPreTraining.from_pretrained(tmp_path / "ours")
    there.save_pretrained(tmp_path / "theirs")
    back, _ = read("BertForPreTraining", tmp_path / "theirs", "float32")
    for key, weight in model.state_dict().items():
        assert back.state_dict()[key].tobytes() == weight.tobytes(), key
    first, second = (read_arrays(tmp_path / name / "model.safetensors") for name in ("ours", "theirs"))
    assert first[0].keys() == second[0].keys()  # tied weights once
    assert first[1] == second[1] == {"format": "pt"}


@pytest.mark.parametrize("kind", ["BertModel", "BertForPreTraining", "BertForQuestionAnswering"])
def test_shards(tmp_path, kind):
    model = theirs(kind)
    model.save_pretrained(tmp_path, max_shard_size="5KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 3
    again, info = read(kind, tmp_path)
    assert not any(info.values()), info
    same_outputs(again, model)


@pytest.mark.parametrize("held", ["bfloat16", "float16", "float32", "float64"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_precision(tmp_path, held, dtype):
    model = theirs("BertForPreTraining", dtype=held)
    model.save_pretrained(tmp_path)
    again, _ = read("BertForPreTraining", tmp_path, dtype)
    for key, weight in model.state_dict().items():
        got = again.state_dict()[key]
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, weight.to(getattr(torch, dtype)).numpy(), err_msg=key)


@pytest.mark.parametrize("asked", KINDS)
@pytest.mark.parametrize("stored", KINDS)
def test_the_file_of_one_model_in_another(tmp_path, stored, asked):
    """The same keys missing and unexpected, and the weights that are there read alike."""
    theirs(stored).save_pretrained(tmp_path)
    labels = config_of(asked)
    options = {"id2label": labels["id2label"]}
    model, info = read(asked, tmp_path, **options)
    expected, their_info = read_theirs(asked, tmp_path, **options, label2id=labels["label2id"])
    assert info == {name: type(info[name])(value) for name, value in their_info.items()}
    weights = expected.state_dict()
    for key, weight in model.state_dict().items():
        if key not in info["missing_keys"] and not key.startswith("cls.predictions.decoder"):
            np.testing.assert_array_equal(weight, weights[key].numpy(), err_msg=key)


def test_old_names(tmp_path):
    """As bert-base-uncased is stored: gamma and beta, position ids, and tied weights twice."""
    model = theirs("BertForPreTraining")
    model.save_pretrained(tmp_path)
    weights, _ = read_arrays(tmp_path / "model.safetensors")
    weights["cls.predictions.decoder.weight"] = weights["bert.embeddings.word_embeddings.weight"]
    old = {"bert.embeddings.position_ids": np.arange(13)[None]}
    for key, weight in weights.items():
        old[key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")] = weight
    write_arrays(tmp_path / "model.safetensors", old, {"format": "pt"})
    for kind in ("BertForPreTraining", "BertForMaskedLM", "BertModel"):
        again, info = read(kind, tmp_path)
        expected, their_info = read_theirs(kind, tmp_path)
        same_outputs(again, expected)
        assert info["missing_keys"] == their_info["missing_keys"]
        assert info["unexpected_keys"] == their_info["unexpected_keys"]


def test_another_shape(tmp_path):
    """Refused, and with ignore_mismatched_sizes named, in both."""
    theirs("BertForSequenceClassification").save_pretrained(tmp_path)
    labels = {"num_labels": 5}
    with pytest.raises(minissl.InputError, match=r"classifier\.weight has shape "):
        minissl.BertForSequenceClassification.from_pretrained(tmp_path, **labels)
    with pytest.raises(RuntimeError):
        transformers.BertForSequenceClassification.from_pretrained(tmp_path, **labels)
    options = {"ignore_mismatched_sizes": True, **labels}
    model, info = read("BertForSequenceClassification", tmp_path, **options)
    expected, their_info = read_theirs("BertForSequenceClassification", tmp_path, **options)
    assert info["mismatched_keys"] == {(key, tuple(a), tuple(b)) for key, a, b in their_info["mismatched_keys"]}
    assert info["missing_keys"] == their_info["missing_keys"]
    assert model.config.id2label == expected.config.id2label
    assert model(IDS).logits.shape == (3, 5)


def test_tied_weights_that_differ(tmp_path):
    """transformers warns and unties them; here they are one array, so it is refused."""
    theirs("BertForMaskedLM").save_pretrained(tmp_path)
    weights, metadata = read_arrays(tmp_path / "model.safetensors")
    weights["cls.predictions.decoder.weight"] = weights["bert.embeddings.word_embeddings.weight"] + 1
    write_arrays(tmp_path / "model.safetensors", weights, metadata)
    untied, _ = read_theirs("BertForMaskedLM", tmp_path)
    assert untied.cls.predictions.decoder.weight is not untied.bert.embeddings.word_embeddings.weight
    with pytest.raises(minissl.InputError, match=r"cls\.predictions\.decoder\.weight differs from"):
        minissl.BertForMaskedLM.from_pretrained(tmp_path)


def test_the_config_they_write_is_the_one_we_write(tmp_path):
    theirs("BertForSequenceClassification", dtype="float32").save_pretrained(tmp_path / "theirs")
    ours("BertForSequenceClassification", dtype="float32").save_pretrained(tmp_path / "ours")
    written = [read_json(tmp_path / name / "config.json") for name in ("ours", "theirs")]
    assert {name: written[1].get(name) for name in written[0]} == written[0]
