"""Comparisons with other libraries, as commands: never timed tests."""

from minissl.bench.step import training_step

__all__ = ["training_step"]
