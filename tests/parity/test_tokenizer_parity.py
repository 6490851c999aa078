"""The tokenizer against Hugging Face's `BertTokenizerFast`: generated hard cases, every option, and the shared texts.

Needs the `parity` extra. Run as a program, this file writes `tests/text/tokenizer_fixture.json`, where a part of the
generated cases keeps the same proof for machines without transformers:
`python tests/parity/test_tokenizer_parity.py`.
"""

import gzip
import json
import os
import random
import unicodedata
import warnings
from pathlib import Path

import pytest

from minissl.errors import InputError
from minissl.text.added_tokens import AddedToken
from minissl.text.tokenizer import BertTokenizer
from minissl.text.wordpiece import SPECIAL_TOKENS, split_words, train_wordpiece

transformers = pytest.importorskip("transformers", reason="the parity extra is not installed")

FIXTURE = Path(__file__).parents[1] / "text" / "tokenizer_fixture.json"
SETTINGS = [
    {"do_lower_case": lower, "strip_accents": strip, "tokenize_chinese_chars": chinese}
    for lower in (True, False)
    for strip in (None, True, False)
    for chinese in (True, False)
]
DEFAULTS = {"add_special_tokens": True, "padding": False, "stride": 0} | dict.fromkeys(
    ("return_overflowing_tokens", "return_special_tokens_mask", "return_offsets_mapping"), False
)
MARKS = [chr(point) for point in range(0x110000) if unicodedata.combining(chr(point))]
# marks that are no accents, characters that decompose into several, that grow when lower-cased, that are left alone
ODD = (
    "\U0001d165\U0001d166\U0001d16e\u302e\u302f\U0001d15e\U0001d160\U0001d1bb\u0344\u0f73\u0f75\u0f81"
    "\u1e69\u1ea5\uac01\u0130\u03a3\u03b0\ufb2c\uf900\U0002f800\u226e\u00df\u1e9e\ufb01\u0149\u01f0"
)
PIECES = [
    "a", "bed", "Café ", "cafe\u0301", "中", "文字", "😀", "👩\u200d👩\u200d👧 ", "\t", " ", "\u3000", "\x00", "\x1c",
    "\u200b", "\ufeff", "\ufffd", "\xad", "[MASK]", " [SEP] ", "[mask]", "x[SEP]y", "[[PAD]", "[UNK]", "x" * 60, "İ",
    "ß", "ﬁ", ".", "don't ", "\u0301", "한국", "e\u0323\u0302", "١٢٣", "हिन्दी ", "ไทย",
]  # fmt: skip


def draw_text(rng):
    """A hard text: words and pieces of several scripts, runs of marks, or characters from all over Unicode."""
    kind = rng.random()
    if kind < 0.5:
        return "".join(rng.choice(PIECES) for _ in range(rng.randint(0, 12)))
    if kind < 0.8:
        return "".join(rng.choice([rng.choice(MARKS), rng.choice(ODD), rng.choice("abAB1.Éé中 ")]) for _ in range(12))
    points = [point for point in (rng.randrange(0x30000) for _ in range(9)) if not 0xD800 <= point < 0xE000]
    return "".join(map(chr, points))


def draw_vocab(rng, texts, setting):
    """Most characters of the texts and the beginnings of their words, alone and with "##"."""
    words = [word for text in texts for word in split_words(text.replace("[", " ["), *setting.values())]
    pieces = sorted({character for word in words for character in word if rng.random() < 0.95})
    pieces += sorted({word[: rng.randint(1, 5)] for word in words if rng.random() < 0.5})
    pieces = [piece for piece in pieces if piece == piece.rstrip()]
    return list(dict.fromkeys([*SPECIAL_TOKENS, *pieces, *(f"##{piece}" for piece in pieces)]))


def draw_options(rng):
    """Every option of a call; most draws leave some at what they are."""
    return {
        "add_special_tokens": rng.random() < 0.85,
        "padding": rng.choice([False, True, "longest", "max_length", "do_not_pad"]),
        "truncation": rng.choice([None, False, True, "longest_first", "only_first", "only_second", "do_not_truncate"]),
        "max_length": rng.choice([None, *range(25)]),
        "pad_to_multiple_of": rng.choice([None, None, None, 1, 3, 4]),
        "stride": rng.choice([0, 0, 1, 2, 3]),
        "padding_side": rng.choice([None, "left", "right"]),
        "return_token_type_ids": rng.choice([None, True, False]),
        "return_attention_mask": rng.choice([None, True, False]),
        "return_overflowing_tokens": rng.random() < 0.5,
        "return_special_tokens_mask": rng.random() < 0.5,
        "return_offsets_mapping": rng.random() < 0.8,
    }


