"""Configurations, names of weights, and folders that are written and read."""

import re
import weakref

import numpy as np
import pytest

from minissl.errors import InputError
from minissl.files import read_arrays, read_json
from minissl.models import BertConfig, BertForPreTraining, BertModel
from minissl.models.bert import PRESETS

V, D, F, P = 29, 12, 17, 11
CONFIG = BertConfig(
    vocab_size=V, hidden_size=D, num_hidden_layers=1, num_attention_heads=3, intermediate_size=F,
    max_position_embeddings=P, hidden_act="relu", layer_norm_eps=1e-7,
)  # fmt: skip
IDS = np.random.default_rng(0).integers(0, V, (3, 5))

# as the files of Hugging Face name and shape the weights of a BertForPreTraining
ENCODER = {
    "embeddings.word_embeddings.weight": (V, D),
    "embeddings.position_embeddings.weight": (P, D),
    "embeddings.token_type_embeddings.weight": (2, D),
    "embeddings.LayerNorm.weight": (D,),
    "embeddings.LayerNorm.bias": (D,),
    "encoder.layer.0.attention.self.query.weight": (D, D),
    "encoder.layer.0.attention.self.query.bias": (D,),
    "encoder.layer.0.attention.self.key.weight": (D, D),
    "encoder.layer.0.attention.self.key.bias": (D,),
    "encoder.layer.0.attention.self.value.weight": (D, D),
    "encoder.layer.0.attention.self.value.bias": (D,),
    "encoder.layer.0.attention.output.dense.weight": (D, D),
    "encoder.layer.0.attention.output.dense.bias": (D,),
    "encoder.layer.0.attention.output.LayerNorm.weight": (D,),
    "encoder.layer.0.attention.output.LayerNorm.bias": (D,),
    "encoder.layer.0.intermediate.dense.weight": (F, D),
    "encoder.layer.0.intermediate.dense.bias": (F,),
    "encoder.layer.0.output.dense.weight": (D, F),
    "encoder.layer.0.output.dense.bias": (D,),
    "encoder.layer.0.output.LayerNorm.weight": (D,),
    "encoder.layer.0.output.LayerNorm.bias": (D,),
    "pooler.dense.weight": (D, D),
    "pooler.dense.bias": (D,),
}
HEADS = {
    "cls.predictions.bias": (V,),
    "cls.predictions.transform.dense.weight": (D, D),
    "cls.predictions.transform.dense.bias": (D,),
    "cls.predictions.transform.LayerNorm.weight": (D,),
    "cls.predictions.transform.LayerNorm.bias": (D,),
    "cls.seq_relationship.weight": (2, D),
    "cls.seq_relationship.bias": (2,),
}
TIED = {"cls.predictions.decoder.weight": (V, D), "cls.predictions.decoder.bias": (V,)}
STORED = {**{f"bert.{key}": shape for key, shape in ENCODER.items()}, **HEADS}


def shapes(weights):
    return {key: weight.shape for key, weight in weights.items()}


def new(kind=BertForPreTraining, dtype="float32", seed=3):
    """A model of which no weight is zero or one, so that none can be mistaken for a fresh one."""
    model, rng = kind(CONFIG, dtype=dtype), np.random.default_rng(seed)
    for _, param in model.named_parameters():
        param.data[...] = rng.standard_normal(param.data.shape)
    return model


def refuses(message):
    return pytest.raises(InputError, match=re.escape(message))


def test_state_dict_has_the_keys_and_shapes_of_hugging_face():
    assert shapes(new().state_dict()) == STORED | TIED
    assert shapes(new(BertModel).state_dict()) == ENCODER


def test_tied_weights_are_one_array():
    weights = new().state_dict()
    assert weights["cls.predictions.decoder.weight"] is weights["bert.embeddings.word_embeddings.weight"]
    assert weights["cls.predictions.decoder.bias"] is weights["cls.predictions.bias"]


def test_named_parameters_name_each_parameter_once_however_many_layers():
    config = BertConfig(**{**vars(CONFIG), "num_hidden_layers": 12})
    names = [name for name, _ in BertForPreTraining(config).named_parameters()]
    assert len(set(names)) == len(names) == len(STORED) + 11 * 16
    assert "bert.encoder.layer.11.attention.self.key.bias" in names


def test_config_round_trip(tmp_path):
    new().save_pretrained(tmp_path)
    assert BertConfig.from_pretrained(tmp_path) == CONFIG
    assert BertConfig.from_dict(CONFIG.to_dict()) == CONFIG
    written = read_json(tmp_path / "config.json")
    assert written["model_type"] == "bert"
    assert written["architectures"] == ["BertForPreTraining"]
    assert written["dtype"] == "float32"
    assert BertConfig.from_dict(written) == CONFIG


