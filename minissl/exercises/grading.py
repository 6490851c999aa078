"""From a student's file to a verdict, and from a folder of hand-ins to scores. Nothing that a file says is believed."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minissl.errors import InputError
from minissl.exercises.catalogue import exercises
from minissl.exercises.exercise import Exercise, Verdict
from minissl.exercises.notebooks import functions_of
from minissl.exercises.sandbox import SECONDS, Sandbox

LARGEST_FILE = 1 << 20


class Checked(NamedTuple):
    """A verdict, and what the file printed meanwhile."""

    verdict: Verdict
    printed: list[str]


class Graded(NamedTuple):
    """One exercise of one student; `file` is empty where there was none."""

    exercise: Exercise
    file: str
    verdict: Verdict


class Report(NamedTuple):
    """All exercises of one student."""

    student: str
    graded: list[Graded]

    @property
    def score(self) -> float:
        """The sum of the scores, of which each is at most 1."""
        return round(sum(g.verdict.score for g in self.graded), 4)


def read_source(path: Path, exercise: Exercise) -> str:
    """Read a student's file, `.py` or `.ipynb`. Raises InputError where it is missing, empty or not UTF-8 text."""
    wanted = f"expected the file of exercise {exercise.name}"
    if path.is_dir():
        raise InputError(f"{path}: is a folder, {wanted}")
    if path.exists() and not path.is_file():
        raise InputError(f"{path}: is a pipe, a socket or a device, {wanted}")
    if path.is_symlink() and not path.exists():
        raise InputError(f"{path}: is a link to {os.readlink(path)}, which is not there; {wanted}")
    if not path.is_file():
        others = {e.file_name for e in exercises()} - {exercise.file_name}
        there = [other.name for other in path.parent.glob("*.py")] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, [name for name in there if name not in others], n=1)
        start = f"minissl exercise start {exercise.name} writes it"
        slip = f"is it {near[0]} now? its name has to be {path.name}" if near else start
        raise InputError(f"{path}: no such file; {slip}")
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if len(data) > LARGEST_FILE:
        raise InputError(f"{path}: larger than {LARGEST_FILE >> 20} MB; is that the exercise's file?")
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(f"{path}: line {line} is not UTF-8 text; save the file as UTF-8") from None
    if not text.strip():
        raise InputError(f"{path}: is empty; minissl exercise reset {exercise.name} writes a fresh one")
    return functions_of(path) if path.suffix == ".ipynb" else text


def check_source(exercise: Exercise, source: str, seconds: float = SECONDS) -> Checked:
    """Grade a source text in a process of its own. Whatever the file does, there is a verdict."""
    sandbox = Sandbox(source, exercise.file_name, seconds)
    try:
        with sandbox, np.errstate(all="ignore"):
            verdict = exercise.grade(sandbox)
    except InputError as error:
        verdict = Verdict(False, [f"✗ {error}"], 0.0)
    except Exception as error:  # a value that no grader reckoned with is the student's failure, never a traceback
        verdict = Verdict(False, [f"✗ what came back is of no use: {type(error).__name__}, {error}"], 0.0)
    return Checked(verdict, sandbox.printed())


def grade_folder(folder: Path, every: list[Exercise]) -> Iterator[Report]:
    """Grade one student's folder, or a folder of students' folders, each exercise with processes of its own.

    A file is known by its name: `05_softmax.py`, `softmax.py`, `05_softmax.ipynb` or `softmax.ipynb`, however deep.
    Raises InputError where there is none at all.
    """
    for student, place in students(folder, every):
        files, closed = _files(place)
        yield Report(student, [_grade(e, [f for f in files if f.name in _names(e)], place, closed) for e in every])


def students(folder: Path, every: list[Exercise]) -> list[tuple[str, Path]]:
    """Return the students' names and folders; a link to a folder is nobody's.

    Raises InputError where no exercise's file is found.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; expected a student's files, or a folder for each student")
    names = {name for e in every for name in _names(e)}
    try:
        there = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror})") from None
    if any(path.name in names for path in there):
        return [(_spelled(folder.resolve().name), folder)]
    inside = [path for path in there if path.is_dir() and not path.is_symlink() and not path.name.startswith(".")]
    found = [_files(path) for path in inside]
    if not any(file.name in names for files, _ in found for file in files):
        closed = [line for _, lines in found for line in lines][:1]
        text = f"{folder}: no exercise's file here, nor in a folder in it, as {every[0].file_name} is"
        raise InputError("; ".join([text, *closed]))
    return [(_spelled(path.name), path) for path in inside]


def as_json(reports: list[Report]) -> dict[str, Any]:
    """Return the reports for `grade --json`."""
    return {
        "students": [
            {
                "name": report.student,
                "score": report.score,
                "max_score": len(report.graded),
                "exercises": [
                    {"name": exercise.name, "file": file, **verdict.__dict__}
                    for exercise, file, verdict in report.graded
                ],
            }
            for report in reports
        ]
    }


def gradescope(report: Report) -> dict[str, Any]:
    """Return a report as Gradescope's `results.json` (its autograder specification, "Output format")."""
    return {
        "score": report.score,
        "tests": [
            {
                "name": f"{exercise.number:02d} {exercise.name}: {exercise.title}",
                "number": str(exercise.number),
                "score": round(verdict.score, 4),
                "max_score": 1.0,
                "status": "passed" if verdict.passed else "failed",
                "output": "\n".join(verdict.lines),
            }
            for exercise, _, verdict in report.graded
        ],
    }


def _grade(exercise: Exercise, files: list[Path], place: Path, closed: list[str]) -> Graded:
    given = ", ".join(_spelled(file.relative_to(place)) for file in files)
    if len(files) != 1:
        missing = "; ".join([f"✗ no file: expected {exercise.file_name} or {exercise.name}.ipynb", *closed])
        line = f"✗ {len(files)} files for one exercise ({given}): which one counts?" if files else missing
        return Graded(exercise, given, Verdict(False, [line], 0.0))
    try:
        verdict = check_source(exercise, read_source(files[0], exercise)).verdict
    except InputError as error:
        verdict = Verdict(False, [f"✗ {_spelled(error)}"], 0.0)
    return Graded(exercise, given, verdict)


def _files(folder: Path) -> tuple[list[Path], list[str]]:
    """Return a folder's plain files, however deep, and what could not be read; a link may lead to another student's."""
    found: list[Path] = []
    closed: list[OSError] = []
    for place, folders, names in os.walk(folder, onerror=closed.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(place) / name for name in sorted(names)]
    plain = [path for path in found if path.is_file() and not path.is_symlink()]
    return plain, [f"{_spelled(error.filename)}: cannot be read ({error.strerror})" for error in closed]


def _spelled(text: object) -> str:
    """Return a text with control characters and the like as escapes."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))


def _names(exercise: Exercise) -> set[str]:
    stems = (exercise.name, exercise.file_name.removesuffix(".py"))
    return {stem + suffix for stem in stems for suffix in (".py", ".ipynb")}