def draw_input(rng, texts):
    """One text, a pair, a list of texts or two lists, as the arguments of a call."""
    if rng.random() < 0.3:
        return [rng.choice(texts)] + [rng.choice(texts)] * (rng.random() < 0.6)
    n = rng.randint(1, 3)
    return [[rng.choice(texts) for _ in range(n)] for _ in range(1 + (rng.random() < 0.6))]


def pair(vocab, setting, max_length=40):
    """Both tokenizers with one vocabulary."""
    ids = {token: index for index, token in enumerate(vocab)}
    theirs = transformers.BertTokenizerFast(vocab=ids, model_max_length=max_length, **setting)
    return BertTokenizer(vocab=vocab, model_max_length=max_length, **setting), theirs


def outcome(tokenizer, arguments, options):
    """All that a call returns, or the exception that it raises."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that max_length does nothing there
            encoding = tokenizer(*arguments, **options)
    except BaseException as error:  # Rust's panics are not Exceptions
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        return error
    first = next(iter(encoding.values()))
    n_rows = len(first) if not first or isinstance(first[0], list) else 1
    return dict(encoding), list(encoding), [encoding.sequence_ids(row) for row in range(n_rows)]


@pytest.mark.parametrize("seed", range(len(SETTINGS)))
def test_every_option(seed):
    rng = random.Random(seed)
    setting = SETTINGS[seed]
    texts = [draw_text(rng) for _ in range(60)]
    ours, theirs = pair(draw_vocab(rng, texts, setting), setting)
    n_equal = 0
    for _ in range(400):
        arguments, options = draw_input(rng, texts), draw_options(rng)
        got, expected = outcome(ours, arguments, options), outcome(theirs, arguments, options)
        if isinstance(got, Exception):  # where theirs does not fail, it returns rows longer than max_length
            assert isinstance(got, InputError), (arguments, options)
            too_small = "has no room" in str(got) or "holds 0 tokens" in str(got)
            assert isinstance(expected, BaseException) or too_small, (arguments, options)
        elif isinstance(expected, BaseException):  # it refuses a stride even where there is nothing to cut
            assert "stride" in str(expected), (arguments, options)
        else:
            assert got == expected, (ascii(arguments), options)
            n_equal += 1
    assert n_equal > 200


ADDED = [  # no two of them alike once lower-cased: which of those wins is left to chance there
    "[E1]", "NewWord", "é中", "İx", "<x>", "a b", " c", "[unused1]", "😀", "a", "ab", "[MASK]", "x.y",
    "\u0301b",
]  # fmt: skip


def draw_added(rng, at_most):
    """Tokens and their flags, as Hugging Face's files hold them."""
    return [
        {"content": content, "special": rng.random() < 0.4, "normalized": rng.random() < 0.4}
        | {name: rng.random() < 0.3 for name in ("lstrip", "rstrip", "single_word")}
        for content in rng.sample(ADDED, rng.randint(0, at_most))
    ]


def draw_folder(rng, folder, vocab, setting):
    """Write files that a released folder may have, which need not agree."""
    folder.mkdir()
    ids = {token: index for index, token in enumerate(vocab)}
    if rng.random() < 0.5:
        theirs = transformers.BertTokenizerFast(vocab=ids, **setting)
        theirs.add_tokens([transformers.AddedToken(**token) for token in draw_added(rng, 3)])
        theirs.save_pretrained(folder)
        if rng.random() < 0.7:
            (folder / "tokenizer_config.json").unlink()
    if rng.random() < 0.5 or not list(folder.iterdir()):
        order = vocab if rng.random() < 0.7 else [*vocab[:5], *reversed(vocab[5:])]
        (folder / "vocab.txt").write_bytes(rng.choice(["\n", "\r\n"]).join([*order, ""]).encode())
    config = {name: value for name, value in setting.items() if rng.random() < 0.7}
    config |= {"model_max_length": rng.choice([9, 512, 1e30])} if rng.random() < 0.5 else {}
    config |= {"padding_side": "left"} if rng.random() < 0.2 else {}
    config |= {"mask_token": rng.choice(["[MASK]", "a"])} if rng.random() < 0.3 else {}
    if rng.random() < 0.3:
        config[rng.choice(["extra_special_tokens", "additional_special_tokens"])] = rng.sample(ADDED, 2)
    if rng.random() < 0.3:
        config["added_tokens_decoder"] = dict(enumerate(draw_added(rng, 4), len(vocab)))
    if not (folder / "tokenizer_config.json").exists() and rng.random() < 0.8:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if rng.random() < 0.3:
        named = {"mask_token": rng.choice(["[MASK]", {"content": "[MASK]", "lstrip": True}, "b"])}
        named |= {"additional_special_tokens": rng.sample(ADDED, 1)} if rng.random() < 0.5 else {}
        (folder / "special_tokens_map.json").write_text(json.dumps(named))
    if rng.random() < 0.3 and not (folder / "tokenizer.json").exists():
        added = {token: len(vocab) + index for index, token in enumerate(rng.sample(ADDED, 2))}
        (folder / "added_tokens.json").write_text(json.dumps(added))


