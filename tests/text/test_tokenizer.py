import gzip
import json
import os
import pickle
import random
from pathlib import Path

import numpy as np
import pytest

import minissl.text.tokenizer as tokenizer_module
from minissl.errors import InputError
from minissl.text.tokenizer import BertTokenizer, BertTokenizerFast
from minissl.text.wordpiece import train_wordpiece

TOKENS = """
    [PAD] [UNK] [CLS] [SEP] [MASK] a b c d e f i k n o s t u x ##a ##b ##c ##d ##e ##f ##i ##k ##n ##o ##s ##t ##u ##x
    A B ##B 1 ##2 . , ! ' - [ ] $ « 。 cafe café stra ##ße ß ##ß i\u0307 ##\u0307 ı σ ##σ ##ς
    中 ##中 文 ᄒ ##ᅡ ##ᆫ 한 한국 😀 ##😀 ﬁ ##\u0301 e\u0301 \u0301 ü u\u0308 bat ##ting mask unk ffi ##nite ##ა ა
"""
VOCAB = TOKENS.split()

# text; ids of a lower-casing tokenizer, a cased one, and one with strip_accents=False, tokenize_chinese_chars=False.
# Written by Hugging Face (transformers 5.23.0, tokenizers 0.23.3).
HARD = [
    ("", [], [], []),
    (" \t\n", [], [], []),
    ("cab bed", [7, 19, 20, 6, 23, 22], [7, 19, 20, 6, 23, 22], [7, 19, 20, 6, 23, 22]),
    ("Bat BATTING", [76, 76, 77], [34, 19, 30, 1], [76, 76, 77]),
    ("a\xa0b\u2003c\u3000d\u2028e", [5, 6, 7, 8, 9], [5, 6, 7, 8, 9], [5, 6, 7, 8, 9]),
    ("a\x00b\ufffdc\x07d\x7fe\u200bf", [5, 20, 21, 22, 23, 24], [5, 20, 21, 22, 23, 24], [5, 20, 21, 22, 23, 24]),
    ("a\x1cb\x85c\x0bd\x0ce", [5, 20, 21, 22, 23], [5, 20, 21, 22, 23], [5, 20, 21, 22, 23]),
    ("a\rb\r\nc", [5, 6, 7], [5, 6, 7], [5, 6, 7]),
    ("a\xadb\u2060c\ufeffd", [5, 20, 21, 22], [5, 20, 21, 22], [5, 20, 21, 22]),
    ("caf\xe9 cafe\u0301 CAF\xc9", [48, 48, 48], [49, 48, 71, 1], [49, 48, 71, 49]),
    ("\xfc u\u0308 \u0301", [17, 17], [74, 75, 73], [74, 75, 73]),
    ("Stra\xdfe \xdf \u1e9e", [50, 51, 52, 52], [1, 52, 1], [50, 51, 52, 52]),
    ("\u0130i\u0131I", [1], [1], [1]),
    ("\u03a3 \u03a3\u03a3 a\u03a3 \u03c2", [57, 57, 58, 5, 58, 1], [1, 1, 1, 1], [57, 57, 58, 5, 58, 1]),
    ("\u4e2d\u6587a\u4e2db", [60, 62, 5, 60, 6], [60, 62, 5, 60, 6], [1]),
    ("\u3400\U00020000\uf900\u4e2d", [1, 1, 1, 60], [1, 1, 1, 60], [1]),
    ("\U0002b820\u4e2d \U0002b920\u4e2d", [1, 60, 1, 60], [1, 60, 1, 60], [1, 1]),
    ("\ud55c\uad6d \ud55c", [1, 63, 64, 65], [67, 66], [67, 66]),
    ("\U0001f600a\u200d\U0001f600\ufe0f \U0001f600\U0001f600", [68, 19, 69, 68, 69], [1, 68, 69], [1, 68, 69]),
    ("\ufb01n a\ufb01", [70, 27, 1], [70, 27, 1], [70, 27, 1]),
    (
        "$1.2,a-b!\xaba\xbb \u3002",
        [45, 36, 38, 1, 39, 5, 42, 6, 40, 46, 5, 1, 47],
        [45, 36, 38, 1, 39, 5, 42, 6, 40, 46, 5, 1, 47],
        [45, 36, 38, 1, 39, 5, 42, 6, 40, 46, 5, 1, 47],
    ),
    ("a'b ''", [5, 41, 6, 41, 41], [5, 41, 6, 41, 41], [5, 41, 6, 41, 41]),
    ("a~b`c^d|e", [5, 1, 6, 1, 7, 1, 8, 1, 9], [5, 1, 6, 1, 7, 1, 8, 1, 9], [5, 1, 6, 1, 7, 1, 8, 1, 9]),
    (
        "[MASK] [mask] [ MASK ] x[MASK]y",
        [4, 43, 78, 44, 43, 78, 44, 18, 4, 1],
        [4, 43, 78, 44, 43, 1, 44, 18, 4, 1],
        [4, 43, 78, 44, 43, 78, 44, 18, 4, 1],
    ),
    (
        "[[MASK]] [CLS][SEP] [PAD]a[UNK]",
        [43, 4, 44, 2, 3, 0, 5, 1],
        [43, 4, 44, 2, 3, 0, 5, 1],
        [43, 4, 44, 2, 3, 0, 5, 1],
    ),
    ("\xe9[MASK]\u0301", [9, 4], [1, 4, 73], [1, 4, 73]),
    ("a\ue000b\U000f0000c", [5, 20, 21], [5, 20, 21], [5, 20, 21]),
    ("a\u0378b", [1], [1], [1]),
    ("a\U000e0001b", [5, 20], [5, 20], [5, 20]),
    ("x" * 100, [18] + [32] * 99, [18] + [32] * 99, [18] + [32] * 99),
    ("x" * 101, [1], [1], [1]),
    ("a" + "\u0301" * 200 + "b", [5, 20], [1], [1]),
    ("\x00" * 200 + "a", [5], [5], [5]),
    ("z az zab", [1, 1, 1], [1, 1, 1], [1, 1, 1]),
    ("a\u1734b\u180eb", [5, 20, 20], [1], [1]),
    ("a\u061db a\u2e43b a\u061eb", [1, 1, 5, 1, 6], [1, 1, 5, 1, 6], [1, 1, 5, 1, 6]),
    ("a\u1ac1b a\u08cab a\u0898", [1, 1, 1], [1, 1, 1], [1, 1, 1]),
    ("\u1c90a a\u1c90", [83, 19, 5, 82], [1, 1], [83, 19, 5, 82]),
    ("\ua7dc\U00010d50", [1], [1], [1]),
    ("\U00011938a", [1], [1], [1]),
    ("a\u0344b", [5, 20], [1], [1]),
    ("\u037ea\u1fefb", [1, 5, 1, 6], [1, 1], [1, 1]),
    ("\u2126\u212a\u212b", [1], [1], [1]),
    ("a\U000110cdb a\u08e2b", [1, 1], [1, 1], [1, 1]),
]
# arguments, options, and what Hugging Face makes of them with this vocabulary.
OPTIONS = [
    (
        ("a b c",),
        {},
        {"input_ids": [2, 5, 6, 7, 3], "token_type_ids": [0, 0, 0, 0, 0], "attention_mask": [1, 1, 1, 1, 1]},
    ),
    (
        ("a b", "c"),
        {"return_special_tokens_mask": True},
        {
            "input_ids": [2, 5, 6, 3, 7, 3],
            "token_type_ids": [0, 0, 0, 0, 1, 1],
            "attention_mask": [1, 1, 1, 1, 1, 1],
            "special_tokens_mask": [1, 0, 0, 1, 0, 1],
        },
    ),
    (("a b", ""), {}, {"input_ids": [2, 5, 6, 3], "token_type_ids": [0, 0, 0, 0], "attention_mask": [1, 1, 1, 1]}),
    (
        (["a b"], [""]),
        {},
        {"input_ids": [[2, 5, 6, 3, 3]], "token_type_ids": [[0, 0, 0, 0, 1]], "attention_mask": [[1, 1, 1, 1, 1]]},
    ),
    (("",), {}, {"input_ids": [2, 3], "token_type_ids": [0, 0], "attention_mask": [1, 1]}),
    (
        ("a b", "c d"),
        {"add_special_tokens": False, "return_special_tokens_mask": True},
        {
            "input_ids": [5, 6, 7, 8],
            "token_type_ids": [0, 0, 1, 1],
            "attention_mask": [1, 1, 1, 1],
            "special_tokens_mask": [0, 0, 0, 0],
        },
    ),
    (
        (["a b c", "d"],),
        {"padding": True},
        {
            "input_ids": [[2, 5, 6, 7, 3], [2, 8, 3, 0, 0]],
            "token_type_ids": [[0, 0, 0, 0, 0], [0, 0, 0, 0, 0]],
            "attention_mask": [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]],
        },
    ),
    (
        (["a b c", "d"],),
        {"padding": "longest", "padding_side": "left", "return_special_tokens_mask": True},
        {
            "input_ids": [[2, 5, 6, 7, 3], [0, 0, 2, 8, 3]],
            "token_type_ids": [[0, 0, 0, 0, 0], [0, 0, 0, 0, 0]],
            "attention_mask": [[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]],
            "special_tokens_mask": [[1, 0, 0, 0, 1], [1, 1, 1, 0, 1]],
        },
    ),
    (
        ([("a", "b c"), "d"],),
        {"padding": "max_length", "max_length": 7},
        {
            "input_ids": [[2, 5, 3, 6, 7, 3, 0], [2, 8, 3, 0, 0, 0, 0]],
            "token_type_ids": [[0, 0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0, 0]],
            "attention_mask": [[1, 1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0, 0]],
        },
    ),
    (
        ("a [MASK] b",),
        {"return_special_tokens_mask": True, "return_token_type_ids": False, "return_attention_mask": False},
        {"input_ids": [2, 5, 4, 6, 3], "special_tokens_mask": [1, 0, 0, 0, 1]},
    ),
    (
        ("a b c d e",),
        {"max_length": 4},
        {"input_ids": [2, 5, 6, 3], "token_type_ids": [0, 0, 0, 0], "attention_mask": [1, 1, 1, 1]},
    ),
    (
        ("a b c d e",),
        {"max_length": 4, "truncation": False},
        {
            "input_ids": [2, 5, 6, 7, 8, 9, 3],
            "token_type_ids": [0, 0, 0, 0, 0, 0, 0],
            "attention_mask": [1, 1, 1, 1, 1, 1, 1],
        },
    ),
    (
        ("a b c d e",),
        {"max_length": 4, "padding": "max_length"},
        {
            "input_ids": [2, 5, 6, 7, 8, 9, 3],
            "token_type_ids": [0, 0, 0, 0, 0, 0, 0],
            "attention_mask": [1, 1, 1, 1, 1, 1, 1],
        },
    ),
    (
        ("a b c d e", "f i k"),
        {"truncation": True, "max_length": 8},
        {
            "input_ids": [2, 5, 6, 7, 3, 10, 11, 3],
            "token_type_ids": [0, 0, 0, 0, 0, 1, 1, 1],
            "attention_mask": [1, 1, 1, 1, 1, 1, 1, 1],
        },
    ),
    (
        ("a b", "c d e f i"),
        {"truncation": "longest_first", "max_length": 6},
        {"input_ids": [2, 5, 3, 7, 8, 3], "token_type_ids": [0, 0, 0, 1, 1, 1], "attention_mask": [1, 1, 1, 1, 1, 1]},
    ),
    (
        ("a b c d e", "f i k"),
        {"truncation": True, "max_length": 6},
        {"input_ids": [2, 5, 6, 3, 10, 3], "token_type_ids": [0, 0, 0, 0, 1, 1], "attention_mask": [1, 1, 1, 1, 1, 1]},
    ),
    (
        ("a b c", "f i k"),
        {"truncation": True, "max_length": 6},
        {"input_ids": [2, 5, 3, 10, 11, 3], "token_type_ids": [0, 0, 0, 1, 1, 1], "attention_mask": [1, 1, 1, 1, 1, 1]},
    ),
    (
        ("a b c d e", "f i"),
        {"truncation": "only_first", "max_length": 7},
        {
            "input_ids": [2, 5, 6, 3, 10, 11, 3],
            "token_type_ids": [0, 0, 0, 0, 1, 1, 1],
            "attention_mask": [1, 1, 1, 1, 1, 1, 1],
        },
    ),
    (
        ("a", "b c d e f"),
        {"truncation": "only_second", "max_length": 6},
        {"input_ids": [2, 5, 3, 6, 7, 3], "token_type_ids": [0, 0, 0, 1, 1, 1], "attention_mask": [1, 1, 1, 1, 1, 1]},
    ),
    (
        ("a", "b c"),
        {"truncation": "only_second", "max_length": 3},
        {"input_ids": [2, 3, 3], "token_type_ids": [0, 0, 1], "attention_mask": [1, 1, 1]},
    ),
    (
        ("a",),
        {"truncation": "only_second", "max_length": 3},
        {"input_ids": [2, 5, 3], "token_type_ids": [0, 0, 0], "attention_mask": [1, 1, 1]},
    ),
]

