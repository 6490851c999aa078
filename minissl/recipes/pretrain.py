"""`minissl pretrain`: from a text to a trained BERT in a run folder, with its landmarks and pictures."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minissl.backend import Array, require_device
from minissl.errors import InputError, require_values
from minissl.files import write_json
from minissl.kernels import op, replace_op
from minissl.models.bert import PRESETS, BertConfig, BertForPreTraining
from minissl.ops import cross_entropy_forward
from minissl.recipes.head_start import head_start
from minissl.recipes.own_ops import (
    OwnOpError,
    OwnOps,
    check_own_ops,
    load_kept_own_ops,
    load_own_ops,
    ops_that_run,
    rehearse,
)
from minissl.recipes.session import (
    begun,
    default_threads,
    last_line,
    new_folder,
    not_settings,
    open_folder,
    peak_memory_mb,
    require_types,
    shared_work,
    sum_over,
    threads_for,
    train_with_progress,
    trainer_of,
)
from minissl.recipes.tasks import Batch, HmmTask, Landmarks, TaskOptions, TextTask, make_task
from minissl.training.adamw import AdamW
from minissl.training.loop import Interrupted, diverged
from minissl.training.processes import all_or_none, find_processes
from minissl.training.run_folder import CHECKPOINT, METRICS, Checkpoint, RunFolder
from minissl.training.trainer import Trainer, TrainingOptions

BUILT_IN = ("docs", "hmm")
CURVE_BATCHES = 4
HELDOUT_ROWS = 2048
HMM_DEFAULTS: dict[str, Any] = {
    "seq_len": 32, "batch_size": 64, "steps": 2800, "learning_rate": 1.5e-3, "short": 0.0, "nsp": False,
}  # fmt: skip


@dataclass(frozen=True)
class PretrainOptions:
    """What `minissl pretrain` can be told. The defaults are its main job: `docs`, on two cores, in three minutes."""

    data: str = "docs"  # several texts stand one on a line
    preset: str = "tiny"
    steps: int = 2300
    seq_len: int = 64
    short: float = 0.2
    batch_size: int = 32
    accumulate: int = 1
    vocab_size: int = 4096
    learning_rate: float = 1e-3
    warmup: float = 0.1
    dropout: float = 0.0  # a run of minutes sees each text too few times to learn it by heart
    nsp: bool = True
    whole_word: bool = False
    bias_correction: bool = True
    seed: int = 0
    threads: int = 0  # 0: one for each core
    save_every: int = 200
    device: str = "cpu"
    precision: str = "float32"

    def __post_init__(self) -> None:
        require_types(self)
        expected: list[tuple[str, bool, str]] = [
            (
                "data",
                all(map(str.strip, self.data.split("\n"))),
                "docs, hmm, or the name of a UTF-8 text file or folder",
            ),
            ("preset", self.preset in PRESETS, f"one of {', '.join(PRESETS)}"),
            ("steps", self.steps >= 1, "1 or more"),
            ("short", 0 <= self.short <= 1, "a share of the steps, 0 to 1"),
            ("batch_size", self.batch_size >= 1, "1 or more"),
            ("accumulate", self.accumulate >= 1, "1 or more"),
            ("seq_len", 8 <= self.seq_len <= 512, "8 to 512 (BERT has 512 positions)"),
            ("vocab_size", self.vocab_size >= 100, "100 or more (5 special tokens and the alphabet come first)"),
            ("learning_rate", 0 < self.learning_rate < math.inf, "a number above 0, such as 1e-3"),
            ("warmup", 0 <= self.warmup <= 1, "a share of the steps, 0 to 1"),
            ("dropout", 0 <= self.dropout < 1, "a share, 0 or more and below 1"),
            ("seed", self.seed >= 0, "0 or more"),
            ("threads", self.threads >= 0, "0 (one for each core) or more"),
            ("save_every", self.save_every >= 1, "1 or more"),
        ]
        require_values(self, expected)
        require_device(self.device, self.precision)

    @classmethod
    def for_data(cls, **chosen: Any) -> PretrainOptions:
        """The defaults that suit the data, and over them what was chosen.

        Raises InputError for a choice that the synthetic language does not have.
        """
        if chosen.get("data") != "hmm":
            return cls(**chosen)
        for name in ("vocab_size", "whole_word", "nsp", "short"):
            if name in chosen:
                raise InputError(
                    "--data hmm has its own words, of one piece each, and no documents: leave out "
                    "--vocab-size, --whole-word, --no-nsp and --short"
                )
        return cls(**{**HMM_DEFAULTS, **chosen})

    @property
    def task(self) -> TaskOptions:
        """The part that says how batches are made."""
        short = round(self.short * self.steps) * self.accumulate
        return TaskOptions(
            self.data, self.seq_len, self.batch_size, self.vocab_size, short, self.nsp, self.whole_word, self.seed
        )

    @property
    def ops(self) -> list[str]:
        """The ops that training will run."""
        return ops_that_run(self.nsp, self.dropout > 0)

    def training(self) -> TrainingOptions:
        """The part that says how to train."""
        adamw = AdamW(bias_correction=self.bias_correction)
        threads = threads_for(self.threads, self.batch_size, self.device)
        return TrainingOptions(
            self.steps, self.learning_rate, self.warmup, threads=threads, seed=self.seed, adamw=adamw,
            precision=self.precision,
        )  # fmt: skip


def next_folder(data: str) -> Path:
    """The first of runs/DATA-1, runs/DATA-2, … that is free."""
    name = "-".join(one if one in BUILT_IN else Path(one).resolve().stem for one in data.split("\n"))
    return next(folder for i in range(1, 10**6) if not (folder := Path("runs") / f"{name}-{i}").exists())


def pretrain(
    options: PretrainOptions, out: Path, say: Callable[[str], None], own_file: Path | None = None
) -> dict[str, Any]:
    """Start a run in the new folder `out`; return its metrics. Raises InputError for what a person got wrong.

    Under mpirun every process calls this; the first one writes, speaks and has the metrics.

    The pairs in `own_file` train in place of minissl's ops, whether the gradient check finds them right or wrong.
    """
    began = time.perf_counter()
    options.training()  # what cannot be is said before anything is made
    own, right = None, True
    if own_file is not None:
        if find_processes().size > 1:
            raise InputError("--with trains in one process; leave out mpirun")
        own = load_own_ops(own_file, options.ops)
        right = check_own_ops(own, say)
    fixed = {**asdict(options), "threads": options.threads or default_threads()}  # a resumed run uses as many
    data = [one if one in BUILT_IN else str(Path(one).resolve()) for one in options.data.split("\n")]
    settings: dict[str, Any] = {"options": {**fixed, "data": "\n".join(data)}}
    if own is not None:
        settings["own_ops"] = own.settings
    folder = new_folder(out, settings)
    try:
        if own is not None:
            own.keep(folder.path)
        with all_or_none(find_processes()):
            run = _prepare(folder, began, own)
        if own is not None:
            rehearse(own, run.model, run.task.batch(1), right, say)
    except BaseException:
        folder.remove()  # it holds nothing yet, and the next try may want its name
        raise
    return _run(run, say)


def resume(out: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Go on with the run in `out`, to the very weights it would have reached. Raises InputError where it cannot."""
    began = time.perf_counter()
    folder = open_folder(out)
    with all_or_none(find_processes()):
        run = _prepare(folder, began, _kept_own_ops(folder))
    return _run(run, say)


