"""Texts with labels, from TSV and CSV files.

- Which column is which: as the caller says, by name or by number from 1; else by a header, a first row in which a cell
  is named as in LABEL_NAMES; else a file of two columns has the text first, as SST-2 has.
- `.csv` is quoted as spreadsheets quote it, with commas, semicolons or tabs between the columns, whichever the first
  line has most of. Any other file has tabs between the columns, and quotation marks are text.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minissl.errors import InputError
from minissl.text.squad import read_squad

TEXT_NAMES = ("text", "sentence", "review", "content")
LABEL_NAMES = ("label", "labels", "class", "category", "sentiment", "target")
TRAIN_NAMES = ("train", "training")
HELDOUT_NAMES = ("dev", "valid", "validation", "val", "heldout")
SUFFIXES = (".tsv", ".csv", ".txt")
HELDOUT_SHARE = 0.1  # of a set that comes without a held-out file of its own
LEAST_ROWS = 10


class Labelled(NamedTuple):
    """Texts and their labels, in the order of the file."""

    texts: list[str]
    labels: list[str]

    def take(self, rows: Sequence[int]) -> Labelled:
        """Choose some rows, in the order given."""
        return Labelled([self.texts[i] for i in rows], [self.labels[i] for i in rows])


class LabelledParts(NamedTuple):
    """What is learnt from and what is only measured; `names` are the labels in order, the classes 0, 1, …."""

    train: Labelled
    heldout: Labelled
    names: list[str]


class Columns(NamedTuple):
    """Which columns hold what: names or numbers from 1; None where the file itself is to say."""

    text: str | None = None
    label: str | None = None


FROM_THE_FILE = Columns()


def load_labelled(source: str | Path, columns: Columns = FROM_THE_FILE) -> LabelledParts:
    """Read a folder with a file `train` and one of `dev`, `valid`, … (.tsv, .csv or .txt), or a single file.

    Where nothing is held out, a tenth of the rows is, the same ones every time. `test` files are never read.
    Raises InputError, with the file and the line, for what is not text, a row without its columns, an empty text, a
    held-out label that training does not have; and for fewer than LEAST_ROWS rows or two labels.
    """
    path = Path(source)
    if path.is_dir():
        train_path = find_part(path, TRAIN_NAMES)
        if train_path is None:
            raise InputError(f"{path}: no file train.tsv or train.csv in this folder; a single file works too")
        heldout_path = find_part(path, HELDOUT_NAMES)
    else:
        train_path, heldout_path = path, None
    train = read_labelled(train_path, columns)
    names = _names(train, str(train_path))
    if heldout_path is None:
        return hold_out(train, str(train_path))
    return LabelledParts(train, read_labelled(heldout_path, columns, names), names)


def hold_out(labelled: Labelled, where: str) -> LabelledParts:
    """Hold out a tenth of the rows, the same ones every time; each label stays where it can be learnt.

    Raises InputError, beginning with `where`, for too few rows or labels.
    """
    names = _names(labelled, where)
    count = len(labelled.labels) - max(1, round(HELDOUT_SHARE * len(labelled.labels)))
    if len(names) > count:
        raise InputError(f"{where}: too few rows of each label to hold some out; give a folder with train and dev")
    kept = choose_rows(labelled.labels, count, np.random.default_rng(0))
    heldout = sorted(set(range(len(labelled.labels))) - set(kept))
    return LabelledParts(labelled.take(kept), labelled.take(heldout), names)


def _names(train: Labelled, where: str) -> list[str]:
    names = sorted(set(train.labels), key=_in_order)
    if len(train.labels) < LEAST_ROWS:
        raise InputError(f"{where}: {len(train.labels)} rows; at least {LEAST_ROWS} are needed to learn from")
    if len(names) < 2:
        raise InputError(f"{where}: every row has the label {names[0]!r}; at least two labels are needed")
    if len(names) > max(20, len(train.labels) // 2):
        raise InputError(
            f"{where}: {len(names)} different labels in {len(train.labels)} rows; are the columns swapped? "
            "Name them with --text-column and --label-column"
        )
    return names


def read_questions(path: str | Path) -> Labelled:
    """SQuAD's questions, each labelled with the title of its article. Raises InputError as `read_squad` does."""
    rows = [
        (question.text.strip(), article.title)
        for article in read_squad(path)
        for question in article.questions
        if question.text.strip()
    ]
    return Labelled([text for text, _ in rows], [title for _, title in rows])


