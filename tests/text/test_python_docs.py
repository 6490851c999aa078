import random
import re
import sys
import sysconfig
from pathlib import Path

import pytest

from minissl.errors import InputError
from minissl.text.corpora import Corpus, Document, load_corpus
from minissl.text.python_docs import CLASS_SENTENCES, LEAST_SENTENCES, docs_documents, prose_sentences


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load_corpus("docs")


@pytest.fixture(scope="module")
def documents(corpus: Corpus) -> list[Document]:
    return corpus.train + corpus.heldout


def test_enough_prose(documents: list[Document]) -> None:
    words = sum(len(sentence.split()) for _, sentences in documents for sentence in sentences)
    assert words > 120_000
    assert len(documents) > 250
    assert all(len(sentences) >= LEAST_SENTENCES for _, sentences in documents)
    assert all(title for title, _ in documents)


def test_no_sentence_stands_twice(documents: list[Document]) -> None:
    sentences = [sentence for _, sentences in documents for sentence in sentences]
    assert len(sentences) == len(set(sentences))


def test_no_code_markup_or_tables_remain(documents: list[Document]) -> None:
    sentences = [sentence for _, sentences in documents for sentence in sentences]
    for bad in (r">>>", r"``", r":\w+:`", r"::=", r"https?:", r"={3}|-{4}|\*{3}", r"Copyright", r"\s{2}|\n", r"^def "):
        found = [sentence for sentence in sentences if re.search(bad, sentence)]
        assert not found, (bad, found[:3])
    assert sum(bool(re.search(r"\b(?:the|an?|of|is|to|and)\b", s, re.I)) for s in sentences) > 0.85 * len(sentences)


def shared_words_accuracy(documents: list[Document], words: int = 28, pairs: int = 2000) -> float:
    """Accuracy of "is next" where two stretches share a word of five letters or more that is rare in the text."""
    stretches: list[list[set[str]]] = []
    for document in documents:
        text = [word.strip(".,;:()\"'") for word in " ".join(document.sentences).lower().split()]
        stretches.append([{w for w in text[i : i + words] if len(w) > 4} for i in range(0, len(text) - words, words)])
    every = [stretch for part in stretches for stretch in part]
    count: dict[str, int] = {}
    for stretch in every:
        for word in stretch:
            count[word] = count.get(word, 0) + 1
    common = {word for word in count if count[word] > 0.04 * len(every)}
    rng = random.Random(0)
    long = [i for i, part in enumerate(stretches) if len(part) > 1]
    right = 0
    for n in range(pairs):
        i = rng.choice(long)
        k = rng.randrange(len(stretches[i]) - 1)
        j = rng.choice([other for other in long if other != i])
        second = stretches[i][k + 1] if n % 2 else rng.choice(stretches[j])
        right += bool((stretches[i][k] & second) - common) == bool(n % 2)
    return right / pairs


def test_corpus_has_a_signal_for_next_sentences(corpus: Corpus) -> None:
    assert corpus.name == "docs"
    assert corpus.has_next_sentence_pairs
    train = {s for d in corpus.train for s in d.sentences}
    assert not any(s in train for d in corpus.heldout for s in d.sentences)
    assert shared_words_accuracy(corpus.heldout) > 0.7


def test_prose_without_markup() -> None:
    text = """\
tool(path, mode=0) -> handle

The Title
=========

Return the ``handle`` of *path*, see :func:`os.open` and "None" for
the details.  A *mode* of :class:`~enum.Flag` opens it twice::

    handle = tool("x")   # this is the code
    and more of the code

* The first item is a full sentence that goes on
  over two lines.
* The second item names `that` one.

>>> tool("x")
The output of the doctest is here.

==== ==========================
name    what the name is for
==== ==========================

Changed in version 3.4: The argument can now be a pre-
compiled path [1].

   expr ::= term "+" term | the term

| "x in s" | "True" if an item of the list is |

Visit https://example.org to learn of the rest.
"""
    assert prose_sentences(text) == [
        "Return the handle of path, see os.open and None for the details.",
        "A mode of enum.Flag opens it twice:",
        "The first item is a full sentence that goes on over two lines.",
        "The second item names that one.",
        "The argument can now be a pre-compiled path.",
    ]


def _library(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `folder` stand in for the standard library, with no reference manual."""
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(folder))
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)


def _docstring(topic: str, count: int) -> str:
    return '"""' + "\n".join(f"The {topic} number {word} is here." for word in "abcdefghijklmnopqrst"[:count]) + '"""\n'


def test_large_classes_are_documents_and_small_modules_join_their_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _library(tmp_path, monkeypatch)
    (tmp_path / "box.py").write_text(
        _docstring("module", 4)
        + f"class Small:\n    {_docstring('small', 2)}"
        + f"class Large:\n    {_docstring('large', CLASS_SENTENCES - 1)}"
        + "    def method(self):\n        '''The method does the last thing.'''\n"
        + f"def function():\n    {_docstring('function', 3)}"
    )
    for package in ("pack", "tests"):
        (tmp_path / package).mkdir()
        for name in ("x", "y"):
            (tmp_path / package / f"{name}.py").write_text(_docstring(f"{package} {name}", 3))
    (tmp_path / "broken.py").write_text(_docstring("broken", 9) + "def (:\n")
    (tmp_path / "repeat.py").write_text(_docstring("module", 4))  # nothing in it is new
    documents = docs_documents()
    assert [(title, len(sentences)) for title, sentences in documents] == [
        ("box.Large", CLASS_SENTENCES),
        ("box", 4 + 2 + 3),
        ("pack", 6),
    ]
    assert documents[0][1][-1] == "The method does the last thing."


def test_python_without_documentation_is_an_input_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _library(tmp_path, monkeypatch)
    with pytest.raises(InputError, match="docs: this Python has no"):
        docs_documents()
