"""Exercises as notebooks for nbgrader: the instructor's version, the check in its test cell, a hand-in's code."""

from __future__ import annotations

import ast
import copy
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from minissl.errors import InputError
from minissl.exercises.exercise import Exercise, StudentError, StudentRaised, Verdict
from minissl.exercises.markers import for_nbgrader
from minissl.files import read_json, write_json
from minissl.gradcheck.purity import fingerprint

CELL = "# cell {} of the notebook"
POINTS = 1
SCHEMA = 3  # of nbgrader's cell metadata
_notebook_only = re.compile(r"[%!?]|\w+ *= *[%!]|[\w.]+\?+$|from minissl\.exercises import|check_here\(")
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
KEPT_MAGICS = ("%%time", "%%timeit", "%%capture", "%%prun")  # the rest of such a cell is Python


def export_notebooks(folder: Path) -> list[Path]:
    """Write the instructor's notebooks to `folder/source/minissl/`, where `nbgrader generate_assignment` reads them.

    Each has the task, a cell with the solution between nbgrader's markers, and a locked test cell. Return the paths.
    Raises InputError, and writes nothing, where a notebook is there that a person has changed.
    """
    from minissl.exercises.catalogue import exercises

    place = folder / "source" / "minissl"
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{place}: cannot be made ({error.strerror}); is a file in its way?") from None
    paths = [place / f"{exercise.name}.ipynb" for exercise in exercises()]
    made = [notebook(exercise) for exercise in exercises()]
    for path, ours in zip(paths, made, strict=True):
        if os.path.lexists(path) and not _holds(path, ours):
            raise InputError(f"{path}: is there and differs from minissl's; move it away or name another folder")
    for path, ours in zip(paths, made, strict=True):
        write_json(path, ours)
    return paths


def _holds(path: Path, value: dict[str, Any]) -> bool:
    try:
        return path.is_file() and read_json(path) == value
    except InputError:
        return False


def notebook(exercise: Exercise) -> dict[str, Any]:
    """Return one instructor's notebook, in nbformat 4.5."""
    name = exercise.name
    test = f'from minissl.exercises import check_here\n\ncheck_here("{name}", globals())'
    return {
        "cells": [
            _cell("markdown", f"{name}-task", _markdown(exercise), locked=True),
            _cell("code", f"{name}-solution", for_nbgrader(exercise.text), solution=True),
            _cell("code", f"{name}-test", test, locked=True, grade=True, points=POINTS),
        ],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def check_here(name: str, namespace: dict[str, Any]) -> None:
    """Grade the functions of a notebook where they are: `check_here("softmax", globals())`.

    Prints the verdict. Raises AssertionError with its words where it is not passed, InputError for an unknown name.
    """
    from minissl.exercises.catalogue import exercise

    chosen = exercise(name)
    try:
        verdict = chosen.grade(LocalStudent(namespace))
    except InputError as error:
        verdict = Verdict(False, [f"✗ {error}"], 0.0)
    if not verdict.passed:
        raise AssertionError("\n".join(verdict.lines))
    print("\n".join(verdict.lines))


class LocalStudent:
    """The `Student` of functions in this very process, as in a notebook: no limits, and whole tracebacks."""

    def __init__(self, namespace: dict[str, Any]) -> None:
        self.namespace = namespace

    def function(self, name: str) -> Callable[..., Any]:
        """As `Student.function`."""
        function = self.namespace.get(name)
        if not callable(function):
            raise StudentError(f"there is no function {name}; has its cell been run?")

        def call(*args: Any, **kwargs: Any) -> Any:
            given, named = [_own(value) for value in args], {key: _own(value) for key, value in kwargs.items()}
            before = fingerprint([given, named], "")
            try:
                result = function(*given, **named)
            except NotImplementedError:
                raise StudentError(f"not done yet: {name}") from None
            except Exception as error:
                said = f"{name} raised {type(error).__name__}: {error}"
                raise StudentRaised(said.removesuffix(": ")) from error
            if fingerprint([given, named], "") != before:
                raise StudentError(f"{name} changed what it was given; others still need it, so work on a copy")
            return result

        return call

    def pair(self, name: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """As `Student.pair`."""
        return self.function(f"{name}_forward"), self.function(f"{name}_backward")

    def test(self, name: str, implementation: str, names: tuple[str, ...]) -> str | None:
        """As `Student.test`, in this process."""
        space: dict[str, Any] = {"__name__": "implementation"}
        exec(compile(implementation, "<implementation>", "exec", dont_inherit=True), space)
        test = self.namespace.get(name)
        if not callable(test):
            raise StudentError(f"there is no function {name}; has its cell been run?")
        try:
            with np.errstate(all="ignore"):
                test(*[space[function] for function in names])
        except NotImplementedError:
            raise StudentError(f"not done yet: {name}") from None
        except Exception as error:
            return " ".join(f"{type(error).__name__}: {error}".split())
        return None


def functions_of(path: Path) -> str:
    """Return the code of a notebook that was handed in, without magics, shell lines, the test, and trials beside it.

    A cell is a trial where it defines nothing (with nbgrader's marks: where it is not the solution's). What it imports
    beyond NumPy and the standard library is left out with all that uses it, unless the solution uses it too.
    Raises InputError where the file is no notebook of nbformat 4.
    """
    cells = read_json(path).get("cells")
    if not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells):
        raise InputError(f"{path}: has no list of cells; is it a notebook of nbformat 4?")
    texts: dict[int, str] = {}
    marked = []
    for number, cell in enumerate(cells, start=1):
        source = cell.get("source", "")
        text = "".join(source) if isinstance(source, list) and all(isinstance(s, str) for s in source) else source
        if cell.get("cell_type") == "code" and isinstance(text, str) and not _is_test(cell):
            texts[number] = _plain_python(text)
            marked += [number] if _grader(cell).get("solution") is True else []
    answers = marked or [number for number, text in texts.items() if _defines(text)]
    texts = _without_trials(texts, answers) if answers else texts
    return "\n".join(f"{CELL.format(number)}\n{text}\n" for number, text in texts.items())


def _grader(cell: dict[str, Any]) -> dict[str, Any]:
    metadata = cell.get("metadata")
    grader = metadata.get("nbgrader") if isinstance(metadata, dict) else None
    return grader if isinstance(grader, dict) else {}


def _is_test(cell: dict[str, Any]) -> bool:
    return _grader(cell).get("grade") is True and _grader(cell).get("solution") is not True


def _parsed(text: str) -> ast.Module | None:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError):
        return None


