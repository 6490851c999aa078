import os
import random
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from minissl.errors import InputError
from minissl.text.corpora import GROUP_WORDS, REPEAT_WORDS, Corpus, Document, load_corpus
from minissl.text.sentences import count_words

NOUNS = ["river", "stone", "cloud", "garden", "winter", "letter", "music", "bridge", "captain", "forest", "horse"]


class Writer:
    """Makes sentences of ten words, none of them twice."""

    def __init__(self) -> None:
        self.rng = random.Random(0)

    def sentence(self) -> str:
        return "The " + " ".join(self.rng.choice(NOUNS) for _ in range(9)) + "."

    def paragraph(self, sentences: int = 4) -> str:
        return " ".join(self.sentence() for _ in range(sentences))

    def chapter(self, paragraphs: int = 7) -> str:
        return "\n\n".join(textwrap.fill(self.paragraph(), 60) for _ in range(paragraphs))


@pytest.fixture
def writer() -> Writer:
    return Writer()


@pytest.fixture
def load(tmp_path: Path) -> Callable[[str | bytes], Corpus]:
    def load_text(text: str | bytes) -> Corpus:
        path = tmp_path / "text.txt"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_corpus(path)

    return load_text


Load = Callable[[str | bytes], Corpus]


def everything(corpus: Corpus) -> list[Document]:
    """Documents by title; titles of this file sort as they stand in the text."""
    return sorted(corpus.train + corpus.heldout)


def test_wikitext(load: Load, writer: Writer) -> None:
    def tokenised() -> str:
        return " " + writer.paragraph(20).replace(".", " .") + " \n"

    text = "".join(
        f" \n = Title {i} = \n \n{tokenised()} \n = = Part = = \n \n = = = Deep = = = \n \n"
        f" It is 0 @.@ 7 – 1 @,@ 000 km of well @-@ known <unk> number {i} . \n{tokenised()}"
        for i in range(5)
    )
    documents = everything(load(text))
    assert [document.title for document in documents] == [f"Title {i}" for i in range(5)]
    assert documents[3].sentences[20] == "It is 0.7 – 1,000 km of well-known [UNK] number 3 ."
    assert {len(document.sentences) for document in documents} == {41}


def test_wikitext_folder_keeps_its_own_parts(tmp_path: Path, writer: Writer) -> None:
    def article(title: str) -> str:
        return f" \n = {title} = \n \n {writer.paragraph(15)} \n"

    (tmp_path / "wiki.train.tokens").write_text(article("A") + article("B") + article("C"))
    (tmp_path / "wiki.valid.tokens").write_text(article("D") + article("E"))
    (tmp_path / "wiki.test.tokens").write_text(article("F"))
    (tmp_path / "README").write_text("This is not a part of the corpus.")
    corpus = load_corpus(tmp_path, heldout=0.01)
    assert [d.title for d in corpus.train] == ["A", "B", "C"]
    assert [d.title for d in corpus.heldout] == ["D", "E"]
    (tmp_path / "wiki.train.tokens").unlink()
    assert [d.title for d in everything(load_corpus(tmp_path))] == ["D", "E", "F"]


def test_gutenberg_book(load: Load, writer: Writer) -> None:
    numerals = ["I", "II", "III", "IV", "V"]
    text = (
        "Licence words stand here.\n\n*** START OF THE PROJECT GUTENBERG EBOOK A BOOK ***\n\n[Illustration]\n\nA Book\n"
        + "\nContents\n\n"
        + "".join(f" CHAPTER {n}.   Of the Thing\n" for n in numerals)
        + "".join(
            f"\n\n\nCHAPTER {n}.\nOf the Thing\n\n\n“Why,” said _he_, “number {n}?”\n\n{writer.chapter()}"
            for n in numerals
        )
        + "\n\nTHE END\n\n*** END OF THE PROJECT GUTENBERG EBOOK A BOOK ***\n\nLicence words stand here too.\n"
    )
    documents = everything(load(text))
    assert [document.title for document in documents] == [f"CHAPTER {n}." for n in numerals]
    assert [len(document.sentences) for document in documents] == [1 + 28] * 5
    assert documents[0].sentences[0] == "“Why,” said he, “number I?”"


@pytest.mark.parametrize("heading", ["{}", "   {}.", "Chapter {}: The Way", "ACT {}", "SCENE {}. Venice. A street."])
def test_chapter_headings(load: Load, writer: Writer, heading: str) -> None:
    numerals = ["I", "II", "III", "IV"]
    documents = everything(load("\n\n\n".join(f"{heading.format(n)}\n\n{writer.chapter()}" for n in numerals)))
    assert [document.title for document in documents] == [heading.format(n).strip() for n in numerals]
    assert [len(document.sentences) for document in documents] == [28] * 4


