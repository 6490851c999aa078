"""One source text for everything: what the student starts from, the solution, the hints, the notebook.

    ### BEGIN HINTS
    # 1. The first hint,
    #    which may wrap.
    ### END HINTS
    def double(x):
        ### TODO: return twice x
        ### BEGIN SOLUTION
        return 2 * x
        ### END SOLUTION

The solution's markers are nbgrader's, so that it reads the same text.
"""

from __future__ import annotations

import ast
import re
from typing import Literal, NamedTuple

from minissl.errors import InputError

BEGIN_SOLUTION, END_SOLUTION = "### BEGIN SOLUTION", "### END SOLUTION"
BEGIN_HINTS, END_HINTS = "### BEGIN HINTS", "### END HINTS"
TODO = "### TODO:"
MARKERS = (BEGIN_SOLUTION, END_SOLUTION, BEGIN_HINTS, END_HINTS)
NO_TODO = "your code here"

_meant_as_marker = re.compile(r"#+\s*(BEGIN|END)\s+(SOLUTION|HINT)|###\s*TODO", re.IGNORECASE)


class _Line(NamedTuple):
    kind: Literal["code", "todo", "begin", "solution", "end", "hint"]
    number: int
    text: str

    @property
    def indent(self) -> str:
        return self.text[: len(self.text) - len(self.text.lstrip())]


def stub(text: str) -> str:
    """Return the text with a TODO and `raise NotImplementedError` in place of each solution, and without hints.

    Raises InputError, as every function here, for malformed markers; it names the line.
    """
    lines, todo = [], NO_TODO
    for line in _lines(text):
        if line.kind == "todo":
            todo = line.text.strip().removeprefix(TODO).strip()
        elif line.kind == "begin":
            lines += [f"{line.indent}# TODO: {todo}", f"{line.indent}raise NotImplementedError"]
            todo = NO_TODO
        elif line.kind == "code":
            lines.append(line.text)
    return _compiled(lines, "stub")


def solution(text: str) -> str:
    """Return the text without markers and hints."""
    lines = [line.text for line in _lines(text) if line.kind in ("code", "solution")]
    return _compiled(lines, "solution")


def for_nbgrader(text: str) -> str:
    """Return the text with the solution's markers, TODOs as comments, and without hints and the docstring."""
    kept = [
        line.text.replace("### TODO", "# TODO", 1) if line.kind == "todo" else line.text
        for line in _lines(text)
        if line.kind != "hint"
    ]
    tree = ast.parse("\n".join(kept))
    start = tree.body[0].end_lineno if ast.get_docstring(tree) else 0
    return "\n".join(kept[start:]).strip() + "\n"


def hints(text: str) -> list[str]:
    """Return the hints in order, each in one line."""
    found: list[str] = []
    for line in _lines(text):
        if line.kind != "hint" or line.text.strip() in ("", BEGIN_HINTS, END_HINTS):
            continue
        words = re.fullmatch(r"\s*#\s*(?:(\d+)\.\s)?(.*)", line.text)
        if words is None or not (words[1] or found):
            raise InputError(f"line {line.number}: expected a hint such as '# 1. …', found {line.text.strip()!r}")
        if words[1] is None:
            found[-1] = f"{found[-1]} {words[2].strip()}".strip()
        elif int(words[1]) == len(found) + 1:
            found.append(words[2].strip())
        else:
            raise InputError(f"line {line.number}: hint {words[1]}, expected {len(found) + 1}; number them 1, 2, …")
    return found


def task(text: str) -> str:
    """Return the module's docstring. Raises InputError where there is none."""
    docstring = ast.get_docstring(ast.parse(solution(text)))
    if not docstring:
        raise InputError("line 1: expected a docstring that says what is asked")
    return docstring


def _lines(text: str) -> list[_Line]:
    """Say of each line what it is. A block of hints goes with the blank lines after it."""
    found: list[_Line] = []
    opened: tuple[str, int] | None = None
    for number, line in enumerate(text.rstrip("\n").split("\n"), start=1):
        word = line.strip()
        before = found[-1].kind if found else "code"
        is_todo = word.startswith(TODO) and word != TODO
        if word not in MARKERS and not is_todo and _meant_as_marker.match(word):
            raise InputError(f"line {number}: {word!r} is no marker; expected {', '.join(MARKERS)} or '{TODO} …'")
        if before == "todo" and word != BEGIN_SOLUTION:
            raise InputError(f"line {number}: expected {BEGIN_SOLUTION} right after the TODO, found {word!r}")
        if opened is not None and (is_todo or word in (BEGIN_SOLUTION, BEGIN_HINTS)):
            raise InputError(f"line {number}: {word} before the END of {opened[0]} in line {opened[1]}")
        if word in (END_SOLUTION, END_HINTS) and (opened is None or opened[0] != word.replace("END", "BEGIN")):
            raise InputError(f"line {number}: {word} without its BEGIN")
        if word == END_SOLUTION and before == "begin":
            raise InputError(f"line {number}: the solution that begins in line {number - 1} is empty")

        if word in (BEGIN_SOLUTION, BEGIN_HINTS):
            opened = word, number
            found.append(_Line("begin" if word == BEGIN_SOLUTION else "hint", number, line))
        elif word in (END_SOLUTION, END_HINTS):
            opened = None
            found.append(_Line("end" if word == END_SOLUTION else "hint", number, line))
        elif opened is not None:
            found.append(_Line("solution" if opened[0] == BEGIN_SOLUTION else "hint", number, line))
        elif is_todo:
            found.append(_Line("todo", number, line))
        else:
            found.append(_Line("hint" if before == "hint" and not word else "code", number, line))
    if opened is not None:
        raise InputError(f"line {opened[1]}: {opened[0]} without its END")
    if found[-1].kind == "todo":
        raise InputError(f"line {found[-1].number}: expected {BEGIN_SOLUTION} right after the TODO, found the end")
    if not any(line.kind == "begin" for line in found):
        raise InputError(f"line 1: there is no {BEGIN_SOLUTION}, so there would be nothing to do")
    return found


def _compiled(lines: list[str], what: str) -> str:
    code = "\n".join(lines).rstrip() + "\n"
    try:
        compile(code, what, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        at = f"line {error.lineno}" if isinstance(error, SyntaxError) else "line 1"
        raise InputError(f"the {what} does not compile: {at}, {error.args[0]}") from None
    return code
