"""Questions about passages, in the format of SQuAD v1.1 (Rajpurkar et al. 2016): read, checked, split by article.

One JSON object, plain or gzipped:
`data` [] › `title`, `paragraphs` [] › `context`, `qas` [] › `id`, `question`, `answers` [] › `text`, `answer_start`,
where `answer_start` counts the characters of `context` from 0. Whatever else an object holds is passed over.
"""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minissl.errors import InputError

MOST_BYTES = 1 << 29  # of the JSON: sixteen times SQuAD's training file; a small gzip can hold a thousandfold of itself
_KINDS = {dict: "an object", list: "a list", str: "a text", int: "a whole number"}


class Answer(NamedTuple):
    """A stretch of the passage: `context[start : start + len(text)] == text`."""

    text: str
    start: int

    @property
    def stop(self) -> int:
        """The character after its last."""
        return self.start + len(self.text)


class Question(NamedTuple):
    """A question, the passage that it is about, and what each annotator gave as its answer (one or more)."""

    id: str
    text: str
    context: str
    answers: tuple[Answer, ...]


class Article(NamedTuple):
    """An article's passages in order, and the questions about them."""

    title: str
    contexts: tuple[str, ...]
    questions: tuple[Question, ...]


def read_squad(path: str | Path) -> list[Article]:
    """Read a file of SQuAD v1.1. Raises InputError, naming the place, for whatever is not as the format says.

    That is: a damaged file, a missing or odd entry, an id used twice, a question without an answer (as v2.0 has them),
    and an answer that does not stand in its passage where `answer_start` says.
    """
    path = Path(path)
    root = _parse(path, _read(path))
    ids: dict[str, str] = {}
    articles = []
    for i, article in enumerate(_entry(root, "data", list, f"{path}")):
        place = f"{path}: article {i + 1}"
        title = _entry(article, "title", str, place)
        contexts: list[str] = []
        questions: list[Question] = []
        for j, paragraph in enumerate(_entry(article, "paragraphs", list, place)):
            where = f"{place} ({_short(title)!r}), paragraph {j + 1}"
            contexts.append(_entry(paragraph, "context", str, where))
            for k, qa in enumerate(_entry(paragraph, "qas", list, where)):
                question = _question(qa, contexts[-1], f"{where}, question {k + 1}", path)
                if question.id in ids:
                    raise InputError(
                        f"{path}: id {question.id!r} is used twice, in {ids[question.id]!r} and {title!r}; "
                        "predictions are told apart by it"
                    )
                ids[question.id] = title
                questions.append(question)
        articles.append(Article(title, tuple(contexts), tuple(questions)))
    if not ids:
        raise InputError(f"{path}: holds no question at all; expected SQuAD v1.1, data › paragraphs › qas")
    return articles


def split_articles(articles: list[Article], share: float = 0.2, seed: int = 0) -> tuple[list[Article], list[Article]]:
    """Return (train, held out): no article has questions on both sides.

    Articles in an order drawn from `seed` are held out while their questions fit in `share` of all; both keep the
    file's order. Raises InputError for a share outside (0, 1), and where fewer than two articles have questions.
    """
    if not 0 < share < 1:
        raise InputError(f"held-out share {share}: expected a share of the questions between 0 and 1, such as 0.2")
    counts = [len(article.questions) for article in articles]
    asked = [i for i, count in enumerate(counts) if count]
    if len(asked) < 2:
        raise InputError(
            f"{len(asked)} article(s) with questions: a split by article needs two or more; "
            "give the questions to be held out as a file of their own"
        )
    chosen: set[int] = set()
    room = share * sum(counts)
    for i in np.random.default_rng(seed).permutation(asked).tolist():
        if counts[i] <= room and len(chosen) < len(asked) - 1:
            chosen.add(i)
            room -= counts[i]
    if not chosen:
        chosen.add(min(asked, key=lambda i: counts[i]))
    train = [article for i, article in enumerate(articles) if i not in chosen]
    return train, [article for i, article in enumerate(articles) if i in chosen]