class _Run(NamedTuple):
    """Everything that a run needs once its data has been read."""

    folder: RunFolder
    options: PretrainOptions
    task: TextTask | HmmTask
    model: BertForPreTraining
    heldout: list[Batch]
    landmarks: Landmarks
    checkpoint: Checkpoint | None
    began: float  # when the run began, the seconds of earlier sessions taken off
    own: OwnOps | None


def _options(folder: RunFolder) -> PretrainOptions:
    try:
        return PretrainOptions(**folder.settings["options"])
    except (KeyError, TypeError) as error:
        raise not_settings(folder, error) from error


def _kept_own_ops(folder: RunFolder) -> OwnOps | None:
    if "own_ops" not in folder.settings:
        return None
    try:
        sha256 = folder.settings["own_ops"]["sha256"]
    except (KeyError, TypeError) as error:
        raise not_settings(folder, error) from error
    return load_kept_own_ops(folder.path, sha256, _options(folder).ops)


def _prepare(folder: RunFolder, began: float, own: OwnOps | None) -> _Run:
    options = _options(folder)
    task = make_task(options.task)
    folder.require_data(task.fingerprint)
    checkpoint = folder.load_checkpoint()
    if checkpoint is not None:
        began -= checkpoint.seconds
    sizes = {**PRESETS[options.preset], "vocab_size": len(task.tokenizer)}
    config = BertConfig(
        **sizes,
        initializer_range=0.02 * math.sqrt(768 / sizes["hidden_size"]),  # BERT-base's own at its width
        hidden_dropout_prob=options.dropout,
        attention_probs_dropout_prob=options.dropout,
    )
    model = BertForPreTraining(config, seed=options.seed)
    head_start(model)
    model.to(options.device)
    if find_processes().rank == 0:
        task.tokenizer.save_pretrained(folder.path)
    heldout = task.heldout(HELDOUT_ROWS)
    return _Run(folder, options, task, model, heldout, task.landmarks(heldout), checkpoint, began, own)


