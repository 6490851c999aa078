"""A student's file as a grader sees it: its functions run in another process, and every failure is one sentence."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from minissl.exercises.exercise import StudentError, StudentRaised
from minissl.exercises.notebooks import CELL
from minissl.exercises.process import KEPT_OUTPUT, Process, ProcessEnded

_cell = re.compile(re.escape(CELL).replace(r"\{\}", r"(\d+)"))
SECONDS = 20.0  # of one process, which is a whole check, or one run of a student's test
FLOOD = 1 << 20  # bytes of printing
SHOWN_LINES = 20


class Sandbox:
    """The `Student` of a file's text. Leaving the `with` block ends its processes: write the grade after that.

    Leaving it raises StudentError where the file printed megabytes. `printed()` is what to show of the printing.
    """

    def __init__(self, source: str, file_name: str, seconds: float = SECONDS) -> None:
        self.source, self.file_name, self.seconds = source, file_name, seconds
        self._main: Process | None = None
        self._failed: StudentError | None = None  # after which there is nothing more to ask
        self._output, self._output_bytes = b"", 0

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if self._main is not None:
            self._end(self._main)
        if kind is None and self._output_bytes > FLOOD:
            raise StudentError(self._flood())

    def function(self, name: str) -> Callable[..., Any]:
        """As `Student.function`."""
        self._ask(self._process(), name, "look", name=name)
        return lambda *args, **kwargs: self._call(name, args, kwargs, keeps_second=False)["value"]

    def pair(self, name: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """As `Student.pair`."""
        self.function(f"{name}_forward")

        def forward(*args: Any, **kwargs: Any) -> Any:
            answer = self._call(f"{name}_forward", args, kwargs, keeps_second=True)
            return (answer["value"], answer["cache"]) if "cache" in answer else answer["value"]

        return forward, self.function(f"{name}_backward")

    def test(self, name: str, implementation: str, names: tuple[str, ...]) -> str | None:
        """As `Student.test`."""
        process = self._start()
        try:
            answer = self._ask(process, name, "test", name=name, implementation=implementation, names=names)
        finally:
            self._end(process)
        return self._failure(answer["failed"]) if "failed" in answer else None

    def printed(self) -> list[str]:
        """Return the first lines that the file printed, and a note where there was more."""
        lines = self._output.decode("utf-8", "replace").splitlines()
        shown = [_plain(line, 200) for line in lines[:SHOWN_LINES]]
        if KEPT_OUTPUT < self._output_bytes <= FLOOD:  # above that the verdict says it
            return [*shown, self._flood()]
        return shown + [f"… and {len(lines) - SHOWN_LINES} more lines"] * (len(lines) > SHOWN_LINES)

    def _process(self) -> Process:
        if self._main is None:
            self._main = self._start()
        return self._main

    def _start(self) -> Process:
        """Start a process and load the file in it."""
        if self._failed is not None:
            raise self._failed
        process = Process(self.file_name, self.seconds)
        try:
            self._ask(process, "the file", "load", source=self.source, file=self.file_name)
        except BaseException as error:
            self._end(process)
            self._failed = error if isinstance(error, StudentError) else None
            raise
        return process

    def _end(self, process: Process) -> None:
        process.end()
        if not self._output:
            self._output = process.output
        self._output_bytes = max(self._output_bytes, process.output_bytes)

    def _call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], keeps_second: bool) -> dict[str, Any]:
        return self._ask(self._process(), name, "call", name=name, args=args, kwargs=kwargs, keeps_second=keeps_second)

    def _ask(self, process: Process, who: str, do: str, **arguments: Any) -> dict[str, Any]:
        if self._failed is not None:
            raise self._failed
        try:
            answer = process.ask(do, **arguments)
            report = answer.get("error", answer.get("failed", {}))
            if not (isinstance(report, dict) and answer.keys() & {"value", "error", "failed"}):
                raise ProcessEnded("garbled")
        except ProcessEnded as ended:
            self._failed = StudentError(self._end_words(who, ended))
            raise self._failed from None
        if process.output_bytes > FLOOD:
            self._end(process)
            self._failed = StudentError(self._flood())
            raise self._failed
        if "error" in answer:
            kind = StudentRaised if report.get("kind") == "raised" else StudentError
            raise kind(self._error_words(who, report))
        return answer

    def _end_words(self, who: str, ended: ProcessEnded) -> str:
        where = self._where(ended.line)
        if ended.how == "time":
            near = f", near {where}" if where else ""
            return f"still running after {self.seconds:g} s: is there a loop that never ends{near}?"
        if ended.how == "garbled":
            return f"{who} broke the line to the checker; does the file write to or close what it did not open?"
        at = f" at {where}" if where else ""
        return f"{who} ended Python itself ({ended.how}){at}; return a value, and leave os._exit and the like alone"

    def _error_words(self, who: str, error: dict[str, Any]) -> str:
        """Say in one line what the child reports. Every part of it may be the student's own invention."""
        kind, where, message = error.get("kind"), self._where(error.get("line")), _plain(error.get("message", ""))
        at = f" at {where}" if where else ""
        if kind == "todo":
            return f"not done yet: {who} stops{at}"
        if kind == "said":
            return f"{where}: {message}" if where else message
        if kind == "syntax":
            return f"Python cannot read {where or 'the file'}: {message}"
        if kind == "exit":
            return f"{who} leaves Python{at} ({_plain(error.get('type'))}); return a value instead"
        if kind == "changed":
            return f"{who} changed {message}, which it was given; others still need it, so work on a copy"
        if kind == "returned":
            return f"{who} returned {message}; a test returns nothing, and objects with assert"
        if kind == "result":
            return f"{who} returned what cannot be sent: {message}"
        return f"{who} raised {_plain(error.get('type'))}{at}" + (f": {message}" if message else "")

    def _failure(self, error: dict[str, Any]) -> str:
        """Say in one line why a student's test failed."""
        where, message = self._where(error.get("line")), _plain(error.get("message", ""))
        if error.get("type") == "AssertionError":
            return message or f"{where} does not hold"
        return f"{_plain(error.get('type'))} at {where}" + (f": {message}" if message else "")

    def _flood(self) -> str:
        kilobytes = KEPT_OUTPUT >> 10
        return f"your file printed more than {kilobytes} kB; the rest is dropped: is there a print in a loop?"

    def _where(self, line: Any) -> str:
        lines = self.source.split("\n")
        if type(line) is not int or not 1 <= line <= len(lines):
            return ""
        cells = [(n, found[1]) for n, text in enumerate(lines[:line], 1) if (found := _cell.fullmatch(text))]
        start, cell = cells[-1] if cells else (0, "")
        place = f"cell {cell}, line {line - start}" if cell else f"line {line}"
        return f"{place}, `{_plain(lines[line - 1], 100)}`"


def _plain(text: Any, most: int = 300) -> str:
    """Return a text of unknown origin in one line, without control characters."""
    words = "".join(c if c.isprintable() else "?" for c in " ".join(str(text).split()))
    return words if len(words) <= most else words[: most - 1] + "…"
