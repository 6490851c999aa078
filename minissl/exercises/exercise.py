"""What an exercise is: one source text, one grader, and the student whose functions the grader calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from minissl.errors import InputError
from minissl.exercises import markers


class StudentError(InputError):
    """The student's file did something that has one clear answer: it raises, never ends, prints megabytes, …"""


class StudentRaised(StudentError):
    """A function of the student's raised an exception, on what it was given."""


@dataclass(frozen=True)
class Verdict:
    """What a grader found, in words: one line a step, shape -> dtype -> finite -> value -> where."""

    passed: bool
    lines: list[str]
    score: float  # from 0 to 1


class Student(Protocol):
    """A student's file, seen by a grader. Every method raises StudentError with the one line to show."""

    def function(self, name: str) -> Callable[..., Any]:
        """Return the student's function; a call of it runs where the student's code runs.

        Arguments and results travel by value: arrays, scalars, str, None, tuples, lists and dicts of these. A
        Generator given is copied, so ours never advances. A function given is called where we are. Anything else
        that comes back (a NamedTuple, a lambda, an object array) is a handle, good for nothing but being given again.
        """

    def pair(self, name: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """Return `name_forward` and `name_backward` as `minissl.gradcheck.check` takes them.

        Forward returns `(y, handle)`: the cache itself stays in the student's process.
        """

    def test(self, name: str, implementation: str, names: tuple[str, ...]) -> str | None:
        """Run the student's test `name` on the functions `names` of a source text that we trust.

        Each call has a fresh process. Returns None where the test passed, else its failure in one line.
        """


@dataclass(frozen=True)
class Exercise:
    """One exercise: `text` is its source with the markers of `minissl.exercises.markers`."""

    number: int
    name: str
    title: str
    text: str
    grade: Callable[[Student], Verdict]

    @property
    def file_name(self) -> str:
        """The student's file, as in `05_softmax.py`."""
        return f"{self.number:02d}_{self.name}.py"

    @property
    def stub(self) -> str:
        """What the student starts from: a TODO in place of the solution."""
        return markers.stub(self.text)

    @property
    def solution(self) -> str:
        """The solved file, without a marker."""
        return markers.solution(self.text)

    @property
    def hints(self) -> list[str]:
        """The staged hints, in order."""
        return markers.hints(self.text)

    @property
    def task(self) -> str:
        """The module's docstring: what is asked."""
        return markers.task(self.text)
