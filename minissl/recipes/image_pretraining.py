"""`minissl pretrain mae|simmim`: from images to a model that paints what is hidden, beside landmarks and pictures."""

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
from minissl.models.mae import ViTMAEConfig, ViTMAEForPreTraining
from minissl.models.vit import ViTConfig, ViTForMaskedImageModeling
from minissl.ops.patches import normalise_patches_forward, patchify_forward, unpatchify_forward
from minissl.pretext.patches import hidden_pixels
from minissl.recipes.image_landmarks import Landmarks, Target, landmarks, mean_error
from minissl.recipes.image_tasks import Batch, FieldTask, ImageTask, ImageTaskOptions, make_image_task
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
from minissl.training.adamw import AdamW
from minissl.training.loop import diverged
from minissl.training.processes import all_or_none, find_processes
from minissl.training.run_folder import METRICS, Checkpoint, RunFolder
from minissl.training.trainer import Trainer, TrainingOptions
from minissl.vision import Loader

OBJECTIVES = {"mae": "MAE", "simmim": "SimMIM"}
BUILT_IN = ("glyphs", "digits", "gaussian-field")
CURVE_BATCHES = 8
HELDOUT_IMAGES = 2048
PICTURES = 8  # held-out images in reconstruction.png


class Sizes(NamedTuple):
    """An encoder's width, layers and heads, and those of MAE's decoder; feed-forward layers are 4 times as wide."""

    width: int
    layers: int
    heads: int
    decoder_width: int
    decoder_layers: int
    decoder_heads: int


PRESETS = {
    "nano": Sizes(64, 2, 2, 32, 1, 2),  # seconds: for a lesson or a try
    "tiny": Sizes(128, 4, 4, 64, 2, 4),  # minutes on two cores
    "small": Sizes(384, 12, 6, 192, 4, 6),  # ViT-S (Touvron et al. 2021, table 1): many cores, or hours
    "base": Sizes(768, 12, 12, 512, 8, 16),  # ViT-B, and the decoder of He et al. 2022
}
DATA_DEFAULTS: dict[str, dict[str, Any]] = {
    "glyphs": {"steps": 1000},  # an image has 64 patches
    "digits": {"patch_size": 2, "steps": 1500},
    "gaussian-field": {"preset": "nano", "steps": 6000},
}
SIMMIM_DEFAULTS: dict[str, Any] = {"mask_ratio": 0.6}  # Xie et al. 2022, section 4.1


@dataclass(frozen=True)
class ImagePretrainOptions:
    """What `minissl pretrain mae` and `simmim` can be told."""

    objective: str = "mae"
    data: str = "glyphs"
    preset: str = "tiny"
    image_size: int = 0  # 0: the images as they are
    patch_size: int = 4
    mask_ratio: float = 0.75
    norm_pix: bool = False
    augment: bool = True
    steps: int = 3000
    batch_size: int = 128
    learning_rate: float = 2e-3
    warmup: float = 0.1
    seed: int = 0
    threads: int = 0  # 0: one for each core
    save_every: int = 200
    device: str = "cpu"
    precision: str = "float32"

    def __post_init__(self) -> None:
        require_types(self)
        raw = not (self.norm_pix and self.objective == "simmim")
        expected: list[tuple[str, bool, str]] = [
            ("objective", self.objective in OBJECTIVES, " or ".join(OBJECTIVES)),
            ("data", bool(self.data.strip()), f"{', '.join(BUILT_IN)}, or the name of a folder of images"),
            ("preset", self.preset in PRESETS, f"one of {', '.join(PRESETS)}"),
            ("image_size", self.image_size >= 0, "pixels a side"),
            ("patch_size", self.patch_size >= 1, "1 pixel a side or more"),
            ("mask_ratio", 0 < self.mask_ratio < 1, "the share of hidden patches, between 0 and 1, such as 0.75"),
            ("norm_pix", raw, "only beside mae: SimMIM paints pixels as they are"),
            ("steps", self.steps >= 1, "1 or more"),
            ("batch_size", self.batch_size >= 1, "1 or more"),
            ("learning_rate", 0 < self.learning_rate < math.inf, "a number above 0, such as 2e-3"),
            ("warmup", 0 <= self.warmup <= 1, "a share of the steps, 0 to 1"),
            ("seed", self.seed >= 0, "0 or more"),
            ("threads", self.threads >= 0, "0 (one for each core) or more"),
            ("save_every", self.save_every >= 1, "1 or more"),
        ]
        require_values(self, expected)
        require_device(self.device, self.precision)

    @classmethod
    def for_data(cls, **chosen: Any) -> ImagePretrainOptions:
        """The defaults that suit the objective and the data, and over them what was chosen.

        Raises InputError for a choice that images drawn anew do not have.
        """
        if chosen.get("data") == "gaussian-field":
            for name in ("image_size", "augment"):
                if name in chosen:
                    raise InputError(
                        "--data gaussian-field draws new images of one size at every step: leave out --image-size and "
                        "--no-augment"
                    )
        suited = DATA_DEFAULTS.get(chosen.get("data", cls.data), {})
        of_objective = SIMMIM_DEFAULTS if chosen.get("objective") == "simmim" else {}
        return cls(**{**of_objective, **suited, **chosen})

    @property
    def task(self) -> ImageTaskOptions:
        """The part that says how batches are made."""
        return ImageTaskOptions(
            self.objective, self.data, self.image_size, self.patch_size, self.mask_ratio, self.batch_size,
            self.augment, self.seed,
        )  # fmt: skip

    @property
    def target(self) -> Target:
        """The part that says what is asked of the model."""
        return Target(self.objective, self.patch_size, self.norm_pix)

    def training(self) -> TrainingOptions:
        """The part that says how to train: AdamW as in He et al. 2022, table 8."""
        adamw = AdamW(beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.05)
        threads = threads_for(self.threads, self.batch_size, self.device)
        return TrainingOptions(
            self.steps, self.learning_rate, self.warmup, threads=threads, seed=self.seed, adamw=adamw,
            precision=self.precision,
        )  # fmt: skip


