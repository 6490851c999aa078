"""Accuracies by the number of labels, said and kept: what both recipes of label efficiency, of texts and images, do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minissl.files import write_json

Scores = dict[str, dict[str, list[float]]]  # name -> number of labels -> one accuracy for each seed


def said(scores: Scores, count: int) -> str:
    """In words: the mean and the spread over the seeds, for each name."""

    def one(name: str) -> str:
        found = scores[name][str(count)]
        spread = f" ± {np.std(found, ddof=1):.1%}" if len(found) > 1 else ""
        return f"{name} {np.mean(found):.1%}{spread}"

    return "; ".join(map(one, scores))


def keep(found: dict[str, Any], numbers: Sequence[int], out: Path, picture: str, json: str, what: str) -> None:
    """Write what was found as JSON, and its figure, into the folder `out`; `what` is labelled."""
    from minissl.plots.finetuning import Curve, plot_label_efficiency

    out.mkdir(parents=True, exist_ok=True)
    curves = [Curve(name, numbers, [of[str(n)] for n in numbers]) for name, of in found["accuracy"].items()]
    title = f"{found['data']}: accuracy by the number of labels"
    plot_label_efficiency(curves, found["majority"], title, out / picture, what)
    write_json(out / json, found)
