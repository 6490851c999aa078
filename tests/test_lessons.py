"""The runner of the lessons (`.ci/lessons.py`) on small made-up lessons, and the real ones without running them."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LESSONS = sorted((ROOT / "lessons").glob("[0-9]*.md"))
HEADER = (
    "<!--\n\n---\njupyter:\n  jupytext:\n    format_name: markdown\n  kernelspec:\n    name: python3\n---\n\n-->\n\n"
)
EXERCISES = "\n\n```console\n$ minissl exercise start linear\n```\n"


@pytest.fixture(scope="module")
def runner():
    spec = importlib.util.spec_from_file_location("lesson_runner", ROOT / ".ci" / "lessons.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["lesson_runner"] = module  # where its data classes look themselves up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["lesson_runner"]


@pytest.fixture
def wrong(runner, tmp_path):
    """What the runner says is wrong with a lesson that has this in it."""

    def check(body, write=False):
        path = tmp_path / "01-made-up.md"
        path.write_text(HEADER + "# Lesson 1.5\n\n" + body + EXERCISES, encoding="utf-8")
        return list(runner.check(path, write))

    return check


def cell(source, printed=None, mark=""):
    shown = "" if printed is None else f"\n\n```text{mark}\n{printed}\n```"
    return f"```python\n{source}\n```{shown}\n\n"


X = cell("x = 0.51")


AGREES = [
    X + "A gap of 0.51<!-- {x:.2f} -->, of 51%<!-- {100 * x:.0f} -->, of 51.0 %<!-- {x:.1%} -->.",
    X + "A gap of **−0.51**<!-- {-x:.2f} -->, of $0.5$<!-- {x:.1f} -->, of `0.52`<!-- {x:.2f} -->.",
    X + "A gap of 0.6<!-- {x:.2f} ± 0.1 --> and 2e-01<!-- {x:.0e} × 3 -->.",
    cell("n = 1024514") + "It has 1,024,514<!-- {n:,} --> weights in 12 layers; float64, 2016<!-- given -->.",
    "$$y = x$$\n<!-- checked: x == 0.51 -->\n\n" + X + "Then $x$ is 0.51<!-- {x} -->.",
    X + "A quote of 0.51<!-- {x} -->.\n\n" + cell("x = 3"),
    "None in `code 0.123`, $mathematics_{0.5}$, [links 0.77](http://a.b/0.9) or <!-- comments 0.5 -->.",
    cell("print(0.512, 'of', [3, 4])", "0.513  of [3, 4]"),
    cell("print(0.512)", "0.4", " ± 0.2") + cell("print(2e-11)", "9e-12", " × 10"),
    cell("print('a b'); print()", "a   b"),
    cell("import inspect\n\n\ndef f(x):\n    return x\n\n\nprint(inspect.getsource(f))", "def f(x):\n    return x"),
    "```python .noeval\nraise SystemExit\n```",
]


@pytest.mark.parametrize("body", AGREES)
def test_what_agrees_passes(wrong, body):
    assert wrong(body) == []


@pytest.mark.parametrize(
    ("body", "line", "message"),
    [
        (X + "A gap of 0.53<!-- {x:.2f} -->.", 19, "quoted 0.53, got 0.51 ({x:.2f})"),
        (X + "A gap of 0.53<!-- {x:.2f} ± 0.01 -->.", 19, "quoted 0.53, got 0.51"),
        (X + "A gap of 0.51<!-- {-x:.2f} × 10 -->.", 19, "quoted 0.51, got -0.51"),
        (cell("n = 30") + "It takes 31<!-- {n} --> steps.", 19, "quoted 31, got 30 ({n})"),
        (X + "A gap of 0.51<!-- {y:.2f} -->.", 19, "NameError: name 'y' is not defined"),
        (X + "A gap of 0.51<!-- {1 / 0} -->.", 19, "ZeroDivisionError"),
        (X + "A gap of 0.51<!-- {x: -->.", 19, "is not Python"),
        (X + "A gap of 0.51.", 19, "0.51 comes from nowhere"),
        ("It takes 2000 steps.", 15, "2000 comes from nowhere"),
        ("It takes 2,000 steps.", 15, "2,000 comes from nowhere"),
        ("It is 5 % of them.", 15, "5 % comes from nowhere"),
        ("It is 1e-7.", 15, "1e-7 comes from nowhere"),
        ("It is 10⁻⁷.", 15, "10⁻⁷ comes from nowhere"),
        (X + "A gap <!-- {x:.2f} -->.", 19, "no number right before"),
        (cell("print(0.512)", "0.514"), 20, "quoted: 0.514"),
        (cell("print('a b c')", "a b"), 20, "got:    a b c"),
        (cell("print('a'); print('b')", "a b"), 20, "quoted: a b"),
        (cell("print([3, 4])", "[3, 5]"), 20, "quoted: [3, 5]"),
        (cell("print(3)", "4", " ± 2"), 20, "quoted: 4"),  # a whole number is counted, and not measured
        (cell("print(3)", "3", " +- 2"), 20, "expected text, text ± SIZE or text × FACTOR"),
        (cell("print(3.5)", "3.5", " ± little"), 20, "'little' is not a tolerance"),
        (cell("print(1)", "1") + "```text\n1\n```", 24, "without a cell right before it"),
        (X + "$$y = x$$\n<!-- checked: x == 0.5 -->", 19, "the equation does not hold: x == 0.5 is false"),
        (X + "$$y = x$$\n\nand", 19, "an equation without"),
        (X + "$$y = x$$\n<!-- checked: x == -->", 19, "is not Python"),
        ("<!-- checked: 1 == 1 -->", 15, "without an equation right before it"),
        ("A set $\\{x\\}$.", 15, "\\{ in mathematics"),
        (X + "$$x \\\\ y$$\n<!-- checked: x -->", 19, "\\\\ in mathematics"),
        (X + "```python\ny = 1\n1 / 0\n```", 21, "ZeroDivisionError: division by zero"),
        ("```python\nimport warnings\nwarnings.warn('look')\n```", 17, "UserWarning: look"),
        ("```python\nraise SystemExit\n```", 16, "SystemExit"),
        ("```python\nx =\n```", 16, "is not Python"),
        ("```bash\nls\n```", 16, "a ```bash block"),
        ("  ```python\n  x = 1\n  ```", 15, "a fence that is not closed, or is indented"),
        ("![a picture](../figures/none.png)", 15, "../figures/none.png does not exist"),
        ("[a page](none.md#there)", 15, "none.md#there does not exist"),
        ("```console\n$ minissl exercise start lineer\n```", 16, "lineer"),
    ],
)  # fmt: skip
def test_what_disagrees_is_caught_with_its_line(wrong, body, line, message):
    failures = wrong(body)
    assert failures
    found = [failure for failure in failures if message in failure]
    assert found, failures
    assert f"01-made-up.md:{line}: " in found[0]


def test_a_lesson_has_a_header_and_exercises(runner, tmp_path):
    path = tmp_path / "01-bare.md"
    path.write_text("# Lesson\n\nwords\n", encoding="utf-8")
    header, exercises = runner.check(path, write=False)
    assert "no Jupytext header" in header
    assert "no exercise at the end" in exercises


def test_writing_puts_the_run_in_place_of_what_disagrees_and_leaves_the_rest(wrong, tmp_path):
    noise = cell("print(2.0001e-11)", "9e-12", " × 10")
    body = X + "A gap of 0.1<!-- {x:.2f} -->.\n\n" + cell("print('a', x)", "") + noise
    assert len(wrong(body, write=True)) == 2
    text = (tmp_path / "01-made-up.md").read_text(encoding="utf-8")
    assert (
        text
        == HEADER
        + "# Lesson 1.5\n\n"
        + body.replace("0.1<", "0.51<").replace("\n\n```\n", "\na 0.51\n```\n")
        + EXERCISES
    )


def test_the_runner_says_what_it_did(wrong, capsys):
    wrong("$$y = x$$\n<!-- checked: x > 0 -->\n\n" + X + "0.5<!-- {x:.1f} -->\n\n" + cell("print(1)", "1"))
    assert "2 cells, 1 outputs, 1 numbers and 1 equations checked" in capsys.readouterr().out


def test_a_slow_lesson_is_a_warning_and_no_failure(wrong, capsys, runner, monkeypatch):
    monkeypatch.setattr(runner, "SECONDS", -1)
    assert wrong(X) == []
    assert "WARNING 01-made-up.md: took" in capsys.readouterr().out


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_every_lesson_is_marked_throughout(runner, path):
    lesson = runner.parse(path)
    assert lesson.failures(lesson.problems) == []
    assert lesson.count(runner.Cell) > 3
    assert lesson.count(runner.Equation) > 0


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_the_index_names_each_lesson_with_its_exercises(runner, path):
    index = (ROOT / "lessons" / "README.md").read_text(encoding="utf-8").splitlines()
    (row,) = [line for line in index if line.startswith("|") and f"({path.name})" in line]
    assert re.findall(r"`([a-z-]+)`", row.split("|")[3]) == runner.parse(path).exercises


def test_there_are_lessons():
    assert len(LESSONS) >= 3