def make_model(options: ImagePretrainOptions, shape: tuple[int, int, int]) -> Any:
    """The model that the options name, for images of `shape` (C, H, W). Raises InputError where they do not fit."""
    sizes = PRESETS[options.preset]
    encoder: dict[str, Any] = {
        "hidden_size": sizes.width,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "intermediate_size": 4 * sizes.width,
        "layer_norm_eps": 1e-6,
        "num_channels": shape[0],
        "image_size": shape[1] if shape[1] == shape[2] else list(shape[1:]),
        "patch_size": options.patch_size,
    }
    if options.objective == "simmim":
        spread = 0.02 * math.sqrt(768 / sizes.width)  # ViT-base's own at its width
        config = ViTConfig(**encoder, encoder_stride=options.patch_size, initializer_range=spread)
        return ViTForMaskedImageModeling(config, seed=options.seed)
    decoder: dict[str, Any] = {
        "decoder_hidden_size": sizes.decoder_width,
        "decoder_num_hidden_layers": sizes.decoder_layers,
        "decoder_num_attention_heads": sizes.decoder_heads,
        "decoder_intermediate_size": 4 * sizes.decoder_width,
    }
    return ViTMAEForPreTraining(
        ViTMAEConfig(**encoder, **decoder, mask_ratio=options.mask_ratio, norm_pix_loss=options.norm_pix),
        seed=options.seed,
    )