SETTINGS = [{}, {"do_lower_case": False}, {"strip_accents": False, "tokenize_chinese_chars": False}]


@pytest.fixture
def tokenizer():
    return BertTokenizer(vocab=VOCAB)


def shared_texts():
    """Every line, paragraph and question of the shared texts."""
    folder = os.environ.get("MINISSL_DATA")
    if not folder:
        pytest.skip("MINISSL_DATA is not set: needs the shared texts")
    texts = []
    for pattern in ("text/*/*.txt", "sentiment/*/*.tsv", "translation/*/*.gz"):
        for path in sorted(Path(folder).glob(pattern)):
            content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            texts += content.decode("utf-8").split("\n")
    for path in sorted(Path(folder).glob("qa/*/*.json.gz")):
        articles = json.loads(gzip.decompress(path.read_bytes()))["data"]
        paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
        texts += [paragraph["context"] for paragraph in paragraphs]
        texts += [question["question"] for paragraph in paragraphs for question in paragraph["qas"]]
    return texts


def hugging_face(vocab, do_lower_case=True, strip_accents=None, tokenize_chinese_chars=True):
    """What BertTokenizerFast is inside."""
    tokenizers = pytest.importorskip("tokenizers")
    ids = {token: index for index, token in enumerate(vocab)}
    theirs = tokenizers.Tokenizer(tokenizers.models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    theirs.normalizer = tokenizers.normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=tokenize_chinese_chars,
        strip_accents=strip_accents,
        lowercase=do_lower_case,
    )
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    theirs.decoder = tokenizers.decoders.WordPiece(prefix="##")
    theirs.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    theirs.add_special_tokens(["[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"])
    return theirs