def test_markdown(load: Load, writer: Writer) -> None:
    text = "\n\n".join(
        f"## Part {i}\n\n```python\n# no heading\n```\n\n"
        f"- A **bold** `item` of [this](http://x.org) snake_case_name {i}.\n"
        f"- The second item is here {i}.\n\n| a | b |\n|---|---|\n\n{writer.chapter()}"
        for i in range(5)
    )
    documents = everything(load(text))
    assert [document.title for document in documents] == [f"Part {i}" for i in range(5)]
    assert documents[4].sentences[:2] == ["A bold item of this snake_case_name 4.", "The second item is here 4."]
    assert len(documents[4].sentences) == 2 + 28


def test_underlined_headings(load: Load, writer: Writer) -> None:
    documents = everything(load("\n\n".join(f"Part {i}\n======\n\n{writer.chapter()}" for i in range(4))))
    assert [document.title for document in documents] == [f"Part {i}" for i in range(4)]


def test_few_sections_are_divided_further(load: Load, writer: Writer) -> None:
    corpus = load("\n\n".join(f"# Part {i}\n\n{writer.chapter(30)}" for i in range(2)))
    assert len(everything(corpus)) > 6
    assert corpus.has_next_sentence_pairs
    assert not any("#" in sentence for document in everything(corpus) for sentence in document.sentences)


def test_one_sentence_a_line_with_blank_lines_between_documents(load: Load, writer: Writer) -> None:
    written = [[writer.sentence() for _ in range(5)] for _ in range(8)]
    documents = everything(load("\n\n".join("\n".join(sentences) for sentences in written)))
    assert [document.sentences for document in documents] == written


def test_play_of_speeches(load: Load, writer: Writer) -> None:
    text = "\n\n".join(
        f"{speaker}:\n" + textwrap.fill(writer.paragraph(2), 40)
        for _ in range(20)
        for speaker in ("First Citizen", "All")
    )
    corpus = load(text)
    sizes = [sum(map(count_words, document.sentences)) for document in everything(corpus)]
    assert len(sizes) >= 3
    assert min(sizes) >= GROUP_WORDS
    assert max(sizes) < 2.5 * GROUP_WORDS
    assert sum(s.startswith("First Citizen: The ") for d in everything(corpus) for s in d.sentences) == 20


def test_wrapped_paragraphs_with_mark_and_windows_line_ends(load: Load, writer: Writer) -> None:
    written = [writer.paragraph(5) for _ in range(16)]
    text = "\r\n\r\n".join(textwrap.fill(paragraph, 50).replace("\n", "\r\n") for paragraph in written)
    documents = everything(load(b"\xef\xbb\xbf" + text.encode()))
    assert len(documents) == 4
    assert sorted(s for d in documents for s in d.sentences) == sorted(
        sentence + "." for paragraph in written for sentence in paragraph.rstrip(".").split(". ")
    )


def test_long_lines_are_paragraphs_without_blank_lines(load: Load, writer: Writer) -> None:
    corpus = load("\n".join(writer.paragraph(10) for _ in range(12)))
    assert [len(document.sentences) for document in everything(corpus)] == [20] * 6


def test_one_document_holds_out_its_end_and_has_no_pairs(load: Load, writer: Writer) -> None:
    written = [writer.sentence() for _ in range(40)]
    corpus = load("\n".join(written))
    assert [len(corpus.train), len(corpus.heldout)] == [1, 1]
    assert corpus.train[0].sentences == written[:36]
    assert corpus.heldout[0].sentences == written[36:]
    assert not corpus.has_next_sentence_pairs


def test_folder(tmp_path: Path, writer: Writer) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / ".git").mkdir()
    for name in ("b/deep.md", "a.txt", "no-extension", ".git/config", ".hidden"):
        (tmp_path / name).write_text(writer.chapter())
    (tmp_path / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    (tmp_path / "empty.txt").write_text("")
    titles = {document.title.split()[0] for document in everything(load_corpus(tmp_path))}
    assert titles == {"a.txt", "b/deep.md", "no-extension"}


def test_split_is_by_share_of_words_and_by_seed(tmp_path: Path, writer: Writer) -> None:
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join("\n".join(writer.sentence() for _ in range(4 + i % 9)) for i in range(100)))
    corpus = load_corpus(path, heldout=0.2, seed=3)
    parts = [sum(count_words(s) for d in part for s in d.sentences) for part in (corpus.train, corpus.heldout)]
    assert parts[1] / sum(parts) == pytest.approx(0.2, abs=0.01)
    assert load_corpus(path, heldout=0.2, seed=3) == corpus
    other = load_corpus(str(path), heldout=0.2, seed=4)
    assert other.heldout != corpus.heldout
    assert other.sha256 == corpus.sha256  # the text is the same
    assert everything(other) == everything(corpus)
    path.write_text(path.read_text().replace("river", "rivers", 1))
    assert load_corpus(path, heldout=0.2, seed=3).sha256 != corpus.sha256


def test_four_documents_are_enough_for_pairs_in_both_parts(load: Load, writer: Writer) -> None:
    def documents(count: int) -> str:
        return "\n\n".join("\n".join(writer.sentence() for _ in range(12)) for _ in range(count))

    assert load(documents(4)).has_next_sentence_pairs
    assert not load(documents(3)).has_next_sentence_pairs


