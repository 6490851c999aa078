r"""Run the lessons, and hold every number and every equation that they quote against the run.

    python .ci/lessons.py [--write] [lessons/NN-title.md ...]      # without a name: all of them

A lesson is Jupytext Markdown. Its header stands in an HTML comment, so that GitHub does not show it:

    <!--

    ---
    jupyter:
      jupytext:
        text_representation:
          extension: .md
          format_name: markdown
      kernelspec:
        display_name: Python 3
        language: python
        name: python3
    ---

    -->

Code. ```python cells run in order, in one namespace, from the repository root; a warning is an error. A ```text block
after a cell is what the cell prints: words equal, numbers equal as far as they are printed (the last digit may be off
by one; a whole number may not). ```text ± 0.2 lets them be off by 0.2, ```text × 10 by a factor of 10. Commands to
type go into ```console, code that is shown and not run into ```python .noeval; Jupytext would run ```bash.

Numbers in prose. One that comes from the run has a comment right behind it, which GitHub does not show: what it would
be, as in an f-string.

    a gap of 0.0388<!-- {gap:.4f} -->, a loss of 5.1<!-- {loss:.1f} ± 0.2 --> nats, 12%<!-- {100 * share:.0f} -->

A number with a decimal point, an exponent, a % sign or more than two digits must have one. `<!-- given -->` stands
behind what no run computes: a year, a setting. Code, mathematics, links and headings need none.

Equations. Each $$...$$ is followed by `<!-- checked: expression -->`, which must be true:

    $$dx = J^T dy$$
    <!-- checked: np.allclose(dx, J.T @ dy) -->

An expression must agree where it stands or after a later cell: an equation may come before the code it is about.

In mathematics GitHub takes a backslash before punctuation (`\\`, `\{`, `\,`) away, so there must be none: write one
equation a line, `\lbrace`, `\quad`. Images and relative links must exist, and each lesson names its exercises
(`minissl exercise start NAME`), which must exist too.

`--write` puts what the run gave in place of what disagrees: write the block empty and the number as 0, then read what
came. Exit 1 where anything disagrees; a lesson that takes over a minute gets a warning.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import os
import re
import sys
import time
import traceback
import types
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

# the matrices are small, and one thread gives the same digits on every machine; said before NumPy is imported
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 60

NUMBER = re.compile(r"(?<![\w.])[-+−]?\d+(?:,\d{3})*(?:\.\d+)?(?:[eE][-+]?\d+)?")
FENCE = re.compile(r"^(?P<ticks>`{3,})(?P<info>[^`\n]*)\n(?P<body>.*?)^(?P=ticks)[ \t]*$", re.MULTILINE | re.DOTALL)
EQUATION = re.compile(r"\$\$(?P<maths>.+?)\$\$(?:\s*<!--\s*checked:(?P<expression>.*?)-->)?", re.DOTALL)
COMMENT = re.compile(r"<!--(?P<content>.*?)-->", re.DOTALL)
QUOTED = re.compile(rf"(?P<number>{NUMBER.pattern})(?P<percent>\s?%)?[*_`$)]*$")
TOLERANCE = re.compile(r"\s*(?P<sign>[±×])\s*(?P<size>\S+)\s*$")
INLINE_CODE = re.compile(r"(?P<ticks>`+)(?!`).*?(?<!`)(?P=ticks)(?!`)", re.DOTALL)
INLINE_MATHS = re.compile(r"\$(?P<maths>[^$]+)\$")
LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]*)[^)]*\)|https?://\S+")
UNMARKED = re.compile(rf"{NUMBER.pattern}(?:\s?%|[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+)?")
EXERCISE = re.compile(r"minissl exercise start ([\w-]+)")


@dataclass(frozen=True)
class Tolerance:
    """How far a number may be off: by `size`, or by the factor `size`."""

    sign: str
    size: float


@dataclass(frozen=True)
class Cell:
    """Code that is run."""

    start: int
    source: str


@dataclass(frozen=True)
class Output:
    """What the cell before prints, quoted from `start` to `end`."""

    start: int
    end: int
    text: str
    tolerance: Tolerance | None


@dataclass(frozen=True)
class Number:
    """A number in prose, quoted from `start` to `end`, and the template that gives it."""

    start: int
    end: int
    text: str
    template: str
    tolerance: Tolerance | None


@dataclass(frozen=True)
class Equation:
    """The expression that must be true for an equation to hold."""

    start: int
    expression: str


@dataclass
class Lesson:
    """A lesson's text, taken apart; `problems` are (place in the text, what is wrong there)."""

    path: Path
    text: str
    parts: list[Cell | Output | Number | Equation] = field(default_factory=list)
    exercises: list[str] = field(default_factory=list)
    problems: list[tuple[int, str]] = field(default_factory=list)

    def count(self, kind: type) -> int:
        """How many parts are of a kind."""
        return sum(isinstance(part, kind) for part in self.parts)

    def failures(self, problems: list[tuple[int, str]]) -> list[str]:
        """Each problem with its file and line."""
        return [f"{self.path}:{self.text.count(chr(10), 0, at) + 1}: {what}" for at, what in sorted(problems)]