def random_text(rng):
    """A few characters from all over Unicode, with blocks where the rules differ drawn more often."""
    blocks = [
        (0, 0x80),
        (0, 0x250),
        (0x300, 0x370),
        (0x370, 0x700),
        (0x700, 0x2000),
        (0x1100, 0x1200),
        (0x2000, 0x2070),
    ]
    blocks += [(0x1AB0, 0x1B00), (0x3000, 0x3100), (0x4E00, 0xA000), (0xAC00, 0xD7A4), (0xF900, 0x10000)]
    blocks += [(0x10000, 0x20000), (0x1D100, 0x1D250), (0x1E000, 0x1F000), (0x20000, 0x30000), (0xE0000, 0x110000)]
    block = rng.choice(blocks)
    draws = [block, block, rng.choice(blocks), (0x61, 0x66), (0x20, 0x21)]
    text = "".join(chr(rng.randrange(*rng.choice(draws))) for _ in range(rng.randint(0, 14)))
    return text + rng.choice(["", "", " [MASK]", "[SEP]\u0301", "[mask]", "Σ", "İ"])


def test_public_names():
    assert BertTokenizerFast is BertTokenizer


@pytest.mark.parametrize("setting", [0, 1, 2])
@pytest.mark.parametrize("case", HARD, ids=lambda case: ascii(case[0])[:30])
def test_hard_strings(case, setting):
    tokenizer = BertTokenizer(vocab=VOCAB, **SETTINGS[setting])
    expected = case[1 + setting]
    assert tokenizer.encode(case[0], add_special_tokens=False) == expected
    assert tokenizer.encode(case[0]) == [2, *expected, 3]
    assert tokenizer.encode(case[0], add_special_tokens=False) == expected  # now from the cache


