"""One source gives stub, solution, hints and notebook; malformed markers are named with their line."""

import ast

import pytest

from minissl.errors import InputError
from minissl.exercises import markers

TEXT = '''"""A title.

What is asked.
"""

### BEGIN HINTS
# 1. Look at x,
#    and again.
# 2. Use 2. of the
# formulas
### END HINTS

import math


class Layer:
    def f(self, x):
        y = 1
        ### TODO: add y
        ### BEGIN SOLUTION
        if x:
            return x + y
        return y
        ### END SOLUTION

    def g(self, x):
        ### BEGIN SOLUTION
        return math.exp(x)
        ### END SOLUTION
'''

STUB = '''"""A title.

What is asked.
"""

import math


class Layer:
    def f(self, x):
        y = 1
        # TODO: add y
        raise NotImplementedError

    def g(self, x):
        # TODO: your code here
        raise NotImplementedError
'''


def test_stub():
    assert markers.stub(TEXT) == STUB


def test_solution():
    solution = markers.solution(TEXT)
    assert "###" not in solution
    assert "TODO" not in solution
    assert "NotImplementedError" not in solution
    namespace = {}
    exec(compile(solution, "solution", "exec"), namespace)
    assert namespace["Layer"]().f(3) == 4
    assert namespace["Layer"]().g(0) == 1


def test_hints_and_task():
    assert markers.hints(TEXT) == ["Look at x, and again.", "Use 2. of the formulas"]
    assert markers.task(TEXT) == "A title.\n\nWhat is asked."
    assert markers.hints(TEXT.replace("# 2. Use 2. of the\n# formulas\n", "")) == ["Look at x, and again."]


def test_hints_at_the_end_leave_nothing_behind():
    start, rest = TEXT.split("### BEGIN HINTS\n")
    block, code = rest.split("### END HINTS\n\n")
    moved = f"{start}{code}\n\n### BEGIN HINTS\n{block}### END HINTS\n"
    assert markers.stub(moved) == STUB
    assert markers.hints(moved) == markers.hints(TEXT)


def test_for_nbgrader_keeps_the_solutions_markers_alone():
    text = markers.for_nbgrader(TEXT)
    assert text.startswith("import math\n")
    assert text.count("### BEGIN SOLUTION") == text.count("### END SOLUTION") == 2
    assert "HINTS" not in text
    assert "        # TODO: add y\n        ### BEGIN SOLUTION\n" in text
    assert ast.dump(ast.parse('"""A title.\n\nWhat is asked.\n"""\n' + text)) == ast.dump(
        ast.parse(markers.solution(TEXT))
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("### END HINTS\n", "", "line 18: ### TODO: add y before the END of ### BEGIN HINTS in line 6"),
        ("### BEGIN HINTS\n", "", "line 10: ### END HINTS without its BEGIN"),
        ("        ### END SOLUTION\n\n", "", "line 25: ### BEGIN SOLUTION before the END of ### BEGIN SOLUTION in"),
        ("        return math.exp(x)\n", "", "line 28: the solution that begins in line 27 is empty"),
        ("        return math.exp(x)\n        ### END SOLUTION\n", "        return 1\n", "line 27: .* without its END"),
        ("### END HINTS", "### END HINT", "line 11: '### END HINT' is no marker"),
        ("### END HINTS", "## END HINTS", "line 11: '## END HINTS' is no marker"),
        ("### TODO: add y", "### TODO add y", "line 19: '### TODO add y' is no marker"),
        ("### TODO: add y\n", "### TODO: add y\n\n", "line 20: expected ### BEGIN SOLUTION right after the TODO"),
        ("        return math.exp(x)\n        ### END SOLUTION\n", "", "without its END"),
        ("            return x + y\n", "            return x +\n", "the solution does not compile: line 1"),
        ("        y = 1\n", "        y = \n", "the stub does not compile: line 1"),
        ("# 2. Use", "# 3. Use", "line 9: hint 3, expected 2"),
        ("# 1. Look", "# Look", "line 7: expected a hint such as '# 1. …'"),
        ("# formulas", "formulas", "line 10: expected a hint such as '# 1. …'"),
        ('"""A title.\n\nWhat is asked.\n"""', "pass", "line 1: expected a docstring"),
    ],
)
def test_malformed(old, new, message):
    assert TEXT.count(old) >= 1
    text = TEXT.replace(old, new, 1)
    with pytest.raises(InputError, match=message):
        [f(text) for f in (markers.stub, markers.solution, markers.hints, markers.task)]


def test_a_text_without_a_solution():
    with pytest.raises(InputError, match="there is no ### BEGIN SOLUTION"):
        markers.stub("x = 1\n")
    with pytest.raises(InputError, match="right after the TODO, found the end"):
        markers.stub(TEXT + "### TODO: more\n")