# ---- taking a lesson apart


def parse(path: Path) -> Lesson:
    """Take a lesson apart and note what can be seen to be wrong without running it."""
    lesson = Lesson(path, path.read_text(encoding="utf-8"))
    header = lesson.text[: lesson.text.find("# ")]
    if not all(word in header for word in ("jupytext:", "format_name: markdown", "kernelspec:")):
        lesson.problems.append((0, "no Jupytext header; it opens as a notebook only with one"))
    end, last = 0, None
    for fence in FENCE.finditer(lesson.text):
        if _prose(lesson, end, fence.start()):
            last = None
        last, end = _fence(lesson, fence, last), fence.end()
    _prose(lesson, end, len(lesson.text))
    lesson.exercises = EXERCISE.findall(lesson.text)
    if not lesson.exercises:
        lesson.problems.append((len(lesson.text), "no exercise at the end (`minissl exercise start NAME`)"))
    for name in lesson.exercises:
        if slip := _unknown_exercise(name):
            lesson.problems.append((lesson.text.index(f"start {name}"), slip))
    return lesson


def _unknown_exercise(name: str) -> str:
    """What the catalogue of exercises says to a name that it does not have."""
    try:
        importlib.import_module("minissl.exercises.catalogue").exercise(name)
    except ValueError as error:  # minissl's InputError
        return str(error)
    return ""


def _fence(lesson: Lesson, fence: re.Match[str], last: Cell | None) -> Cell | None:
    """Add a fenced block; return the cell whose output may follow."""
    info, body, start = fence["info"].strip(), fence["body"], fence.start("body")
    if info == "python":
        cell = Cell(start, body)
        _compile(lesson, start, body, "exec")
        lesson.parts.append(cell)
        return cell
    if info.startswith("text"):
        if last is None:
            lesson.problems.append((start, "a ```text block without a cell right before it; nothing prints it"))
        found = TOLERANCE.match(info.removeprefix("text"))
        if info != "text" and not found:
            lesson.problems.append((start, f"```{info}: expected text, text ± SIZE or text × FACTOR"))
        lesson.parts.append(Output(start, fence.end("body"), body, _tolerance(lesson, start, found)))
    elif info not in ("console", "python .noeval"):
        lesson.problems.append((start, f"a ```{info} block; expected python, python .noeval, text or console"))
    return None


def _prose(lesson: Lesson, start: int, end: int) -> bool:
    """Add what stands between two fenced blocks; return whether there is anything to read."""
    text = lesson.text[start:end]
    parts: list[Number | Equation] = []
    if text.startswith(("<!--\n\n---\n", "---\n")):
        text = _blank(text, 0, text.index("\n---\n", 4) + 5)

    if "```" in text:
        lesson.problems.append((start + text.index("```"), "a fence that is not closed, or is indented"))

    for found in EQUATION.finditer(text):
        _check_maths(lesson, start + found.start(), found["maths"])
        if found["expression"] is None:
            what = "an equation without `<!-- checked: expression -->` behind it"
            lesson.problems.append((start + found.start(), what))
        else:
            expression = found["expression"].strip()
            _compile(lesson, start + found.start(), expression, "eval")
            parts.append(Equation(start + found.start(), expression))
        text = _blank(text, *found.span())

    for found in COMMENT.finditer(text):
        content = found["content"].strip()
        text = _blank(text, *found.span())
        if content.startswith("checked:"):
            lesson.problems.append((start + found.start(), "`checked:` without an equation right before it"))
        if content != "given" and "{" not in content:
            continue
        quoted = QUOTED.search(text[: found.start()])
        if quoted is None:
            lesson.problems.append((start + found.start(), f"no number right before <!-- {content} -->"))
            continue
        text = _blank(text, quoted.start("number"), found.start())
        if content != "given":
            tolerance = TOLERANCE.search(content)
            template = content[: tolerance.start()] if tolerance else content
            _compile(lesson, start + found.start(), _fstring(template), "eval")
            place = start + quoted.start("number"), start + quoted.end("number")
            size = _tolerance(lesson, start + found.start(), tolerance)
            parts.append(Number(*place, quoted["number"], template, size))

    for found in LINK.finditer(text):
        target = found["target"] or ""
        if target and "://" not in target and not (lesson.path.parent / target.partition("#")[0]).exists():
            lesson.problems.append((start + found.start(), f"{target} does not exist"))
    for pattern in (INLINE_CODE, LINK):
        for found in pattern.finditer(text):
            text = _blank(text, *found.span())
    for found in INLINE_MATHS.finditer(text):
        _check_maths(lesson, start + found.start(), found["maths"])
        text = _blank(text, *found.span())
    text = re.sub(r"^#+ .*$", lambda heading: " " * len(heading[0]), text, flags=re.MULTILINE)
    for found in UNMARKED.finditer(text):
        if re.search(r"[.eE%⁰¹²³⁴⁵⁶⁷⁸⁹]|\d.*\d.*\d", found[0]):
            what = f"{found[0]} comes from nowhere; behind it goes <!-- {{expression:format}} --> or <!-- given -->"
            lesson.problems.append((start + found.start(), what))
    lesson.parts += sorted(parts, key=lambda part: part.start)
    return bool(lesson.text[start:end].strip())


