"""What a student has started, been told and passed: `minissl-exercises.json` in the student's folder."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from minissl.errors import InputError
from minissl.files import read_json, write_json

FILE = "minissl-exercises.json"
FOLDER = "minissl-exercises"
FORMAT = 1


class _OtherFormat(InputError):
    pass


@dataclass
class Entry:
    """One exercise that was started."""

    started: str
    hints: int = 0
    passed: str = ""  # the date; empty before


@dataclass
class Progress:
    """A student's progress, by the exercises' names."""

    folder: Path
    current: str = ""
    entries: dict[str, Entry] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """Where it is written."""
        return self.folder / FILE

    @classmethod
    def read(cls, folder: Path) -> Progress:
        """Read a folder's progress; none where it has none yet.

        Raises InputError where the file cannot be read, is damaged, or is a newer minissl's.
        """
        progress = cls(folder)
        if not progress.path.exists():
            return progress
        if not progress.path.is_file():
            raise InputError(f"{progress.path}: is no plain file, expected the progress; move it out of the way")
        try:
            progress.path.open("rb").close()
        except OSError as error:
            raise InputError(f"{progress.path}: cannot be read ({error.strerror})") from None
        try:
            found = read_json(progress.path)
            if _of(int, found["format"]) != FORMAT:
                newer = f"{progress.path}: is of format {found['format']}, expected {FORMAT}"
                raise _OtherFormat(f"{newer}; use the minissl that wrote it, or another folder")
            progress.current = _of(str, found["current"])
            progress.entries = {name: _entry(value) for name, value in _of(dict, found["exercises"]).items()}
        except _OtherFormat:
            raise
        except (InputError, KeyError, TypeError) as error:
            what = str(error) if isinstance(error, InputError) else f"{progress.path}: {error} is not what was written"
            raise InputError(f"{what}; delete it and start them again: your .py files stay as they are") from None
        return progress

    def write(self) -> None:
        """Write it. Raises InputError where that fails."""
        entries = {name: asdict(entry) for name, entry in self.entries.items()}
        write_json(self.path, {"format": FORMAT, "current": self.current, "exercises": entries})

    def start(self, name: str) -> None:
        """Make an exercise the current one."""
        self.current = name
        self.entry(name)

    def entry(self, name: str) -> Entry:
        """Return what is known of an exercise, which is started where it was not."""
        return self.entries.setdefault(name, Entry(date.today().isoformat()))


def exercise_folder(given: Path | None) -> Path:
    """Return the folder given; else the working directory where it is a student's folder; else the usual one."""
    if given is not None:
        return given
    return Path() if Path(FILE).is_file() else Path(FOLDER)


def _entry(value: Any) -> Entry:
    found = _of(dict, value)
    hints = found["hints"]
    if type(hints) is not int or hints < 0:
        raise TypeError(repr(hints))
    return Entry(_of(str, found["started"]), hints, _of(str, found["passed"]))


def _of(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise TypeError(repr(value))
    return value