def test_repeats_are_removed_before_the_split(load: Load, writer: Writer) -> None:
    copied = writer.sentence()
    assert count_words(copied) >= REPEAT_WORDS
    written = [[writer.sentence() for _ in range(5)] + [copied, "Yes, my lord."] for _ in range(30)]
    corpus = load("\n\n".join("\n".join(sentences) for sentences in [*written, written[0], written[7]]))
    sentences = [sentence for document in everything(corpus) for sentence in document.sentences]
    assert len(everything(corpus)) == 30
    assert sentences.count(copied) == 1
    assert sentences.count("Yes, my lord.") == 30  # short ones may recur


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b" \n\n\t", "empty"),
        (b"some words\0more words", "byte 10 is 0x00"),
        ("hello there".encode("utf-16"), "UTF-16"),
        ("caf\xe9 au lait".encode("latin-1"), r"byte 3 is 0xe9.*iconv"),
        (b"hello world", "found 2 words.* at least 200 words"),
        (b"again and again the very same eight words return. " * 99, "found 9 words"),
    ],
)
def test_unfit_files_are_input_errors_of_one_line(load: Load, data: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load(data)
    assert "\n" not in str(caught.value)
    assert "text.txt" in str(caught.value)


def test_unfit_paths_and_shares_are_input_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        load_corpus(tmp_path / "missing.txt")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0")
    with pytest.raises(InputError, match="no text file below this folder"):
        load_corpus(tmp_path)
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    with pytest.raises(InputError, match=r"latin\.txt: not UTF-8"):
        load_corpus(tmp_path)
    for share in (0.0, 1.0, float("nan")):
        with pytest.raises(InputError, match="heldout"):
            load_corpus("docs", heldout=share)


@pytest.mark.skipif(not os.environ.get("MINISSL_DATA"), reason="needs MINISSL_DATA: WikiText-2 and tinyshakespeare")
def test_real_texts() -> None:
    folder = Path(os.environ["MINISSL_DATA"], "text")
    play = load_corpus(folder / "tinyshakespeare" / "input.txt")
    assert sum(count_words(s) for d in everything(play) for s in d.sentences) > 200_000
    assert len(everything(play)) > 500
    assert play.has_next_sentence_pairs
    for name, first in (("valid.txt", "Homarus gammarus"), ("test.txt", "Robert [UNK]")):
        wiki = load_corpus(folder / "wikitext-2" / name)
        titles = [document.title for document in everything(wiki)]
        assert len(titles) == 60  # the official count of articles
        assert first in titles
        assert not any("<unk>" in s or "@-@" in s or " = " in s[:3] for d in everything(wiki) for s in d.sentences)
        assert wiki.has_next_sentence_pairs


def table(writer: Writer, rows: int = 60) -> str:
    return "".join(f"{writer.sentence()}\tlabel{i % 2}\n" for i in range(rows))


def test_of_labelled_texts_the_texts_alone(tmp_path: Path, writer: Writer) -> None:
    (tmp_path / "a.tsv").write_text(table(writer))
    corpus = load_corpus(tmp_path / "a.tsv")
    sentences = [s for d in everything(corpus) for s in d.sentences]
    assert len(sentences) == 60
    assert not any("label" in s or "\t" in s for s in sentences)
    assert all(sum(map(count_words, d.sentences)) >= GROUP_WORDS for d in corpus.train[:-1])


def test_beside_training_rows_no_other_table_is_read(tmp_path: Path, writer: Writer) -> None:
    """What a test would measure must not have been seen, not even without its labels."""
    for name in ("train.tsv", "dev.tsv", "test.csv"):
        (tmp_path / name).write_text(table(writer))
    (tmp_path / "book.txt").write_text(writer.chapter())
    titles = {d.title.split()[0] for d in everything(load_corpus(tmp_path))}
    assert titles == {"train.tsv", "book.txt"}
    (tmp_path / "train.tsv").rename(tmp_path / "reviews.tsv")
    (tmp_path / "test.csv").unlink()
    assert {d.title.split()[0] for d in everything(load_corpus(tmp_path))} == {"reviews.tsv", "dev.tsv", "book.txt"}


def test_several_sources_make_one_corpus(tmp_path: Path, writer: Writer) -> None:
    (tmp_path / "a.txt").write_text(writer.chapter())
    (tmp_path / "b.tsv").write_text(table(writer))
    corpus = load_corpus(f"{tmp_path / 'a.txt'}\n{tmp_path / 'b.tsv'}")
    assert corpus.name == "a.txt, b.tsv"
    assert {d.title.split()[0] for d in everything(corpus)} == {"a.txt", "b.tsv"}
    assert corpus.heldout
    with pytest.raises(InputError, match=r"c\.txt: no such file"):
        load_corpus(f"{tmp_path / 'a.txt'}\n{tmp_path / 'c.txt'}")
