import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from minissl import BertForMaskedLM, BertForPreTraining, BertForSequenceClassification, BertTokenizer
from minissl.cli import main
from minissl.errors import InputError
from minissl.models.bert import BertConfig
from minissl.recipes.fill import fill, guess

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sees", "a", "dog", ".", "##s"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder as Hugging Face writes one: no run.json in it."""
    folder = tmp_path_factory.mktemp("saved")
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=17,
        max_position_embeddings=10, initializer_range=0.5,
    )  # fmt: skip
    BertForPreTraining(config).save_pretrained(folder)
    BertTokenizer(vocab=WORDS).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "model"))


def test_each_mask_gets_its_best_words_with_the_models_probabilities(folder):
    text = "The [MASK] sees a [MASK]."
    found = fill(folder, text, best=3)
    assert [len(guesses) for guesses in found] == [3, 3]
    model, tokenizer = BertForPreTraining.from_pretrained(folder), BertTokenizer.from_pretrained(folder)
    logits = model(**tokenizer(text, return_tensors="np")).prediction_logits[0, [2, 5]].astype(float)
    p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    for guesses, row in zip(found, p, strict=True):
        best = np.argsort(-row)[:3]
        assert [g.word for g in guesses] == [WORDS[i] for i in best]
        assert [g.probability for g in guesses] == pytest.approx(row[best], rel=1e-5)
    everything = fill(folder, text, best=99)
    assert sum(g.probability for g in everything[0]) == pytest.approx(1)
    assert len(everything[0]) == len(WORDS)


@pytest.mark.parametrize(
    ("text", "best", "said"),
    [
        ("The cat.", 5, r"no \[MASK\] in 'The cat.'; put \[MASK\], in capitals"),
        ("the [mask]", 5, r"no \[MASK\]"),
        ("", 5, r"no \[MASK\]"),
        ("cat " * 20 + "[MASK]", 5, "too long: 23 word pieces, and this model takes 10; shorten it"),
        ("[MASK]", 0, "--best 0: expected 1 or more"),
        ("[MASK]", -3, "--best -3: expected 1 or more"),
    ],
)
def test_what_cannot_be_filled(folder, text, best, said):
    with pytest.raises(InputError, match=said):
        fill(folder, text, best)


@pytest.mark.parametrize("vocab", [WORDS[:-1], [*WORDS, "extra"]], ids=["short", "long"])
def test_a_vocabulary_of_another_run(folder, vocab):
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n")
    with pytest.raises(InputError, match=f"the vocabulary has {len(vocab)} entries, the model {len(WORDS)}"):
        fill(folder, "The [MASK].")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("vocab.txt", b"", "vocab.txt"),
        ("vocab.txt", b"the\ncat\n", r"no \[UNK\]"),
        ("vocab.txt", b"\xff\xfe", "not UTF-8"),
        ("config.json", b"{", "config.json: is not readable JSON"),
        ("config.json", b"[]", "expected a JSON object"),
        ("config.json", b'{"model_type": "gpt2"}', "BertConfig expects 'bert'"),
        ("config.json", b'{"hidden_size": "wide"}', "hidden_size is 'wide'"),
        ("config.json", b'{"num_hidden_layers": 2}', "BertForPreTraining"),
        ("model.safetensors", b"", "not readable as safetensors"),
        ("model.safetensors", b"garbage!" * 500, "not readable as safetensors"),
        ("model.safetensors", b"\x80\x04\x95", "is a pickle, which can run code and is never opened"),
        ("model.safetensors", b"PK\x03\x04zip", "is a pickle"),
    ],
)
def test_damaged_files_are_named(folder, name, content, said):
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=said):
        fill(folder, "The [MASK].")


@pytest.mark.parametrize("kept", [0, 7, 8, 100, 2000, -1])
def test_a_truncated_model(folder, kept):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:kept])
    with pytest.raises(InputError, match="not readable as safetensors"):
        fill(folder, "The [MASK].")


@pytest.mark.parametrize("name", ["vocab.txt", "config.json", "model.safetensors"])
def test_a_missing_file(folder, name):
    (folder / name).unlink()
    with pytest.raises(InputError, match=name):
        fill(folder, "The [MASK].")
    assert not (folder / name).exists()


def test_a_run_that_has_not_ended(folder):
    (folder / "run.json").write_text(json.dumps({}))
    with pytest.raises(InputError, match="this run has not ended; go on with: minissl pretrain --resume"):
        fill(folder, "The [MASK].")
    (folder / "metrics.json").write_text("{}")
    assert len(fill(folder, "The [MASK].")) == 1


def test_guess_takes_a_model_at_hand(folder):
    model, tokenizer = BertForPreTraining.from_pretrained(folder), BertTokenizer.from_pretrained(folder)
    assert guess(model, tokenizer, "[MASK]", 2) == fill(folder, "[MASK]", 2)


def test_a_model_by_its_name_comes_out_of_hugging_faces_cache(saved, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    model = tmp_path / "models--someone--little-bert"
    shutil.copytree(saved, model / "snapshots" / "c0ffee")
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("c0ffee")
    assert fill("someone/little-bert", "The [MASK].") == fill(saved, "The [MASK].")
    assert main(["fill", "someone/little-bert", "The [MASK]."]) == 0


def test_a_model_without_the_head_is_refused_and_one_without_the_other_head_is_not(saved, folder):
    tokenizer, config = BertTokenizer.from_pretrained(saved), BertConfig.from_pretrained(saved)
    BertForSequenceClassification(config).save_pretrained(folder)
    with pytest.raises(InputError, match="no head that guesses masked words; was it fine-tuned on a task"):
        fill(folder, "The [MASK].")
    model = BertForMaskedLM(config, seed=3)
    model.save_pretrained(folder)
    found = fill(folder, "The [MASK].", best=1)[0][0]
    logits = model(**tokenizer("The [MASK].", return_tensors="np")).logits[0, 2]
    assert found.word == WORDS[int(logits.argmax())]