def test_config_defaults_are_those_of_bert_base():
    base = BertConfig()
    assert (base.vocab_size, base.hidden_size, base.num_hidden_layers) == (30522, 768, 12)
    assert vars(base) | PRESETS["base"] == vars(base)
    assert BertConfig.from_dict({}) == base


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_configs_of_the_published_sizes(name):
    config = BertConfig(**PRESETS[name])
    layers, width, heads = {"tiny": (2, 128, 2), "mini": (4, 256, 4), "small": (4, 512, 8), "base": (12, 768, 12)}[name]
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (layers, width, heads)
    assert config.intermediate_size == 4 * width


def test_config_passes_over_fields_that_are_not_used():
    assert BertConfig.from_dict({"use_cache": True, "transformers_version": "5.0", "vocab_size": 7}).vocab_size == 7


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2' given, BertConfig expects 'bert'"),
        ({"vocab_size": "many"}, "config: vocab_size is 'many', expected something like 30522"),
        ({"vocab_size": None}, "config: vocab_size is None"),
        ({"vocab_size": True}, "config: vocab_size is True"),
        ({"hidden_size": 12.5}, "config: hidden_size is 12.5"),
        ({"hidden_act": 3}, "config: hidden_act is 3, expected something like 'gelu'"),
        ({"num_attention_heads": 0}, "config: num_attention_heads is 0, expected 1 or more"),
        ({"hidden_size": -768}, "config: hidden_size is -768, expected 1 or more"),
        ({"hidden_dropout_prob": -0.1}, "config: hidden_dropout_prob is -0.1, expected 0 or more"),
        ({"layer_norm_eps": float("nan")}, "config: layer_norm_eps is nan"),
        ({"layer_norm_eps": float("inf")}, "config: layer_norm_eps is inf, expected 1,000,000 at most"),
        ({"initializer_range": 1e308}, "config: initializer_range is 1e+308, expected 1,000,000 at most"),
        ({"initializer_range": 10**400}, "config: initializer_range is 1000"),
        ({"pad_token_id": -1}, "config: pad_token_id is -1, expected 0 or more"),
        ({"pad_token_id": 30522}, "config: pad_token_id 30522 is outside the vocabulary of 30522"),
    ],
)
def test_config_refuses_what_cannot_be(values, message):
    with refuses(message):
        BertConfig.from_dict(values)
    if "model_type" not in values:
        with refuses(message):
            BertConfig(**values)


def test_whole_numbers_do_for_rates():
    assert BertConfig.from_dict({"hidden_dropout_prob": 0}).hidden_dropout_prob == 0