def pretrain_images(options: ImagePretrainOptions, out: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Start a run in the new folder `out`; return its metrics. Raises InputError for what a person got wrong."""
    began = time.perf_counter()
    options.training()  # what cannot be is said before anything is made
    data = options.data if options.data in BUILT_IN else str(Path(options.data).resolve())
    fixed = {**asdict(options), "data": data, "threads": options.threads or default_threads()}
    folder = new_folder(out, {"options": fixed})
    try:
        with all_or_none(find_processes()):
            run = _prepare(folder, began)
    except BaseException:
        folder.remove()  # it holds nothing yet, and the next try may want its name
        raise
    return _train_and_evaluate(run, say)


def is_image_run(out: Path) -> bool:
    """Whether the run in `out` is one of this command's: its options name an objective. InputError if it is no run."""
    options = RunFolder.open(out).settings.get("options")
    return isinstance(options, dict) and "objective" in options


def resume(out: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Go on with the run in `out`, to the very weights it would have reached. Raises InputError where it cannot."""
    began = time.perf_counter()
    folder = open_folder(out)
    with all_or_none(find_processes()):
        run = _prepare(folder, began)
    return _train_and_evaluate(run, say)


class _Run(NamedTuple):
    """Everything that a run needs once its data has been read."""

    folder: RunFolder
    options: ImagePretrainOptions
    task: ImageTask | FieldTask
    model: Any
    heldout: list[Batch]
    landmarks: Landmarks
    checkpoint: Checkpoint | None
    began: float  # when the run began, the seconds of earlier sessions taken off


def _prepare(folder: RunFolder, began: float) -> _Run:
    try:
        options = ImagePretrainOptions(**folder.settings["options"])
    except (KeyError, TypeError) as error:
        raise not_settings(folder, error) from error
    task = make_image_task(options.task)
    folder.require_data(task.fingerprint)
    checkpoint = folder.load_checkpoint()
    if checkpoint is not None:
        began -= checkpoint.seconds
    model = make_model(options, task.shape).to(options.device)
    if find_processes().rank == 0:
        task.scale.save(folder.path, task.shape[1:])
    heldout = task.heldout(HELDOUT_IMAGES)
    marks = landmarks(task, options.target, heldout)
    return _Run(folder, options, task, model, heldout, marks, checkpoint, began)


def _train_and_evaluate(run: _Run, say: Callable[[str], None]) -> dict[str, Any]:
    o = run.options
    with trainer_of(run.model, o.training(), run.folder, run.checkpoint) as trainer:
        say(_introduction(run, trainer))
        speed = _train(run, trainer)
        with np.errstate(all="ignore"):  # the losses themselves are watched
            metrics = evaluate(run.model, run.task, o.target, run.heldout, trainer)
        if not math.isfinite(metrics["loss"]):
            what = f"after the last step, the held-out loss is not finite ({metrics['loss']})"
            raise diverged(what, run.model, run.heldout, run.folder)
        metrics |= {"objective": o.objective, **speed, **shared_work(trainer, run.began)}
        with all_or_none(trainer.processes):
            return _finish(run, metrics) if trainer.processes.rank == 0 else {}


def _introduction(run: _Run, trainer: Trainer) -> str:
    o = run.options
    h, w = o.task.grid(run.task.shape[1:])
    return (
        f"{o.data}: {run.task.summary}\n"
        f"{OBJECTIVES[o.objective]} {o.preset}: {trainer.weights.size:,} weights; {o.steps:,} steps of {o.batch_size} "
        f"images of {h} × {w} patches, {o.mask_ratio:.0%} hidden, {begun(trainer)}\n"
        f"landmarks ({_error(o.target)} of hidden pixels; all pixels have variance 1): "
        + _beside(o.target, run.landmarks)
    )


def _error(target: Target) -> str:
    return "mean absolute error" if target.objective == "simmim" else "mean squared error"


def _beside(target: Target, marks: Landmarks, digits: int = 4) -> str:
    floor = "" if marks.floor is None else f", exact floor {marks.floor:.{digits}f}"
    return (
        f"training {target.middle} image {marks.mean_image:.{digits}f}, "
        f"true patch {target.middle} {marks.patch_mean:.{digits}f}{floor}"
    )


def _train(run: _Run, trainer: Trainer) -> dict[str, Any]:
    """The loop, with its progress bar and the held-out loss measured along the way; return how fast it was."""
    o, marks = run.options, run.landmarks
    curve = run.heldout[:CURVE_BATCHES]
    first, start = trainer.step, time.perf_counter()

    def describe(losses: dict[str, float]) -> str:
        floor = "" if marks.floor is None else f", floor {marks.floor:.3f}"
        return f"{o.objective} {losses[o.objective]:.3f} ({o.target.middle} image {marks.mean_image:.3f}{floor})"

    def heldout() -> dict[str, Any]:
        return {f"{o.objective}_loss": evaluate(run.model, run.task, o.target, curve, trainer)["loss"]}

    with Loader(run.task.batch, first + 1, o.steps) as loader:
        train_with_progress(
            trainer, lambda step: [loader(step)], run.folder, began=run.began, save_every=o.save_every,
            describe=describe, heldout=heldout,
        )  # fmt: skip
    seconds = time.perf_counter() - start
    images = (trainer.step - first) * o.batch_size
    return {"images_per_second": round(images / seconds, 1), "seconds_waited_for_images": round(loader.waited, 2)}


def evaluate(
    model: Any, task: ImageTask | FieldTask, target: Target, batches: list[Batch], trainer: Trainer
) -> dict[str, Any]:
    """The mean error over the hidden pixels of all batches, as the loss is.

    With `norm_pix` also `pixel_loss`: that of the pixels themselves where each patch is given its true mean and spread.
    """

    def one(i: int) -> Array:
        batch = batches[i]
        patches, hidden = target.patches(batch["pixel_values"]), task.options.hidden(batch)
        predicted = target.predicted(model, batch)
        raw = 0.0
        if target.norm_pix:
            true, mean, spread = _statistics(batch["pixel_values"], target.patch_size)
            raw = target.error(predicted * spread + mean, true, hidden)
        return np.array([target.error(predicted, patches, hidden), raw, np.count_nonzero(hidden)])

    loss, pixel_loss, count = sum_over(trainer, one, len(batches)).tolist()
    return {"loss": loss / count, "pixel_loss": pixel_loss / count if target.norm_pix else None}


def _statistics(images: Array, side: int) -> tuple[Array, Array, Array]:
    """The patches (B, N, P²C) of images, and each one's mean and spread, as the normalised target has them."""
    patches, _ = patchify_forward(images, side)
    _, cache = normalise_patches_forward(patches)
    return patches, patches.mean(axis=-1, keepdims=True), 1 / cache.inv_std


def _finish(run: _Run, metrics: dict[str, Any]) -> dict[str, Any]:
    """Write the model, the pictures and, last, the metrics, which mark the run as complete."""
    from minissl.plots.loss import plot_image_losses

    folder, o, marks = run.folder.path, run.options, run.landmarks
    run.model.to("cpu").save_pretrained(folder)
    plot_image_losses(run.folder.read_log(), o.objective, marks._asdict(), folder / "loss.png")
    _draw_reconstruction(run, metrics["loss"])
    if o.norm_pix:
        raw = Target(o.objective, o.patch_size, norm_pix=False)
        metrics["pixel_patch_mean"] = mean_error(run.task, raw, run.heldout, raw.own_mean)
    metrics = {
        **metrics,
        **marks._asdict(),
        "ratio": metrics["loss"] / marks.mean_image,
        "heldout_images": sum(len(batch["pixel_values"]) for batch in run.heldout),
        "steps": o.steps,
        "seconds": round(time.perf_counter() - run.began, 2),
        "peak_memory_mb": peak_memory_mb(),
    }
    write_json(folder / METRICS, metrics)
    run.folder.remove_checkpoint()
    return metrics


def _draw_reconstruction(run: _Run, loss: float) -> None:
    """Held-out images and what the model paints where they are hidden; nothing of the truth gets into that."""
    from minissl.plots.reconstruction import plot_reconstruction

    o, task = run.options, run.task
    batch = {name: array[:PICTURES] for name, array in run.heldout[0].items()}
    images, hidden = batch["pixel_values"], o.task.hidden(batch)
    predicted = o.target.predicted(run.model, batch)
    how = ""
    if o.norm_pix:
        predicted = _with_visible_statistics(predicted, images, hidden, o.patch_size)
        how = (
            " The model paints each patch less its mean and over its spread; here every hidden patch is given the mean "
            "and the spread of the image's visible patches, not its own."
        )
    painted, _ = unpatchify_forward(predicted, o.patch_size, images.shape[2:])
    rows = {"reconstructed": task.picture(painted)}
    best = task.best(batch)
    if best is not None:
        rows["best possible"] = task.picture(best)
    caption = (
        f"Held-out images, {hidden.mean():.0%} of the patches hidden; visible patches are pasted from the original, "
        f"values outside black … white are cut off.{how} {_error(o.target).capitalize()} {loss:.3f} "
        f"({_beside(o.target, run.landmarks, 3)})."
    )
    pixels = hidden_pixels(hidden, images.shape[2:], o.patch_size)
    plot_reconstruction(task.picture(images), pixels, rows, caption, run.folder.path / "reconstruction.png")


def _with_visible_statistics(normalised: Array, images: Array, hidden: Array, side: int) -> Array:
    """Normalised patches (B, N, P²C) with the mean and the mean spread of their image's visible patches."""
    _, mean, spread = _statistics(images, side)
    visible = ~hidden[..., None]  # (B, N, 1)
    count = visible.sum(axis=1, keepdims=True)
    mean, spread = ((x * visible).sum(axis=1, keepdims=True) / count for x in (mean, spread))
    filled: Array = normalised * spread + mean
    return filled


def report(metrics: dict[str, Any], folder: Path) -> str:
    """The result in a few lines, each number beside its landmark."""
    error, middle = ("absolute", "median") if metrics["objective"] == "simmim" else ("squared", "mean")
    normalised = metrics["pixel_loss"] is not None
    lines = [
        f"held-out mean {error} error {metrics['loss']:.4f}{' of normalised patches' if normalised else ''}: "
        f"{metrics['ratio']:.3f} × the training {middle} image's ({metrics['mean_image']:.4f}); "
        f"true patch {middle} {metrics['patch_mean']:.4f}"
    ]
    if metrics["floor"] is not None:
        lines.append(f"{metrics['loss'] / metrics['floor']:.3f} × the exact floor ({metrics['floor']:.4f})")
    if normalised:
        lines.append(
            f"of the pixels themselves, each patch given its true mean and spread: {metrics['pixel_loss']:.4f} (its "
            f"mean alone {metrics['pixel_patch_mean']:.4f}); not comparable without --norm-pix, where nothing is given"
        )
    lines.append(f"{metrics['images_per_second']:,.0f} images/s; reconstruction.png shows {PICTURES} of them")
    return "\n".join([*lines, last_line(metrics, folder)])
