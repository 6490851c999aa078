"""All exercises: their texts are the files of `source/`, their graders are named here."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Callable
from functools import cache
from pathlib import Path

from minissl.errors import InputError
from minissl.exercises import graders_pairs as pairs
from minissl.exercises import graders_patches as patches
from minissl.exercises import graders_random as draws
from minissl.exercises import graders_values as values
from minissl.exercises.exercise import Exercise, Student, Verdict
from minissl.exercises.graders_adamw import grade_adamw
from minissl.exercises.graders_tests import grade_test
from minissl.exercises.suspects import ATTENTION, LAYER_NORM

SOURCE = Path(__file__).parent / "source"

GRADERS: dict[str, Callable[[Student], Verdict]] = {
    "numerical_derivative": values.grade_numerical_derivative,
    "linear": pairs.grade_op("linear"),
    "broadcasting_sums": values.grade_broadcasting_sums,
    "gelu": pairs.grade_op("gelu", pairs.gelu_slips),
    "softmax": pairs.grade_op("softmax", pairs.softmax_slips),
    "masked_cross_entropy": values.grade_masked_cross_entropy,
    "embedding": pairs.grade_op("embedding"),
    "layer_norm": pairs.grade_op("layer_norm", pairs.layer_norm_slips),
    "dropout": draws.grade_dropout,
    "attention": pairs.grade_op("attention", pairs.attention_slips),
    "masks": values.grade_masks,
    "heads": values.grade_heads,
    "residuals": pairs.grade_pair(
        "residual", pairs.residual_forward, pairs.residual_backward, pairs.residual_cases(), pairs.residual_slips
    ),
    "tied_weights": pairs.grade_pair(
        "tied", pairs.tied_forward, pairs.tied_backward, pairs.tied_cases(), pairs.tied_slips
    ),
    "mlm_corruption": draws.grade_mlm_corruption,
    "adamw": grade_adamw,
    "test_layer_norm": grade_test("test_layer_norm", LAYER_NORM),
    "test_attention": grade_test("test_attention", ATTENTION),
    "patchify": pairs.grade_op("patchify", patches.patchify_slips),
    "restoring_order": patches.grade_restoring_order,
    "masked_patch_loss": patches.grade_masked_patch_loss,
    "position_table": patches.grade_position_table,
}


@cache
def exercises() -> list[Exercise]:
    """Return all exercises in order."""
    return [_read(path) for path in sorted(SOURCE.glob("[0-9]*.py"))]


def exercise(name_or_number: str | int) -> Exercise:
    """Return one exercise: `softmax`, `5`, `05_softmax`, `05_softmax.py` and a path to that all mean the same.

    Raises InputError for any other name, with those that come near.
    """
    wanted = Path(str(name_or_number).strip()).name.removesuffix(".py").replace("-", "_").lower()
    for e in exercises():
        if wanted in (e.name, str(e.number), f"{e.number:02d}", f"{e.number:02d}_{e.name}"):
            return e
    names = [e.name for e in exercises()]
    near = difflib.get_close_matches(wanted, names) or [name for name in names if wanted and wanted in name]
    known = f"did you mean {' or '.join(near)}?" if near else f"expected 1 … {len(names)} or one of {', '.join(names)}"
    raise InputError(f"there is no exercise {str(name_or_number)!r}; {known}")


def _read(path: Path) -> Exercise:
    text = path.read_text(encoding="utf-8")
    number, _, name = path.stem.partition("_")
    heading = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    return Exercise(int(number), name, heading.partition(". ")[2], text, GRADERS[name])