def _read(path: Path) -> bytes:
    """The file's bytes, unpacked where they are a gzip's (whatever its name)."""
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            with gzip.open(raw) if packed else raw as file:
                content = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected questions in the format of SQuAD v1.1") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}: the gzip is damaged ({error}); was the download cut off?") from error
    except OSError as error:
        raise InputError(f"{path}: could not be read ({error.strerror}); expected one JSON file") from error
    if len(content) > MOST_BYTES:
        raise InputError(f"{path}: holds more than {MOST_BYTES >> 20} MiB of JSON; give a part of it")
    return content


def _parse(path: Path, content: bytes) -> Any:
    try:
        return json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except json.JSONDecodeError as error:
        what = "is empty" if not content.strip() else f"is not JSON (line {error.lineno}, column {error.colno})"
        raise InputError(f"{path}: {what}: {error.msg}; was the file cut off?") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; brackets without end
        raise InputError(f"{path}: is no JSON that can be read ({error})") from error


def _entry(holder: Any, name: str, kind: type, where: str) -> Any:
    """Return holder[name], of the type `kind`."""
    if not isinstance(holder, dict):
        raise InputError(f"{where}: expected an object with {name!r}, found {_name(holder)}")
    if name not in holder:
        found = ", ".join(repr(_short(key)) for key in list(holder)[:6]) or "nothing"
        raise InputError(f"{where}: has no {name!r} (it has: {found}); expected SQuAD v1.1")
    value = holder[name]
    if type(value) is not kind:
        raise InputError(f"{where}: {name!r} is {_name(value)}, expected {_KINDS[kind]}")
    if isinstance(value, str):
        if not value.strip():
            raise InputError(f"{where}: {name!r} is empty")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InputError(f"{where}: {name!r} has half a surrogate pair at {error.start}, no character") from error
    return value


def _question(qa: Any, context: str, where: str, path: Path) -> Question:
    name = _entry(qa, "id", str, where)
    where = f"{path}: question {name!r}"
    text = _entry(qa, "question", str, where)
    given = [] if "answers" not in qa and qa.get("is_impossible") else _entry(qa, "answers", list, where)
    if qa.get("is_impossible") or not given:
        raise InputError(
            f"{where}: has no answer in its passage, as in SQuAD v2.0; expected v1.1, where every question has one: "
            "leave such questions out"
        )
    answers = []
    for answer in given:
        answer_text = _entry(answer, "text", str, f"{where}, an answer")
        start = _entry(answer, "answer_start", int, f"{where}, answer {_short(answer_text)!r}")
        _require_there(context, answer_text, start, where)
        answers.append(Answer(answer_text, start))
    return Question(name, text, context, tuple(answers))


def _require_there(context: str, text: str, start: int, where: str) -> None:
    """Raise InputError, with what stands there and where the text really is, unless the passage has it at `start`."""
    if start >= 0 and context.startswith(text, start):
        return
    if not 0 <= start < len(context):
        found = f"is outside the passage of {len(context):,} characters"
    else:
        found = f"gives {_short(context[start : start + len(text)])!r}"
    places = [i for i in range(len(context)) if context.startswith(text, i)]
    if places:
        nearest = min(places, key=lambda i: abs(i - start))
        slip = f"it stands at {nearest}{_counting_slip(context, nearest, start)}"
    elif " ".join(text.split()).casefold() in " ".join(context.split()).casefold():
        slip = "the passage has it with other white space or capitals: was one of the two changed afterwards?"
    else:
        slip = "it stands nowhere in the passage: is this another paragraph's answer?"
    raise InputError(f"{where}: answer_start {start} {found}, expected the answer {_short(text)!r}; {slip}")


def _counting_slip(context: str, true: int, given: int) -> str:
    """Name the way of counting that gives `given` for a text that begins at character `true`."""
    before = context[:true]
    if given == true + 1:
        return ", one less: were characters counted from 1?"
    if given == len(before.encode("utf-8")):
        return ": were bytes counted instead of characters?"
    if given == len(before.encode("utf-16-le")) // 2:
        return ": were UTF-16 units counted instead of characters?"
    if given == len(" ".join(before.split())) + before[-1:].isspace():
        return ": was white space made single before counting?"
    return ""


def _name(value: Any) -> str:
    return _KINDS.get(type(value), f"{value!r}" if value is None or type(value) in (bool, float) else "something else")


def _short(text: str, most: int = 60) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
