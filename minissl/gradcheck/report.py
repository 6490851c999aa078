"""What a check found, as data and as a table to read."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minissl.backend import Array
from minissl.gradcheck.kinds import NOTES

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Finding:
    """One thing that was seen. `argument` names the input or parameter; it is empty where the pair as a whole is meant.

    `index` is where in the argument it shows first or most, None where it is not at one place. `details` holds the
    numbers behind the message, such as the factor of a `scale`. The kinds are explained in `minissl.gradcheck.kinds`.
    """

    kind: str
    argument: str
    index: tuple[int, ...] | None
    message: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ArgumentReport:
    """How one argument's gradient compares with the numerical one.

    `index` is where they differ most (None: along a random direction over the whole argument), with the two values
    there in `got` and `expected`. `numerical` is NaN wherever no difference was taken.
    """

    name: str
    shape: tuple[int, ...]
    relative_error: float
    cosine: float
    index: tuple[int, ...] | None
    got: float
    expected: float
    gradient: Array = field(repr=False)
    numerical: Array = field(repr=False)


@dataclass(frozen=True)
class Report:
    """One record per argument, and what is wrong. Ask `ok`: a report as such is always true."""

    arguments: dict[str, ArgumentReport]
    findings: list[Finding]
    tolerance: float

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong and the check could have failed. Notes (a kink, float32 noise) are no error."""
        return all(finding.kind in NOTES for finding in self.findings)

    @property
    def relative_error(self) -> float:
        """The worst over all arguments; infinite for a wrong shape or a value that is not finite."""
        return max((a.relative_error for a in self.arguments.values()), default=math.nan)

    def plot(self, path: str | Path | None = None, argument: str | None = None) -> Figure:
        """Draw the error over the argument's axes, of the one that is wrong most unless `argument` names another.

        Returns the figure; with `path`, writes it there as a PNG too. Raises InputError for an unknown argument.
        """
        from minissl.plots.gradcheck import plot_report  # here: plots is a room above, and Matplotlib loads slowly

        return plot_report(self, path, argument)

    def __str__(self) -> str:
        """Lay the arguments out as a table, then say what is wrong."""
        rows: list[tuple[str, ...]] = [("argument", "shape", "rel. error", "cosine", "worst at", "got", "expected")]
        rows += [_row(a) for a in self.arguments.values()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines += [f"{f.kind}: {f.message}" for f in self.findings]
        verdict = "ok" if self.ok else "FAILED"
        lines.append(f"{verdict}: worst relative error {self.relative_error:.1e}, tolerance {self.tolerance:g}")
        return "\n".join(lines)


def _row(a: ArgumentReport) -> tuple[str, ...]:
    index = "direction" if a.index is None else str(a.index)
    got, expected = f"{a.got:.6g}", f"{a.expected:.6g}"
    return a.name, str(a.shape), f"{a.relative_error:.1e}", f"{a.cosine:.6f}", index, got, expected