def read_labelled(path: str | Path, columns: Columns = FROM_THE_FILE, known: Sequence[str] | None = None) -> Labelled:
    """Read one file; blank lines are passed over. Raises InputError as `load_labelled` does, naming the line."""
    path = Path(path)
    if str(path) == "" or not path.is_file():
        raise InputError(f"{path}: no such file; expected a TSV or CSV of text and label, or a folder with train.tsv")
    rows = list(_rows(path))
    if not rows:
        raise InputError(f"{path}: the file is empty; expected rows of a text and its label")
    text_at, label_at, begin = _columns(path, rows[0][1], columns)
    width = len(rows[0][1])
    texts, labels = [], []
    for line, cells in rows[begin:]:
        if len(cells) != width:
            raise InputError(
                f"{path}, line {line}: {len(cells)} column(s), expected {width} as in the first row; is a tab or a "
                "quotation mark missing or too many?"
            )
        text, label = cells[text_at].strip(), cells[label_at].strip()
        if not text:
            raise InputError(f"{path}, line {line}: the text is empty; leave such rows out")
        if not label:
            raise InputError(f"{path}, line {line}: the label is empty; every row needs one")
        if known is not None and label not in known:
            shown = ", ".join(known[:10]) + (", …" if len(known) > 10 else "")
            raise InputError(f"{path}, line {line}: unknown label {label!r}; the training rows have: {shown}")
        texts.append(text)
        labels.append(label)
    if not texts:
        raise InputError(f"{path}: holds a header and no row")
    return Labelled(texts, labels)


def read_texts(path: str | Path, columns: Columns = FROM_THE_FILE) -> list[str]:
    """The texts alone, for learning without labels: whatever the labels are, they are not looked at."""
    return read_labelled(path, columns).texts


def choose_rows(labels: Sequence[str], count: int, rng: np.random.Generator) -> list[int]:
    """Draw `count` rows, in file order, each label at least once.

    Raises InputError where there are fewer rows than asked for, or more labels.
    """
    order = rng.permutation(len(labels)).tolist()
    one_of_each = list({labels[i]: i for i in reversed(order)}.values())
    if not len(one_of_each) <= count <= len(labels):
        raise InputError(
            f"{count} labelled rows asked for, expected {len(one_of_each)} (one of each label) to {len(labels):,}"
        )
    others = [i for i in order if i not in set(one_of_each)]
    return sorted(one_of_each + others[: count - len(one_of_each)])


def _in_order(label: str) -> tuple[int, float, str]:
    """Numbers by size, before words by letter."""
    return (0, float(label), label) if re.fullmatch(r"-?\d{1,15}(\.\d{1,15})?", label) else (1, 0.0, label)


def find_part(folder: Path, names: Sequence[str]) -> Path | None:
    """Return the file of a folder that has one of these names, or None. Raises InputError where two have."""
    found = [p for name in names for suffix in SUFFIXES if (p := folder / (name + suffix)).is_file()]
    if len(found) > 1:
        raise InputError(f"{folder}: both {found[0].name} and {found[1].name}; which one is meant? Name one file")
    return found[0] if found else None


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, cells) of every row that is not blank."""
    text = _decode(path)
    if path.suffix.lower() == ".csv":
        yield from _csv_rows(path, text)
        return
    for line, row in enumerate(text.split("\n"), start=1):
        if row.strip():
            yield line, row.split("\t")


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, list[str]]]:
    first = re.sub(r'"[^"]*"', "", text.partition("\n")[0])
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), strict=True)
    begin = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield begin, cells
            begin = reader.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"{path}, line {begin}: not CSV ({error}); is a quotation mark missing? Inside quotes, write it twice"
        ) from None


def _decode(path: Path) -> str:
    data = path.read_bytes()
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{path}: this is UTF-16 text; save it as UTF-8 (iconv -f UTF-16 -t UTF-8)")
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}, line {line}: not UTF-8: byte {data[error.start]:#04x}; "
            "if it is Latin-1, re-encode it: iconv -f LATIN1 -t UTF-8"
        ) from None
    control = re.search(r"[\x00-\x08\x0e-\x1f]", text)
    if control:
        line = text.count("\n", 0, control.start()) + 1
        raise InputError(f"{path}, line {line}: not a text file: it has the character {ord(control[0]):#04x}")
    return re.sub(r"\r\n?", "\n", text)


def _columns(path: Path, first: list[str], columns: Columns) -> tuple[int, int, int]:
    """Return (text's column, label's column, 1 where the first row is a header, else 0)."""
    names = [cell.strip().casefold() for cell in first]
    header = any(name in LABEL_NAMES for name in names) or any(
        column is not None and not column.isdecimal() for column in columns
    )

    def asked(column: str, option: str) -> int:
        if column.isdecimal() and 1 <= int(column) <= len(first):
            return int(column) - 1
        if not column.isdecimal() and names.count(column.strip().casefold()) == 1:
            return names.index(column.strip().casefold())
        raise InputError(f"{path}, line 1: no column {column!r} for {option}; there are: {', '.join(first)[:200]}")

    def named(known: Sequence[str]) -> int | None:
        return next((names.index(name) for name in known if name in names), None) if header else None

    text = asked(columns.text, "--text-column") if columns.text is not None else named(TEXT_NAMES)
    label = asked(columns.label, "--label-column") if columns.label is not None else named(LABEL_NAMES)
    if len(first) == 2:  # either says which the other is; neither: the text comes first
        text = text if text is not None else 0 if label is None else 1 - label
        label = label if label is not None else 1 - text
    if len(first) < 2 or text is None or label is None or text == label:
        raise InputError(
            f"{path}, line 1: {len(first)} column(s), expected a text and its label; with more columns than two, "
            "name the columns with --text-column and --label-column, or give the file a header"
        )
    return text, label, int(header)
