"""From files to scores: whatever is handed in, there is a verdict."""

import json
import os
import sys

import pytest

from minissl.errors import InputError
from minissl.exercises.exercise import Verdict
from minissl.exercises.grading import as_json, check_source, grade_folder, gradescope, read_source, students

RIGHT = "def double(x):\n    return 2 * x\n"


def notebook(*cells):
    return json.dumps({"cells": [{"cell_type": "code", "metadata": {}, "source": c} for c in cells], "nbformat": 4})


@pytest.fixture
def checked(monkeypatch):
    """What would be checked, without a process: exercise, source."""
    found = []

    def check(exercise, source):
        found.append((exercise.name, source))
        return check_source_result(source)

    monkeypatch.setattr("minissl.exercises.grading.check_source", check)
    return found


def check_source_result(source):
    from minissl.exercises.grading import Checked

    return Checked(Verdict("2 * x" in source, ["line"], float("2 * x" in source)), [])


def test_a_verdict_for_a_right_and_a_wrong_file(shelf):
    assert check_source(shelf[0], RIGHT).verdict == Verdict(True, ["✓ value"], 1.0)
    found = check_source(shelf[0], RIGHT.replace("2", "4") + "print('a\\n' * 30)")
    assert found.verdict == Verdict(False, ["✓ shape", "✗ value: [0.0, 4.0, 8.0]"], 0.25)
    assert found.printed == ["a"] * 20 + ["… and 11 more lines"]


def test_a_value_that_no_grader_reckons_with_is_a_verdict_too(shelf):
    """A grader that asks a list for its shape."""
    found = check_source(shelf[0], "def double(x):\n    return [1]\n")
    assert not found.verdict.passed
    assert found.verdict.lines == [
        "✗ what came back is of no use: AttributeError, 'list' object has no attribute 'tolist'"
    ]


def test_one_students_folder(shelf, checked, tmp_path):
    (tmp_path / "01_double.py").write_text(RIGHT)
    (tmp_path / "triple.ipynb").write_text(notebook("%matplotlib inline\nx = 1"))
    (tmp_path / "essay.txt").write_text("")
    (report,) = grade_folder(tmp_path, shelf)
    assert report.student == tmp_path.name
    assert [(g.exercise.name, g.file) for g in report.graded] == [
        ("double", "01_double.py"),
        ("triple", "triple.ipynb"),
    ]
    assert checked == [("double", RIGHT), ("triple", "# cell 1 of the notebook\n\nx = 1\n")]
    assert report.score == 1


