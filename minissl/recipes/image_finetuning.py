"""`minissl finetune image`: a class for every image, learnt from examples, beside what needs no network."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minissl.backend import Array, to_host
from minissl.errors import InputError, require_values
from minissl.files import write_json, write_whole
from minissl.finetuning.baselines import majority
from minissl.finetuning.image_classification import Augmentation, classes_of, fine_tune, predict
from minissl.finetuning.loop import Epoch, FinetuneOptions
from minissl.finetuning.metrics import accuracy, confusion_matrix, macro_f1
from minissl.finetuning.probes import LinearProbe
from minissl.models.vit import ViTForImageClassification
from minissl.recipes.image_encoder import ImageEncoder, encoder_for
from minissl.training.run_folder import METRICS, RunFolder
from minissl.vision.datasets import load_images
from minissl.vision.images import ImageParts, Images
from minissl.workers import Workers

# what an image wants other than a text: larger batches, and a stronger decay
TRAINING: dict[str, Any] = {"epochs": 10, "batch_size": 64, "learning_rate": 1e-3, "weight_decay": 0.05}
FROZEN_RATE = 5e-3  # a head alone, on features that stand still, bears larger steps
CROP_SHARE = 14  # images are moved by up to a fourteenth of their side, two pixels of 28
ATTENTION_IMAGES = 8


@dataclass(frozen=True)
class ImageOptions:
    """What `minissl finetune image` can be told."""

    data: str = "glyphs"
    image_size: int | None = None
    model: str = ""
    interpolate: bool = False
    from_scratch: bool = False
    frozen: bool = False
    labels_per_class: int = 0  # labelled images to learn from; 0: all
    seeds: tuple[int, ...] = (0,)
    dropout: float = 0.0
    flip: bool = False
    crop: int | None = None  # None: by CROP_SHARE

    def __post_init__(self) -> None:
        expected: list[tuple[str, bool, str]] = [
            ("labels_per_class", self.labels_per_class >= 0, "how many images of each class to learn from (0: all)"),
            ("seeds", bool(self.seeds) and min(self.seeds) >= 0, "numbers from 0, such as 0 1 2"),
            ("dropout", 0 <= self.dropout < 1, "a share, 0 or more and below 1"),
            ("frozen", not self.frozen or bool(self.model), "beside --model: a fresh encoder has learnt nothing yet"),
            ("frozen", not (self.frozen and self.from_scratch), "not beside --from-scratch: nothing was learnt yet"),
            ("interpolate", not self.interpolate or bool(self.model), "beside --model: a fresh encoder fits"),
            ("crop", self.crop is None or self.crop >= 0, "0 or more pixels"),
        ]
        require_values(self, expected)

    def augmentation(self, images: Images) -> Augmentation:
        """What training images of this size go through. Raises InputError for a crop as large as they are."""
        side = min(images.pixels.shape[2:])
        if self.crop is not None and self.crop >= side:
            raise InputError(f"--crop {self.crop}: the images are {side} pixels wide or high; expected fewer")
        return Augmentation(self.flip, side // CROP_SHARE if self.crop is None else self.crop)


class ImageMaterial(NamedTuple):
    """Labelled images and an encoder for them, read and checked."""

    parts: ImageParts
    encoder: ImageEncoder


class ImageArm(NamedTuple):
    """One fine-tuned model, and what it says of the held-out images."""

    model: ViTForImageClassification
    epochs: list[Epoch]
    probabilities: Array
    confusion: Array


class PixelMarks(NamedTuple):
    """Accuracy on the held-out images without a network."""

    majority: float
    raw_pixels: float  # of multinomial logistic regression


def load_material(data: str, image_size: int | None, model: str, interpolate: bool = False) -> ImageMaterial:
    """Read the labelled images and the encoder. Raises InputError for what is wrong with either."""
    parts = load_images(data, image_size)
    if parts.train.labels is None or parts.heldout.labels is None or len(parts.classes) < 2:
        found = f"only the class {parts.classes[0]!r}" if parts.classes else "images without labels"
        raise InputError(f"{data}: {found}; expected images of two classes or more to tell apart")
    return ImageMaterial(parts, encoder_for(parts, model, interpolate))


def rows_for(parts: ImageParts, per_class: int, seed: int) -> Array:
    """Which training images a run may learn from: all, or so many of each class, drawn by the seed.

    Raises InputError where a class has fewer.
    """
    labels = classes_of(parts.train)
    if not per_class:
        return np.arange(len(labels))
    rng = np.random.default_rng([seed, 2])
    chosen = []
    for number, name in enumerate(parts.classes):
        rows = np.flatnonzero(labels == number)
        if len(rows) < per_class:
            raise InputError(f"--labels-per-class {per_class}: class {name!r} has {len(rows):,} training images")
        chosen.append(rng.permutation(rows)[:per_class])
    return np.sort(np.concatenate(chosen))


def flat(images: Images) -> Array:
    """Raw pixels as features, (n, C·H·W) in float32."""
    pixels: Array = images.pixels.reshape(len(images.pixels), -1).astype(np.float32)
    return pixels


def pixel_marks(parts: ImageParts, rows: Array) -> PixelMarks:
    """The most frequent class's accuracy, and that of logistic regression on the same images' raw pixels."""
    truth, train = classes_of(parts.heldout), parts.train.take(rows)
    probe = LinearProbe(len(parts.classes)).fit(flat(train), classes_of(train))
    said = probe.predict(flat(parts.heldout)).argmax(axis=1)
    return PixelMarks(float((truth == majority(classes_of(train).tolist())).mean()), float((truth == said).mean()))


def train_arm(
    material: ImageMaterial, rows: Array, training: FinetuneOptions, *, from_scratch: bool, frozen: bool,
    dropout: float, augmentation: Augmentation, watched: Images | None = None, landmarks: str = "",
) -> ImageArm:  # fmt: skip
    """Fine-tune one model on the rows named, with the seed of `training`, and let it judge the held-out images.

    After each pass it is measured on the images `watched`, by default on all that are held out.
    """
    parts, encoder = material
    model = encoder.classifier(parts.classes, training.seed, dropout=dropout, from_scratch=from_scratch)
    model.to(training.device)
    epochs = fine_tune(
        model, parts.train.take(rows), parts.heldout if watched is None else watched, encoder.scale, training,
        augmentation=augmentation, frozen=frozen, landmarks=landmarks,
    )  # fmt: skip
    with Workers(training.working_threads) as workers:
        probabilities = predict(model, parts.heldout, encoder.scale, workers)
    said = probabilities.argmax(axis=1)
    confusion = confusion_matrix(classes_of(parts.heldout), said, len(parts.classes))
    return ImageArm(model.to("cpu"), epochs, probabilities, confusion)


def finetune_image(
    options: ImageOptions, training: FinetuneOptions, out: Path, say: Callable[[str], None]
) -> dict[str, Any]:
    """Fine-tune into the new folder `out`, once for each seed; return the metrics. The folder has the first seed's.

    Raises InputError for what a person got wrong; nothing is left behind then, nor after Ctrl-C.
    """
    began = time.perf_counter()
    settings = {"finetune": "image", "options": asdict(options), "training": asdict(training)}
    with RunFolder.kept_if_done(out, settings) as folder:
        return _finetune_image(options, training, folder.path, say, began)


def _finetune_image(
    options: ImageOptions, training: FinetuneOptions, out: Path, say: Callable[[str], None], began: float
) -> dict[str, Any]:
    material = load_material(options.data, options.image_size, options.model, options.interpolate)
    parts = material.parts
    rows = rows_for(parts, options.labels_per_class, options.seeds[0])
    augmentation = options.augmentation(parts.train)
    say(_introduction(options, material, len(rows), augmentation))
    marks = pixel_marks(parts, rows)
    landmarks = f"majority {marks.majority:.3f}, raw pixels {marks.raw_pixels:.3f}"
    arms = []
    for seed in options.seeds:
        arm = train_arm(
            material, rows_for(parts, options.labels_per_class, seed), replace(training, seed=seed),
            from_scratch=options.from_scratch, frozen=options.frozen, dropout=options.dropout,
            augmentation=augmentation, landmarks=landmarks,
        )  # fmt: skip
        arms.append(arm)
        if len(options.seeds) > 1:
            say(f"seed {seed}: accuracy {accuracy(arm.confusion):.1%} ({landmarks})")
    metrics = {
        "accuracy": accuracy(arms[0].confusion),
        "macro_f1": macro_f1(arms[0].confusion),
        "majority_accuracy": marks.majority,
        "raw_pixel_accuracy": marks.raw_pixels,
        "classes": list(parts.classes),
        "confusion": arms[0].confusion.tolist(),
        "seeds": {str(seed): accuracy(arm.confusion) for seed, arm in zip(options.seeds, arms, strict=True)},
        "labelled_images": len(rows),
        "heldout_images": len(parts.heldout.pixels),
        "from_scratch": options.from_scratch or not options.model,
        "frozen": options.frozen,
        "augmentation": augmentation._asdict(),
        "epochs": [epoch._asdict() for epoch in arms[0].epochs],
        "seconds": round(time.perf_counter() - began, 2),
    }
    _write(out, material, arms[0], marks, metrics)
    return metrics


def _introduction(options: ImageOptions, material: ImageMaterial, rows: int, augmentation: Augmentation) -> str:
    parts, config = material.parts, material.encoder.config
    channels, height, width = parts.train.pixels.shape[1:]
    fresh = options.from_scratch or not options.model
    size = sum(weight.size for weight in material.encoder.model(0, from_scratch=fresh).state_dict().values())
    grid = config.grid
    learns = ", frozen: its head alone learns" if options.frozen else ""
    moves = [f"moved by up to {augmentation.crop} pixels"] * bool(augmentation.crop) + ["mirrored"] * augmentation.flip
    seen = f"; training images are {' and '.join(moves)}" if moves and not options.frozen else ""
    return (
        f"{parts.name}: {rows:,} labelled images of {height} × {width}, {channels} channel(s), "
        f"{len(parts.heldout.pixels):,} held out; {len(parts.classes)} classes: {', '.join(parts.classes)}\n"
        f"ViT of {size:,} weights, {grid[0]} × {grid[1]} patches, "
        f"{'fresh weights' if fresh else f'weights of {options.model}'}{learns}{seen}"
    )


def _write(out: Path, material: ImageMaterial, arm: ImageArm, marks: PixelMarks, metrics: dict[str, Any]) -> None:
    """Write the model, what it says of each held-out image, the pictures and, last, the metrics."""
    from minissl.plots.finetuning import plot_confusion, plot_epochs

    parts, scale = material.parts, material.encoder.scale
    arm.model.save_pretrained(out)
    scale.save(out, material.encoder.config.size)
    names = parts.classes
    lines = [
        {
            "image": i,  # its number in the held-out part
            "label": names[label],
            "predicted": names[int(p.argmax())],
            "probabilities": {name: round(float(share), 6) for name, share in zip(names, p, strict=True)},
        }
        for i, (label, p) in enumerate(zip(classes_of(parts.heldout).tolist(), arm.probabilities, strict=True))
    ]
    write_whole(out / "predictions.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    plot_confusion(arm.confusion, names, out / "confusion.png")
    beside = {"majority": marks.majority, "raw pixels": marks.raw_pixels}
    plot_epochs(arm.epochs, "accuracy", beside, out / "epochs.png", "images")
    draw_attention(arm.model.vit, material, out / "attention.png")
    write_json(out / METRICS, metrics)


def draw_attention(encoder: Any, material: ImageMaterial, path: Path) -> None:
    """Draw where the class token of the last layer looks, on one held-out image of each of a few classes."""
    from minissl.plots.class_attention import plot_class_attention

    heldout = material.parts.heldout
    labels = classes_of(heldout)
    first = [int(np.flatnonzero(labels == c)[0]) for c in np.unique(labels)[:ATTENTION_IMAGES]]
    images = heldout.take(first)
    weights = to_host(encoder(material.encoder.scale.apply(images.pixels), output_attentions=True).attentions[-1])
    maps = weights[:, :, 0, 1:].reshape(*weights.shape[:2], *material.encoder.config.grid)
    rescale = 1 / 255 if images.pixels.dtype == np.uint8 else 1.0
    names = [material.parts.classes[c] for c in labels[first]]
    plot_class_attention(images.pixels * rescale, maps, names, path)


def report(metrics: dict[str, Any], folder: Path) -> str:
    """The result in a few lines, each number beside its landmark."""
    scores = list(metrics["seeds"].values())
    lines = [
        f"held-out accuracy {metrics['accuracy']:.1%} (majority {metrics['majority_accuracy']:.1%}, logistic "
        f"regression on raw pixels {metrics['raw_pixel_accuracy']:.1%}); macro-F1 {metrics['macro_f1']:.3f}"
    ]
    if len(scores) > 1:
        lines.append(f"over {len(scores)} seeds: {np.mean(scores):.1%} ± {np.std(scores, ddof=1):.1%}")
    lines += _mistakes(np.array(metrics["confusion"]), metrics["classes"])
    return "\n".join([*lines, f"{metrics['seconds']:.0f} s; everything is in {folder}"])


def _mistakes(confusion: Array, names: list[str], most: int = 3) -> list[str]:
    """The pairs of classes that are mistaken most often; the whole table is in confusion.png."""
    wrong = confusion - np.diag(np.diag(confusion))
    order = [np.unravel_index(i, wrong.shape) for i in np.argsort(-wrong, axis=None, kind="stable")[:most]]
    told = [f"{names[i]} for {names[j]} {wrong[i, j]:,} of {confusion[i].sum():,}" for i, j in order if wrong[i, j]]
    return [f"most often taken: {'; '.join(told)}"] if told else []