def _run(run: _Run, say: Callable[[str], None]) -> dict[str, Any]:
    if run.own is None:
        return _train_and_evaluate(run, say)
    try:
        with run.own.in_place():
            return _train_and_evaluate(run, say)
    except Interrupted:
        raise
    except OwnOpError as error:
        kept = "the last" if (run.folder.path / CHECKPOINT).exists() else "no"
        raise InputError(f"{error}; {kept} checkpoint is in {run.folder.path}") from error
    except InputError as error:
        raise InputError(f"{error}; this run has your own {run.own}") from error


def _train_and_evaluate(run: _Run, say: Callable[[str], None]) -> dict[str, Any]:
    with trainer_of(run.model, run.options.training(), run.folder, run.checkpoint) as trainer:
        say(_introduction(run, trainer))
        _train(run, trainer)
        with np.errstate(all="ignore"):  # the losses themselves are watched
            metrics = evaluate(run.model, run.heldout, trainer)
        if not math.isfinite(metrics["mlm_loss"] + (metrics["nsp_loss"] or 0)):
            what = f"after the last step, the held-out loss is not finite ({metrics['mlm_loss']})"
            raise diverged(what, run.model, run.heldout, run.folder)
        metrics |= {"steps": run.options.steps, **shared_work(trainer, run.began)}
        with all_or_none(trainer.processes):
            return _finish(run, metrics, say) if trainer.processes.rank == 0 else {}


def _introduction(run: _Run, trainer: Trainer) -> str:
    o, landmarks = run.options, run.landmarks
    floor = "" if landmarks.floor is None else f", exact floor {landmarks.floor:.3f}"
    return (
        f"{', '.join(o.data.splitlines())}: {run.task.summary}\n"
        f"BERT {o.preset}: {trainer.weights.size:,} weights, vocabulary {len(run.task.tokenizer):,}; "
        f"{o.steps:,} steps of {o.accumulate * o.batch_size} × {o.seq_len} tokens, {begun(trainer)}\n"
        f"masked-LM landmarks (nats): chance {landmarks.chance:.3f}, unigram {landmarks.unigram:.3f}{floor}"
        + ("" if run.own is None else f"\nyour own in place of minissl's: {run.own}")
    )


def _train(run: _Run, trainer: Trainer) -> None:
    """The loop, with its progress bar and the held-out loss measured along the way."""
    options = run.options
    curve = run.heldout[:CURVE_BATCHES]

    def micro_batches(step: int) -> list[Batch]:
        first = (step - 1) * options.accumulate + 1
        return [run.task.batch(first + i) for i in range(options.accumulate)]

    train_with_progress(
        trainer, micro_batches, run.folder, began=run.began, save_every=options.save_every,
        describe=lambda losses: _beside_landmarks(losses, run.landmarks),
        heldout=lambda: {k: v for k, v in evaluate(trainer.model, curve, trainer).items() if k.endswith("loss")},
    )  # fmt: skip


