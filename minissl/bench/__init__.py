"""Comparisons with other libraries, as commands: never timed tests."""
