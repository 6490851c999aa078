"""The built-in corpus `docs`: English prose of the Python language reference and of the standard library's docstrings.

Nothing is downloaded and no module of the library is imported but `pydoc_data.topics`: docstrings are read with `ast`
from the source files of the running Python. The text differs between Python versions.
"""

from __future__ import annotations

import ast
import itertools
import os
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from minissl.errors import InputError
from minissl.text.sentences import split_sentences

LEAST_SENTENCES = 4  # a shorter document joins those of its package: it has too few neighbours to be told apart
LEAST_WORDS = 3  # of a sentence
CLASS_SENTENCES = 12  # a class with this many sentences is a document of its own

# Tests and their data, whole programs, generated code pages, and what other projects installed.
_SKIPPED = re.compile(
    "tests?|idlelib|idle_test|lib2to3|turtledemo|(?:site|dist)-packages|ensurepip|lib-dynload|encodings|pydoc_data|"
    "__pycache__|__phello__"
)

_BULLET = re.compile(r"(?:[*+•-]|--|\(?(?:\d{1,2}|[a-zA-Z])[.)]|\[\d+\]|\.\. \[\d+\]|#\.)\s+")
_FIELD = re.compile(r":\w+(?: [\w*, ]+)?:\s+|@\w+(?: \w+)?:\s+|\.\. [\w-]+::\s*|(?:Note|Warning|See also):\s+")
_VERSION = re.compile(r"(?:Changed|New|Added|Deprecated)(?: in| since) version [\w.]+(?:, will be[^:]*)?[:.]\s*")
_SIGNATURE = re.compile(r"[\w.]+ ?\([^)]*\)+(?:\s*->.*|:)?$|[\w.]+ ?\(.*\)\s*(?:->|=|--).*$|(?:\w+ )?class [\w.]+\(")
_RULE = re.compile(r"([^\w\s])\1{2,}[\s=|+-]*$|\+[-=]|\|.*\|$|-\[ ")  # underlines, borders of tables
_ENTRY = re.compile(r">>>|\*{0,2}[\w.]+(?::| --?) ")  # "name: what it means"
_COLUMNS = re.compile(r"\S {3,}\S")
_ROLE = re.compile(r":[a-z]+(?::[a-z]+)?:`[!~.]*([^`<]+?)\s*(?:<[^`>]*>)?`")
_TICKS = re.compile(r"``?([^`]+?)(?:``?_{0,2}|'(?!\w))")
_EMPHASIS = re.compile(r"(?<![\w*])(\*{1,2})(?=[\w(])([^*]*?[\w)?!.])\1(?![\w*])")
_REFERENCE = re.compile(r"\s?\[\d+\]_?")
_HYPHEN = re.compile(r"(?<=[a-z])- (?=[a-z])(?!and |or |to )")  # a word broken at its hyphen
_QUOTED = re.compile(r"(?<![\w\"'])(\"'|'\"|\"|')([^\s\"']+)(?:'\"|\"'|\1)(?![\w\"'])")
_NOT_PROSE = re.compile(
    r"https?:|ftp:|@|Copyright|\(c\)|[Ll]icen[sc]e|[{}|\\<>=`#$_]{2}|>>>|(?:^| )# |::=|\*\*|\[,|\w = \w+[\[(.]|"
    r"^import |^from \S+ import| def \w|XXX|TODO|FIXME"
)
_LETTERS = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_FUNCTION_WORD = re.compile(
    r"\b(?:an?|the|of|to|in|on|at|by|for|from|with|as|is|are|was|were|be|been|its?|this|that|these|those|and|or|not?|if|"
    r"when|which|must|may|can|will|should|ha[sd]|have|but|than|all|any|each|only|into|there|you|we|they)\b",
    re.I,
)


def docs_documents() -> list[tuple[str, list[str]]]:
    """Return (title, sentences) for each topic and each module or large class; no sentence stands twice in them.

    Raises InputError where this Python comes without its documentation and its source files.
    """
    root = Path(sysconfig.get_path("stdlib"))
    seen: set[str] = set()
    documents = [(title, _unseen(sentences, seen)) for title, sentences in _topics()]
    documents = [document for document in documents if len(document[1]) >= LEAST_SENTENCES]
    for package, paths in itertools.groupby(_source_files(root), key=lambda path: path.relative_to(root).parts[0]):
        short = []  # what is left of the package's modules
        for path in paths:
            for title, sentences in _module(path, path.relative_to(root), seen):
                if len(sentences) >= LEAST_SENTENCES:
                    documents.append((title, sentences))
                else:
                    short += sentences
        if len(short) >= LEAST_SENTENCES:
            documents.append((package, short))
    if not documents:
        raise InputError(f"docs: this Python has no pydoc_data.topics and no source files in {root}; give a text file")
    return documents


