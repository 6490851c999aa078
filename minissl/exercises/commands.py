"""`minissl exercise …`: each command takes parsed values, says lines, and returns the exit status."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

from minissl.errors import InputError
from minissl.exercises.catalogue import exercise, exercises
from minissl.exercises.exercise import Exercise
from minissl.exercises.grading import Graded, as_json, check_source, grade_folder, gradescope, read_source, students
from minissl.exercises.progress import Progress, exercise_folder
from minissl.files import write_json, write_whole

Say = Callable[[str], object]
POLL = 0.5  # seconds between two looks at a file
PLAIN = str.maketrans({"✓": "ok", "✗": "no", "–": "-", "←": "<-", "…": "..."})


def list_exercises(folder: Path | None, say: Say) -> int:
    """Say which exercises there are, which are started and passed, and what comes next."""
    progress = Progress.read(exercise_folder(None)) if folder is None else _open(folder)
    for e in exercises():
        entry = progress.entries.get(e.name)
        state = _writable("✓" if entry and entry.passed else "started" if entry else "–")
        here = _writable("  ← current") if e.name == progress.current else ""
        say(f"{e.number:02d}  {state:<8} {e.name:<22} {e.title}{here}")
    passed = sum(e.name in progress.entries and bool(progress.entries[e.name].passed) for e in exercises())
    say(f"{passed} of {len(exercises())} passed; {_next_step(progress)}")
    return 0


def start(name: str | None, folder: Path | None, say: Say) -> int:
    """Write an exercise's file, by default the next one's. A file that is there is never touched.

    Raises InputError for an unknown name, and where the file cannot be written.
    """
    place = exercise_folder(folder)
    progress = Progress.read(place)
    if name is None:
        waiting = [e for e in exercises() if e.name not in progress.entries]
        if not waiting:
            say(f"every exercise is started; {_next_step(progress)}")
            return 0
        chosen = waiting[0]
    else:
        chosen = exercise(name)
    path = place / chosen.file_name
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{place}: cannot be made ({error.strerror}); is a file in its way?") from None
    there = path.exists() or path.is_symlink()
    if not there:
        write_whole(path, chosen.stub)
    progress.start(chosen.name)
    progress.write()
    say(chosen.task)
    say("")
    if there:
        say(f"{path} was there and is as it was; minissl exercise reset {chosen.name} writes a fresh one")
    say(f"open {path}, then: minissl exercise check")
    return 0


def check(name: str | None, folder: Path | None, say: Say) -> int:
    """Check one exercise, by default the current one. Returns 0 where it passed, else 1."""
    progress = _open(folder)
    chosen = _chosen(name, progress)
    verdict, printed = check_source(chosen, read_source(progress.folder / chosen.file_name, chosen))
    say(f"{chosen.number:02d} {chosen.name}: {chosen.title}")
    if printed:
        say("  your file printed:")
    for line in [*(f"  | {line}" for line in printed), *(f"  {line}" for line in verdict.lines)]:
        say(_writable(line))
    progress = Progress.read(progress.folder)  # another check may have passed meanwhile
    entry = progress.entry(chosen.name)
    if verdict.passed:
        entry.passed = entry.passed or date.today().isoformat()
        progress.write()  # only here, when the student's process is gone
        say(f"passed; {_next_step(progress)}")
        return 0
    if entry.passed:
        say(f"not passed now, although it passed on {entry.passed}: what has changed since?")
    else:
        left = len(chosen.hints) - entry.hints
        which = "" if chosen.name == progress.current else f" {chosen.name}"
        hints = f"; {left} hint{'s' if left > 1 else ''}: minissl exercise hint{which}" if left > 0 else ""
        say(f"not passed yet{hints}")
    return 1


def hint(name: str | None, folder: Path | None, say: Say) -> int:
    """Say one hint more than last time, and how many are left."""
    progress = _open(folder)
    chosen = _chosen(name, progress)
    entry, hints = progress.entry(chosen.name), chosen.hints
    if entry.hints >= len(hints):
        for number, text in enumerate(hints, start=1):
            say(f"{number}. {text}")
        say(f"these are all hints for {chosen.name}")
        return 0
    say(f"{entry.hints + 1}. {hints[entry.hints]}")
    entry.hints += 1
    progress.write()
    left = len(hints) - entry.hints
    say(f"{left} more for {chosen.name}" if left else f"this was the last one for {chosen.name}")
    return 0


def reset(name: str | None, folder: Path | None, say: Say) -> int:
    """Write a fresh stub; what was there goes to `NN_name.py.1.bak`, `.2.bak`, …"""
    progress = _open(folder)
    chosen = _chosen(name, progress)
    path = progress.folder / chosen.file_name
    if path.exists():
        numbers = range(1, len(list(progress.folder.iterdir())) + 2)
        backup = next(b for n in numbers if not (b := path.with_name(f"{path.name}.{n}.bak")).exists())
        path.rename(backup)
        say(f"{path} is now {backup.name}")
    write_whole(path, chosen.stub)
    progress.entry(chosen.name)
    progress.write()
    say(f"{path} is as it was at the start")
    return 0


def solution(name: str | None, folder: Path | None, say: Say) -> int:
    """Say the solution of an exercise that was passed. Returns 1 where it was not."""
    progress = _open(folder)
    chosen = _chosen(name, progress)
    entry = progress.entries.get(chosen.name)
    if entry is None or not entry.passed:
        say(f"{chosen.name} is not passed yet; minissl exercise hint says one step more")
        return 1
    say(chosen.solution)
    return 0


def grade(folder: Path, say: Say, json_wanted: bool = False, gradescope_file: Path | None = None) -> int:
    """Grade a folder of one student's files or of students' folders: a table, JSON, Gradescope's `results.json`.

    Strangers' code runs under a fence, not behind a wall: for theirs, grade inside a container.
    Raises InputError where there is nothing to grade, and for Gradescope's file with more than one student.
    """
    everything = exercises()
    names = [student for student, _ in students(folder, everything)]
    if gradescope_file is not None and len(names) != 1:
        raise InputError(f"--gradescope is for one student's folder; {folder} has {len(names)}: {', '.join(names[:5])}")
    width = max(len(name) for name in names)
    if not json_wanted:
        say(f"{'':<{width}}  score     " + " ".join(f"{e.number:02d}" for e in everything))
    reports = []
    for report in grade_folder(folder, everything):
        reports.append(report)
        if not json_wanted:
            marks = " ".join(f"{_mark(g):>2}" for g in report.graded)
            say(f"{report.student:<{width}}  {report.score:5.2f}/{len(everything):<3} {marks}")
            for g in report.graded:
                if g.file and not g.verdict.passed:
                    wrong = [line for line in g.verdict.lines if not line.startswith("✓")]
                    say(_writable(f"{'':<{width}}  {g.exercise.number:02d} {g.exercise.name}: {' '.join(wrong[:1])}"))
    if json_wanted:
        say(json.dumps(as_json(reports), indent=2, ensure_ascii=False))
    if gradescope_file is not None:
        write_json(gradescope_file, gradescope(reports[0]))
    return 0


def watch(
    name: str | None, folder: Path | None, say: Say, wait: Callable[[], object] = lambda: time.sleep(POLL)
) -> int:
    """Check at once and then after every save, until Ctrl-C. Without a name it follows the current exercise."""
    place = _open(folder).folder
    before: tuple[object, ...] = ()
    checked: tuple[object, ...] = ()
    say("watching; every save is checked, Ctrl-C ends it")
    try:
        while True:
            chosen = _chosen(name, Progress.read(place))
            path = place / chosen.file_name
            now = (path, *_stamp(path))
            if now != checked and (now == before or not checked):  # an editor may be half-way through its saving
                checked = now
                try:
                    check(chosen.name, place, say)
                except InputError as error:
                    say(str(error))
            before = now
            wait()
    except KeyboardInterrupt:
        say("")
        return 0


def _mark(graded: Graded) -> str:
    return _writable("✓" if graded.verdict.passed else "✗" if graded.file else "–")


def _writable(text: str) -> str:
    """Return the text, its marks in plain letters where the output has none of them."""
    try:
        "✓✗–".encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return text.translate(PLAIN)
    return text


def _open(folder: Path | None) -> Progress:
    place = exercise_folder(folder)
    if not place.is_dir():
        raise InputError(f"{place}: no such folder; minissl exercise start makes it")
    return Progress.read(place)


def _chosen(name: str | None, progress: Progress) -> Exercise:
    if name is not None:
        return exercise(name)
    if not progress.current:
        raise InputError(f"no exercise is started in {progress.folder}: minissl exercise start")
    return exercise(progress.current)


def _next_step(progress: Progress) -> str:
    """Say what to do about the first exercise that is not passed."""
    for e in exercises():
        entry = progress.entries.get(e.name)
        if entry is None or not entry.passed:
            return f"next: minissl exercise {'start' if entry is None else 'check'} {e.name}"
    return "that was the last one"


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0)
    return found.st_mtime_ns, found.st_size