@pytest.mark.parametrize("seed", range(len(SETTINGS)))
def test_folders_and_added_tokens(tmp_path, seed):
    rng = random.Random(100 + seed)
    setting = SETTINGS[seed]
    n_equal = 0
    for number in range(4):
        texts = [draw_text(rng) for _ in range(12)]
        texts += ["".join(rng.choice([*ADDED, " ", " ", "b", ".", "NEWWORD"]) for _ in range(9)) for _ in range(25)]
        vocab = draw_vocab(rng, [*texts, "a b [unused1]"], setting)
        vocab = list(dict.fromkeys([*vocab, "a", "b", "##b", "[unused1]"]))
        folder = tmp_path / str(number)
        draw_folder(rng, folder, vocab, setting)
        files = {path.name: path.read_text() for path in folder.iterdir() if path.stat().st_size < 3000}
        theirs = transformers.BertTokenizerFast.from_pretrained(folder)
        ours = BertTokenizer.from_pretrained(folder)
        again = tmp_path / f"again{number}"
        ours.save_pretrained(again)
        for mine, other in ((ours, theirs), (BertTokenizer.from_pretrained(again), theirs),
                            (ours, transformers.BertTokenizerFast.from_pretrained(again))):  # fmt: skip
            assert mine.get_vocab() == other.get_vocab(), files
            assert (len(mine), mine.vocab_size) == (len(other), other.vocab_size), files
            assert mine.all_special_tokens == other.all_special_tokens, files
            assert mine.all_special_ids == other.all_special_ids, files
            assert mine.convert_ids_to_tokens(list(range(len(mine)))) == other.convert_ids_to_tokens(range(len(other)))
            assert (mine.model_max_length, mine.padding_side) == (other.model_max_length, other.padding_side), files
            for text in texts:
                options = {"return_offsets_mapping": True, "return_special_tokens_mask": True}
                assert outcome(mine, [text], options) == outcome(other, [text], options), (files, ascii(text))
                ids = mine(text).input_ids
                for skip in (False, True):
                    assert mine.decode(ids, skip_special_tokens=skip) == other.decode(ids, skip_special_tokens=skip), (
                        files
                    )
                n_equal += 1
    assert n_equal == 4 * 3 * 37


def shared_texts(folder):
    """Every line, paragraph and question of the shared texts."""
    texts = []
    for pattern in ("text/*/*.txt", "sentiment/*/*.tsv", "translation/*/*.gz"):
        for path in sorted(folder.glob(pattern)):
            content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            texts += content.decode("utf-8").split("\n")
    for path in sorted(folder.glob("qa/*/*.json.gz")):
        articles = json.loads(gzip.decompress(path.read_bytes()))["data"]
        paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
        texts += [paragraph["context"] for paragraph in paragraphs]
        texts += [question["question"] for paragraph in paragraphs for question in paragraph["qas"]]
    return texts


@pytest.mark.parametrize("lowercase", [True, False])
def test_the_shared_texts(lowercase):
    """Every line, context and question; offsets of one in 8; then pairs in windows, as for SQuAD."""
    folder = os.environ.get("MINISSL_DATA")
    if not folder:
        pytest.skip("MINISSL_DATA is not set: needs the shared texts")
    texts = shared_texts(Path(folder))
    vocab = train_wordpiece(texts[::20], 5000, lowercase=lowercase)
    ours, theirs = pair(vocab, {"do_lower_case": lowercase}, 512)
    batches = [(texts[start : start + 4000], {}) for start in range(0, len(texts), 4000)]
    for batch, options in [*batches, (texts[::8], {"return_offsets_mapping": True})]:
        got, expected = (tokenizer(batch, **options) for tokenizer in (ours, theirs))
        assert list(got) == list(expected)
        for name in got:
            for text, row, expected_row in zip(batch, got[name], expected[name], strict=True):
                assert row == expected_row, (name, text)
    long = [text for text in texts if len(text) > 500][:200]
    for cut in ("only_second", "longest_first"):
        options = {"truncation": cut, "max_length": 96, "stride": 24, "padding": "max_length"}
        options |= {"return_overflowing_tokens": True, "return_offsets_mapping": True, "return_tensors": "np"}
        arguments = [[text[-60:] for text in long], long]
        got, expected = ours(*arguments, **options), theirs(*arguments, **options)
        assert len(got.input_ids) > 1.5 * len(long)
        for name in expected:
            assert got[name].tolist() == expected[name].tolist(), name
        for row in range(len(got.input_ids)):
            assert got.sequence_ids(row) == expected.sequence_ids(row)


