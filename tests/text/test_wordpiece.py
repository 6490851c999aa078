import hashlib
import os
import random
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

import minissl
from minissl.errors import InputError
from minissl.text.tokenizer import BertTokenizer
from minissl.text.wordpiece import (
    SPECIAL_TOKENS,
    align_words,
    longest_match,
    normalize,
    split_words,
    train_wordpiece,
)

TEXTS = [
    "The cat sat on the mat; the cats sat on the mats, and the rat sat on the cat.",
    "A tokenizer tokenizes: tokens, tokenized, tokenizing, the tokenizer's tokens.",
    "Café, cafés and CAFÉ; naïve 中文 and 12 of 1212 tokens.",
] * 3

GOLDEN_SLICE = ["na", "of", "rat", "##12", "##in", "##iv", "tokenizin", "tokenized", "tokenizes", "cats"]
GOLDEN_HASH = "0c5bc662c8a914691d2c9a0db0edb859f4ac1742266193f626eaa22aa07c4dae"
# What Hugging Face's tokenizers 0.23.3 gives too, and Python 3.11 to 3.13 with Unicode 14 to 15.1 agree on.
CHARACTER_HASHES = {
    True: "ea3709b3f848e2d5f5e8e343a224c7bf958e4cc36b8c7f07164ba7cf08404b8a",
    False: "38f7a942a9319a9f613578a9bb95c25da12a41d82aadd2f8e68f80b58803cd81",
}


def pieces_of(word, vocab):
    ids = longest_match(word, {piece: index for index, piece in enumerate(vocab)})
    return None if ids is None else [vocab[index] for index in ids]


def slow_train(texts, vocab_size, min_frequency):
    """The same rule with every pair counted anew at each step."""
    words = Counter(word for text in texts for word in split_words(text))
    initials = sorted({word[0] for word in words})
    vocab = [*SPECIAL_TOKENS, *initials, *sorted({"##" + letter for word in words for letter in word[1:]})]
    spelled = {word: [word[0], *("##" + letter for letter in word[1:])] for word in words}
    while len(vocab) < vocab_size:
        pairs = Counter()
        for word, count in words.items():
            for pair in pairwise(spelled[word]):
                pairs[pair] += count
        best = min(pairs, key=lambda pair: (-pairs[pair], vocab.index(pair[0]), vocab.index(pair[1])), default=None)
        if best is None or pairs[best] < min_frequency:
            return vocab
        joined = best[0] + best[1][2:]
        if joined not in vocab:
            vocab.append(joined)
        for pieces in spelled.values():
            for index in range(len(pieces) - 1):
                if tuple(pieces[index : index + 2]) == best:
                    pieces[index : index + 2] = [joined]
    return vocab


def test_special_tokens_then_characters_then_merges():
    vocab = train_wordpiece(["ab ab ab. b"], 100)
    assert vocab == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "a", "b", "##b", "ab"]


@pytest.mark.parametrize("seed", range(6))
def test_equals_counting_every_pair_anew(seed):
    rng = random.Random(seed)
    words = ["".join(rng.choices("aab", k=rng.randint(1, 9))) for _ in range(60)]  # long runs of one letter on purpose
    texts = [" ".join(rng.choices(words, k=20)) for _ in range(10)]
    assert train_wordpiece(texts, 90, min_frequency=3) == slow_train(texts, 90, 3)
    assert train_wordpiece(TEXTS, 70 + seed) == slow_train(TEXTS, 70 + seed, 2)


def test_golden_vocabulary():
    vocab = train_wordpiece(TEXTS, 120)
    assert vocab[60:70] == GOLDEN_SLICE
    assert hashlib.sha256("\n".join(vocab).encode()).hexdigest() == GOLDEN_HASH


def test_same_vocabulary_in_any_process_and_from_any_order():
    code = (
        "import sys; from minissl.text.wordpiece import train_wordpiece as t; print(*t(sys.argv[1:], 120), sep='\\n')"
    )
    path = str(Path(minissl.__file__).parents[1])
    expected = train_wordpiece(TEXTS, 120)
    for seed in ("0", "1", "4242"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path, "PYTHONUTF8": "1"}
        run = subprocess.run([sys.executable, "-c", code, *TEXTS], env=env, capture_output=True, check=True)
        assert run.stdout.decode().splitlines() == expected
    assert train_wordpiece(reversed(TEXTS), 120) == expected


def test_every_training_word_comes_back():
    tokenizer = BertTokenizer(vocab=train_wordpiece(TEXTS, 90))
    words = {word for text in TEXTS for word in split_words(text)}
    assert len(words) > 25
    for word in sorted(words):
        ids = tokenizer.encode_words(word)
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == word


def test_frequent_words_become_whole_tokens():
    vocab = train_wordpiece([*TEXTS, "unprecedented"], 90)
    assert {"the", "sat", "tokens", "cat"} <= set(vocab)
    assert len(pieces_of("unprecedented", vocab)) > 1


def test_minimum_frequency_ends_it_early():
    texts = ["abc abc xyz"]
    assert "xyz" not in train_wordpiece(texts, 1000)
    assert "abc" in train_wordpiece(texts, 1000)
    assert "xyz" in train_wordpiece(texts, 1000, min_frequency=1)
    assert len(train_wordpiece(texts, 1000)) < 20