def test_config_refuses_an_unknown_argument():
    with pytest.raises(TypeError, match="hidden_sise"):
        BertConfig(hidden_sise=3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_saved_and_read_again_gives_the_same_bits(tmp_path, dtype):
    model = new(dtype=dtype)
    model.pack()  # as training leaves it: every weight is a view
    model.save_pretrained(tmp_path / "deep" / "folder")
    again = BertForPreTraining.from_pretrained(tmp_path / "deep" / "folder", dtype=dtype)
    assert again.config == CONFIG
    assert again.state_dict().keys() == model.state_dict().keys()
    for key, weight in again.state_dict().items():
        assert weight.dtype == dtype
        assert weight.tobytes() == model.state_dict()[key].tobytes(), key
    assert again(IDS).prediction_logits.tobytes() == model(IDS).prediction_logits.tobytes()


def test_what_is_written(tmp_path):
    new().save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    weights, metadata = read_arrays(tmp_path / "model.safetensors")
    assert shapes(weights) == STORED  # tied weights once, as Hugging Face writes them
    assert metadata == {"format": "pt"}


def test_saving_again_replaces(tmp_path):
    new(seed=1).save_pretrained(tmp_path)
    model = new(seed=2)
    model.save_pretrained(tmp_path)
    again = BertForPreTraining.from_pretrained(tmp_path)
    np.testing.assert_array_equal(again(IDS).prediction_logits, model(IDS).prediction_logits)


def test_the_encoder_alone_is_saved_and_read(tmp_path):
    model = new(BertModel)
    model.save_pretrained(tmp_path)
    assert shapes(read_arrays(tmp_path / "model.safetensors")[0]) == ENCODER
    again = BertModel.from_pretrained(tmp_path)
    np.testing.assert_array_equal(again(IDS).pooler_output, model(IDS).pooler_output)


def test_loading_keeps_packed_weights_in_their_buffer():
    model, other = new(seed=1), new(seed=2)
    flat = model.pack()
    model.load_state_dict(other.state_dict())
    np.testing.assert_array_equal(flat, other.pack())
    assert np.shares_memory(flat, model.state_dict()["bert.pooler.dense.weight"])


def without(key):
    return lambda weights: weights.pop(key)


DAMAGE = {
    "missing": (without("bert.pooler.dense.bias"), "missing: bert.pooler.dense.bias; unexpected: none"),
    "unexpected": (
        lambda weights: weights.update({"bert.pooler.extra": np.zeros(3, "f4")}),
        "missing: none; unexpected: bert.pooler.extra",
    ),
    "another shape": (
        lambda weights: weights.update({"cls.predictions.bias": np.zeros(V + 1, "f4")}),
        f"cls.predictions.bias has shape ({V + 1},), the config expects ({V},)",
    ),
    "transposed": (
        lambda weights: weights.update({"bert.encoder.layer.0.output.dense.weight": np.zeros((F, D), "f4")}),
        f"has shape ({F}, {D}), the config expects ({D}, {F})",
    ),
    "untied": (
        lambda weights: weights.update({"cls.predictions.decoder.weight": np.zeros((V, D), "f4")}),
        "cls.predictions.decoder.weight differs from bert.embeddings.word_embeddings.weight",
    ),
}


@pytest.mark.parametrize("label", DAMAGE)
def test_weights_that_do_not_fit_are_named_and_nothing_is_loaded(label):
    damage, message = DAMAGE[label]
    weights = {key: weight.copy() for key, weight in new(seed=1).state_dict().items() if key not in TIED}
    damage(weights)
    model = new(seed=2)
    before = {key: weight.copy() for key, weight in model.state_dict().items()}
    with refuses(message):
        model.load_state_dict(weights)
    for key, weight in model.state_dict().items():
        np.testing.assert_array_equal(weight, before[key])


def test_many_missing_keys_are_counted():
    with refuses("and 26 more"):
        new().load_state_dict({})


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(tmp_path, name):
    new().save_pretrained(tmp_path)
    (tmp_path / name).unlink()
    with refuses(f"{tmp_path / name}: no such file"):
        BertForPreTraining.from_pretrained(tmp_path)


def test_a_folder_that_does_not_exist(tmp_path):
    with refuses(f"{tmp_path / 'nowhere'}: no such folder"):
        BertForPreTraining.from_pretrained(tmp_path / "nowhere")


def test_astype_and_back():
    model = new()
    before = {key: weight.copy() for key, weight in model.state_dict().items()}
    assert model.astype("float64") is model
    assert {weight.dtype for weight in model.state_dict().values()} == {np.dtype("float64")}
    assert model(IDS).prediction_logits.dtype == np.float64
    model.astype("float32")
    assert model(IDS).prediction_logits.dtype == np.float32
    for key, weight in model.state_dict().items():
        np.testing.assert_array_equal(weight, before[key])
    weights = model.state_dict()
    assert weights["cls.predictions.decoder.weight"] is weights["bert.embeddings.word_embeddings.weight"]


def test_a_model_that_moved_on_lets_its_packed_buffer_go():
    model = BertModel(CONFIG)
    before = weakref.ref(model.pack())
    model.to("cpu")
    assert before() is not None, "nothing moved"
    model.astype("float64")
    assert before() is None


@pytest.mark.parametrize("dtype", ["float16", "int64", "double", ""])
def test_a_dtype_that_models_are_not_held_in(tmp_path, dtype):
    new().save_pretrained(tmp_path)
    for attempt in (
        lambda: BertForPreTraining(CONFIG, dtype=dtype),
        lambda: BertModel(CONFIG, dtype=dtype),
        lambda: BertForPreTraining.from_pretrained(tmp_path, dtype=dtype),
        lambda: new().astype(dtype),
    ):
        with refuses(f"dtype {dtype!r} given, expected one of: float32, float64"):
            attempt()


def test_one_seed_means_one_model():
    one, same, other = (BertForPreTraining(CONFIG, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(one[key].tobytes() == same[key].tobytes() for key in one)
    assert not np.array_equal(one["bert.pooler.dense.weight"], other["bert.pooler.dense.weight"])
    assert not one["bert.embeddings.word_embeddings.weight"][0].any()  # the padding's embedding
