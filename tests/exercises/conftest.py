"""A small catalogue, so that the commands are tested apart from the exercises' content."""

import numpy as np
import pytest

from minissl.exercises.exercise import Exercise, Verdict

DOUBLE = '''"""Twice as much.

Write double(x), twice x.
"""

### BEGIN HINTS
# 1. What is twice
#    a number?
# 2. x + x
### END HINTS


def double(x):
    """Return 2 x."""
    ### TODO: return twice x
    ### BEGIN SOLUTION
    return 2 * x
    ### END SOLUTION
'''


def grade_function(name, factor):
    def grade(student):
        x = np.arange(3.0)
        y = student.function(name)(x)
        if y.tolist() == (factor * x).tolist():
            return Verdict(True, ["✓ value"], 1.0)
        return Verdict(False, ["✓ shape", f"✗ value: {y.tolist()}"], 0.25)

    return grade


@pytest.fixture
def shelf(monkeypatch):
    """Two exercises, double and triple, in place of all others."""
    triple = DOUBLE.replace("double", "triple").replace("2 * x", "3 * x").replace("wice", "hrice")
    found = [
        Exercise(1, "double", "Twice as much", DOUBLE, grade_function("double", 2)),
        Exercise(2, "triple", "Thrice as much", triple, grade_function("triple", 3)),
    ]

    def named(name):
        from minissl.errors import InputError

        for e in found:
            if str(name) in (e.name, str(e.number)):
                return e
        raise InputError(f"there is no exercise {name!r}")

    for module in ("commands", "catalogue"):
        monkeypatch.setattr(f"minissl.exercises.{module}.exercises", lambda: found)
        monkeypatch.setattr(f"minissl.exercises.{module}.exercise", named)
    return found
