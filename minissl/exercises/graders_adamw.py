"""The exercise about AdamW: one update, compared with the library's and with those of the usual slips."""

from __future__ import annotations

import numpy as np

from minissl.backend import Array
from minissl.exercises.exercise import Student
from minissl.exercises.graders import Result, Steps, compare, graded, in_case, looks_like
from minissl.training.adamw import AdamW, adamw_update


@graded
def grade_adamw(student: Student, steps: Steps) -> None:
    """Several steps t, moments that have begun already, other settings, one and two axes."""
    adamw_step = student.function("adamw_step")
    rng = np.random.default_rng(16)
    results: list[Result] = []
    for shape, t, s, dtype in (
        ((5,), 1, AdamW(), "float64"), ((2, 3), 3, AdamW(), "float64"), ((4,), 2, AdamW(0.5, 0.6), "float64"),
        ((3, 4), 7, AdamW(eps=0.5, weight_decay=0.3), "float64"), ((6,), 3, AdamW(weight_decay=0), "float64"),
        ((3, 5), 2, AdamW(), "float32"),
    ):  # fmt: skip
        w, g, m, v = rng.standard_normal((4, *shape)).astype(dtype)
        m, v = (0 * m, 0 * v) if t == 1 else (0.1 * m, v * v)
        given = {"beta1": s.beta1, "beta2": s.beta2, "eps": s.eps, "decay": s.weight_decay}
        case = f"t = {t}, w {shape} {dtype}, lr 0.1, {', '.join(f'{name} {value:g}' for name, value in given.items())}"
        with in_case(case, first=not results):
            returned = adamw_step(w, g, m, v, t, 0.1, **given)
        new_w, new_m, new_v = w.flatten(), m.flatten(), v.flatten()
        adamw_update(new_w, g.flatten(), new_m, new_v, s, lr=0.1, step=t, decay=True)
        expected = tuple(x.reshape(shape) for x in (new_m, new_v, new_w))
        slips = _adamw_slips(w, g, m, v, t, 0.1, **given)
        results.append(Result(case, "adamw_step", ("m", "v", "w"), returned, expected, looks_like(*slips)))
    compare(steps, results)


def _adamw_slips(
    w: Array, g: Array, m: Array, v: Array, t: int, lr: float, beta1: float, beta2: float, eps: float, decay: float
) -> list[tuple[str, str, Array]]:  # fmt: skip
    """What each slip would give."""

    def moments(g: Array) -> tuple[Array, Array]:
        return beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g

    def moved(m: Array, v: Array, c1: float, c2: float) -> Array:
        return lr * (m / c1) / (np.sqrt(v / c2) + eps)

    new_m, new_v = moments(g)
    l2_m, l2_v = moments(g + decay * w)
    c1, c2 = 1 - beta1**t, 1 - beta2**t
    update, shrink = moved(new_m, new_v, c1, c2), lr * decay * w
    coupled = "the decay went into the gradient and so into m and v; AdamW takes lr·λ·w off w itself (decoupled)"
    corrected = "what is returned is corrected; m and v stay uncorrected, only this step's update uses m̂ and v̂"
    correction = "the bias correction is missing: m̂ = m/(1 - β₁ᵗ), v̂ = v/(1 - β₂ᵗ)"
    return [
        ("m", coupled, l2_m), ("v", coupled, l2_v), ("m", corrected, new_m / c1), ("v", corrected, new_v / c2),
        ("m", "β₁ and 1 - β₁ have changed places", beta1 * g + (1 - beta1) * m),
        ("v", "β₂ and 1 - β₂ have changed places", beta2 * g * g + (1 - beta2) * v),
        ("v", "v is the mean of g², here it is that of g", beta2 * v + (1 - beta2) * g),
        ("m", "g comes without its factor 1 - β₁", beta1 * m + g),
        ("v", "g² comes without its factor 1 - β₂", beta2 * v + g * g),
        ("m", "this is the old m", m), ("v", "this is the old v", v), ("w", "this is the old w", w),
        ("w", correction, w - shrink - moved(new_m, new_v, 1, 1)),
        ("w", "only m is corrected; v̂ = v/(1 - β₂ᵗ) too", w - shrink - moved(new_m, new_v, c1, 1)),
        ("w", "only v is corrected; m̂ = m/(1 - β₁ᵗ) too", w - shrink - moved(new_m, new_v, 1, c2)),
        ("w", "the exponent of the correction is t, the number of this step",
         w - shrink - moved(new_m, new_v, 1 - beta1 ** (t + 1), 1 - beta2 ** (t + 1))),
        ("w", "the exponent of the correction is t, the number of this step",
         w - shrink - moved(new_m, new_v, 1 - beta1, 1 - beta2)),
        ("w", coupled, w - moved(l2_m, l2_v, c1, c2)),
        ("w", "the decay is missing: lr·λ·w is taken off too", w - update),
        ("w", "the decay is not multiplied by lr", w - decay * w - update),
        ("w", "the decay has the wrong sign: it shrinks the weights", w + shrink - update),
        ("w", "the update has the wrong sign: against the gradient, downhill", w - shrink + update),
        ("w", "eps stands inside the root: √v̂ + eps, not √(v̂ + eps)",
         w - shrink - lr * (new_m / c1) / np.sqrt(new_v / c2 + eps)),
        ("w", "the root is missing: √v̂ + eps", w - shrink - lr * (new_m / c1) / (new_v / c2 + eps)),
        ("w", "the old m and v are used; the new ones come first", w - shrink - moved(m, v, c1, c2)),
    ]  # fmt: skip
