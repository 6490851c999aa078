"""The parent's end of a student's process: start it, ask it, keep what it prints, end it whatever it does."""

from __future__ import annotations

import itertools
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from minissl.exercises import child

KEPT_OUTPUT = 64 << 10
GRACE = 2.0  # seconds between the child's own alarm, which knows the line, and ours
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
PASSED_ON = ("SYSTEMROOT", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")  # Python itself may not start without them


class ProcessEnded(Exception):
    """The student's process is gone: `how` is "time", "garbled", or the signal or exit status that ended it."""

    def __init__(self, how: str, line: int | None = None) -> None:
        super().__init__(how)
        self.how, self.line = how, line


class Handle:
    """Stands for what stays in the student's process; with the last reference to it goes the thing itself."""

    def __init__(self, key: int, kind: str, dropped: list[int]) -> None:
        self.key, self._kind, self._dropped = key, kind, dropped

    def __repr__(self) -> str:
        return f"<{self._kind} in the student's process>"

    def __deepcopy__(self, memo: Any) -> Handle:
        return self

    def __del__(self) -> None:
        self._dropped.append(self.key)


class Process:
    """One student's process. Threads read and write, so that nothing it does with its pipes can hold us up."""

    def __init__(self, file_name: str, seconds: float) -> None:
        self.file_name = file_name
        self.output, self.output_bytes = b"", 0
        self._alarm = ""  # what the child's own alarm, or its crash, left behind
        self._numbers = itertools.count()
        self._dropped: list[int] = []
        self._answers: queue.Queue[tuple[bytes, bytes] | Exception] = queue.Queue(maxsize=1)
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._folder = tempfile.TemporaryDirectory(prefix="minissl-", ignore_cleanup_errors=True)
        self._alarm_file = Path(self._folder.name) / "alarm"
        work = Path(self._folder.name) / "work"
        work.mkdir()
        site = Path(np.__file__).parents[1]
        self._popen = subprocess.Popen(
            [sys.executable, "-I", "-B", "-X", "utf8", child.__file__, self._alarm_file, str(seconds), site],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=work, start_new_session=True,
            env=dict.fromkeys(THREADS, "1") | {name: os.environ[name] for name in PASSED_ON if name in os.environ},
        )  # fmt: skip
        self._deadline = time.monotonic() + seconds + GRACE
        self._threads = [threading.Thread(target=f, daemon=True) for f in (self._write, self._read, self._listen)]
        for thread in self._threads:
            thread.start()

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Have the child do something; return its answer. Raises ProcessEnded, and then the process is gone."""
        number = next(self._numbers)
        functions: list[Callable[..., Any]] = []

        def keep(value: Any) -> dict[str, Any]:
            if isinstance(value, Handle):
                return {"handle": value.key}
            if callable(value):
                functions.append(value)
                return {"function": len(functions) - 1}
            raise TypeError(f"a student's function cannot be given {type(value).__name__}")

        dropped = [self._dropped.pop() for _ in range(len(self._dropped))]
        self._outbox.put(child.pack({"id": number, "do": do, "with": arguments, "drop": dropped}, keep))
        while "ask" in (answer := self._receive()):
            try:
                value = functions[answer["ask"]](*answer["args"], **answer["kwargs"])
                reply = child.pack({"value": value}, keep)
            except Exception as error:  # the student gave our function what it does not take
                reply = child.pack({"error": f"{type(error).__name__}: {error}"}, keep)
            self._outbox.put(reply)
        if answer.get("id") != number:
            self.end()
            raise ProcessEnded("garbled")
        return answer

    def end(self) -> None:
        """Kill the process with all of its group, and remove its folder. What it printed is complete after that."""
        if self._popen.returncode is not None:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._popen.pid, signal.SIGKILL) if hasattr(os, "killpg") else self._popen.kill()
        self._popen.wait()
        self._outbox.put(None)
        patience = time.monotonic() + 1  # a process that escaped may hold the pipes open; we do not wait for it
        while any(thread.is_alive() for thread in self._threads) and time.monotonic() < patience:
            with suppress(queue.Empty):
                self._answers.get(timeout=0.005)
        if not any(thread.is_alive() for thread in self._threads):
            for stream in (self._popen.stdin, self._popen.stdout, self._popen.stderr):
                with suppress(OSError):
                    stream.close()  # type: ignore[union-attr]
        with suppress(OSError):
            self._alarm = self._alarm_file.read_bytes()[:KEPT_OUTPUT].decode("utf-8", "replace")
        self._folder.cleanup()

    def _receive(self) -> dict[str, Any]:
        left = self._deadline - time.monotonic()
        try:
            message = self._answers.get(timeout=max(left, 0.001))
        except queue.Empty:
            left = 0.0
        if left <= 0:
            self.end()
            raise ProcessEnded("time", self._line())
        if isinstance(message, Exception):
            self.end()
            raise self._reason(message)
        try:
            answer = child.unpack(*message, self._fetch)
            assert isinstance(answer, dict)
        except Exception:  # whatever a student's process can make of a message
            self.end()
            raise ProcessEnded("garbled") from None
        return answer

    def _fetch(self, kind: str, item: Any) -> Handle:
        key, name = item
        if kind != "handle" or type(key) is not int or type(name) is not str:
            raise ValueError("no handle of ours")
        return Handle(key, name[:80], self._dropped)

    def _reason(self, found: Exception) -> ProcessEnded:
        """Say why there was no message."""
        code = self._popen.returncode
        if self._alarm.startswith("Timeout") or code == -getattr(signal, "SIGXCPU", 0):
            return ProcessEnded("time", self._line())
        if not isinstance(found, EOFError) or code in (-9, child.LINE_CUT):  # rubbish, or a pipe that it closed
            return ProcessEnded("garbled")
        return ProcessEnded(signal.Signals(-code).name if code < 0 else f"exit status {code}", self._line())

    def _line(self) -> int | None:
        """Return the line of the student's file in which the process was when it ended, where that is known."""
        found = re.search(rf'File "{re.escape(self.file_name)}", line (\d{{1,7}}) in', self._alarm)
        return int(found[1]) if found else None

    def _write(self) -> None:
        with suppress(OSError, ValueError):  # the process is gone; the reader will say so
            while (message := self._outbox.get()) is not None:
                self._popen.stdin.write(message)  # type: ignore[union-attr]
                self._popen.stdin.flush()  # type: ignore[union-attr]

    def _read(self) -> None:
        try:
            while True:
                self._answers.put(child.read_message(self._popen.stdout))  # type: ignore[arg-type]
        except (EOFError, OSError, ValueError) as error:
            self._answers.put(error)

    def _listen(self) -> None:
        with suppress(OSError, ValueError):
            while chunk := self._popen.stderr.read1(1 << 16):  # type: ignore[union-attr]
                self.output_bytes += len(chunk)
                self.output += chunk[: KEPT_OUTPUT - len(self.output)]
