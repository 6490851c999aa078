"""Corpora for pre-training: documents of sentences in reading order, split into a training and a held-out part.

Of labelled texts (.tsv, .csv, see `text/labelled.py`) the texts alone are read; of a folder with `train.tsv`, no other
table: what is held out for testing is not learnt from either. The format of any other text is decided by its content,
the first rule that fits:

1. WikiText: lines ` = Title = ` begin documents.
2. Markdown and reStructuredText: headings (`# Title`, or a title underlined with === or ---) begin documents.
3. A book or play: lines such as CHAPTER I, Part 2, ACT III, SCENE 1, or a Roman numeral alone, begin documents.
   Where headings or chapters give fewer than LEAST_SECTIONS documents, the next rules divide the text.
4. One sentence or paragraph on a line, blank lines between documents (BERT's own format).
5. Otherwise blocks between blank lines are paragraphs (in a play: speeches), and neighbours form documents of about
   GROUP_WORDS words. Very long lines are paragraphs even without blank lines.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minissl.errors import InputError
from minissl.text.labelled import TRAIN_NAMES, find_part, read_texts
from minissl.text.python_docs import docs_documents
from minissl.text.sentences import count_words, split_sentences

LEAST_WORDS = 200  # of a whole text: less leaves nothing to hold out
GROUP_WORDS = 200  # of a document that is made of neighbouring paragraphs or short sections
LEAST_SECTIONS = 4  # fewer headings or chapters give too few documents: two to train on, two to hold out
TABLES = (".tsv", ".csv")
REPEAT_WORDS = 8  # a sentence this long that stands twice is a copy; shorter ones ("Yes, my lord.") may recur

_STOPS = (".", "!", "?", "…", '"', "”", "'", ")", "。", "！", "？")
_LONG_LINE = 200  # characters: no one wraps lines this wide
_UTF16 = (b"\xff\xfe", b"\xfe\xff")  # its byte-order marks
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_WIKI_TITLE = re.compile(r"(?:\A|\n)\n* ?= ([^=\n].*) =(?=\n\n)")
_WIKI_SPLIT = re.compile(r"(?:wiki\.)?(train|valid|test)\.(?:txt|tokens|raw)")
_HEADING = re.compile(r"^#{1,6}[ \t]+(\S.*?)[ \t#]*$", re.M)
_UNDERLINED = re.compile(r"^([^\W_].*)\n(?:={3,}|-{3,}|~{3,})$", re.M)
_FENCED = re.compile(r"^[ \t]*(```|~~~).*?(?:^[ \t]*\1$|\Z)", re.M | re.S)
_TAG = re.compile(r"<!--.*?-->|</?[a-zA-Z][^>\n]*>", re.S)
_TABLE_OR_RULE = re.compile(r"^[ \t]*(?:\|.*|[-*_=]{3,}|\[[^\]]+\]:.*)$", re.M)
_BULLET = re.compile(r"^[ \t]*(?:[-*+]|\d{1,3}[.)]|>)[ \t]+", re.M)
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_INLINE = re.compile(r"(?<![\w*`])(`+|\*\*?|__?)(?=\S)([^`*_\n]+?)(?<=\S)\1(?!\w)")
_NUMBER = (
    r"(?:[IVXLC]+|\d+|(?i:(?:the )?(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|first|second|third"
    r"|fourth|fifth|sixth|seventh|eighth|ninth|tenth|eleventh|twelfth|last)))"
)
_PART = "Chapter|Book|Part|Act|Scene|Canto|Letter|Stave|Volume"
_CHAPTER = re.compile(
    rf"^([ \t]*(?:{_PART}|{_PART.upper()}) {_NUMBER}\b.{{0,60}}|(?:\A|(?<=\n\n))[ \t]*[IVXLC]+\.?(?=\n\n))$", re.M
)
_GUTENBERG_START = re.compile(r"\A.*?^\*{3} ?START OF .*?\*{3}[ \t]*$", re.M | re.S)
_GUTENBERG_END = re.compile(r"^(?:\*{3} ?END OF |End of (?:the )?Project Gutenberg).*\Z", re.M | re.S)
_ILLUSTRATION = re.compile(r"\[(?:Illustration|Transcriber)[^\]]*\]")


class Document(NamedTuple):
    """A title and the sentences of one topic, in reading order."""

    title: str
    sentences: list[str]


class Corpus(NamedTuple):
    """Documents to train on and documents held out; `sha256` of all their text tells whether a corpus has changed."""

    name: str
    train: list[Document]
    heldout: list[Document]
    sha256: str

    @property
    def has_next_sentence_pairs(self) -> bool:
        """Both parts have two documents of two sentences or more: a sentence that follows, and one from elsewhere."""
        return all(sum(len(d.sentences) > 1 for d in part) > 1 for part in (self.train, self.heldout))


def load_corpus(source: str | Path, *, heldout: float = 0.1, seed: int = 0) -> Corpus:
    """Read the built-in corpus "docs", a UTF-8 text file, or every text file below a folder (see the module's rules).

    `source` may name several, one on a line; their documents make one corpus.

    Whole documents are held out, about `heldout` of the words; a text of one document holds out its last sentences.
    WikiText's own folder keeps its own parts (train, valid). Sentences of REPEAT_WORDS or more stand in one part only.
    Raises InputError for what cannot be read as text, and for less than LEAST_WORDS words.
    """
    if not 0 < heldout < 1:
        raise InputError(f"heldout={heldout}: expected a share of the text between 0 and 1, such as 0.1")
    sources = str(source).split("\n")
    parts = _read_source(sources[0])
    if len(sources) > 1:
        parts = [[document for one in sources for part in _read_source(one) for document in part]]
    seen: set[str] = set()
    parts = [_without_repeats(part, seen) for part in parts]
    documents = [document for part in parts for document in part]
    sentences = [sentence for document in documents for sentence in document.sentences]
    words = sum(map(count_words, sentences))
    if words < LEAST_WORDS or len(sentences) < 2:
        raise InputError(
            f"{source}: too short to train on: found {words} words, {len(sentences)} sentence(s), repeats not counted; "
            f"at least {LEAST_WORDS} words in 2 sentences are needed"
        )
    text = "\n\n".join("\n".join(document.sentences) for document in documents)
    if len(parts) == 1 or not all(parts):
        parts = _split(documents, heldout, seed)
    return Corpus(
        ", ".join(Path(one).name or one for one in sources),
        parts[0],
        parts[1],
        hashlib.sha256(text.encode()).hexdigest(),
    )


def _read_source(source: str) -> list[list[Document]]:
    """Return all documents of one source as one part, or WikiText's own two."""
    path = Path(source)
    if source == "docs":
        return [[Document(title, sentences) for title, sentences in docs_documents()]]
    if path.is_dir():
        return _read_folder(path)
    return [_read_file(path, path.name)]


def _read_file(path: Path, name: str) -> list[Document]:
    if path.suffix.lower() in TABLES:
        return _group(((f"{name} {i}", [text]) for i, text in enumerate(read_texts(path), 1)), GROUP_WORDS)
    return _documents(_decode(_read_bytes(path), path), name)


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file or folder; expected docs, a text file or a folder of them") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def _decode(data: bytes, path: Path) -> str:
    """Return a file's text with Unix line ends and no byte-order mark, or raise InputError saying what the file is."""
    if data.startswith(_UTF16):
        raise InputError(f"{path}: this is UTF-16 text; save it as UTF-8 (iconv -f UTF-16 -t UTF-8)")
    control = _CONTROL.search(data)
    if control:
        raise InputError(f"{path}: not a text file: byte {control.start()} is {control[0][0]:#04x}; expected UTF-8")
    try:
        text = data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}: not UTF-8: byte {error.start} is {data[error.start]:#04x}; "
            "if it is Latin-1, re-encode it: iconv -f LATIN1 -t UTF-8"
        ) from None
    if not text.strip():
        raise InputError(f"{path}: the file is empty; expected at least {LEAST_WORDS} words of text")
    text = re.sub(r"\r\n?", "\n", text).replace("\f", "\n\n")
    return re.sub(r"[ \t]+$", "", text, flags=re.M)


