"""Folders that are damaged in any way: a tokenizer, or one clear line."""

import json
import random

import pytest

from minissl.errors import InputError
from minissl.text.tokenizer import BertTokenizer

VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "##a"]
MASK = {"id": 4, "content": "[MASK]", "lstrip": True, "normalized": False, "special": True}
FILES = {
    "vocab.txt": "\n".join(VOCAB) + "\n",
    "tokenizer.json": {
        "added_tokens": [MASK],
        "normalizer": {"type": "BertNormalizer", "lowercase": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {token: index for index, token in enumerate(VOCAB)},
        },
    },
    "tokenizer_config.json": {
        "do_lower_case": True,
        "strip_accents": None,
        "model_max_length": 512,
        "padding_side": "right",
        "mask_token": {"content": "[MASK]"},
        "added_tokens_decoder": {"4": MASK},
        "extra_special_tokens": ["[E]"],
    },
    "special_tokens_map.json": {"mask_token": {"content": "[MASK]"}, "additional_special_tokens": ["[F]"]},
    "added_tokens.json": {"[G]": 9},
}
JUNK = [None, True, -1, 0, 1.5, float("inf"), 10**400, "", "x", "\n", [], {}, [[]], {"content": 5}, ["a", 1], "\ud800"]


def damaged(rng, value):
    """One place of a JSON value is lost, renamed or holds something else."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.2:
        return rng.choice(JUNK)
    if isinstance(value, list):
        index = rng.randrange(len(value))
        return [*value[:index], damaged(rng, value[index]), *value[index + 1 :]]
    key = rng.choice(list(value))
    rest = {name: item for name, item in value.items() if name != key}
    change = rng.random()
    if change < 0.2:
        return rest
    if change < 0.3:
        return rest | {rng.choice(["", "\ud800", "x\ny", "9" * 20, "-3"]): value[key]}
    return rest | {key: damaged(rng, value[key])}


def torn(rng, data):
    """A few bytes are others, more, fewer, or the rest is missing."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(data) + 1)
        new = rng.choice([b"\n", b"\n\n", b"\x00", b"\xff", b"{", b"\r", b"a\n", b""])
        data[at : at + rng.choice([0, 1, 9, len(data)])] = new
    return bytes(data)


@pytest.mark.parametrize("seed", range(5))
def test_damaged_folders(tmp_path, seed):
    rng = random.Random(seed)
    n_refused = n_opened = 0
    for number in range(150):
        folder = tmp_path / str(number)
        folder.mkdir()
        names = {name for name in FILES if rng.random() < 0.5} | {rng.choice(["vocab.txt", "tokenizer.json"])}
        broken = rng.choice(sorted(names))
        for name in names:
            is_json = name != "vocab.txt"
            in_its_values = is_json and name == broken and rng.random() < 0.6
            content = damaged(rng, FILES[name]) if in_its_values else FILES[name]
            data = (json.dumps(content) if is_json else content).encode()
            (folder / name).write_bytes(torn(rng, data) if name == broken and not in_its_values else data)
        try:
            tokenizer = BertTokenizer.from_pretrained(folder)
        except InputError as refusal:
            n_refused += "\n" not in str(refusal)
            continue
        n_opened += 1
        tokenizer.save_pretrained(folder / "saved")
        again = BertTokenizer.from_pretrained(folder / "saved")
        assert again.get_vocab() == tokenizer.get_vocab()
        assert again("a [MASK] b[E] é") == tokenizer("a [MASK] b[E] é")
    assert n_refused + n_opened == 150
    assert min(n_refused, n_opened) > 20


def test_added_tokens_of_an_old_folder(tmp_path):
    (tmp_path / "vocab.txt").write_text(FILES["vocab.txt"])
    (tmp_path / "added_tokens.json").write_text('{"[E1]": 10, "New": 9}')
    (tmp_path / "special_tokens_map.json").write_text('{"additional_special_tokens": ["[E2]"]}')
    tokenizer = BertTokenizer.from_pretrained(tmp_path)
    assert tokenizer.get_vocab() == {token: index for index, token in enumerate([*VOCAB, "New", "[E1]", "[E2]"])}
    assert (tokenizer.vocab_size, len(tokenizer)) == (9, 12)
    encoding = tokenizer("a NEWb[E2]", return_offsets_mapping=True)
    assert encoding.input_ids == [2, 5, 9, 6, 11, 3]
    assert encoding.offset_mapping == [(0, 0), (0, 1), (2, 5), (5, 6), (6, 10), (0, 0)]
    assert tokenizer.decode(encoding.input_ids) == "[CLS] a new b [E2] [SEP]"
    assert tokenizer.decode(encoding.input_ids, skip_special_tokens=True) == "a new b"


def test_a_model_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    model = tmp_path / "models--someone--some-bert"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("0a1b")
    BertTokenizer(vocab=VOCAB).save_pretrained(model / "snapshots" / "0a1b")
    assert BertTokenizer.from_pretrained("someone/some-bert").encode("a") == [2, 5, 3]