def _beside_landmarks(losses: dict[str, float], landmarks: Landmarks) -> str:
    shown = f"mlm {losses['mlm']:.2f} (unigram {landmarks.unigram:.2f}"
    shown += ")" if landmarks.floor is None else f", floor {landmarks.floor:.2f})"
    return shown + (f" nsp {losses['nsp']:.3f} (ln 2 = {math.log(2):.3f})" if "nsp" in losses else "")


def evaluate(model: Any, batches: list[Batch], trainer: Trainer) -> dict[str, Any]:
    """Mean loss and accuracy of both tasks over all masked positions and all pairs (NSP: None where there are none)."""

    def one(i: int) -> Array:
        logits, ids, nsp_logits = model.predict_masked(batches[i])
        return np.array([*_score(logits, ids), *_score(nsp_logits, batches[i].get("next_sentence_label", ids[:0]))])

    totals = sum_over(trainer, one, len(batches))
    mlm_loss, mlm_right, mlm_count, nsp_loss, nsp_right, nsp_count = totals.tolist()
    return {
        "mlm_loss": float(mlm_loss / mlm_count),
        "mlm_accuracy": float(mlm_right / mlm_count),
        "nsp_loss": float(nsp_loss / nsp_count) if nsp_count else None,
        "nsp_accuracy": float(nsp_right / nsp_count) if nsp_count else None,
        "nsp_pairs": int(nsp_count),
    }


def _score(logits: Array, targets: Array) -> tuple[float, float, int]:
    """Sums over the targets: -log p, right answers, and how many there are."""
    logits = logits[: len(targets)].astype(np.float64)
    loss, _ = cross_entropy_forward(logits, targets, count=1)
    return float(loss), (logits.argmax(axis=-1) == targets).sum(), len(targets)


def _finish(run: _Run, metrics: dict[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
    """Write the model, the pictures and, last, the metrics, which mark the run as complete."""
    from minissl.plots.attention import plot_attention
    from minissl.plots.loss import plot_losses

    folder, landmarks = run.folder.path, run.landmarks
    run.model.to("cpu").save_pretrained(folder)
    marks = {"mlm_unigram": landmarks.unigram, "mlm_chance": landmarks.chance, "mlm_floor": landmarks.floor}
    plot_losses(run.folder.read_log(), marks, folder / "loss.png")
    example: dict[str, Any] = run.task.example()
    tokens = run.task.tokenizer.convert_ids_to_tokens(example["input_ids"][0].tolist())
    plot_attention(_attentions(run.model, example, say), tokens, folder / "attention.png")
    metrics = {
        **metrics,
        **marks,
        "seconds": round(time.perf_counter() - run.began, 2),
        "peak_memory_mb": peak_memory_mb(),
    }
    if run.own is not None:
        metrics["own_ops"] = list(run.own.pairs)
    write_json(folder / METRICS, metrics)
    run.folder.remove_checkpoint()
    return metrics


def _attentions(model: BertForPreTraining, example: dict[str, Any], say: Callable[[str], None]) -> tuple[Array, ...]:
    """The weights of every layer's attention (1, H, T, T); minissl's, where a person's own pair keeps none."""
    attentions: tuple[Array, ...] = model(**example, output_attentions=True).attentions
    if attentions:
        return attentions
    say("attention.png shows minissl's attention in your model: your own cache has no field `weights` (B, H, T, T)")
    with replace_op("attention", *op("attention").reference):
        return _attentions(model, example, say)


def report(metrics: dict[str, Any], folder: Path) -> str:
    """The result in a few lines, each number beside its landmark."""
    floor = "" if metrics["mlm_floor"] is None else f", exact floor {metrics['mlm_floor']:.3f}"
    lines = [
        f"held-out masked-LM loss {metrics['mlm_loss']:.3f} nats (unigram {metrics['mlm_unigram']:.3f}, "
        f"chance {metrics['mlm_chance']:.3f}{floor}); accuracy {metrics['mlm_accuracy']:.1%}",
    ]
    if metrics["nsp_pairs"]:
        lines.append(
            f"held-out next-sentence accuracy {metrics['nsp_accuracy']:.1%} over {metrics['nsp_pairs']:,} pairs "
            f"(chance 50 %); loss {metrics['nsp_loss']:.3f} (ln 2 = {math.log(2):.3f})"
        )
    return "\n".join([*lines, last_line(metrics, folder)])
