"""Labelled texts: which column is which, what is held out, and a line number for whatever is wrong."""

import numpy as np
import pytest

from minissl.errors import InputError
from minissl.text.labelled import Columns, choose_rows, load_labelled, read_labelled, read_texts

ROWS = [(f"text number {i}", "good" if i % 3 else "bad") for i in range(30)]


def write(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def tsv(rows):
    return "".join(f"{text}\t{label}\n" for text, label in rows)


@pytest.mark.parametrize(
    ("name", "content", "columns"),
    [
        ("a.tsv", tsv(ROWS), Columns()),
        ("a.txt", tsv(ROWS).rstrip("\n"), Columns()),
        ("a.tsv", tsv(ROWS).replace("\n", "\r\n"), Columns()),
        ("a.tsv", "\ufeffsentence\tlabel\n" + tsv(ROWS), Columns()),
        ("a.tsv", "\n" + tsv(ROWS).replace("\n", "\n\n"), Columns()),
        ("a.csv", "Label,Text\n" + "".join(f'{label},"{text}"\n' for text, label in ROWS), Columns()),
        ("a.csv", "id;opinion;stars\n" + "".join(f"7;{t};{label}\n" for t, label in ROWS), Columns("opinion", "stars")),
        ("a.tsv", "".join(f"x\t{label}\t{text}\n" for text, label in ROWS), Columns("3", "2")),
        ("a.tsv", "".join(f"{label}\t{text}\n" for text, label in ROWS), Columns(label="1")),
    ],
    ids=["SST-2's", "no last line end", "Windows", "header", "blank lines", "CSV", "named", "numbered", "label named"],
)
def test_the_same_rows_in_many_formats(tmp_path, name, content, columns):
    found = read_labelled(write(tmp_path / name, content), columns)
    assert list(zip(*found, strict=True)) == ROWS


def test_quotation_marks_are_text_in_tsv_and_quotes_in_csv(tmp_path):
    text = 'she said " hello , you'
    assert read_texts(write(tmp_path / "a.tsv", f"{text}\t1\n")) == [text]
    quoted = text.replace('"', '""')
    assert read_texts(write(tmp_path / "a.csv", f'"{quoted}",1\n')) == [text]
    assert read_texts(write(tmp_path / "b.csv", '"two\nlines, one text",1\n')) == ["two\nlines, one text"]


def test_separators_inside_a_text_are_no_line_ends(tmp_path):
    text = "one\u2028two\x85three"
    assert read_texts(write(tmp_path / "a.tsv", f"{text}\t1\n")) == [text]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.tsv", "", "the file is empty"),
        ("a.tsv", "text\tlabel\n", "a header and no row"),
        ("a.tsv", "one text\nanother\n", r"line 1: 1 column\(s\), expected a text and its label"),
        ("a.tsv", "a\tb\tc\n", r"line 1: 3 column\(s\).*--text-column"),
        ("a.tsv", "a\t1\nb\n", r"line 2: 1 column\(s\), expected 2"),
        ("a.tsv", "a\t1\n\nb\t1\textra\n", r"line 3: 3 column\(s\), expected 2"),
        ("a.tsv", "a\t1\n \t1\n", "line 2: the text is empty"),
        ("a.tsv", "a\t1\nb\t \n", "line 2: the label is empty"),
        ("a.tsv", b"a\t1\ncaf\xe9\t1\n", "line 2: not UTF-8: byte 0xe9"),
        ("a.tsv", "a\t1\n".encode("utf-16"), "UTF-16"),
        ("a.tsv", b"a\t1\nb\x00\t1\n", "line 2: not a text file"),
        ("a.csv", 'a,1\n"b,1\nc,1\n', "line 2: not CSV .*quotation mark"),
        ("a.csv", 'a,1\n"b" x,1\n', "line 2: not CSV"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path, name, content, says):
    with pytest.raises(InputError, match=says) as caught:
        read_labelled(write(tmp_path / name, content))
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        (Columns("review", None), "no column 'review' for --text-column; there are: sentence, label"),
        (Columns(None, "3"), "no column '3' for --label-column"),
        (Columns("0", None), "no column '0'"),
        (Columns("1", "1"), "expected a text and its label"),
    ],
)
def test_columns_that_are_not_there(tmp_path, columns, says):
    with pytest.raises(InputError, match=says):
        read_labelled(write(tmp_path / "a.tsv", "sentence\tlabel\n" + tsv(ROWS)), columns)


