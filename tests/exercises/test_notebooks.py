"""Notebooks for nbgrader: one source, and the same verdict in the notebook as from the command line."""

import json
import re

import numpy as np
import pytest

from minissl.errors import InputError
from minissl.exercises import check_here
from minissl.exercises.exercise import StudentError
from minissl.exercises.markers import solution, stub
from minissl.exercises.notebooks import LocalStudent, export_notebooks, functions_of, notebook


def students_version(made):
    """What `nbgrader generate_assignment` makes of an instructor's notebook."""
    made = json.loads(json.dumps(made))
    for cell in made["cells"]:
        cell["source"] = re.sub(
            r"( *)### BEGIN SOLUTION.*?### END SOLUTION",
            r"\1# YOUR CODE HERE\n\1raise NotImplementedError()",
            cell["source"],
            flags=re.DOTALL,
        )
    return made


def run(source):
    namespace = {}
    exec(compile(source, "notebook", "exec"), namespace)
    return namespace


def test_export(shelf, tmp_path):
    paths = export_notebooks(tmp_path)
    assert [str(p.relative_to(tmp_path)) for p in paths] == [
        "source/minissl/double.ipynb",
        "source/minissl/triple.ipynb",
    ]
    assert json.loads(paths[1].read_text(encoding="utf-8")) == notebook(shelf[1])
    assert export_notebooks(tmp_path) == paths  # again, over the same
    changed = notebook(shelf[1]) | {"metadata": {}}
    paths[1].write_text(json.dumps(changed))
    paths[0].unlink()
    with pytest.raises(InputError, match=r"triple.ipynb: is there and differs from minissl's; move it away"):
        export_notebooks(tmp_path)
    assert json.loads(paths[1].read_text()) == changed
    assert not paths[0].exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file in its way"):
        export_notebooks(tmp_path / "file")


def test_cells_and_what_nbgrader_reads_of_them(shelf):
    made = notebook(shelf[0])
    assert (made["nbformat"], made["nbformat_minor"]) == (4, 5)
    task, answer, test = made["cells"]
    assert [c["cell_type"] for c in made["cells"]] == ["markdown", "code", "code"]
    assert "Write double(x), twice x." in task["source"]
    assert "<summary>Hint 2</summary>\n\nx + x" in task["source"]
    required = {"schema_version", "grade_id", "grade", "solution", "locked", "task"}
    for cell, true in ((task, {"locked"}), (answer, {"solution"}), (test, {"grade", "locked"})):
        meta = cell["metadata"]["nbgrader"]
        assert meta["schema_version"] == 3
        assert {key for key in ("grade", "solution", "locked", "task") if meta[key]} == true
        assert meta.keys() - {"points"} == required
        assert ("points" in meta) == meta["grade"]
        assert re.fullmatch(r"[a-zA-Z0-9_\-]+", meta["grade_id"])
        assert re.fullmatch(r"[a-zA-Z0-9_\-]{1,64}", cell["id"])
    assert len({c["metadata"]["nbgrader"]["grade_id"] for c in made["cells"]}) == 3
    assert "### BEGIN SOLUTION" in answer["source"]


def test_it_is_a_valid_notebook(shelf):
    nbformat = pytest.importorskip("nbformat")
    nbformat.validate(notebook(shelf[0]))


def test_the_students_version_fails_and_the_instructors_passes(shelf, capsys):
    made = notebook(shelf[0])
    _, answer, test = made["cells"]
    exec(test["source"], run(answer["source"]))
    assert capsys.readouterr().out == "✓ value\n"
    _, answer, test = students_version(made)["cells"]
    with pytest.raises(AssertionError, match="✗ not done yet: double"):
        exec(test["source"], run(answer["source"]))
    with pytest.raises(AssertionError, match="there is no function double; has its cell been run"):
        exec(test["source"], {})