@pytest.mark.parametrize(("arguments", "options", "expected"), OPTIONS)
def test_options(tokenizer, arguments, options, expected):
    encoding = tokenizer(*arguments, **options)
    assert encoding == expected
    assert list(encoding) == list(expected)
    if options.get("padding") is True or isinstance(arguments[0], str):
        arrays = tokenizer(*arguments, **options, return_tensors="np")
        for name, array in arrays.items():
            assert array.dtype == np.int64
            assert array.tolist() == (expected[name] if isinstance(arguments[0], list) else [expected[name]])


def test_lengths_of_the_model(tokenizer):
    assert tokenizer.model_max_length == 512
    short = BertTokenizer(vocab=VOCAB, model_max_length=4, padding_side="left")
    assert short.encode("a b c", truncation=True) == [2, 5, 6, 3]
    assert short.encode("a", padding="max_length") == [0, 2, 5, 3]
    assert short.encode("a b c") == [2, 5, 6, 7, 3]
    endless = BertTokenizer(vocab=VOCAB, model_max_length=int(1e30))
    assert endless.encode("a b", truncation=True, padding="max_length") == [2, 5, 6, 3]


def test_windows_and_places(tokenizer):
    encoding = tokenizer(
        ["a", "b"],
        ["c d e f", "Cáb"],
        truncation="only_second",
        max_length=7,
        stride=1,
        padding=True,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_tensors="np",
    )
    assert encoding.input_ids.tolist() == [
        [2, 5, 3, 7, 8, 9, 3],
        [2, 5, 3, 9, 10, 3, 0],
        [2, 6, 3, 7, 19, 20, 3],
    ]
    assert encoding.overflow_to_sample_mapping.tolist() == [0, 0, 1]
    assert encoding.offset_mapping.shape == (3, 7, 2)
    assert encoding.offset_mapping[1].tolist() == [[0, 0], [0, 1], [0, 0], [4, 5], [6, 7], [0, 0], [0, 0]]
    assert encoding.offset_mapping[2, 3:6].tolist() == [[0, 1], [1, 2], [2, 3]]
    assert encoding.sequence_ids(1) == [None, 0, None, 1, 1, None, None]
    assert encoding.sequence_ids(-1) == encoding.sequence_ids(2) == [None, 0, None, 1, 1, 1, None]
    with pytest.raises(InputError, match="texts of 3 rows"):
        encoding.sequence_ids(3)
    without = tokenizer("a b c", max_length=4, truncation=True, stride=9)  # nothing overflows into windows here
    assert without == tokenizer("a b c", max_length=4, truncation=True)


def test_places_in_the_text_as_given(tokenizer):
    text = "\u200bCA\u0301B [MASK]\x00İ ß中"
    encoding = tokenizer(text, return_offsets_mapping=True)
    tokens = tokenizer.convert_ids_to_tokens(encoding.input_ids)
    assert tokens == ["[CLS]", "c", "##a", "##b", "[MASK]", "i", "ß", "中", "[SEP]"]
    parts = [text[start:stop] for start, stop in encoding.offset_mapping]
    assert parts == ["", "C", "A", "B", "[MASK]", "İ", "ß", "中", ""]


def test_padding_to_a_multiple(tokenizer):
    assert tokenizer("a b", padding=True, pad_to_multiple_of=3).attention_mask == [1, 1, 1, 1, 0, 0]
    assert (
        tokenizer("a b", padding="max_length", max_length=5, pad_to_multiple_of=4).input_ids == [2, 5, 6, 3] + [0] * 4
    )
    assert tokenizer("a b", pad_to_multiple_of=3).input_ids == [2, 5, 6, 3]


