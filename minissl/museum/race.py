"""`minissl museum race`: train wrong beside right, from the same weights on the same data, and draw both."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from minissl.errors import InputError
from minissl.files import write_json
from minissl.museum.exhibit import Exhibit
from minissl.museum.tasks import Setting, Task, make_task
from minissl.training.trainer import Trainer, TrainingOptions

MEASUREMENTS = 20  # of the held-out loss in a race
IMPOSSIBLE = 0.1  # this far below the exact floor no predictor gets by luck
SHARES = (  # of what there was to learn, lost by the wrong one
    (0.04, "training seems to work, nothing shows"),
    (0.25, "training seems to work, a little worse than it could"),
    (0.8, "it learns, but much less"),
    (math.inf, "it does not learn"),
)


@dataclass
class Curve:
    """One side of a race: the held-out loss, what the program itself reported, and why it stopped, if it did."""

    steps: list[int] = field(default_factory=list)
    heldout: list[float] = field(default_factory=list)
    reported: list[float] = field(default_factory=list)
    stopped: str = ""

    @property
    def result(self) -> float:
        """The last held-out loss; NaN where there is none."""
        return self.heldout[-1] if self.heldout else math.nan

    @property
    def last_reported(self) -> float:
        """The mean of the last tenth of the losses that the program reported."""
        last = self.reported[-max(1, len(self.reported) // 10) :]
        return float(np.mean(last)) if last else math.nan


def race(
    exhibit: Exhibit, out: Path, say: Callable[[str], None], steps: int | None = None, seed: int = 0
) -> dict[str, Any]:
    """Train both sides, write `NAME.png` and `NAME.json` into `out`, and say in words what one would have seen.

    Raises InputError for a number of steps below 1 or a seed below 0.
    """
    from minissl.plots.race import plot_race

    setting = Setting(**exhibit.setting)
    setting = setting if steps is None else replace(setting, steps=steps)
    if setting.steps < 1:
        raise InputError(f"--steps {setting.steps}: expected 1 or more")
    if seed < 0:
        raise InputError(f"--seed {seed}: expected 0 or more")
    task = make_task(setting, seed)
    right = run(task, setting, seed)
    if right.stopped:
        raise InputError(f"{exhibit.name}: the right one stops too, at {right.stopped}")
    with exhibit.installed():
        wrong = run(task, setting, seed)
    finding = in_words(right, wrong, task)
    words = f"{in_numbers(right, wrong, task, setting.steps)}: {finding}"
    result = {
        "name": exhibit.name, "seed": seed, "setting": asdict(setting), "metric": task.metric,
        "landmarks": task.landmarks, "right": asdict(right), "wrong": asdict(wrong), "finding": words,
    }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / f"{exhibit.name}.json", finite(result))
    sides = asdict(right), asdict(wrong)
    plot_race(exhibit.story, finding, task.metric, task.landmarks, *sides, out / f"{exhibit.name}.png")
    say(words)
    say(f"{out / exhibit.name}.png and .json are written")
    return result


def run(task: Task, setting: Setting, seed: int) -> Curve:
    """Train the task's model and measure it on the way; whatever stops it is noted."""
    curve, model = Curve(), task.model()
    options = TrainingOptions(setting.steps, setting.learning_rate, threads=setting.threads, seed=seed)
    trainer = Trainer(model, options)
    every = max(1, setting.steps // MEASUREMENTS)
    try:
        with np.errstate(all="ignore"):
            for step in range(1, setting.steps + 1):
                first = (step - 1) * setting.accumulate + 1
                record = trainer.train_step([task.batch(first + i) for i in range(setting.accumulate)])
                curve.reported.append(record.losses[task.metric])
                if step % every == 0 or step == 1:
                    curve.steps.append(step)
                    curve.heldout.append(task.heldout_loss(model))
                if setting.resume and step == setting.steps // 2:
                    trainer = _resumed(trainer, options)
    except Exception as error:
        curve.stopped = f"step {len(curve.reported) + 1}: {_one_line(error)}"
    finally:
        trainer.close()
    return curve


def _resumed(trainer: Trainer, options: TrainingOptions) -> Trainer:
    """Go on as a new process would: from the state alone."""
    state = {name: array.copy() for name, array in trainer.state().items()}
    trainer.close()
    new = Trainer(trainer.model, options)
    new.load_state(state, trainer.step)
    return new


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if len(text) < 200 else f"{type(error).__name__}: {text[:200]}…"


def in_numbers(right: Curve, wrong: Curve, task: Task, steps: int) -> str:
    """Say where both sides ended."""
    unit = "" if task.metric == "mse" else " nats"
    beside = f", wrong {wrong.result:.2f}" if math.isfinite(wrong.result) and not wrong.stopped else ""
    return f"right {right.result:.2f}{beside}{unit} on held-out data after {steps} steps"


def in_words(right: Curve, wrong: Curve, task: Task) -> str:
    """Say what somebody who trains with the wrong one would have seen."""
    if wrong.stopped:
        return f"the wrong one stops at {wrong.stopped}"
    if not math.isfinite(wrong.result):
        return "the wrong one's loss is no longer a number"
    marks = task.landmarks
    begun = marks.get("unigram", marks.get("chance", marks.get("guessing 0", 0.0)))
    lost = (wrong.result - right.result) / max(begun - right.result, 1e-9)  # share of what there was to learn
    said = next(words for limit, words in SHARES if lost < limit)
    floor = marks.get("exact floor", 0.0)
    if wrong.last_reported < floor - IMPOSSIBLE:
        said += f"; by its own report {wrong.last_reported:.2f}, below the exact floor, so it measures something else"
    elif abs(wrong.last_reported - wrong.result) > abs(right.last_reported - right.result) + 2 * IMPOSSIBLE:
        said += f"; by its own report {wrong.last_reported:.2f}"
    return said


def finite(value: Any) -> Any:
    """Replace what JSON cannot hold, NaN and infinity, by None."""
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