def test_letter_case():
    assert "the" in train_wordpiece(["The The the"], 40)
    cased = train_wordpiece(["The The Thé Thé"], 40, lowercase=False)
    assert {"The", "Thé"} <= set(cased)


def test_alphabet_limit_keeps_the_most_frequent_characters():
    texts = ["aa aa ab ac c"]
    assert train_wordpiece(texts, 50, limit_alphabet=1) == [*SPECIAL_TOKENS, "a", "##a", "aa"]
    assert "##b" not in train_wordpiece(texts, 50, limit_alphabet=2)
    assert train_wordpiece(["ab ba"], 50, limit_alphabet=1) == list(SPECIAL_TOKENS)  # no word of "a" alone
    assert "c" in train_wordpiece(texts, 50)


def test_long_runs_of_one_letter():
    vocab = train_wordpiece(["x" * 100, "xy" * 50], 300)
    assert {"##" + "x" * 64, "##" + "xy" * 32} <= set(vocab)


def test_words_that_are_too_long_are_left_out():
    assert "x" not in train_wordpiece(["x" * 101, "a"], 50)
    assert "x" in train_wordpiece(["x" * 100, "a"], 200)


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        (["abcdef"], {"vocab_size": 10}, "vocab_size 10 is too small.* are 11 already"),
        ("one string", {"vocab_size": 100}, r"got a string.*\[text\]"),
        (["fine", b"bytes"], {"vocab_size": 100}, "of type bytes"),
        ([], {"vocab_size": 100}, "no word"),
        (["  ", "\x00"], {"vocab_size": 100}, "no word"),
        (["a"], {"vocab_size": 100, "min_frequency": 0}, "min_frequency 0"),
        (["a"], {"vocab_size": 100, "limit_alphabet": 0}, "limit_alphabet 0"),
    ],
)
def test_mistakes(texts, options, message):
    with pytest.raises(InputError, match=message):
        train_wordpiece(texts, **options)


def test_smallest_vocabulary_is_the_alphabet():
    assert train_wordpiece(["abcdef"], 11)[5:] == ["a", "##b", "##c", "##d", "##e", "##f"]


def test_longest_match_is_greedy():
    vocab = {piece: index for index, piece in enumerate(["un", "unw", "##want", "##anted", "##a", "##w", "##n"])}
    assert longest_match("unwanted", vocab) == [1, 3]
    assert longest_match("unwant", vocab) is None  # "unw" leaves "ant", and the match never goes back
    assert longest_match("unwan", vocab) == [1, 4, 6]
    assert longest_match("", vocab) == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "ele 중 文 ( 1 ) i ß ! $ 5".replace("중", "\u110c\u116e\u11bc")),
        ({"lowercase": False}, "Élé 중 文 ( 1 ) İ ß ! $ 5"),
        ({"strip_accents": False}, "élé 중 文 ( 1 ) i̇ ß ! $ 5"),
        ({"lowercase": False, "strip_accents": True}, "Ele 중 文 ( 1 ) I ß ! $ 5".replace("중", "\u110c\u116e\u11bc")),
    ],
)
def test_split_words(options, expected):
    assert split_words("Élé 중文(1)\u200b\tİ\u00a0ß!$5", **options) == expected.split()
    assert split_words("x中y", tokenize_chinese_chars=False) == ["x中y"]


@pytest.mark.parametrize("options", [{"lowercase": True}, {"lowercase": False}])
def test_every_character_does_the_same_on_every_python(options):
    points = [*range(0xD800), *range(0xE000, 0x20000), *range(0xE0000, 0xE0200)]
    words = split_words(" ".join(f"a{chr(point)}b" for point in points), **options)
    assert hashlib.sha256(" ".join(words).encode()).hexdigest() == CHARACTER_HASHES[options["lowercase"]]


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("strip_accents", [True, False])
def test_aligned_words_are_the_words(lowercase, strip_accents):
    points = [*range(0x21, 0xD800), *range(0xE000, 0x20000), *range(0xE0000, 0xE0200), *range(0x2F800, 0x2FA20)]
    options = {"lowercase": lowercase, "strip_accents": strip_accents}
    points = points[1 + lowercase + 2 * strip_accents :: 7]  # another part in each setting
    for start in range(0, len(points), 97):
        text = "".join(f"{chr(point)}a" for point in points[start : start + 97])
        text = text.translate({ord(space): None for space in text if space.isspace()})
        aligned = align_words(text, **options)
        assert [word for word, _ in aligned] == split_words(text, **options)
        assert all(len(word) == len(places) for word, places in aligned)
        letters = [place for word, places in aligned for character, place in zip(word, places, strict=True)
                   if character == "a"]  # fmt: skip
        assert set(letters) >= {place for place, character in enumerate(text) if character == "a"}
        again = normalize(text, **options)
        assert split_words(again, **options) == split_words(text, **options)


def test_a_real_text_fills_the_vocabulary():
    folder = os.environ.get("MINISSL_DATA")
    if not folder:
        pytest.skip("MINISSL_DATA is not set: needs WikiText-2")
    files = sorted((Path(folder) / "text/wikitext-2").glob("*.txt"))
    texts = [line for file in files for line in file.read_text("utf-8").split("\n")]
    vocab = train_wordpiece(texts, 8192)
    assert len(vocab) == len(set(vocab)) == 8192
    assert vocab[:5] == list(SPECIAL_TOKENS)