def _blank(text: str, start: int, end: int) -> str:
    """Write spaces over a stretch, so that every place stays where it is."""
    return text[:start] + re.sub(r"\S", " ", text[start:end]) + text[end:]


def _check_maths(lesson: Lesson, at: int, maths: str) -> None:
    if found := re.search(r"\\[^\sa-zA-Z]", maths):
        lesson.problems.append((at, f"{found[0]} in mathematics: GitHub takes the backslash away"))


def _tolerance(lesson: Lesson, at: int, found: re.Match[str] | None) -> Tolerance | None:
    if found is None:
        return None
    try:
        return Tolerance(found["sign"], float(found["size"]))
    except ValueError:
        lesson.problems.append((at, f"{found['size']!r} is not a tolerance; expected a number"))
        return None


def _fstring(template: str) -> str:
    return 'f"""' + template.strip() + '"""'


def _compile(lesson: Lesson, at: int, source: str, mode: str) -> None:
    try:
        ast.parse(source, mode=mode)
    except SyntaxError as error:
        lesson.problems.append((at, f"{source.strip().splitlines()[0]!r} is not Python: {error.msg}"))


# ---- comparing what is quoted with what came


def agrees(quoted: str, got: str, tolerance: Tolerance | None = None) -> bool:
    """Whether two texts have the same words in each line, and numbers that are equal as far as they are printed."""
    if _words(quoted) != _words(got):
        return False
    pairs = zip(NUMBER.findall(quoted), NUMBER.findall(got), strict=True)
    return all(_close(a, b, tolerance) for a, b in pairs)


def _words(text: str) -> list[list[str]]:
    return [line.split() for line in NUMBER.sub(" # ", text.rstrip()).splitlines()]


def _close(quoted: str, got: str, tolerance: Tolerance | None) -> bool:
    a, b = _value(quoted), _value(got)
    if tolerance is not None and not quoted.lstrip("-+−").isdigit():
        if tolerance.sign == "×":
            return a == b or (a * b > 0 and 1 / tolerance.size <= a / b <= tolerance.size)
        return abs(a - b) <= tolerance.size * (1 + 1e-9)
    mantissa, _, exponent = quoted.lower().partition("e")
    digits = len(mantissa.partition(".")[2])
    unit = 0.0 if mantissa == quoted and not digits else 10.0 ** (int(exponent or 0) - digits)
    return abs(a - b) <= unit * (1 + 1e-6)


def _value(number: str) -> float:
    return float(number.replace(",", "").replace("−", "-"))


# ---- running it


@dataclass(frozen=True)
class Miss:
    """Something quoted that disagrees with the run; `got` is what would be right in its place, where there is such."""

    part: Any
    message: str
    got: str | None = None


def miss(part: Number | Equation, values: dict[str, Any]) -> Miss | None:
    """Compare a number or an equation with the names' present values."""
    try:
        if isinstance(part, Equation):
            holds = bool(eval(part.expression, values))
            return None if holds else Miss(part, f"the equation does not hold: {part.expression} is false")
        got = eval(_fstring(part.template), values).strip().rstrip("%").strip()
    except Exception as error:
        return Miss(part, f"{type(error).__name__}: {error}")
    if agrees(part.text, got, part.tolerance):
        return None
    return Miss(part, f"quoted {part.text}, got {got} ({part.template.strip()})", got)


