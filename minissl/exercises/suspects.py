"""Right and wrong implementations, for the exercises that ask for a test: each a small change of a solved exercise.

The hint of a wrong one says when its bug shows, not where it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from minissl.errors import InputError
from minissl.exercises import markers

SOURCE = Path(__file__).parent / "source"


class Suspect(NamedTuple):
    """A change of the base text, in which each `old` occurs once."""

    hint: str
    changes: tuple[tuple[str, str], ...]


class Suspects(NamedTuple):
    """A solved exercise, its wrong variants, and right ones that are written in another way."""

    file: str
    functions: tuple[str, str]
    bugs: tuple[Suspect, ...]
    rewrites: tuple[Suspect, ...]

    @property
    def base(self) -> str:
        """The solved exercise, which is the first right implementation."""
        return markers.solution((SOURCE / self.file).read_text(encoding="utf-8"))

    def right(self) -> list[tuple[str, str]]:
        """(how it is written, source) of every right implementation."""
        return [("the usual formula", self.base), *((s.hint, self._changed(s)) for s in self.rewrites)]

    def wrong(self) -> list[tuple[str, str]]:
        """(hint, source) of every wrong implementation."""
        return [(suspect.hint, self._changed(suspect)) for suspect in self.bugs]

    def _changed(self, suspect: Suspect) -> str:
        text = self.base
        for old, new in suspect.changes:
            if text.count(old) != 1:
                raise InputError(f"suspect {suspect.hint!r}: {old!r} occurs {text.count(old)} times in {self.file}")
            text = text.replace(old, new)
        return text


def bug(hint: str, old: str, new: str) -> Suspect:
    """Make a suspect of one change."""
    return Suspect(hint, ((old, new),))


# fmt: off
LAYER_NORM = Suspects(
    "08_layer_norm.py",
    ("layer_norm_forward", "layer_norm_backward"),
    (
        bug("dx, on any x: one input also moves the mean of its row", " - mean_part", ""),
        bug("dx, on any x: one input also moves the variance of its row", " - variance_part", ""),
        bug("dx, only where the gain is not 1: it is forgotten", "dnormed = dy * gain", "dnormed = dy"),
        bug("dx, only where the entries of the gain differ",
            "dx = inv_std * (dnormed - mean_part - variance_part)",
            "dx = gain * inv_std * (dy - dy.mean(axis=-1, keepdims=True)"
            " - normed * (dy * normed).mean(axis=-1, keepdims=True))"),
        bug("dx, only where the rows of x have a standard deviation other than 1", "dx = inv_std * (", "dx = ("),
        bug("dx, only with more than one row: rows must not know of each other",
            "dnormed.mean(axis=-1, keepdims=True)", "dnormed.mean(axis=0, keepdims=True)"),
        bug("dgain, only where the gain is not 1", "(dy * normed).sum", "(dnormed * normed).sum"),
        bug("dbias, only with more than one row: what is used often collects a sum",
            "dy.sum(axis=leading)", "dy.mean(axis=leading)"),
        bug("dgain and dbias, only with two leading axes or more: look at the shapes",
            "tuple(range(dy.ndim - 1))", "0"),
        bug("y, only where eps is not tiny: it belongs under the root",
            "1 / np.sqrt(variance + eps)", "1 / (np.sqrt(variance) + eps)"),
        bug("y: is the variance over D or over D - 1? A numerical gradient of the same y cannot tell",
            "(centred * centred).mean(axis=-1, keepdims=True)",
            "(centred * centred).sum(axis=-1, keepdims=True) / (x.shape[-1] - 1)"),
        bug("backward, only when it is called again: something was changed in place",
            "(dy * normed).sum", "np.multiply(dy, normed, out=normed).sum"),
    ),
    (
        Suspect("with a single division at the end of dx", ((
            "dx = inv_std * (dnormed - mean_part - variance_part)",
            "D = dy.shape[-1]\n"
            "    row, along = dnormed.sum(axis=-1, keepdims=True), (dnormed * normed).sum(axis=-1, keepdims=True)\n"
            "    dx = (D * dnormed - row - normed * along) * (inv_std / D)"),)),
        Suspect("the variance as mean of squares less square of mean, sums as products", (
            ("(centred * centred).mean(axis=-1, keepdims=True)",
             "(x * x).mean(axis=-1, keepdims=True) - x.mean(axis=-1, keepdims=True) ** 2"),
            ("return dx, (dy * normed).sum(axis=leading), dy.sum(axis=leading)",
             "rows, n = dy.reshape(-1, dy.shape[-1]), normed.reshape(-1, dy.shape[-1])\n"
             "    return dx, np.einsum('rd,rd->d', rows, n), np.ones(len(rows)) @ rows"),
            ("    leading = tuple(range(dy.ndim - 1))\n", ""))),
    ),
)

ATTENTION = Suspects(
    "10_attention.py",
    ("attention_forward", "attention_backward"),
    (
        Suspect("y: the scores are too large. A numerical gradient of the same y cannot tell", (
            ("k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])", "k.swapaxes(-1, -2)"),
            ("dscores = dscores / math.sqrt(q.shape[-1])", "dscores = dscores + 0"))),
        bug("dq and dk, on any input: a factor is missing",
            "dscores = dscores / math.sqrt(q.shape[-1])", "dscores = dscores + 0"),
        bug("y, with any mask: True means may attend",
            "np.where(mask, scores, -math.inf)", "np.where(mask, -math.inf, scores)"),
        bug("y, with any mask: a score of 0 is not a weight of 0",
            "np.where(mask, scores, -math.inf)", "scores * mask"),
        bug("y, only where a query may attend to nothing",
            "np.where(mask, scores, -math.inf)", "np.where(mask, scores, -1e9)"),
        bug("y, only where the texts of a batch have different masks",
            "np.where(mask, scores", "np.where(mask[:1], scores"),
        bug("y, with more than one query: the maximum is not its own row's",
            "scores.max(axis=-1, keepdims=True)", "scores.max(axis=-2, keepdims=True)"),
        bug("y, only with large scores: exp overflows", "highest > -math.inf, highest, 0", "highest > -math.inf, 0, 0"),
        Suspect("y: the weights of a query do not sum to 1. A numerical gradient of the same y cannot tell", (
            ("total = e.sum(axis=-1, keepdims=True)", "total = e.sum(axis=-2, keepdims=True)"),
            ("(weights * dweights).sum(axis=-1, keepdims=True)", "(weights * dweights).sum(axis=-2, keepdims=True)"))),
        bug("dk: look at its shape", "dscores.swapaxes(-1, -2) @ q", "q.swapaxes(-1, -2) @ dscores"),
        bug("dq and dk, on any input: one score moves all the weights of its row",
            "weights * (dweights - (weights * dweights).sum(axis=-1, keepdims=True))", "weights * dweights"),
        bug("backward, only when it is called again: something was changed in place",
            "dscores = weights * (dweights - (weights * dweights).sum(axis=-1, keepdims=True))",
            "dweights -= (weights * dweights).sum(axis=-1, keepdims=True)\n"
            "    dscores = np.multiply(weights, dweights, out=weights)"),
    ),
    (
        Suspect("with q scaled first, and einsum", (
            ("q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])",
             "np.einsum('...tk,...sk->...ts', q / math.sqrt(q.shape[-1]), k)"),
            ("dweights = dy @ v.swapaxes(-1, -2)", "dweights = np.einsum('...tk,...sk->...ts', dy, v)"))),
        Suspect("with the division after the product, and the row's sum from y", (
            ("weights = e / np.where(total > 0, total, 1)", "total = np.where(total > 0, total, 1)"),
            ("return weights @ v, (q, k, v, weights)", "return e @ v / total, (q, k, v, e / total)"),
            ("(weights * dweights).sum(axis=-1, keepdims=True)", "(dy * (weights @ v)).sum(axis=-1, keepdims=True)"))),
    ),
)
# fmt: on
