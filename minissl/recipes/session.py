"""What every pre-training run does around its model: check options, begin or go on, show progress, come to an end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from minissl.backend import Array
from minissl.errors import InputError
from minissl.training.loop import Interrupted, train
from minissl.training.processes import all_or_none, find_processes
from minissl.training.run_folder import METRICS, SETTINGS, Checkpoint, FolderOfAnother, RunFolder
from minissl.training.trainer import Batch, StepRecord, Trainer, TrainingOptions
from minissl.workers import available_cores

CURVE_POINTS = 12  # how often in a run the held-out loss is measured for the curve


def require_types(options: Any) -> None:
    """Raise InputError for a field of another type than its default, as a settings file may hold."""
    for f in fields(options):
        value = getattr(options, f.name)
        if type(value) is not type(f.default) and not (type(value) is int and isinstance(f.default, float)):
            raise InputError(f"{f.name} is {value!r}, expected something like {f.default!r}")


def not_settings(folder: RunFolder, error: Exception) -> InputError:
    """The error for a run's settings that are none."""
    return InputError(f"{folder.path}/{SETTINGS}: not the settings of this version of minissl ({error})")


@contextmanager
def trainer_of(
    model: Any, options: TrainingOptions, folder: RunFolder, checkpoint: Checkpoint | None
) -> Iterator[Trainer]:
    """A trainer that begins, or goes on after the checkpoint; Ctrl-C within the block says how to go on."""
    processes = find_processes()
    trainer = Trainer(model, options, processes=processes)
    try:
        with all_or_none(processes):
            if checkpoint is not None:
                trainer.load_state(checkpoint.state, checkpoint.step)
        trainer.start_alike()
        yield trainer
    except KeyboardInterrupt:  # after the last step, or for the second time
        raise Interrupted(f"interrupted; {folder.go_on}") from None
    finally:
        trainer.close()


def new_folder(path: Path, settings: dict[str, Any]) -> RunFolder:
    """Make a run's folder; of several processes the first one does. Raises InputError where something is there."""
    processes = find_processes()
    _take_gpu(settings)
    path = Path(processes.texts(str(path))[0])  # the first free name may have been taken, by the first process, by now
    with all_or_none(processes):
        return RunFolder.create(path, settings) if processes.rank == 0 else FolderOfAnother(path, settings)


def open_folder(path: Path) -> RunFolder:
    """Open a run's folder to go on in it. Raises InputError where it is none, or the run is complete."""
    processes = find_processes()
    with all_or_none(processes):
        folder = (RunFolder if processes.rank == 0 else FolderOfAnother).open(path)
        if folder.complete:
            raise InputError(f"{path}: this run is complete (it has its {METRICS}); start another with a new --out")
    _take_gpu(folder.settings)
    return folder


def _take_gpu(settings: dict[str, Any]) -> None:
    """Where a run is on a GPU, give each process its own. Settings that are none are refused by who reads them."""
    options = settings.get("options")
    if isinstance(options, dict) and options.get("device") == "cuda":
        find_processes().take_gpu()


def default_threads() -> int:
    """One for each core that this process has for itself: several processes of one machine share its cores."""
    return max(1, available_cores() // find_processes().neighbours)


def threads_for(threads: int, batch_size: int, device: str) -> int:
    """How many threads of each process share a step; every one takes a row or more, and a device needs only one.

    Raises InputError where there are fewer rows than processes.
    """
    rows = batch_size // find_processes().size
    if not rows:
        raise InputError(f"--batch-size {batch_size}: of {find_processes().size} processes some have no row")
    return min(threads or default_threads(), rows) if device == "cpu" else 1


def sum_over(trainer: Trainer, work: Callable[[int], Array], count: int) -> Array:
    """work(0) + … + work(count-1), done by the threads of every process."""
    mine = range(trainer.processes.rank, count, trainer.processes.size)
    done = trainer.workers.map(lambda i: work(mine[i]), len(mine))
    return trainer.processes.sum(np.sum(done, axis=0) if done else 0 * work(0))


def begun(trainer: Trainer) -> str:
    """In words: where the run stands, and on how many threads and processes."""
    where = f"going on after step {trainer.step}" if trainer.step else "from the beginning"
    processes = f" in each of {trainer.processes.size} processes" if trainer.processes.size > 1 else ""
    precision = trainer.options.precision
    products = "" if precision == "float32" else f", products in {precision}"
    return f"{where}, {trainer.options.threads} thread(s){processes}{products}"


def train_with_progress(
    trainer: Trainer, micro_batches: Callable[[int], list[Batch]], folder: RunFolder, *, began: float, save_every: int,
    describe: Callable[[dict[str, float]], str], heldout: Callable[[], dict[str, Any]],
) -> None:  # fmt: skip
    """`train` with a progress bar: `describe` puts the smoothed losses beside their landmarks.

    What `heldout` measures, some CURVE_POINTS times in a run, is logged as `heldout_NAME`.
    """
    from tqdm import tqdm

    steps = trainer.options.steps
    every = max(1, steps // CURVE_POINTS)
    smooth: dict[str, float] = {}

    quiet = trainer.processes.rank > 0
    with tqdm(
        total=steps, initial=trainer.step, unit="step", mininterval=0.5, dynamic_ncols=True, disable=quiet
    ) as bar:

        def on_step(record: StepRecord) -> dict[str, Any]:
            for name, loss in record.losses.items():
                smooth[name] = loss + 0.95 * (smooth.get(name, loss) - loss)
            bar.set_description(describe(smooth), refresh=False)
            bar.update()
            return {} if record.step % every else {f"heldout_{k}": v for k, v in heldout().items()}

        train(trainer, micro_batches, folder, began=began, save_every=save_every, on_step=on_step)


def peak_memory_mb() -> float | None:
    """The most memory this process has held so far, in MB (10⁶ bytes); None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak * (1 if sys.platform == "darwin" else 1024) / 1e6, 1)


def shared_work(trainer: Trainer, began: float) -> dict[str, Any]:
    """Of several processes: how many they are, and the share of the time in which one waited for the others."""
    processes = trainer.processes
    if processes.size == 1:
        return {}
    waited = float(processes.sum(np.array([trainer.waited]))[0]) / processes.size
    return {"processes": processes.size, "waiting_share": round(waited / (time.perf_counter() - began), 4)}


def last_line(metrics: dict[str, Any], folder: Path) -> str:
    """The end of a report: how long, how much memory, where everything is."""
    memory = "" if metrics["peak_memory_mb"] is None else f", {metrics['peak_memory_mb']:.0f} MB at most"
    if "processes" in metrics:
        memory += f"; {metrics['processes']} processes, {metrics['waiting_share']:.1%} of the time spent waiting"
    return f"{metrics['seconds']:.0f} s{memory}; everything is in {folder}"