def test_check_here_says_the_verdict(shelf):
    with pytest.raises(AssertionError) as caught:
        check_here("double", {"double": lambda x: 3 * x})
    assert str(caught.value) == "✓ shape\n✗ value: [0.0, 3.0, 6.0]"
    with pytest.raises(AssertionError, match="✗ double raised ZeroDivisionError: division by zero"):
        check_here("double", {"double": lambda x: 1 / 0})
    with pytest.raises(InputError, match="there is no exercise"):
        check_here("quadruple", {})


def test_code_comes_back_out_of_the_notebook(shelf, tmp_path):
    for e in shelf:
        path = tmp_path / "a.ipynb"
        path.write_text(json.dumps(notebook(e)), encoding="utf-8")
        assert run(functions_of(path))[e.name](5) == run(solution(e.text))[e.name](5)
        path.write_text(json.dumps(students_version(notebook(e))), encoding="utf-8")
        for source in (functions_of(path), stub(e.text)):
            with pytest.raises(NotImplementedError):
                run(source)[e.name](5)


def cell(source, kind="code", **grader):
    return {"cell_type": kind, "metadata": {"nbgrader": grader} if grader else {}, "source": source}


def test_what_only_a_notebook_understands_is_left_out(tmp_path):
    path = tmp_path / "a.ipynb"
    cells = [
        cell("# not code", "markdown"),
        cell("%matplotlib inline\n!pip install torch\nimport math\nmath.sqrt?\nfiles = !ls\nx = %timeit 1\n"),
        cell(["%%time\n", "a = 5\n", "b = (a\n", "     % 3)"]),
        cell("%%bash\nrm -rf x"),
        cell("raise ValueError('the test')", grade=True, solution=False),
        cell("c = 1", grade=True, solution=True),
        cell("from minissl.exercises import check_here\ncheck_here('a', globals())\nd = 2"),
    ]
    path.write_text(json.dumps({"cells": cells, "nbformat": 4}))
    names = run(functions_of(path))
    assert {k: names[k] for k in "abcd"} == {"a": 5, "b": 2, "c": 1, "d": 2}
    assert "x" not in names
    assert "# cell 3" in functions_of(path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"cells": 3}', '{"cells": [3]}', '{"worksheets": []}'])
def test_no_notebook(tmp_path, content):
    path = tmp_path / "a.ipynb"
    path.write_text(content)
    with pytest.raises(InputError, match=re.escape(str(path))):
        functions_of(path)


@pytest.mark.parametrize("odd", [{}, cell(3), cell([1]), {"cell_type": "code", "metadata": 3, "source": "a = 1"}])
def test_odd_cells_are_no_trouble(tmp_path, odd):
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps({"cells": [odd, cell("b = 1")]}))
    assert run(functions_of(path))["b"] == 1


def test_the_local_student():
    def spoil(x):
        x += 1

    def add_forward(x):
        return x + 1, (x,)

    def test_it(f):
        if f(2) != 4:
            raise AssertionError("two\ntwos")

    def unfinished(f):
        raise NotImplementedError

    student = LocalStudent(locals() | {"draw": lambda rng: rng.random(), "add_backward": lambda dy, cache: dy})
    rng = np.random.default_rng(0)
    assert student.function("draw")(rng) == student.function("draw")(rng=rng) == rng.random()
    with pytest.raises(StudentError, match="spoil changed what it was given"):
        student.function("spoil")(np.zeros(2))
    forward, backward = student.pair("add")
    assert backward(3, forward(np.ones(2))[1]) == 3
    assert student.test("test_it", "def f(x): return x + x", ("f",)) is None
    assert student.test("test_it", "def f(x): return x", ("f",)) == "AssertionError: two twos"
    with pytest.raises(StudentError, match="not done yet: unfinished"):
        student.test("unfinished", "f = 1", ("f",))
    with pytest.raises(StudentError, match="no function missing"):
        student.test("missing", "f = 1", ("f",))