def test_pad_what_is_encoded(tokenizer):
    rows = [{**tokenizer("a b", return_special_tokens_mask=True), "labels": 1}, {**tokenizer("c"), "labels": 0}]
    rows[1]["special_tokens_mask"] = [1, 0, 1]
    padded = tokenizer.pad(rows, return_tensors="np")
    assert padded.input_ids.tolist() == [[2, 5, 6, 3], [2, 7, 3, 0]]
    assert padded.attention_mask.tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert padded.special_tokens_mask.tolist() == [[1, 0, 0, 1], [1, 0, 1, 1]]
    assert padded.labels.tolist() == [1, 0]
    assert tokenizer.pad({"input_ids": [[2, 3], [2]]}, padding_side="left") == {
        "input_ids": [[2, 3], [0, 2]],
        "attention_mask": [[1, 1], [0, 1]],
    }
    assert tokenizer.pad({"input_ids": np.array([2, 3])}, pad_to_multiple_of=4).input_ids == [2, 3, 0, 0]
    for wrong, message in (
        ({"ids": [1]}, "expected a dict with input_ids"),
        ([5], r"expected a dict with input_ids.*\[5\]"),
        ([{"input_ids": [1]}, {}], "differ in their entries"),
        ({"input_ids": [[1], [2]], "labels": [1]}, "several numbers of rows"),
    ):
        with pytest.raises(InputError, match=message):
            tokenizer.pad(wrong)
    with pytest.raises(InputError, match="several lengths"):
        tokenizer.pad({"input_ids": [[1], [2, 3]]}, padding=False, return_tensors="np")


def test_fields_by_attribute(tokenizer):
    encoding = tokenizer("a")
    assert encoding.input_ids == encoding["input_ids"] == [2, 5, 3]
    assert {**encoding}.keys() == {"input_ids", "token_type_ids", "attention_mask"}
    with pytest.raises(AttributeError, match="labels"):
        _ = encoding.labels
    assert pickle.loads(pickle.dumps(encoding)) == encoding


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("a",), {"return_tensors": "pt"}, 'only "np"'),
        (("a",), {"padding": "longer"}, "padding='longer'.*'longest'"),
        (("a",), {"truncation": "last"}, "truncation='last'.*'only_second'"),
        (("a",), {"padding_side": "top"}, "padding_side='top'"),
        ((["a b", "a"],), {"return_tensors": "np"}, "padding=True"),
        (("a",), {"max_length": 1}, "max_length 1 has no room for the 2 special tokens"),
        (("a", "b"), {"max_length": 2, "truncation": True}, "the 3 special tokens"),
        (
            ("a", "b c d"),
            {"max_length": 5, "truncation": "only_first"},
            'it has 1 tokens and 2 must go.*"longest_first"',
        ),
        (("a b c d",), {"max_length": 4, "truncation": "only_second"}, "no second text"),
        (
            ("a b c d",),
            {"max_length": 5, "stride": 3, "return_overflowing_tokens": True},
            "window holds 3 tokens.*lower",
        ),
        (("a b c d",), {"max_length": 5, "stride": -1, "return_overflowing_tokens": True}, "stride -1"),
        (("a b",), {"max_length": 2, "return_overflowing_tokens": True}, "window holds 0 tokens"),
        ((5,), {}, r"got 5 \(int\)"),
        ((None,), {}, "got None"),
        ((b"a",), {}, r"got b'a' \(bytes\)"),
        ((float("nan"),), {}, r"got nan \(float\)"),
        ((["a", float("nan")],), {}, r"got nan \(float\)"),
        ((np.array(["a\nb"] * 99),), {}, "got array.*ndarray"),
        ((["a", None],), {}, "got None"),
        ((("a", ("b", "c", "d" * 999)),), {}, r"got \('b', 'c', 'ddd.*…"),
        (("a", 0), {}, "pair of strings"),
        (("a", []), {}, "pair of strings"),
        (("é\ud800",), {}, r"U\+D800 at character 1 is half a character"),
        (("a",), {"max_length": -1}, "max_length=-1: expected a whole number"),
        (("a",), {"max_length": 5.0}, "max_length=5.0"),
        (("a",), {"max_length": True}, "max_length=True"),
        (("a",), {"padding": ["longest"]}, r"padding=\['longest'\]"),
        (("a",), {"padding": True, "pad_to_multiple_of": 0}, "pad_to_multiple_of=0"),
        (("a",), {"max_length": 5, "truncation": True, "padding": True, "pad_to_multiple_of": 4}, "5 is no multiple"),
        (([],), {}, "something in it"),
        ((["a", 5],), {}, "got 5"),
        (([("a", "b", "c")],), {}, "pair of strings"),
        ((["a", "b"], "c"), {}, "list of 2 second texts"),
        ((["a", "b"], ["c"]), {}, "list of 2 second texts"),
        (("a", ["c"]), {}, "pair of strings"),
        ((["a"], [None, None]), {}, "list of 1 second texts"),
    ],
)
def test_mistakes_when_encoding(tokenizer, arguments, options, message):
    with pytest.raises(InputError, match=message) as caught:
        tokenizer(*arguments, **options)
    assert "\n" not in str(caught.value)


def test_encode_words_takes_brackets_for_what_they_are(tokenizer):
    assert tokenizer.encode_words("a [MASK] b") == [5, 43, 78, 44, 6]
    assert tokenizer.encode_words(" \n") == []


def test_word_starts(tokenizer):
    assert tokenizer.word_start.shape == (len(VOCAB),)
    assert tokenizer.word_start.dtype == bool
    ids = tokenizer.encode_words("cab bed Straße")
    assert tokenizer.word_start[ids].tolist() == [True, False, False, True, False, False, True, False]


