"""Faster twins for NumPy on one thread."""

from collections.abc import Callable
from typing import Any

TWINS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {}