@pytest.mark.parametrize("seed", range(3))
def test_pad(seed):
    rng = random.Random(seed)
    ours, theirs = pair([*SPECIAL_TOKENS, *"abcdef"], {}, 12)
    for _ in range(150):
        texts = [" ".join(rng.choices("abcdef", k=rng.randint(1, 9))) for _ in range(rng.randint(1, 4))]
        options = {"return_special_tokens_mask": rng.random() < 0.5, "return_token_type_ids": rng.random() < 0.5}
        encoded = dict(ours(texts, return_attention_mask=rng.random() < 0.5, **options))
        encoded["labels"] = list(range(len(texts)))
        form = rng.randrange(4)
        if form == 1:
            encoded = [{name: column[row] for name, column in encoded.items()} for row in range(len(texts))]
        elif form == 2:
            encoded = {name: column[0] for name, column in encoded.items() if name != "labels"}
        options = {
            "padding": rng.choice([True, "longest", "max_length", False]),
            "max_length": rng.choice([None, 12, 15]),
            "pad_to_multiple_of": rng.choice([None, 4]),
            "padding_side": rng.choice([None, "left", "right"]),
            "return_tensors": "np" if form == 3 else None,
        }
        if form == 3 and options["padding"] is False:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = theirs.pad(json.loads(json.dumps(encoded)), **options)
        got = ours.pad(encoded, **options)
        assert list(got) == list(expected)
        for name in expected:
            assert str(got[name]) == str(expected[name]), (encoded, options)
        if form == 3:
            assert all(got[name].dtype == expected[name].dtype for name in expected)


@pytest.mark.parametrize("setting", [{}, {"do_lower_case": False, "mask_token": "<mask>", "model_max_length": 77}])
def test_what_is_saved_opens_without_a_warning(tmp_path, caplog, capfd, setting):
    vocab = [*SPECIAL_TOKENS[:4], setting.get("mask_token", "[MASK]"), *"abcABC", "é"]
    token = AddedToken("[E1]", lstrip=True)
    for name, added in (("plain", []), ("added", [token])):
        ours = BertTokenizer(vocab=vocab, added_tokens=added, **setting)
        ours.save_pretrained(tmp_path / name)
        transformers.logging.enable_propagation()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for kind in (transformers.BertTokenizerFast, transformers.AutoTokenizer):
                theirs = kind.from_pretrained(tmp_path / name)
                assert type(theirs).__name__ in ("BertTokenizer", "BertTokenizerFast")
                texts = ["a Bé [E1]c<mask>", "[MASK] x [PAD]", ""]
                assert dict(theirs(texts)) == ours(texts)
                assert theirs.model_max_length == ours.model_max_length
        transformers.logging.disable_propagation()
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


def write_fixture():
    """Write the cases that the tests without transformers read, with what Hugging Face makes of them."""
    rng = random.Random(4)
    groups = []
    for setting in SETTINGS[::2]:
        texts = [draw_text(rng) for _ in range(8)]
        vocab = draw_vocab(rng, texts, setting)
        _, theirs = pair(vocab, setting)
        cases = []
        while len(cases) < 8:
            arguments, options = draw_input(rng, texts), draw_options(rng)
            if options["padding"] == "max_length" and options["max_length"] is None:
                continue  # nothing new in it, only length
            expected = outcome(theirs, arguments, options)
            too_long = options["truncation"] and options["max_length"] is not None and options["max_length"] < 6
            if not isinstance(expected, BaseException) and not too_long:
                given = {name: value for name, value in options.items() if DEFAULTS.get(name) != value}
                cases.append([arguments, given, *expected[::2]])
        groups.append({"setting": setting, "vocab": vocab, "cases": cases})
    content = {"made_with": f"transformers {transformers.__version__}", "groups": groups}
    FIXTURE.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="ascii")


if __name__ == "__main__":
    write_fixture()