def test_tokens_and_ids(tokenizer):
    assert tokenizer.tokenize("a [MASK] cab Ω") == ["a", "[MASK]", "c", "##a", "##b", "[UNK]"]
    assert tokenizer.tokenize("a", "b", add_special_tokens=True) == ["[CLS]", "a", "[SEP]", "b", "[SEP]"]
    assert tokenizer.convert_tokens_to_ids("b") == 6
    assert tokenizer.convert_tokens_to_ids(["b", "Ω"]) == [6, 1]
    assert tokenizer.convert_ids_to_tokens(6) == "b"
    assert tokenizer.convert_ids_to_tokens(np.array([2, 6, 3]), skip_special_tokens=True) == ["b"]
    assert len(tokenizer) == tokenizer.vocab_size == len(VOCAB)
    assert tokenizer.get_vocab() == {token: index for index, token in enumerate(VOCAB)}
    names = ("pad", "unk", "cls", "sep", "mask")
    assert [getattr(tokenizer, f"{name}_token_id") for name in names] == [0, 1, 2, 3, 4]
    assert tokenizer.all_special_ids == [1, 3, 0, 2, 4]
    assert tokenizer.all_special_tokens == ["[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"]


@pytest.mark.parametrize(
    ("tokens", "plain", "clean", "without_specials"),
    [
        ("##a c ##a ##b . a ' x , !", "##a cab. a ' x,!", "##a cab. a'x,!", "##a cab. a ' x,!"),
        ("[CLS] a ' ' b [SEP] [PAD]", "[CLS] a ' ' b [SEP] [PAD]", "[CLS] a'' b [SEP] [PAD]", "a ' ' b"),
        (". .", "..", "..", ".."),
        ("[MASK] ##a", "[MASK]a", "[MASK]a", "##a"),
        ("", "", "", ""),
    ],
)
def test_decode(tokenizer, tokens, plain, clean, without_specials):
    ids = tokenizer.convert_tokens_to_ids(tokens.split())
    assert tokenizer.decode(ids) == plain
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=True) == clean
    assert tokenizer.decode(np.array(ids, dtype=int), skip_special_tokens=True) == without_specials
    assert BertTokenizer(vocab=VOCAB, clean_up_tokenization_spaces=True).decode(ids) == clean
    assert tokenizer.batch_decode([ids, [5]]) == [plain, "a"]


def test_decode_refuses_what_is_no_row_of_ids(tokenizer):
    assert tokenizer.decode(5) == "a"
    for ids in ([5, len(VOCAB)], [-1], [-100, 5], len(VOCAB)):
        with pytest.raises(InputError, match="outside 0"):
            tokenizer.decode(ids)
    with pytest.raises(InputError, match=r"shape \(1, 2\).*batch_decode"):
        tokenizer.decode([[5, 6]])
    with pytest.raises(InputError, match="float64"):
        tokenizer.convert_ids_to_tokens([0.5])


def test_cache_is_bounded_and_changes_nothing(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer_module, "_CACHED_CHUNKS", 3)
    text = "cab bed a b cab fed cab café! " + "x" * 99
    expected = BertTokenizer(vocab=VOCAB).encode_words(text)
    for _ in range(3):
        assert tokenizer.encode_words(text) == expected
        assert len(tokenizer._chunk_ids) <= 3
    assert "x" * 99 not in tokenizer._chunk_ids


def test_save_and_load(tmp_path):
    settings = {
        "do_lower_case": False,
        "strip_accents": True,
        "tokenize_chinese_chars": False,
        "model_max_length": 64,
        "padding_side": "left",
        "clean_up_tokenization_spaces": True,
        "mask_token": "mask",
    }
    tokenizer = BertTokenizer(vocab=VOCAB, **settings)
    paths = tokenizer.save_pretrained(tmp_path / "new" / "folder")
    assert [Path(path).name for path in paths] == ["vocab.txt", "tokenizer_config.json"]
    assert Path(paths[0]).read_bytes() == "".join(f"{token}\n" for token in VOCAB).encode()
    again = BertTokenizer.from_pretrained(tmp_path / "new" / "folder")
    assert again.vocab == tokenizer.vocab
    assert {name: getattr(again, name) for name in settings} == settings
    for text, *_ in HARD:
        assert again(text) == tokenizer(text)
    assert BertTokenizer.from_pretrained(tmp_path / "new" / "folder", do_lower_case=True).encode("A")[1] == 5
    assert BertTokenizer(paths[0]).vocab == tokenizer.vocab
    assert BertTokenizer(vocab=tokenizer.get_vocab()).vocab == tokenizer.vocab


def tokenizer_json(**changes):
    model = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##"}
    model |= {"max_input_chars_per_word": 100, "vocab": {token: index for index, token in enumerate(VOCAB)}}
    normalizer = {"type": "BertNormalizer", "lowercase": False, "strip_accents": None, "handle_chinese_chars": False}
    content = {"model": model, "normalizer": normalizer, "added_tokens": [{"id": 4, "content": "[MASK]"}]}
    for name, change in changes.items():
        content[name] = content[name] | change if isinstance(change, dict) else change
    return json.dumps(content)