def test_a_class(shelf, checked, tmp_path):
    for path in (
        "bob/hand-in/double.py",
        "bob/.ipynb_checkpoints/double.py",
        "ada/02_triple.py",
        "ada/02_triple.py.1.bak",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(RIGHT)
    (tmp_path / "cem").mkdir()
    reports = list(grade_folder(tmp_path, shelf))
    assert [(r.student, r.score) for r in reports] == [("ada", 1), ("bob", 1), ("cem", 0)]
    assert [g.file for r in reports for g in r.graded] == ["", "02_triple.py", "hand-in/double.py", "", "", ""]
    assert reports[2].graded[0].verdict.lines == ["✗ no file: expected 01_double.py or double.ipynb"]


@pytest.mark.skipif(sys.platform == "win32", reason="links")
def test_what_cannot_be_graded_has_a_line_and_the_rest_goes_on(shelf, checked, tmp_path):
    (tmp_path / "secret.py").write_text(RIGHT)
    (tmp_path / "all" / "a").mkdir(parents=True)
    (tmp_path / "all" / "a" / "01_double.py").write_bytes(b"\xff")
    (tmp_path / "all" / "a" / "02_triple.py").write_text(RIGHT)
    (tmp_path / "all" / "a" / "triple.ipynb").write_text(notebook(RIGHT))
    (tmp_path / "all" / "b").mkdir()
    (tmp_path / "all" / "b" / "01_double.py").symlink_to(tmp_path / "secret.py")
    (tmp_path / "all" / "b" / "triple.ipynb").write_text("{}")
    a, b = grade_folder(tmp_path / "all", shelf)
    lines = [g.verdict.lines for g in (*a.graded, *b.graded)]
    assert "line 1 is not UTF-8 text" in lines[0][0]
    assert lines[1] == ["✗ 2 files for one exercise (02_triple.py, triple.ipynb): which one counts?"]
    assert lines[2] == ["✗ no file: expected 01_double.py or double.ipynb"]
    assert "has no list of cells" in lines[3][0]
    assert checked == []


@pytest.mark.skipif(sys.platform == "win32", reason="links")
def test_links_odd_names_and_closed_folders(shelf, checked, tmp_path, monkeypatch):
    for name in ("ada\x1b[31m\n", "bob"):
        (tmp_path / "all" / name).mkdir(parents=True)
        (tmp_path / "all" / name / "01_double.py").write_text(RIGHT)
    (tmp_path / "all" / "cem").symlink_to(tmp_path / "all" / "bob")
    (tmp_path / "all" / "dan").mkdir()
    scandir = os.scandir

    def scan(path):
        if str(path).endswith("dan"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", scan)
    reports = list(grade_folder(tmp_path / "all", shelf))
    assert [(r.student, r.score) for r in reports] == [("ada\\x1b[31m\\n", 1), ("bob", 1), ("dan", 0)]
    assert reports[2].graded[0].verdict.lines[0].endswith("dan: cannot be read (Permission denied)")


TRIALS = (
    "import matplotlib.pyplot as plt\nimport math\nfigure = plt.figure()\nfigure.show()\nhalf = math.pi / 2",
    "%matplotlib inline\ndef double(x):\n    %time y = 1\n    z = (5\n         % 3)\n    return half / half * 2 * x",
    "plt.plot(double(3))",
)


def test_trials_beside_the_solution_cost_nothing(shelf, tmp_path):
    (tmp_path / "double.ipynb").write_text(notebook(*TRIALS))
    source = read_source(tmp_path / "double.ipynb", shelf[0])
    assert "plt" not in source
    assert check_source(shelf[0], source).verdict.passed


def test_a_notebooks_cell_is_named(shelf, tmp_path):
    (tmp_path / "double.ipynb").write_text(notebook("a = 1", "\ndef double(x):\n    return x / 'a'"))
    verdict = check_source(shelf[0], read_source(tmp_path / "double.ipynb", shelf[0])).verdict
    assert "at cell 2, line 3, `return x / 'a'`" in verdict.lines[0]
    (tmp_path / "double.ipynb").write_text(notebook("import torch\ndef double(x):\n    return torch.add(x, x)"))
    verdict = check_source(shelf[0], read_source(tmp_path / "double.ipynb", shelf[0])).verdict
    assert "cell 1, line 1, `import torch`: imports torch: these exercises use NumPy" in verdict.lines[0]


def test_nothing_to_grade(shelf, tmp_path):
    with pytest.raises(InputError, match="no such folder; expected a student's files, or a folder for each"):
        students(tmp_path / "x", shelf)
    (tmp_path / "notes.py").write_text("")
    with pytest.raises(InputError, match=r"no exercise's file here, nor in a folder in it, as 01_double\.py is"):
        students(tmp_path, shelf)


def test_json_and_gradescope(shelf, checked, tmp_path):
    (tmp_path / "01_double.py").write_text(RIGHT)
    (report,) = grade_folder(tmp_path, shelf)
    assert json.loads(json.dumps(as_json([report]))) == {
        "students": [
            {
                "name": tmp_path.name,
                "score": 1.0,
                "max_score": 2,
                "exercises": [
                    {"name": "double", "file": "01_double.py", "passed": True, "lines": ["line"], "score": 1.0},
                    {
                        "name": "triple",
                        "file": "",
                        "passed": False,
                        "lines": ["✗ no file: expected 02_triple.py or triple.ipynb"],
                        "score": 0.0,
                    },
                ],
            }
        ]
    }
    assert json.loads(json.dumps(gradescope(report))) == {
        "score": 1.0,
        "tests": [
            {
                "name": "01 double: Twice as much",
                "number": "1",
                "score": 1.0,
                "max_score": 1.0,
                "status": "passed",
                "output": "line",
            },
            {
                "name": "02 triple: Thrice as much",
                "number": "2",
                "score": 0.0,
                "max_score": 1.0,
                "status": "failed",
                "output": "✗ no file: expected 02_triple.py or triple.ipynb",
            },
        ],
    }
