"""What `from_pretrained` reads: names old and new, with and without a prefix, precisions, shards, what does not fit."""

import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from minissl.errors import InputError
from minissl.files import read_arrays, write_arrays, write_json
from minissl.models import BertConfig, BertForPreTraining, BertModel
from minissl.nn import Embedding, Init, Linear, blueprint

V, D, F, P = 29, 12, 17, 11
CONFIG = BertConfig(
    vocab_size=V, hidden_size=D, num_hidden_layers=2, num_attention_heads=3, intermediate_size=F,
    max_position_embeddings=P, pad_token_id=3,
)  # fmt: skip
IDS = np.random.default_rng(0).integers(0, V, (3, 5))
WORDS, DECODER = "bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"
BIAS, DECODER_BIAS = "cls.predictions.bias", "cls.predictions.decoder.bias"
TIED = WORDS, DECODER, BIAS, DECODER_BIAS


def refuses(message):
    return pytest.raises(InputError, match=re.escape(message))


def new(kind=BertForPreTraining, seed=3):
    model, rng = kind(CONFIG), np.random.default_rng(seed)
    for _, param in model.named_parameters():
        param.data[...] = rng.standard_normal(param.data.shape)
    return model


@pytest.fixture
def folder(tmp_path):
    """A BertForPreTraining as it is saved: tied weights once."""
    new().save_pretrained(tmp_path)
    return tmp_path


def stored(folder):
    return read_arrays(folder / "model.safetensors")[0]


def store(folder, weights):
    write_arrays(folder / "model.safetensors", weights, {"format": "pt"})


def same(model, weights, of=lambda key: key):
    for key, weight in model.state_dict().items():
        np.testing.assert_array_equal(weight, weights[of(key)], err_msg=key)