def test_a_folder_has_its_parts_and_test_is_never_read(tmp_path):
    write(tmp_path / "d" / "train.tsv", tsv(ROWS))
    write(tmp_path / "d" / "dev.tsv", tsv(ROWS[:4]))
    write(tmp_path / "d" / "test.tsv", b"\xff\xfe\x00")
    parts = load_labelled(tmp_path / "d")
    assert parts.names == ["bad", "good"]
    assert len(parts.train.texts) == 30
    assert parts.heldout.texts == [text for text, _ in ROWS[:4]]
    write(tmp_path / "d" / "dev.tsv", tsv([*ROWS[:2], ("a text", "middling")]))
    with pytest.raises(
        InputError, match=r"dev.tsv, line 3: unknown label 'middling'; the training rows have: bad, good"
    ):
        load_labelled(tmp_path / "d")


def test_a_single_file_holds_out_a_tenth_always_the_same(tmp_path):
    path = write(tmp_path / "a.tsv", tsv([*ROWS, ("the only one", "rare")]))
    first, second = load_labelled(path), load_labelled(path)
    assert first == second
    assert len(first.heldout.texts) == 3
    assert first.names == ["bad", "good", "rare"]  # what is rare stays where it can be learnt
    assert sorted(first.train.texts + first.heldout.texts) == sorted([text for text, _ in ROWS] + ["the only one"])


def test_numbers_come_in_their_order(tmp_path):
    rows = [(f"t{i}", label) for i, label in enumerate(["10", "9", "-1", "good"] * 4)]
    assert load_labelled(write(tmp_path / "a.tsv", tsv(rows))).names == ["-1", "9", "10", "good"]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (ROWS[:5], "5 rows; at least 10"),
        ([(text, "good") for text, _ in ROWS], "every row has the label 'good'"),
        ([("1", text) for text, _ in ROWS], "30 different labels in 30 rows; are the columns swapped"),
    ],
)
def test_rows_that_teach_nothing(tmp_path, rows, says):
    with pytest.raises(InputError, match=says):
        load_labelled(write(tmp_path / "a.tsv", tsv(rows)))


def test_nothing_to_read(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_labelled(tmp_path / "none.tsv")
    with pytest.raises(InputError, match=r"no file train\.tsv"):
        load_labelled(tmp_path)
    write(tmp_path / "train.tsv", tsv(ROWS))
    write(tmp_path / "train.csv", tsv(ROWS))
    with pytest.raises(InputError, match=r"both train\.tsv and train\.csv"):
        load_labelled(tmp_path)


def test_rows_are_drawn_with_each_label_at_least_once():
    labels = ["a"] * 50 + ["b"]
    draws = [choose_rows(labels, 5, np.random.default_rng(seed)) for seed in range(20)]
    for rows in draws:
        assert rows == sorted(set(rows))
        assert len(rows) == 5
        assert 50 in rows
    assert len({tuple(rows) for rows in draws}) > 15
    assert choose_rows(labels, 51, np.random.default_rng(0)) == list(range(51))
    for count in (1, 52):
        with pytest.raises(InputError, match=f"{count} labelled rows asked for, expected 2 .* to 51"):
            choose_rows(labels, count, np.random.default_rng(0))


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.txt"])
def test_damaged_files_are_read_or_refused_in_one_line(tmp_path, name):
    """Bytes flipped, cut out, doubled and put in: no other exception, and what is read is whole."""
    rng = np.random.default_rng(0)
    separator = b"," if name.endswith("csv") else b"\t"
    whole = b"text" + separator + b"label\r\n" + b'"a ""quoted"" text"' + separator + b"1\n"
    whole += b"".join(b"caf\xc3\xa9 number %d" % i + separator + b"%d\n" % (i % 2) for i in range(20))
    refusals = []
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(int(rng.integers(1, 4))):
            at, kind = int(rng.integers(len(data))), rng.integers(4)
            if kind == 0:
                data[at] = rng.integers(256)
            elif kind == 1:
                del data[at : at + int(rng.integers(1, 40))]
            elif kind == 2:
                data[at:at] = data[at : at + 30]
            else:
                data[at:at] = [b'"', b"\n", b"\t", b"\r", b"\x00", b",", b"\xff", "\u2028".encode()][rng.integers(8)]
        try:
            found = read_labelled(write(tmp_path / name, bytes(data)))
        except InputError as error:
            refusals.append(str(error))
        else:
            assert len(found.texts) == len(found.labels) > 0
            assert all(found.texts)
            assert all(found.labels)
    assert 50 < len(refusals) < 390
    assert not any("\n" in said for said in refusals)