def _read_folder(folder: Path) -> list[list[Document]]:
    """Return all documents below `folder` as one part, or WikiText's own training and held-out parts."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    texts, tables = {}, {}
    for path in paths:
        name = path.relative_to(folder).as_posix()
        if re.search(r"(?:^|/)\.", name):  # hidden
            continue
        if path.suffix.lower() in TABLES:
            if path.stem in TRAIN_NAMES or not find_part(path.parent, TRAIN_NAMES):
                tables[name] = path
        else:
            data = _read_bytes(path)
            if data.strip() and (data.startswith(_UTF16) or not _CONTROL.search(data)):
                texts[name] = _decode(data, path)
    if not texts and not tables:
        raise InputError(f"{folder}: no text file below this folder ({len(paths)} files, all hidden, binary or empty)")
    own = {}  # WikiText's parts; a README beside them is not one
    for name, text in sorted(texts.items()):
        match = _WIKI_SPLIT.fullmatch(name)
        if match and _WIKI_TITLE.search(text):
            own[match[1]] = _documents(text, name)
    if "train" in own and "valid" in own:
        return [own["train"], own["valid"]]
    if own:
        return [[document for part in own.values() for document in part]]
    documents = {name: _documents(text, name) for name, text in texts.items()}
    documents |= {name: _read_file(path, name) for name, path in tables.items()}
    return [[document for _, part in sorted(documents.items()) for document in part]]


def _documents(text: str, name: str) -> list[Document]:
    """Return the documents of one text by the first rule at the head of this file that fits."""
    if _WIKI_TITLE.search(text):
        text = re.sub(r" @([-,.])@ ", r"\1", text).replace("<unk>", "[UNK]")
        text = re.sub(r"^ ?(?:= ){2,}.*(?: =){2,}$", "", text, flags=re.M)  # headings inside an article
        return _group(_sections(text, _WIKI_TITLE, name, str.splitlines), 0)
    text = _GUTENBERG_END.sub("", _GUTENBERG_START.sub("", text))
    markdown = _UNDERLINED.sub(r"# \1", _FENCED.sub("", text))
    if len(_HEADING.findall(markdown)) > 1:
        text = _plain_markdown(markdown)
        documents = _group(_sections(text, _HEADING, name, _blocks), GROUP_WORDS)
        if len(documents) >= LEAST_SECTIONS:
            return documents
        text = _HEADING.sub("", text)
    elif len(_CHAPTER.findall(text)) > 1:
        text = _ILLUSTRATION.sub("", re.sub(r"\b_([^_]+)_\b", r"\1", text))
        documents = _group(_sections(text, _CHAPTER, name, _book_paragraphs), GROUP_WORDS)
        if len(documents) >= LEAST_SECTIONS:
            return documents
    return _blocks_as_documents(text, name)


def _blocks_as_documents(text: str, name: str) -> list[Document]:
    """Return the documents of a text without headings: rules 4 and 5."""
    blocks = [block.split("\n") for block in _blocks(text)]
    inner = [line for block in blocks for line in block[:-1]]
    several = sum(len(block) > 1 for block in blocks)
    ended = sum(line.endswith(_STOPS) for line in inner)
    if len(blocks) > 1 and several >= 0.5 * len(blocks) and ended >= 0.8 * len(inner):
        return _group(((f"{name} {i}", _sentences(block)) for i, block in enumerate(blocks, 1)), 0)
    if len(text) > _LONG_LINE * sum(map(len, blocks)):
        blocks = [[line] for block in blocks for line in block]
    return _group(((f"{name} {i}", split_sentences(" ".join(block))) for i, block in enumerate(blocks, 1)), GROUP_WORDS)


def _blocks(text: str) -> list[str]:
    """Return what stands between blank lines."""
    return [block.strip("\n") for block in re.split(r"\n[ \t]*\n", text) if block.strip()]


def _sentences(paragraphs: Iterable[str]) -> list[str]:
    return [sentence for paragraph in paragraphs for sentence in split_sentences(paragraph)]


def _book_paragraphs(text: str) -> list[str]:
    """Return the blocks without short ones that end in no stop: titles and tables of contents."""
    return [block for block in _blocks(text) if block.endswith(_STOPS) or count_words(block) > 12]


def _sections(
    text: str, title: re.Pattern[str], name: str, paragraphs: Callable[[str], list[str]]
) -> Iterator[tuple[str, list[str]]]:
    """Yield (title, sentences) of the text before the first line that matches `title`, and after each."""
    matches = list(title.finditer(text))
    titles = [name, *(match[1].strip() for match in matches)]
    begins = [0, *(match.end() for match in matches)]
    ends = [*(match.start() for match in matches), len(text)]
    for heading, begin, end in zip(titles, begins, ends, strict=True):
        yield heading, _sentences(paragraphs(text[begin:end]))


def _plain_markdown(text: str) -> str:
    """Return Markdown without tables, rules, tags, bullets and inline markup; a bullet begins a paragraph."""
    text = _BULLET.sub("\n", _TABLE_OR_RULE.sub("", _TAG.sub("", text)))
    return _INLINE.sub(r"\2", _INLINE.sub(r"\2", _LINK.sub(r"\1", text)))


def _group(sections: Iterable[tuple[str, list[str]]], least_words: int) -> list[Document]:
    """Join neighbouring sections until each document has two sentences and `least_words` words."""
    documents: list[Document] = []

    def short(document: Document) -> bool:
        return len(document.sentences) < 2 or sum(map(count_words, document.sentences)) < least_words

    for title, sentences in sections:
        if documents and short(documents[-1]):
            documents[-1].sentences.extend(sentences)
        elif sentences:
            documents.append(Document(title, list(sentences)))
    if len(documents) > 1 and short(documents[-1]):
        last = documents.pop()
        documents[-1].sentences.extend(last.sentences)
    return documents


def _without_repeats(documents: list[Document], seen: set[str]) -> list[Document]:
    """Drop documents, and sentences of REPEAT_WORDS words or more, that are in `seen`; add the others to it."""
    kept = []
    for document in documents:
        whole = "\n".join(document.sentences).casefold()
        if whole in seen:
            continue
        seen.add(whole)
        sentences = []
        for sentence in document.sentences:
            key = sentence.casefold()
            if key not in seen or count_words(sentence) < REPEAT_WORDS:
                sentences.append(sentence)
            seen.add(key)
        if sentences:
            kept.append(Document(document.title, sentences))
    return kept


def _split(documents: list[Document], share: float, seed: int) -> list[list[Document]]:
    """Return [train, heldout]: documents in an order drawn from `seed` are held out while they fit in the share."""
    if len(documents) == 1:
        title, sentences = documents[0]
        count = min(max(1, round(share * len(sentences))), len(sentences) - 1)
        return [[Document(title, sentences[:-count])], [Document(title, sentences[-count:])]]
    words = [sum(map(count_words, document.sentences)) for document in documents]
    least = 2 if len(documents) > 3 else 1  # next-sentence pairs need two documents in each part
    chosen: set[int] = set()
    room = share * sum(words)
    for i in np.random.default_rng(seed).permutation(len(documents)).tolist():
        if words[i] <= room and len(chosen) < len(documents) - least:
            chosen.add(i)
            room -= words[i]
    smallest = sorted((i for i in range(len(documents)) if i not in chosen), key=lambda i: words[i])
    chosen.update(smallest[: max(0, least - len(chosen))])
    train = [document for i, document in enumerate(documents) if i not in chosen]
    return [train, [document for i, document in enumerate(documents) if i in chosen]]