def reload(folder, kind=BertForPreTraining, **options):
    """The model, and what did not fit; a warning is expected exactly where something did not."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model, info = kind.from_pretrained(folder, output_loading_info=True, **options)
    assert [type(w.message) for w in caught] == ([UserWarning] if any(info.values()) else [])
    assert all(w.filename == __file__ and "\n" not in str(w.message) for w in caught)
    return model, info


def nothing(**but):
    return {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set(), "error_msgs": []} | but


def test_what_fits_is_read_in_silence(folder):
    model, info = reload(folder)
    assert info == nothing()
    same(model, new().state_dict())
    assert isinstance(BertForPreTraining.from_pretrained(folder), BertForPreTraining)


def test_the_encoder_of_a_pre_trained_model(folder):
    encoder, info = reload(folder, BertModel)
    same(encoder, new().state_dict(), lambda key: f"bert.{key}")
    assert info == nothing(unexpected_keys={key for key in stored(folder) if key.startswith("cls.")})
    np.testing.assert_array_equal(encoder(IDS).last_hidden_state, new().bert(IDS).last_hidden_state)


def test_an_encoder_alone_gets_new_heads(tmp_path):
    bare = new(BertModel)
    bare.save_pretrained(tmp_path)
    model, info = reload(tmp_path, seed=5)
    same(model.bert, bare.state_dict())
    heads = {key for key, _ in model.named_parameters() if key.startswith("cls.")}
    assert info == nothing(missing_keys={*heads, DECODER_BIAS})  # the words are there, and so their decoder
    for same_seed, seed in ((True, 5), (False, 6)):
        other, _ = reload(tmp_path, seed=seed)
        got, expected = (m.state_dict()["cls.seq_relationship.weight"] for m in (model, other))
        assert np.array_equal(got, expected) == same_seed
    weights = model.state_dict()
    assert weights["cls.predictions.transform.dense.weight"].std() == pytest.approx(0.02, rel=0.3)
    assert (weights["cls.predictions.transform.LayerNorm.weight"] == 1).all()
    assert not weights["cls.predictions.bias"].any()
    model.loss_and_grads(input_ids=IDS, labels=IDS)


def test_the_warning_names_the_first_few(folder):
    weights = stored(folder)
    for name in ("bert.pooler.dense.bias", "cls.seq_relationship.bias"):
        del weights[name]
    store(folder, weights | {f"extra.{i}": np.zeros(2, "f4") for i in range(6)})
    expected = (
        f"BertForPreTraining from {folder}: not in the file, so drawn anew: bert.pooler.dense.bias, "
        "cls.seq_relationship.bias; in the file, not used: extra.0, extra.1, extra.2, extra.3 and 2 more"
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(expected)}$"):
        BertForPreTraining.from_pretrained(folder)


def test_padding_begins_at_zero_where_the_words_are_drawn(folder):
    weights = stored(folder)
    del weights[WORDS]
    store(folder, weights)
    model, info = reload(folder)
    assert info == nothing(missing_keys={WORDS, DECODER})
    words = model.state_dict()[WORDS]
    assert not words[CONFIG.pad_token_id].any()
    assert words.std() > 0.01


def test_names_of_old_checkpoints(folder):
    old = {"bert.embeddings.position_ids": np.arange(P)[None]}
    for key, weight in stored(folder).items():
        old[key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")] = weight
    assert len([key for key in old if "gamma" in key]) == 6
    store(folder, old)
    model, info = reload(folder)
    assert info == nothing()
    same(model, new().state_dict())
    encoder, _ = reload(folder, BertModel)
    same(encoder, new().bert.state_dict())


def test_one_weight_under_two_names_is_refused(folder):
    store(folder, stored(folder) | {"bert.embeddings.LayerNorm.gamma": np.ones(D, "f4")})
    said = "bert.embeddings.LayerNorm.weight are the same weight, bert.embeddings.LayerNorm.weight"
    with refuses(said):
        BertForPreTraining.from_pretrained(folder)


@pytest.mark.parametrize("kept", [(WORDS, BIAS), (DECODER, DECODER_BIAS), (WORDS, DECODER_BIAS), TIED])
def test_tied_weights_under_either_of_their_names_or_both(folder, kept):
    weights = stored(folder)
    twice = {**weights, DECODER: weights[WORDS], DECODER_BIAS: weights[BIAS]}
    store(folder, {key: weight for key, weight in twice.items() if key in kept or key not in TIED})
    model, info = reload(folder)
    assert info == nothing()
    same(model, new().state_dict())
    assert model.state_dict()[DECODER] is model.state_dict()[WORDS]


@pytest.mark.parametrize(("alias", "key"), [(DECODER, WORDS), (DECODER_BIAS, BIAS)])
def test_tied_weights_that_differ_are_refused(folder, alias, key):
    other = stored(folder)[key].copy()
    other.reshape(-1)[-1] += 1
    store(folder, stored(folder) | {alias: other})
    with refuses(f"BertForPreTraining: {alias} differs from {key}, to which it is tied here"):
        BertForPreTraining.from_pretrained(folder)


def halves():
    """bfloat16 patterns of every kind: numbers, subnormals, infinities, NaN."""
    bits = np.arange(1 << 16, dtype=np.uint32)
    return bits.astype(np.uint16), (bits << 16).view(np.float32)


def raw(folder, dtype, arrays):
    """A safetensors file written by hand, in a dtype that NumPy lacks."""
    header, data = {}, b""
    for name, array in arrays.items():
        header[name] = {
            "dtype": dtype,
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + array.nbytes],
        }
        data += array.tobytes()
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bfloat16_is_widened_exactly(folder, dtype):
    bits, numbers = halves()
    cut = {key: weight.view(np.uint32) >> 16 for key, weight in stored(folder).items()}
    raw(folder, "BF16", {key: weight.astype(np.uint16) for key, weight in cut.items()})
    model, info = reload(folder, dtype=dtype)
    assert info == nothing()
    assert {weight.dtype.name for weight in model.state_dict().values()} == {dtype}
    for key, weight in cut.items():
        np.testing.assert_array_equal(model.state_dict()[key], (weight << 16).view(np.float32))
    raw(folder, "BF16", {"x": bits})
    np.testing.assert_array_equal(stored(folder)["x"].view(np.uint32), numbers.view(np.uint32))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("held", ["float16", "float32", "float64"])
def test_every_precision_into_every_precision(folder, held, dtype):
    weights = {key: weight.astype(held) for key, weight in stored(folder).items()}
    store(folder, weights)
    model, _ = reload(folder, dtype=dtype)
    for key, weight in weights.items():
        got = model.state_dict()[key]
        assert got.dtype == dtype
        assert got.flags.c_contiguous
        np.testing.assert_array_equal(got, weight.astype(dtype))


def test_nan_and_infinity_are_weights(folder):
    weights = stored(folder)
    weights["bert.pooler.dense.bias"][:3] = np.nan, np.inf, -np.inf
    weights[WORDS][0, 0] = np.nan
    for held in ("float32", "float64", "float16"):
        store(folder, {key: w.astype(held) for key, w in (weights | {DECODER: weights[WORDS]}).items()})
        model, _ = reload(folder)
        np.testing.assert_array_equal(model.state_dict()["bert.pooler.dense.bias"][:3], [np.nan, np.inf, -np.inf])


def test_a_number_beyond_float32_is_refused_and_fits_float64(folder):
    weights = {key: weight.astype("float64") for key, weight in stored(folder).items()}
    weights["bert.pooler.dense.bias"][2] = 1e300
    store(folder, weights)
    with refuses("bert.pooler.dense.bias has a number that float32 cannot hold; float64 can"):
        BertForPreTraining.from_pretrained(folder)
    model, _ = reload(folder, dtype="float64")
    assert model.state_dict()["bert.pooler.dense.bias"][2] == 1e300


@pytest.mark.parametrize("held", ["int64", "int8", "bool"])
def test_weights_that_are_no_floats_are_refused(folder, held):
    store(folder, stored(folder) | {"bert.pooler.dense.bias": np.ones(D, held)})
    with refuses("bert.pooler.dense.bias is stored as "):
        BertForPreTraining.from_pretrained(folder)


def config(folder, **changes):
    write_json(folder / "config.json", json.loads((folder / "config.json").read_text()) | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"intermediate_size": F + 1},
            f"bert.encoder.layer.0.intermediate.dense.weight has shape ({F}, {D}), the config expects ({F + 1}, {D})"
            " (5 more differ); is it this file's config?",
        ),
        ({"vocab_size": V - 1}, f"{WORDS} has shape ({V}, {D}), the config expects ({V - 1}, {D}) (1 more differ)"),
        ({"hidden_size": 3 * 10**12}, f"{WORDS} has shape ({V}, {D}), the config expects ({V}, {3 * 10**12})"),
        ({"vocab_size": 10**15}, f"{WORDS} has shape ({V}, {D}), the config expects ({10**15}, {D})"),
        ({"hidden_size": 3 * 10**30}, f"{WORDS} has shape ({V}, {D}), the config expects ({V}, {3 * 10**30})"),
        ({"num_hidden_layers": 10**12}, "config: more than 1092 weights and biases, far more than the file holds"),
    ],
    ids=["width", "vocabulary", "wide", "long", "beyond numbers", "deep"],
)
def test_a_config_that_does_not_fit_the_weights(folder, changes, message):
    config(folder, **changes)
    with refuses(message):
        BertForPreTraining.from_pretrained(folder)


def test_a_config_that_asks_for_far_more_than_there_is(folder):
    weights = {"bert.embeddings.token_type_embeddings.weight": np.zeros((2, 3), "f4")}
    store(folder, weights)
    config(folder, vocab_size=10**9, hidden_size=3)
    with refuses("BertForPreTraining: the config asks for 400000"):
        BertForPreTraining.from_pretrained(folder)


def test_other_sizes_can_be_ignored(folder):
    weights = stored(folder)
    weights["cls.seq_relationship.weight"] = np.ones((5, D), "f4")
    store(folder, weights)
    with refuses("cls.seq_relationship.weight has shape (5, 12), the config expects (2, 12); is it"):
        BertForPreTraining.from_pretrained(folder)
    model, info = reload(folder, ignore_mismatched_sizes=True)
    assert info == nothing(mismatched_keys={("cls.seq_relationship.weight", (5, D), (2, D))})
    drawn = model.state_dict()["cls.seq_relationship.weight"]
    assert 0 < abs(drawn).max() < 0.2
    with pytest.warns(UserWarning, match="of another shape, so drawn anew: cls.seq_relationship.weight$"):
        BertForPreTraining.from_pretrained(folder, ignore_mismatched_sizes=True)


def test_fields_of_the_config_can_be_changed(folder):
    model = BertForPreTraining.from_pretrained(folder, hidden_dropout_prob=0.25)
    assert model.config == BertConfig(**{**vars(CONFIG), "hidden_dropout_prob": 0.25})
    with pytest.raises(TypeError, match="from_pretrained: no argument 'hidden_dropout'"):
        BertForPreTraining.from_pretrained(folder, hidden_dropout=0.25)
    with refuses("config: hidden_dropout_prob is 'much'"):
        BertForPreTraining.from_pretrained(folder, hidden_dropout_prob="much")


def test_a_file_of_another_model_is_refused(folder):
    store(folder, {"transformer.h.0.attn.weight": np.zeros((3, 4), "f4"), "a\nb": np.zeros(1, "f4")})
    said = (
        "BertForPreTraining: no weight in {} is one of its own; there are 'a\\nb', transformer.h.0.attn.weight; is it"
    )
    with refuses(said.format(folder)):
        BertForPreTraining.from_pretrained(folder)
    store(folder, {})
    with refuses("there are none; is it another architecture?"):
        BertForPreTraining.from_pretrained(folder)


def test_a_model_by_name(folder, tmp_path, monkeypatch):
    model = tmp_path / "hub" / "models--org--small-bert"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("c0ffee")
    (model / "snapshots").mkdir()
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    (model / "snapshots" / "c0ffee").symlink_to(folder)
    same(BertForPreTraining.from_pretrained("org/small-bert"), new().state_dict())
    assert BertConfig.from_pretrained("org/small-bert") == CONFIG
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with refuses("org/other: no such folder, and no such model in the Hugging Face cache"):
        BertForPreTraining.from_pretrained("org/other")


def test_what_is_read_can_be_packed_and_trained(folder):
    model, _ = reload(folder)
    flat = model.pack()
    same(model, new().state_dict())
    assert np.shares_memory(flat, model.state_dict()[WORDS])
    flat += 1
    np.testing.assert_array_equal(model.state_dict()[WORDS], new().state_dict()[WORDS] + 1)
    loss, gradients = model.loss_and_grads(input_ids=IDS, labels=IDS)
    assert np.isfinite(loss)
    assert gradients.keys() == model.state_dict().keys()


def test_a_blueprint_takes_no_memory_and_draws_what_its_seed_draws():
    with blueprint(most=3) as plan:
        init = Init(np.random.default_rng(0))
        huge = Linear(10**9, 10**8, init)
        assert plan.shapes[huge.weight] == (10**8, 10**9)
        assert huge.weight.data.dtype == np.float32
        table = Embedding(7, 3, init, padding=2)
        with refuses("config: more than 3 weights and biases"):
            Linear(1, 1, init)
    plan.draw(table.weight)
    expected = Embedding(7, 3, Init(np.random.default_rng(0)), padding=2)
    np.testing.assert_array_equal(table.weight.data, expected.weight.data)
    assert not table.weight.data[2].any()
    assert Linear(2, 2, init).weight.data.any()  # outside it, numbers are drawn at once


PEAK = """
import sys
from minissl import BertForPreTraining
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM:"))
before = peak()
model = BertForPreTraining.from_pretrained(sys.argv[1])
print((peak() - before) * 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from Linux's /proc")
def test_the_weights_are_in_memory_once(tmp_path):
    big = BertConfig(vocab_size=50_000, hidden_size=120, num_hidden_layers=4, num_attention_heads=4)
    BertForPreTraining(big).save_pretrained(tmp_path)
    size = (tmp_path / "model.safetensors").stat().st_size
    done = subprocess.run([sys.executable, "-c", PEAK, tmp_path], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1.2 * size


FORK = """
import os, sys
from minissl import BertForPreTraining
words = BertForPreTraining.from_pretrained(sys.argv[1]).state_dict()["bert.embeddings.word_embeddings.weight"]
before = words.copy()
if os.fork() == 0:
    words[...] = 0
    os._exit(0)
os.wait()
print((words == before).all())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes fork on POSIX")
def test_the_weights_are_the_process_s_own(folder):
    done = subprocess.run([sys.executable, "-c", FORK, folder], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
    assert all(
        weight.ctypes.data % 64 == 0 for weight in BertForPreTraining.from_pretrained(folder).state_dict().values()
    )