def test_which_file_wins(tmp_path):
    (tmp_path / "tokenizer.json").write_text(tokenizer_json())
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nz\n")
    tokenizer = BertTokenizer.from_pretrained(tmp_path)
    assert tokenizer.get_vocab() == BertTokenizer(vocab=VOCAB).get_vocab()
    # as in Hugging Face, where its own normalizer does not count
    assert (tokenizer.do_lower_case, tokenizer.strip_accents, tokenizer.tokenize_chinese_chars) == (True, None, True)
    assert tokenizer.model_max_length > 10**20
    assert tokenizer.encode("A") == [2, 5, 3]
    config = {
        "do_lower_case": False,
        "model_max_length": 1e30,
        "mask_token": {"content": "[MASK]"},
        "added_tokens_decoder": {"4": {"content": "[MASK]", "lstrip": True, "special": True}},
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"strip_accents": None}))
    tokenizer = BertTokenizer.from_pretrained(tmp_path)
    assert tokenizer.encode("A") == [2, 33, 3]
    assert tokenizer("A [MASK]", return_offsets_mapping=True).offset_mapping[2] == (1, 8)


def test_vocabulary_files_of_other_systems(tmp_path):
    (tmp_path / "vocab.txt").write_bytes("\r\n".join(VOCAB).encode())
    assert BertTokenizer.from_pretrained(tmp_path).get_vocab() == BertTokenizer(vocab=VOCAB).get_vocab()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no tokenizer there"),
        ({"vocab.txt": b""}, "vocab.txt.*blank"),
        ({"vocab.txt": b"[PAD]\n\n[UNK]\n"}, "'' at id 1.*blank"),
        ({"vocab.txt": b"\xff\xfe\x00"}, "not UTF-8"),
        ({"vocab.txt": b"[PAD]\n[UNK]\na\n[PAD]\n"}, r"'\[PAD\]' has the ids 0 and 3"),
        ({"vocab.txt": b"a\nb\n[PAD]\n[UNK]\n[CLS]\n[SEP]\n"}, r"no \[MASK\]"),
        ({"vocab.txt": "\n".join(VOCAB).encode(), "tokenizer_config.json": b"{oops"}, "not readable JSON.*line 1"),
        ({"vocab.txt": "\n".join(VOCAB).encode(), "tokenizer_config.json": b"[]"}, "JSON object, found list"),
        (
            {"vocab.txt": "\n".join(VOCAB).encode(), "tokenizer_config.json": b'{"do_lower_case": "yes"}'},
            "do_lower_case is 'yes', expected bool",
        ),
        (
            {"vocab.txt": "\n".join(VOCAB).encode(), "tokenizer_config.json": b'{"extra_special_tokens": "[X]"}'},
            r"extra_special_tokens is '\[X\]', expected a list",
        ),
        (
            {"vocab.txt": "\n".join(VOCAB).encode(), "tokenizer_config.json": b'{"added_tokens_decoder": ["[X]"]}'},
            r"added_tokens_decoder is \['\[X\]'\], expected an object",
        ),
        (
            {"vocab.txt": "\n".join(VOCAB).encode(), "tokenizer_config.json": b'{"mask_token": 4}'},
            "mask_token is 4, expected str",
        ),
        (
            {"vocab.txt": "\n".join(VOCAB).encode(), "tokenizer_config.json": b'{"truncation_side": "left"}'},
            "truncation_side 'left' is not supported",
        ),
        ({"vocab.txt": "\n".join(VOCAB).encode(), "added_tokens.json": b'{"": 5}'}, "added_tokens.json.*is no token"),
        ({"tokenizer.json": b"{}"}, "not a tokenizer.json"),
        ({"tokenizer.json": b'{"model": 5, "normalizer": null}'}, "not a tokenizer.json"),
        ({"tokenizer.json": tokenizer_json(model={"type": "BPE"}).encode()}, "a 'BPE' tokenizer"),
        ({"tokenizer.json": tokenizer_json(normalizer={"type": "NFC"}).encode()}, "with the normalizer 'NFC'"),
        ({"tokenizer.json": tokenizer_json(model={"max_input_chars_per_word": 50}).encode()}, "up to 100"),
        ({"tokenizer.json": tokenizer_json(model={"vocab": {"a": 0, "b": 2}}).encode()}, "ids 0 … 1, each once"),
        ({"tokenizer.json": tokenizer_json(added_tokens=[{"content": "[X]"}]).encode()}, "'id' is missing or wrong"),
    ],
)
def test_broken_folders(tmp_path, files, message):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        BertTokenizer.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


def test_mistakes_when_building(tmp_path):
    with pytest.raises(InputError, match="one vocabulary"):
        BertTokenizer()
    with pytest.raises(InputError, match="one vocabulary"):
        BertTokenizer(tmp_path, vocab=VOCAB)
    with pytest.raises(InputError, match="write vocab_file="):
        BertTokenizer(vocab="vocab.txt")
    with pytest.raises(InputError, match="No such file"):
        BertTokenizer(tmp_path / "vocab.txt")
    with pytest.raises(InputError, match="5 at id 84"):
        BertTokenizer(vocab=[*VOCAB, 5])
    with pytest.raises(InputError, match=r"no \[CLS\], \[MASK\] in it"):
        BertTokenizer(vocab=["[PAD]", "[UNK]", "[SEP]"])
    with pytest.raises(InputError, match="padding_side='up'"):
        BertTokenizer(vocab=VOCAB, padding_side="up")


