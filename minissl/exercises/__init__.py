"""Exercises that check themselves: a file with one TODO each, graded in the student's own process."""

from minissl.exercises.notebooks import check_here

__all__ = ["check_here"]
