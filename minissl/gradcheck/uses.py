"""The derivative of each use of a parameter that a model reads several times, as tied weights are.

A parameter's gradient is the sum over its uses. To tell them apart, it is moved while one of them reads it, and is back
in place for all others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from minissl.backend import Array
from minissl.gradcheck.numerical import STEP, derivative


def uses_of_parameter(param: Any, output: Callable[[], Array], dy: Array) -> Callable[[Array], list[float]]:
    """Return the function of a direction that gives Σ dy · y's derivative along it, read by read of `param.data`.

    `output` computes y. A parameter that cannot be watched gives no uses.
    """

    def run(chosen: int, move: Array | float) -> tuple[Array, int]:
        own, data = param.__class__, param.data
        reads = 0

        class Watched(own):  # type: ignore[misc, valid-type]
            @property
            def data(self) -> Array:
                nonlocal reads
                reads += 1
                return np.asarray(data + move if reads - 1 == chosen else data)

            @data.setter
            def data(self, value: Array) -> None:
                raise TypeError("a model that assigns its parameters cannot be watched")

        param.__class__ = Watched
        try:
            return output(), reads
        finally:
            param.__class__ = own

    def along(direction: Array) -> list[float]:
        try:
            _, count = run(-1, 0.0)
        except TypeError:
            return []

        def at(use: int) -> Callable[[float], Array]:
            return lambda t: run(use, t * direction)[0]

        return [float((dy * derivative(at(use), STEP)).sum()) for use in range(count)]

    return along
