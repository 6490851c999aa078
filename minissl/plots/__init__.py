"""Figures for a lecture slide: one look, the same bytes from the same numbers, nobody's settings changed.

Matplotlib's object interface only. `pyplot` keeps global state and may want a window, so it is never imported.
"""

from __future__ import annotations

import io
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib.style
from matplotlib.figure import Figure

from minissl.files import write_whole

# Blue and red of Petroff's sequence (arXiv:2107.02270): apart in lightness too, so that they survive colour blindness
# and a grey print. Pale is a light tint of the blue.
BLUE, RED, PALE, GREY = "#3f90da", "#bd1f01", "#a9cdf0", "#4d5057"

VIOLET = "#832db6"  # of the same sequence, where three do not suffice

FONT = "DejaVu Sans"  # comes with Matplotlib: the same letters on every machine
STYLE: dict[str, Any] = {
    "font.family": FONT,
    "font.size": 13,
    "axes.titlesize": 15,
    "axes.labelsize": 13,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.dpi": 150,
    "savefig.dpi": "figure",
}


def style() -> AbstractContextManager[None]:
    """Within it, Matplotlib's defaults and `STYLE` hold; afterwards, what the caller had set."""
    return matplotlib.style.context(STYLE, after_reset=True)


def save(figure: Figure, path: str | Path) -> None:
    """Write a PNG, whole or not at all. No date and no version goes in: equal figures are equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_whole(path, buffer.getvalue())