def _topics() -> list[tuple[str, list[str]]]:
    """Return the language reference's topics, shortest first: repeated text stays with its most specific topic."""
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some distributions pack it apart
        return []
    shortest_first = sorted(topics.items(), key=lambda item: (len(item[1]), item[0]))
    return [(name, prose_sentences(text)) for name, text in shortest_first]


def _unseen(sentences: list[str], seen: set[str]) -> list[str]:
    """Return the sentences whose letters are not in `seen`, and add them to it."""
    fresh = []
    for sentence in sentences:
        key = " ".join(_LETTERS.findall(sentence.lower()))
        if key not in seen:
            seen.add(key)
            fresh.append(sentence)
    return fresh


def _source_files(root: Path) -> Iterator[Path]:
    """Yield the library's .py files, sorted, without the folders that hold no documentation."""
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if not _SKIPPED.fullmatch(name))
        yield from (Path(folder, name) for name in sorted(files) if name.endswith(".py"))


def _module(path: Path, relative: Path, seen: set[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield a module's documents: its large classes, then the rest, each in the order of the source."""
    source = path.read_bytes()
    if b'"""' not in source:
        return
    try:
        with warnings.catch_warnings(action="ignore"):  # old escapes such as "\d"
            module = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    name = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
    rest = []
    for node in [module, *module.body]:
        sentences: list[str] = []
        for docstring in _docstrings(node):
            sentences += _unseen(prose_sentences(docstring), seen)
        if isinstance(node, ast.ClassDef) and len(sentences) >= CLASS_SENTENCES:
            yield f"{name}.{node.name}", sentences
        else:
            rest += sentences
    yield name, rest


def _docstrings(node: ast.AST) -> Iterator[str]:
    """Yield a module's own docstring, a function's, or those of a class and of what it defines."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        docstring = ast.get_docstring(node)
        if docstring:
            yield docstring
    if isinstance(node, ast.ClassDef):
        for child in node.body:
            yield from _docstrings(child)


def prose_sentences(text: str) -> list[str]:
    """Return the sentences of reStructuredText or of pydoc's plain text: no code, tables, headings, or markup."""
    return [
        sentence
        for paragraph in _paragraphs(text)
        for sentence in split_sentences(_plain(paragraph))
        if _is_prose(sentence)
    ]


def _paragraphs(text: str) -> Iterator[str]:
    """Yield the paragraphs, wrapped lines joined; code, tables and headings are left out.

    A bullet begins a new paragraph, and so does a change of indentation, unless it goes on in the middle of a sentence.
    """
    lines: list[str] = []
    indent, literal, skipping = 0, -1, False  # `literal`: the depth above which lines are code; -1 for none
    for line in [*text.expandtabs().split("\n"), ""]:
        stripped = line.strip()
        depth = len(line) - len(line.lstrip())
        bullet = _BULLET.match(stripped)
        goes_on = depth == indent or (lines and lines[-1][-1] not in ".:!?" and stripped[:1].islower())
        if lines and (not stripped or not goes_on or _ENTRY.match(stripped) or bullet):
            literal = indent if lines[-1].endswith("::") else -1
            yield " ".join(lines)
            lines = []
        if not stripped:
            skipping = False
        elif _RULE.match(stripped):
            lines = []  # the line above was a heading
        elif stripped.startswith(">>>") or _COLUMNS.search(stripped):
            lines, skipping = [], True
        elif not lines and _SIGNATURE.match(stripped):
            continue
        elif not skipping and (literal < 0 or depth <= literal):
            literal = -1
            if not lines:
                indent = depth + (bullet.end() if bullet else 0)
            lines.append(stripped[bullet.end() :] if bullet else stripped)


def _plain(paragraph: str) -> str:
    """Return the paragraph without markup: roles, literals, emphasis, references, "Changed in version 3.1:"."""
    paragraph = _FIELD.sub("", _VERSION.sub("", paragraph))
    paragraph = _TICKS.sub(r"\1", _ROLE.sub(r"\1", paragraph))
    paragraph = _QUOTED.sub(r"\2", _EMPHASIS.sub(r"\2", _EMPHASIS.sub(r"\2", paragraph)))
    paragraph = _REFERENCE.sub("", paragraph).replace("::", ":")
    return _HYPHEN.sub("-", paragraph)


def _is_prose(sentence: str) -> bool:
    """Say whether most of the sentence is words, some of them English function words, and none of it is code."""
    tokens = sentence.split()
    words = sum(1 for token in tokens if _LETTERS.fullmatch(token.strip("\"'“”‘’().,:;!?")))
    enough = words >= max(LEAST_WORDS, 0.75 * len(tokens))
    return enough and bool(_FUNCTION_WORD.search(sentence)) and not _NOT_PROSE.search(sentence)