def _again(first: Miss, values: dict[str, Any]) -> Miss | None:
    """Compare once more; of two misses the first counts, which stood beside its text, if its names had values."""
    again = miss(first.part, values)
    return again if again is None or first.message.startswith("NameError") else first


def run(lesson: Lesson) -> tuple[list[tuple[int, str]], list[tuple[int, int, str]]]:
    """Run a lesson; return what disagrees, and (start, end, text) of what would put it right.

    A cell that raises ends the lesson.
    """
    module = types.ModuleType("lesson")
    sys.modules["lesson"] = module
    values = module.__dict__
    misses: list[Miss] = []
    waiting: list[Miss] = []  # may still come true: an equation stands before the code that it is about
    printed = ""
    for part in lesson.parts:
        if isinstance(part, Cell):
            try:
                printed = _execute(lesson, part, values)
            except (Exception, SystemExit) as error:
                where = _failed_at(lesson, part, error)
                return [(m.part.start, m.message) for m in misses] + [(where, f"{type(error).__name__}: {error}")], []
            waiting = [m for first in waiting if (m := _again(first, values))]
        elif isinstance(part, Output):
            if not agrees(part.text, printed, part.tolerance):
                message = f"the cell prints something else:\n{_difference(part, printed)}"
                misses.append(Miss(part, message, printed.rstrip("\n") + "\n"))
        elif first := miss(part, values):
            waiting.append(first)
    misses += waiting
    repairs = [(m.part.start, m.part.end, m.got) for m in misses if m.got is not None]
    return [(m.part.start, m.message) for m in misses], repairs


def _execute(lesson: Lesson, cell: Cell, values: dict[str, Any]) -> str:
    """Run a cell; return what it printed. Its lines count as the file's, so that `inspect` finds them."""
    lines_before = lesson.text.count("\n", 0, cell.start)
    code = compile("\n" * lines_before + cell.source, str(lesson.path.resolve()), "exec")
    output = io.StringIO()
    with contextlib.redirect_stdout(output), warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(code, values)
    return output.getvalue()


def _failed_at(lesson: Lesson, cell: Cell, error: BaseException) -> int:
    """The place in the lesson at which a cell raised."""
    name = str(lesson.path.resolve())
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == name]
    if not lines or lines[-1] is None:
        return cell.start
    return sum(len(line) + 1 for line in lesson.text.split("\n")[: lines[-1] - 1])


def _difference(part: Output, got: str) -> str:
    """The first line that disagrees, both ways."""
    for quoted, line in zip_longest(part.text.splitlines(), got.splitlines(), fillvalue=""):
        if not agrees(quoted, line, part.tolerance):
            return f"    quoted: {quoted}\n    got:    {line}"
    return "    (in the line breaks alone)"


def repaired(text: str, repairs: list[tuple[int, int, str]]) -> str:
    """The text with each stretch replaced."""
    for start, end, new in sorted(repairs, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def check(path: Path, write: bool) -> Iterator[str]:
    """Check one lesson; yield what is wrong with it. Prints what was done."""
    began = time.perf_counter()
    lesson = parse(path)
    problems, repairs = run(lesson)
    seconds = time.perf_counter() - began
    print(
        f"{path.name}: {seconds:.1f} s, {lesson.count(Cell)} cells, {lesson.count(Output)} outputs, "
        f"{lesson.count(Number)} numbers and {lesson.count(Equation)} equations checked"
    )
    if seconds > SECONDS:
        print(f"WARNING {path.name}: took {seconds:.0f} s, more than {SECONDS} s")
    if write and repairs:
        path.write_text(repaired(lesson.text, repairs), encoding="utf-8")
        print(f"{path.name}: {len(repairs)} places rewritten")
    yield from lesson.failures(lesson.problems + problems)


def main(arguments: list[str]) -> int:
    """Check the lessons named, or all; return the exit status."""
    write = "--write" in arguments
    names = [Path(name).resolve() for name in arguments if name != "--write"]
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    paths = names or sorted(Path("lessons").glob("[0-9]*.md"))
    failures = [failure for path in paths for failure in check(path, write)]
    print("\n".join(failures) if failures else f"{len(paths)} lessons hold")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