@pytest.mark.parametrize("setting", [*SETTINGS, {"do_lower_case": False, "strip_accents": True}])
def test_random_unicode_as_hugging_face(setting):
    rng = random.Random(7)
    texts = [random_text(rng) for _ in range(5000)] + [text for text, *_ in HARD]
    lowercase = setting.get("do_lower_case", True)
    vocab = train_wordpiece(texts, 50000, lowercase=lowercase, limit_alphabet=50000)  # every character is in it
    tokenizer = BertTokenizer(vocab=vocab, **setting)
    for text, encoding in zip(texts, hugging_face(vocab, **setting).encode_batch(texts), strict=True):
        assert tokenizer.encode(text) == encoding.ids, ascii(text)


@pytest.mark.parametrize("cut", ["longest_first", "only_first", "only_second", False])
def test_random_options_as_hugging_face(tokenizer, cut):
    rng = random.Random(3)
    theirs = hugging_face(VOCAB)
    n_refused = 0
    for _ in range(400):
        with_pairs = rng.random() < 0.7
        sizes = [(rng.randint(0, 7), rng.randint(0, 7)) for _ in range(rng.randint(1, 3))]
        texts = [" ".join(rng.choices("abcdef", k=n)) for n, _ in sizes]
        pairs = [" ".join(rng.choices("abcdef", k=n)) for _, n in sizes] if with_pairs else None
        max_length, add_special = rng.randint(3, 16), rng.random() < 0.7
        padding, side = rng.choice([False, True, "max_length"]), rng.choice(["right", "left"])
        theirs.no_truncation()
        theirs.no_padding()
        if cut:
            theirs.enable_truncation(max_length, strategy=cut)
        if padding:
            length = max_length if padding == "max_length" else None
            theirs.enable_padding(direction=side, pad_id=0, pad_token="[PAD]", length=length)
        options = {
            "add_special_tokens": add_special,
            "padding": padding,
            "padding_side": side,
            "max_length": max_length,
        }
        options |= {"truncation": cut, "return_special_tokens_mask": True}
        inputs = list(zip(texts, pairs, strict=True)) if with_pairs else texts
        try:
            encodings = theirs.encode_batch(inputs, add_special_tokens=add_special)
        except Exception:  # it has no class of its own for a truncation that cannot be done
            n_refused += 1
            with pytest.raises(InputError, match="cannot reach"):
                tokenizer(texts, pairs, **options)
            continue
        assert (
            tokenizer(texts, pairs, **options)
            == tokenizer(inputs, **options)
            == {
                "input_ids": [encoding.ids for encoding in encodings],
                "token_type_ids": [encoding.type_ids for encoding in encodings],
                "attention_mask": [encoding.attention_mask for encoding in encodings],
                "special_tokens_mask": [encoding.special_tokens_mask for encoding in encodings],
            }
        )
    assert (n_refused > 20) == (cut in ("only_first", "only_second"))


def test_decodes_as_hugging_face(tokenizer):
    rng = random.Random(5)
    theirs = hugging_face(VOCAB)
    for _ in range(500):
        ids = rng.choices(range(len(VOCAB)), k=rng.randint(0, 12))
        for skip in (False, True):
            assert tokenizer.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize(("lowercase", "step"), [(True, 1), (False, 8)])
def test_shared_texts_as_hugging_face(lowercase, step):
    """Every string between spaces that occurs in the shared texts (or one in `step`), and one whole line in 20."""
    pytest.importorskip("tokenizers")
    texts = shared_texts()
    chunks = list(dict.fromkeys(chunk for text in texts for chunk in text.split(" ")))
    assert len(chunks) > 100_000
    lines = texts[::20] + [" ".join(chunks[start : start + 50]) for start in range(0, len(chunks), 50 * step)]
    vocab = train_wordpiece(texts[::20], 5000, lowercase=lowercase)
    tokenizer = BertTokenizer(vocab=vocab, do_lower_case=lowercase)
    encodings = hugging_face(vocab, do_lower_case=lowercase).encode_batch_fast(lines)
    for line, encoding in zip(lines, encodings, strict=True):
        assert tokenizer.encode(line) == encoding.ids, line


def test_transformers_opens_what_was_saved(tmp_path):
    transformers = pytest.importorskip("transformers")
    rng = random.Random(11)
    for index, setting in enumerate(SETTINGS):
        tokenizer = BertTokenizer(vocab=VOCAB, model_max_length=9, **setting)
        tokenizer.save_pretrained(tmp_path / str(index))
        for kind in (transformers.BertTokenizerFast, transformers.AutoTokenizer):
            theirs = kind.from_pretrained(tmp_path / str(index))
            assert theirs.get_vocab() == tokenizer.get_vocab()
            texts = [text for text, *_ in HARD] + [random_text(rng) for _ in range(300)]
            for options in ({}, {"truncation": True}, {"padding": "max_length"}):
                assert tokenizer(texts, **options) == dict(theirs(texts, **options))
            assert theirs.all_special_ids == tokenizer.all_special_ids
            ids = tokenizer.convert_tokens_to_ids(["[CLS]", "a", "'", "b", ".", "[SEP]"])
            for options in ({}, {"clean_up_tokenization_spaces": True}, {"skip_special_tokens": True}):
                assert tokenizer.decode(ids, **options) == theirs.decode(ids, **options)
        theirs.save_pretrained(tmp_path / f"theirs{index}")
        again = BertTokenizer.from_pretrained(tmp_path / f"theirs{index}")
        assert again(texts) == tokenizer(texts)
        assert again.model_max_length == 9
