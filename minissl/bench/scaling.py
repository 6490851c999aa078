"""How BERT's training step, and evaluation, gain from further cores: minissl beside PyTorch on 1, 2, … threads."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from typing import Any, NamedTuple

from threadpoolctl import ThreadpoolController

from minissl.bench import inference, step
from minissl.bench.conditions import Conditions, Watch, cautions
from minissl.bench.turns import check_options, hold_torch, import_torch, times_in_turn
from minissl.errors import InputError
from minissl.models.bert import PRESETS, BertConfig, BertForPreTraining

SIDES = ("minissl", "PyTorch")


class Scaling(NamedTuple):
    """Seconds in every round, by side and number of threads."""

    what: str
    preset: str
    batch: str
    threads: list[int]
    agreed: str
    times: dict[str, dict[str, list[float]]]
    conditions: Conditions

    def speed_up(self, side: str) -> list[float]:
        """How many times as fast as on the first number of threads: the median of all rounds."""
        first, *_ = of_side = list(self.times[side].values())
        return [statistics.median(a / b for a, b in zip(first, times, strict=True)) for times in of_side]


def measure_step(preset: str, threads: Sequence[int], rounds: int) -> Scaling:
    """Time the step and an expert's on PyTorch, all numbers of threads in turn.

    Raises InputError as `check_threads` does, where PyTorch is missing, or where the two compute different losses.
    """
    check_threads(preset, threads, rounds)
    torch, transformers = import_torch(threads[0])
    watch = Watch()
    config = BertConfig(**PRESETS[preset])
    model = BertForPreTraining(config)
    batch = step.bert_batch(config, *step.SHAPES[preset])
    loss = float(model(**batch).loss)
    expected, theirs = step.rival(torch, transformers, model, batch, step.expert_loss)
    step.check_loss(loss, expected, "expert")
    with ExitStack() as stack:
        runs: dict[str, dict[int, Callable[[], Any]]] = {side: {} for side in SIDES}
        for number in threads:  # a trainer moves its model's weights into a buffer of its own
            mine = step.training_step(BertForPreTraining(config), batch, number)
            runs["minissl"][number] = stack.enter_context(closing(mine))
            runs["PyTorch"][number] = _on_threads(torch, number, theirs)
        times = _times(torch, runs, rounds, watch)
    rows, length = step.SHAPES[preset]
    what, agreed = "BERT training step beside an expert's", f"both losses {loss:.4f}"
    return Scaling(what, preset, f"{rows} × {length}", list(threads), agreed, times, watch.conditions)


def measure_evaluation(preset: str, threads: Sequence[int], rounds: int) -> Scaling:
    """As `measure_step`, of `BertModel` in evaluation."""
    check_threads(preset, threads, rounds)
    torch, transformers = import_torch(threads[0])
    watch = Watch()
    model, batch = inference.model_and_batch(preset)
    theirs = inference.torch_run(torch, transformers, model, batch, "sdpa")
    blas = ThreadpoolController().select(user_api="blas")  # minissl works on as many threads as BLAS has

    def evaluate(number: int) -> Any:
        with blas.limit(limits=number):
            return model(**batch).last_hidden_state

    runs: dict[str, dict[int, Callable[[], Any]]] = {
        "minissl": {number: lambda number=number: evaluate(number) for number in threads},  # type: ignore[misc]
        "PyTorch": {number: _on_threads(torch, number, theirs) for number in threads},
    }
    named = {f"{side}, {number} thread(s)": run for side in SIDES for number, run in runs[side].items()}
    agreed = inference.check_outputs(named, f"PyTorch, {threads[0]} thread(s)")
    rows, length = inference.SHAPES[preset]
    times = _times(torch, runs, rounds, watch)
    return Scaling(
        "BertModel, evaluation",
        preset,
        f"{rows} × {length}",
        list(threads),
        agreed,
        times,
        watch.conditions,
    )


def check_threads(preset: str, threads: Sequence[int], rounds: int) -> None:
    """Raise InputError for numbers of threads that cannot be compared."""
    for number in threads:
        check_options(preset, PRESETS, rounds, number)
    if min(threads) < 1 or len(set(threads)) < len(threads):
        raise InputError(
            f"--threads {','.join(map(str, threads))}: expected different numbers of 1 or more, such as 1,2"
        )


def shown(found: Scaling) -> str:
    """The table of a comparison: medians, the speed-up over the first number of threads, and minissl's share."""
    lines = [f"{found.what}, preset {found.preset}, batch {found.batch}, by threads, float32; {found.agreed}"]
    lines.append("threads " + "".join(f"{side + ' (speed-up)':>24}" for side in SIDES) + f"{'minissl / PyTorch':>20}")
    gains = [found.speed_up(side) for side in SIDES]
    for number, *of_sides in zip(found.threads, *gains, strict=True):
        mine, theirs = (found.times[side][str(number)] for side in SIDES)
        cells = [
            f"{statistics.median(t) * 1e3:.1f} ms ({gain:.2f} ×)"
            for t, gain in zip((mine, theirs), of_sides, strict=True)
        ]
        ratio = statistics.median(a / b for a, b in zip(mine, theirs, strict=True))
        lines.append(f"{number:>7} " + "".join(f"{cell:>24}" for cell in cells) + f"{ratio:>20.2f}")
    return "\n".join([*lines, *found.conditions.lines(), *cautions(found.conditions, max(found.threads))])


def _on_threads(torch: Any, threads: int, run: Callable[[], Any]) -> Callable[[], Any]:
    """The run with PyTorch held to so many threads."""

    def held() -> Any:
        hold_torch(torch, threads)
        return run()

    return held


def _times(
    torch: Any, runs: dict[str, dict[int, Callable[[], Any]]], rounds: int, watch: Watch
) -> dict[str, dict[str, list[float]]]:
    """Seconds of all sides and numbers in turn, in one run. PyTorch's threads are there before its time begins."""
    flat = {f"{side} {number}": run for side, of_side in runs.items() for number, run in of_side.items()}
    some = torch.ones(2**20)  # a sum of so many is shared among the threads
    prepare = {f"PyTorch {number}": _on_threads(torch, number, some.sum) for number in runs["PyTorch"]}
    times = times_in_turn(flat, rounds, watch=watch, prepare=prepare)
    return {side: {str(n): times[f"{side} {n}"] for n in of_side} for side, of_side in runs.items()}
