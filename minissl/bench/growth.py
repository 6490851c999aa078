"""How the time of minissl's training step grows: with the length T, the width D and the batch B."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

from minissl.bench.conditions import Conditions, Watch, cautions
from minissl.bench.step import TrainingStep, bert_batch, training_step
from minissl.bench.turns import as_json, check_rounds, times_in_turn
from minissl.files import write_json
from minissl.models.bert import BertConfig, BertForPreTraining

NUMBERS, PICTURE = "growth.json", "growth.png"


class Setting(NamedTuple):
    """One step: batch × length, width (heads of 64), two layers, a vocabulary of 8,192."""

    B: int = 32
    T: int = 64
    D: int = 128
    threads: int = 1


VALUES = {"T": (32, 64, 128, 256), "D": (64, 128, 256, 512), "B": (8, 16, 32, 64)}
WHAT = {"T": "length T", "D": "width D", "B": "batch B"}


class Growth(NamedTuple):
    """Median milliseconds for each value of one letter, the others as in `Setting`."""

    letter: str
    values: list[int]
    milliseconds: list[float]

    @property
    def doubling(self) -> float:
        """What doubling costs, on average over the values: 2 where time is proportional."""
        steps = len(self.values) - 1
        return float((self.milliseconds[-1] / self.milliseconds[0]) ** (1 / steps)) if steps else 1.0


class Growths(NamedTuple):
    """The growth with each letter."""

    threads: int
    rounds: int
    found: list[Growth]
    conditions: Conditions


def measure(rounds: int, threads: int) -> Growths:
    """Time every setting, the values of one letter in turn. Raises InputError for fewer than one round."""
    threads = check_rounds(rounds, threads)
    watch = Watch()
    found = []
    for letter, values in VALUES.items():
        with ExitStack() as stack:
            settings = {str(value): Setting(threads=threads)._replace(**{letter: value}) for value in values}
            steps = {name: stack.enter_context(closing(_step(setting))) for name, setting in settings.items()}
            times = times_in_turn(steps, rounds, watch=watch)
        found.append(Growth(letter, list(values), [1e3 * statistics.median(times[str(value)]) for value in values]))
    return Growths(threads, rounds, found, watch.conditions)


def shown(growths: Growths) -> str:
    """A line for each letter, and the conditions."""
    lines = []
    for one in growths.found:
        times = ", ".join(f"{v} {ms:.1f} ms" for v, ms in zip(one.values, one.milliseconds, strict=True))
        lines.append(f"{WHAT[one.letter]}: {times}; doubling it: × {one.doubling:.2f}")
    return "\n".join([*lines, *growths.conditions.lines(), *cautions(growths.conditions, growths.threads)])


def record(rounds: int, threads: int, out: Path | None, say: Callable[[str], None]) -> Growths:
    """`measure`, and the numbers with a picture in the folder `out`, where given."""
    check_rounds(rounds, threads)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    growths = measure(rounds, threads)
    say(shown(growths))
    if out is not None:
        from minissl.plots.bench import plot_growth

        write_json(out / NUMBERS, as_json(growths))
        plot_growth({WHAT[one.letter]: (one.values, one.milliseconds) for one in growths.found}, out / PICTURE)
        say(f"{out / NUMBERS}, {out / PICTURE}")
    return growths


def _step(setting: Setting) -> TrainingStep:
    config = BertConfig(
        vocab_size=8192, hidden_size=setting.D, num_hidden_layers=2, num_attention_heads=max(1, setting.D // 64),
        intermediate_size=4 * setting.D,
    )  # fmt: skip
    batch = bert_batch(config, setting.B, setting.T)
    return training_step(BertForPreTraining(config), batch, setting.threads)
