"""`minissl figures`: compute and draw the lessons' figures again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from minissl.errors import InputError

ELSEWHERE = "docs-loss and docs-attention are pictures of a run: `minissl pretrain` draws them in the run's folder"


def figures() -> dict[str, Callable[[Path], None]]:
    """Every figure by name; called with a folder, each writes NAME.png into it."""
    from minissl.plots import lessons, lessons_attention, lessons_images
    from minissl.recipes import ablation, image_ablation

    return (
        lessons.FIGURES | lessons_attention.FIGURES | ablation.FIGURES | lessons_images.FIGURES | image_ablation.FIGURES
    )


def listing() -> str:
    """Name every figure, with what it shows; say where the others come from."""
    every = figures()
    width = max(map(len, every))
    lines = [f"{name:<{width}}  {(draw.__doc__ or '').splitlines()[0]}" for name, draw in every.items()]
    return "\n".join([*lines, ELSEWHERE])


def rebuild(names: Sequence[str], folder: Path, say: Callable[[str], None]) -> None:
    """Draw the figures named, or all of them, into `folder`. The same numbers give the same bytes.

    Raises InputError for a name that no figure has, before anything is drawn.
    """
    every = figures()
    for name in names:
        if name not in every:
            raise InputError(f"no figure {name!r}; there are: {', '.join(every)}; {ELSEWHERE}")
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or every:
        began = time.perf_counter()
        every[name](folder)
        say(f"{folder / name}.png ({time.perf_counter() - began:.1f} s)")
