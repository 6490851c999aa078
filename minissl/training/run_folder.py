"""A run's folder: made whole, logged line by line, checkpointed so that a kill at any moment costs only time."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from minissl.backend import Array
from minissl.errors import InputError
from minissl.files import read_arrays, read_json, write_arrays, write_json, write_whole

SETTINGS, CHECKPOINT, LOG, METRICS = "run.json", "checkpoint.safetensors", "log.jsonl", "metrics.json"


class Checkpoint(NamedTuple):
    """A trainer's state, the step it stands after, and the seconds that the run had taken by then."""

    state: dict[str, Array]
    step: int
    seconds: float


class RunFolder:
    """The folder of one run. `settings` is what the run was started with, and what a resumed run goes on with."""

    def __init__(self, path: Path, settings: dict[str, Any]):
        self.path = path
        self.settings = settings
        self._made_parents: list[Path] = []

    @classmethod
    def create(cls, path: Path, settings: dict[str, Any]) -> RunFolder:
        """Make the folder with its settings inside, in one step. Raises InputError where something is there already."""
        if path.exists():
            raise InputError(
                f"{path}: exists; nothing in it was touched. Choose another --out, or go on with --resume {path}"
            )
        folder = cls(path, settings)
        folder._made_parents = [parent for parent in path.parents if not parent.exists()]
        temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
        try:
            temporary.mkdir(parents=True)
            write_json(temporary / SETTINGS, settings)
            os.rename(temporary, path)
        except (OSError, ValueError) as error:  # ValueError: no room, or a file name that is no text
            shutil.rmtree(temporary, ignore_errors=True)
            folder._remove_parents()
            reason = error.strerror if isinstance(error, OSError) else error
            raise InputError(f"{path}: the run's folder could not be made ({reason})") from error
        return folder

    @classmethod
    @contextmanager
    def kept_if_done(cls, path: Path, settings: dict[str, Any]) -> Iterator[RunFolder]:
        """Make the folder for a block of work, and remove it again where the block does not come to its end."""
        folder = cls.create(path, settings)
        try:
            yield folder
        except BaseException:  # Ctrl-C too
            folder.remove()
            raise

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open a run's folder. Raises InputError where it is none."""
        if not (path / SETTINGS).is_file():
            raise InputError(
                f"{path}: not the folder of a run (no {SETTINGS} in it); --resume takes the folder --out named"
            )
        return cls(path, read_json(path / SETTINGS))

    @property
    def go_on(self) -> str:
        """Tell a person how to go on with an interrupted run."""
        return f"go on with: minissl pretrain --resume {shlex.quote(str(self.path))}"

    @property
    def complete(self) -> bool:
        """Whether the run has ended: its metrics are written last."""
        return (self.path / METRICS).is_file()

    def require_data(self, fingerprint: str) -> None:
        """Note what the run's data is, the first time. Raises InputError where it is no longer that."""
        if self.settings.setdefault("data_sha256", fingerprint) != fingerprint:
            raise InputError(
                f"{self.path}: the data has changed since this run began, so it cannot go on as it would have"
            )
        write_json(self.path / SETTINGS, self.settings)

    def save_checkpoint(self, state: dict[str, Array], step: int, seconds: float) -> None:
        """Write the training state in place of the last one, whole or not at all."""
        try:
            write_arrays(self.path / CHECKPOINT, state, {"step": str(step), "seconds": f"{seconds:.2f}"})
        except InputError as error:
            raise InputError(f"{error}; when there is room, {self.go_on}") from error

    def load_checkpoint(self) -> Checkpoint | None:
        """Return the last checkpoint, or None before the first; the log is cut back to its step.

        Raises InputError for a damaged checkpoint.
        """
        for part in self.path.glob(".*.part"):  # what a kill in the middle of writing left
            part.unlink(missing_ok=True)
        path = self.path / CHECKPOINT
        if not path.exists():
            self._cut_log(0)
            return None
        state, about = read_arrays(path)
        try:
            checkpoint = Checkpoint(state, int(about["step"]), float(about["seconds"]))
        except (KeyError, ValueError) as error:
            raise InputError(f"{path}: not a checkpoint of minissl (it does not say its step and time)") from error
        self._cut_log(checkpoint.step)
        return checkpoint

    def remove(self) -> None:
        """Remove the whole folder, and the parents made for it: for a run that could not begin."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._remove_parents()

    def _remove_parents(self) -> None:
        with suppress(OSError):  # another run may have moved in
            for parent in self._made_parents:
                parent.rmdir()

    def remove_checkpoint(self) -> None:
        """Remove the training state of a run that has ended."""
        (self.path / CHECKPOINT).unlink(missing_ok=True)

    def log(self, record: dict[str, Any]) -> None:
        """Append one line to the log. Raises InputError where the disk does not take it."""
        try:
            with (self.path / LOG).open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            path = self.path / LOG
            raise InputError(
                f"{path}: could not be written ({error.strerror}); when there is room, {self.go_on}"
            ) from error

    def read_log(self) -> list[dict[str, Any]]:
        """Every whole line of the log; a line that a kill or a crash cut short is passed over."""
        path = self.path / LOG
        records = []
        for line in path.read_bytes().splitlines() if path.exists() else []:
            with suppress(ValueError):  # not JSON, or not UTF-8
                records.append(json.loads(line))
        return records

    def _cut_log(self, step: int) -> None:
        kept = [json.dumps(record) + "\n" for record in self.read_log() if record["step"] <= step]
        write_whole(self.path / LOG, "".join(kept))


class FolderOfAnother(RunFolder):
    """The folder of a run as the processes see it that do not write: only process 0 does."""

    def require_data(self, fingerprint: str) -> None:
        """Raise InputError where the run's data has changed since it began."""
        if self.settings.get("data_sha256", fingerprint) != fingerprint:
            raise InputError(f"{self.path}: the data has changed since this run began")

    def load_checkpoint(self) -> Checkpoint | None:
        """Nothing: process 0 reads it, and sends it to all."""
        return None

    def save_checkpoint(self, state: dict[str, Array], step: int, seconds: float) -> None:
        """Process 0's."""

    def log(self, record: dict[str, Any]) -> None:
        """Process 0's."""

    def remove(self) -> None:
        """Process 0's."""

    def remove_checkpoint(self) -> None:
        """Process 0's."""
