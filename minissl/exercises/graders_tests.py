"""The exercises whose answer is a test: it is run on right and on wrong implementations."""

from __future__ import annotations

import math
from collections.abc import Callable

from minissl.exercises.exercise import Student, Verdict
from minissl.exercises.suspects import Suspects

BAR = 0.8  # the share of wrong implementations that a test has to find


def grade_test(name: str, suspects: Suspects) -> Callable[[Student], Verdict]:
    """Grade the test `name`: no right pair refused, BAR of the wrong ones found. The score is the share found."""

    def grade(student: Student) -> Verdict:
        for variant, source in suspects.right():
            failure = student.test(name, source, suspects.functions)
            if failure is not None:
                lines = [f"✗ right pairs: your test refuses a right one ({variant}): {failure}"]
                return Verdict(False, lines, 0.0)
        lines = [f"✓ right pairs: all {len(suspects.right())} pass, however they are written"]
        wrong = suspects.wrong()
        missed = [hint for hint, source in wrong if student.test(name, source, suspects.functions) is None]
        found, needed = len(wrong) - len(missed), math.ceil(BAR * len(wrong))
        passed = found >= needed
        lines.append(f"{'✓' if passed else '✗'} wrong pairs: {found} of {len(wrong)} found, {needed} needed")
        lines += [f"  not found: {hint}" for hint in missed]
        return Verdict(passed, lines, found / len(wrong))

    return grade