def _defines(text: str) -> bool:
    """Whether a cell defines a function or a class; one that cannot be read may."""
    tree = _parsed(text)
    return tree is None or any(isinstance(node, _DEFINITIONS) for node in tree.body)


def _without_trials(texts: dict[int, str], answers: list[int]) -> dict[int, str]:
    """Leave out, of the other cells, the imports that no answer uses and the statements that use them."""
    used = set(re.findall(r"\w+", "\n".join(texts[number] for number in answers)))
    lost: set[str] = set()
    kept = dict(texts)
    for number, text in texts.items():
        tree = _parsed(text)
        if number in answers or tree is None:
            continue
        lines = text.split("\n")
        for node in tree.body:
            names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                module = node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name
                bound = {(n.asname or n.name).partition(".")[0] for n in node.names}
                out = module.partition(".")[0] not in sys.stdlib_module_names | {"numpy"} and not bound & used
            else:
                bound = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
                out = not isinstance(node, _DEFINITIONS) and bool(names & lost)
            if out:
                lost |= bound - used
                lines[node.lineno - 1 : node.end_lineno] = [""] * ((node.end_lineno or 0) - node.lineno + 1)
        kept[number] = "\n".join(lines)
    return kept


def _plain_python(text: str) -> str:
    """Leave out what only a notebook understands, and any call of `check_here`; the rest keeps its lines."""
    lines = text.split("\n")
    if text.startswith("%%"):
        lines = ["", *lines[1:]] if text.split()[0] in KEPT_MAGICS else []
    plain = "\n".join("" if _notebook_only.match(line) else line for line in lines)
    if _parsed(plain) is not None:
        return plain
    return re.sub(r"(?m)^([ \t]+)(?:%[a-z]|!\w).*", r"\1pass", plain)  # in a block; `% 3` may go on with a line


def _markdown(exercise: Exercise) -> str:
    hints = "".join(
        f"\n\n<details><summary>Hint {number}</summary>\n\n{hint}\n\n</details>"
        for number, hint in enumerate(exercise.hints, start=1)
    )
    return f"## {exercise.task}{hints}"


def _cell(kind: str, name: str, source: str, **chosen: Any) -> dict[str, Any]:
    grader = {"schema_version": SCHEMA, "grade_id": name, "grade": False, "solution": False, "locked": False}
    grader |= {"task": False} | chosen
    cell = {"cell_type": kind, "id": name[:64], "metadata": {"nbgrader": grader}, "source": source}
    return cell | ({"execution_count": None, "outputs": []} if kind == "code" else {})


def _own(value: Any) -> Any:
    """Return a copy of a Generator, so that ours never advances; anything else as it is."""
    return copy.deepcopy(value) if isinstance(value, np.random.Generator) else value
