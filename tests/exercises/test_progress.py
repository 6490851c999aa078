"""Progress survives, and a damaged file is refused with what to do."""

import json
import os
from datetime import date

import pytest

from minissl.errors import InputError
from minissl.exercises.progress import FILE, Progress, exercise_folder


def test_nothing_yet(tmp_path):
    progress = Progress.read(tmp_path)
    assert (progress.current, progress.entries) == ("", {})
    assert not progress.path.exists()


def test_round_trip(tmp_path):
    progress = Progress.read(tmp_path)
    progress.start("softmax")
    progress.start("gelu")
    progress.entry("gelu").hints = 2
    progress.entry("softmax").passed = "2025-01-31"
    progress.write()
    again = Progress.read(tmp_path)
    assert again == progress
    assert again.current == "gelu"
    assert again.entry("softmax").started == date.today().isoformat()
    assert again.entry("gelu").hints == 2
    again.start("softmax")  # once more changes nothing but the current one
    assert again.entry("softmax").passed == "2025-01-31"


GOOD = {"format": 1, "current": "a", "exercises": {"a": {"started": "2025-01-31", "hints": 0, "passed": ""}}}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ((), []),
        (("current",), None),
        (("exercises",), ["a"]),
        (("exercises", "a"), "passed"),
        (("exercises", "a", "hints"), "2"),
        (("exercises", "a", "hints"), -1),
        (("exercises", "a", "hints"), True),
        (("exercises", "a", "passed"), True),
    ],
)
def test_damaged(tmp_path, path, value):
    found = json.loads(json.dumps(GOOD))
    (tmp_path / FILE).write_text(json.dumps(found))
    assert Progress.read(tmp_path).current == "a"
    holder = found
    for key in path[:-1]:
        holder = holder[key]
    if path:
        holder[path[-1]] = value
    (tmp_path / FILE).write_text(json.dumps(found if path else value))
    with pytest.raises(InputError) as caught:
        Progress.read(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / FILE}: ")
    assert "delete it and start them again: your .py files stay as they are" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", '{"format": 1}', "\x00"])
def test_not_even_json_or_incomplete(tmp_path, content):
    (tmp_path / FILE).write_text(content)
    with pytest.raises(InputError, match="delete it"):
        Progress.read(tmp_path)


def test_another_format_is_not_called_damaged(tmp_path):
    (tmp_path / FILE).write_text(json.dumps(GOOD | {"format": 2}))
    with pytest.raises(InputError, match=r"is of format 2, expected 1; use the minissl that wrote it") as caught:
        Progress.read(tmp_path)
    assert "delete" not in str(caught.value)


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    (tmp_path / FILE).write_text(json.dumps(GOOD))

    def refuse(path, mode):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(InputError, match=r"cannot be read \(Permission denied\)$"):
        Progress.read(tmp_path)


def test_a_pipe_in_its_place_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / FILE)
    with pytest.raises(InputError, match="is no plain file, expected the progress"):
        Progress.read(tmp_path)


def test_which_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(exercise_folder(None)) == "minissl-exercises"
    assert exercise_folder(tmp_path / "x") == tmp_path / "x"
    (tmp_path / FILE).write_text("{}")
    assert str(exercise_folder(None)) == "."
