"""Small masked autoencoders: one beside its exact floor (lesson 8), and what mask ratio, target and loss do (lesson 9).

Lesson 8's images are a Gaussian field, whose best reconstruction is known. Those of lesson 9 are letters in grey, large
and near the middle, so that a model of a few thousand steps learns something of them; what each shows is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minissl.backend import Array
from minissl.kernels import op
from minissl.models.mae import MAEInputs, ViTMAEConfig, ViTMAEForPreTraining
from minissl.nn import Grads
from minissl.plots.lessons_images import plot_image_ablation, plot_paintings
from minissl.pretext.gaussian_field import GaussianField
from minissl.pretext.patches import hidden_pixels, hide_patches
from minissl.training.trainer import Batch, Trainer, TrainingOptions
from minissl.vision.glyphs import SIDE, GlyphFactors, draw_glyphs, glyph_factors
from minissl.workers import Workers, available_cores

SIZE, PATCH = 16, 4  # pixels of an image and of a patch, both ways
PATCHES = (SIZE // PATCH) ** 2
ROWS = 48  # images of a step
HELDOUT_SEED = 10**6  # of images that no training step draws

normalise_patches = op("normalise_patches")
patchify = op("patchify")
masked_mse = op("masked_mse")
masked_l1 = op("masked_l1")


def small_config(**changes: Any) -> ViTMAEConfig:
    """Two layers of width 64 for the encoder, one for the decoder; grey images of 16 × 16 pixels, 16 patches."""
    sizes = {
        "image_size": SIZE, "patch_size": PATCH, "num_channels": 1, "hidden_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "intermediate_size": 256, "decoder_hidden_size": 64, "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 4, "decoder_intermediate_size": 256,
    }  # fmt: skip
    return ViTMAEConfig(**{**sizes, **changes})


def train(
    model: ViTMAEForPreTraining,
    draw: Callable[[np.random.Generator], Array],
    steps: int,
    seed: int,
    measure: Callable[[int], None] = lambda step: None,
    learning_rate: float = 3e-3,
) -> None:
    """Train on images that `draw` draws for each step; `measure` is called at the start and ten times on the way.

    A step's images and what is hidden of them depend on the seed and the step alone.
    """
    trainer = Trainer(model, TrainingOptions(steps, learning_rate, threads=1, seed=seed))
    measure(0)
    for step in range(1, steps + 1):
        rng = np.random.default_rng([seed, step])
        images = draw(rng)
        trainer.train_step([{"pixel_values": images, "noise": rng.random((len(images), PATCHES))}])
        if step % max(1, steps // 10) == 0:
            measure(step)
    trainer.close()


# ---- lesson 8: beside the exact floor


class FieldLandmarks(NamedTuple):
    """Mean squared errors over the hidden pixels of the held-out images."""

    mean: float  # of who predicts the mean image
    visible: float  # of who predicts the mean of the image's visible pixels
    nearest: float  # of who repeats the nearest visible pixel
    best: float  # of the conditional mean, on these very images
    floor: float  # what the conditional mean is expected to have: the exact floor


def heldout_field(field: GaussianField, rows: int = 512) -> Batch:
    """Images on which models are judged, and the noise that says what is hidden of each."""
    rng = np.random.default_rng(HELDOUT_SEED)
    return {"pixel_values": field.sample(rng, rows), "noise": rng.random((rows, PATCHES))}


def best_paintings(field: GaussianField, batch: Batch) -> Array:
    """The conditional mean of each image (n, 1, H, W) given its visible patches."""
    return field.conditional(batch["pixel_values"], hide_patches(batch["noise"]).mask, PATCH).mean


def field_landmarks(field: GaussianField, batch: Batch) -> FieldLandmarks:
    """What a reconstruction error is compared with."""
    images = batch["pixel_values"].astype(np.float64)
    mask = hide_patches(batch["noise"]).mask
    hidden = hidden_pixels(mask, (SIZE, SIZE), PATCH)[:, None]
    row, column = np.divmod(np.arange(SIZE * SIZE), SIZE)
    distance = np.hypot(row[:, None] - row, column[:, None] - column)
    nearest = images.copy()
    for painted, gone in zip(nearest.reshape(len(images), -1), hidden.reshape(len(images), -1), strict=True):
        seen = np.flatnonzero(~gone)
        painted[gone] = painted[seen[distance[np.ix_(gone, seen)].argmin(axis=1)]]
    of_visible = np.where(hidden, np.nan, images)
    return FieldLandmarks(
        mean=float((images[hidden] ** 2).mean()),
        visible=squared_error(np.broadcast_to(np.nanmean(of_visible, axis=(1, 2, 3), keepdims=True), images.shape),
                              images, mask),
        nearest=squared_error(nearest, images, mask),
        best=squared_error(best_paintings(field, batch), images, mask),
        floor=field.best_squared_error(mask, PATCH),
    )  # fmt: skip


def squared_error(painted: Array, images: Array, mask: Array) -> float:
    """The mean squared error over the pixels of the hidden patches (n, N); images (n, 1, H, W)."""
    hidden = hidden_pixels(mask, (SIZE, SIZE), PATCH)[:, None]
    return float(((painted - images)[hidden] ** 2).mean())


FIELD_STEPS = 2500


def field_model() -> ViTMAEForPreTraining:
    """The model of lesson 8: one layer in its encoder, one in its decoder."""
    return ViTMAEForPreTraining(small_config(num_hidden_layers=1))


def train_on_field(
    model: ViTMAEForPreTraining, field: GaussianField, measure: Callable[[int], None] = lambda step: None,
    steps: int = FIELD_STEPS,
) -> None:  # fmt: skip
    """Train on new images at every step."""
    train(model, lambda rng: field.sample(rng, ROWS), steps, 0, measure, learning_rate=5e-3)


def paint(model: ViTMAEForPreTraining, batch: Batch) -> Array:
    """What a model paints for every patch, as images (n, 1, H, W)."""
    images: Array = batch["pixel_values"]
    painted = model(images, batch["noise"]).logits
    return patchify.backward(painted, patchify.forward(images, PATCH)[1])  # type: ignore[no-any-return]


def reconstruction_figure(folder: Path, steps: int = FIELD_STEPS) -> None:
    """Held-out clouds, what is visible of them, what the model paints, and the best possible guess."""
    field = GaussianField.stationary((SIZE, SIZE))
    model = field_model()
    train_on_field(model, field, steps=steps)
    batch = {name: array[:8] for name, array in heldout_field(field).items()}
    hidden = hidden_pixels(hide_patches(batch["noise"]).mask, (SIZE, SIZE), PATCH)
    truth, painted, best = batch["pixel_values"], paint(model, batch), best_paintings(field, batch)
    painted = np.where(hidden[:, None], painted, truth)  # nobody asked for the visible patches
    rows = [
        ("the image", truth[:, 0], None), ("what is seen", truth[:, 0], hidden),
        ("painted by\nthe model", painted[:, 0], None), ("the best\nthere can be", best[:, 0], None),
    ]  # fmt: skip
    plot_paintings(rows, folder / "lesson-8-reconstruction.png")


# ---- lesson 9: what matters


class Arm(NamedTuple):
    """One way to train: what is hidden, what is asked, and how a difference counts."""

    ratio: float = 0.75
    normalised: bool = False
    absolute: bool = False  # L1 in place of L2
    everywhere: bool = False  # the visible patches are asked for too


ARMS = {
    "25 % hidden": Arm(0.25),
    "50 % hidden": Arm(0.5),
    "75 % hidden": Arm(),
    "90 % hidden": Arm(0.9),
    "normalised target": Arm(normalised=True),
    "L1": Arm(absolute=True),
    "all patches asked": Arm(everywhere=True),
}
BASE = "75 % hidden"


class AblatedMAE(ViTMAEForPreTraining):
    """A masked autoencoder with the loss of an arm."""

    def __init__(self, arm: Arm, seed: int):
        self.arm = arm
        self.error = masked_l1 if arm.absolute else masked_mse
        config = small_config(num_hidden_layers=1, mask_ratio=arm.ratio, norm_pix_loss=arm.normalised)
        super().__init__(config, seed)

    def counts(self, batch: Batch) -> dict[str, int]:
        """How many patches are asked for."""
        return {"mae": PATCHES * len(batch["pixel_values"])} if self.arm.everywhere else super().counts(batch)

    def asked(self, inputs: MAEInputs) -> None:
        """All patches are painted; the loss chooses."""

    def backward(self, cache: Any, grads: Grads) -> None:
        """As in a masked autoencoder, from this arm's error."""
        vit_cache, decoder_cache, loss_cache = cache
        dpixels, _ = self.error.backward(1.0, loss_cache)
        self.vit.backward(self.decoder.backward(dpixels, decoder_cache, grads), vit_cache, grads)

    def _loss(self, pixels: Array, inputs: MAEInputs, count: int) -> tuple[Array, Any]:
        target, _ = patchify.forward(inputs.images, PATCH)
        if self.arm.normalised:
            target, _ = normalise_patches.forward(target)
        asked = np.ones_like(inputs.hidden.mask) if self.arm.everywhere else inputs.hidden.mask
        return self.error.forward(pixels, target, np.flatnonzero(asked), count)


class Letters(NamedTuple):
    """Grey images (n, 1, 16, 16) of variance 1, and what each of them shows."""

    images: Array
    factors: GlyphFactors

    @property
    def labels(self) -> Array:
        """The number of each image's character."""
        return self.factors.character


def letters(n_train: int = 4000, n_heldout: int = 1000) -> tuple[Letters, Letters]:
    """White on black, within two pixels of the middle, a little noise; held out in fonts that training never shows."""
    parts = []
    for number, drawn in enumerate(glyph_factors(n_train, n_heldout, seed=0)):
        rng = np.random.default_rng([number, HELDOUT_SEED])
        n = len(drawn.character)
        factors = drawn._replace(
            size=np.maximum(drawn.size, 2), top=np.zeros(n, int), left=np.zeros(n, int), ink=np.ones((n, 3)),
            paper=np.zeros((n, 3)), noise=np.zeros(n),
        )  # fmt: skip
        ink = draw_glyphs(factors, rng)[:, 0] > 0  # in the top left corner
        spare = [SIDE - ink.any(axis=3 - axis).sum(axis=1) for axis in (1, 2)]
        top, left = (np.clip(space // 2 + rng.integers(-2, 3, n), 0, space) for space in spare)
        factors = factors._replace(top=top, left=left, noise=np.full(n, 0.05))
        grey = draw_glyphs(factors, rng)[:, 0].astype(np.float64)
        parts.append((grey.reshape(n, 1, SIZE, 2, SIZE, 2).mean(axis=(3, 5)), factors))
    mean, std = parts[0][0].mean(), parts[0][0].std()
    train, heldout = (Letters(((x - mean) / std).astype(np.float32), factors) for x, factors in parts)
    return train, heldout


def features(model: ViTMAEForPreTraining, images: Array) -> Array:
    """The encoder's vectors of all patches, none of them hidden, averaged: (n, D) in float64."""
    shares = []
    for start in range(0, len(images), 500):
        share = images[start : start + 500]
        hidden, _ = model.vit.forward(MAEInputs(share, hide_patches(np.zeros((len(share), PATCHES)), 0)))
        shares.append(hidden[:, 1:].mean(axis=1))
    return np.concatenate(shares).astype(np.float64)


def linear_probe(x: Array, labels: Array, heldout_x: Array, heldout_labels: Array, ridge: float = 10.0) -> float:
    """The share of held-out labels that a linear classifier names right: least squares to one-hot, with a ridge."""
    mean, std = x.mean(axis=0), x.std(axis=0) + 1e-6
    rows, heldout_rows = (
        np.concatenate([(part - mean) / std, np.ones((len(part), 1))], axis=1) for part in (x, heldout_x)
    )
    onehot = np.eye(int(labels.max()) + 1)[labels]
    weights = np.linalg.solve(rows.T @ rows + ridge * np.eye(rows.shape[1]), rows.T @ onehot)
    return float(((heldout_rows @ weights).argmax(axis=1) == heldout_labels).mean())


ARM_STEPS, SEEDS = 300, 3
RATIOS = (0.25, 0.5, 0.75, 0.9)
INK = 0.3  # a patch whose pixels have this deviation or more shows something of a letter


def paint_patches(model: ViTMAEForPreTraining, images: Array, ratio: float) -> tuple[Array, Array]:
    """What a model paints where `ratio` of the patches is hidden, and what is there: (M, P²) each.

    What is hidden of each image is the same for every model, whatever it was trained with.
    """
    hidden = hide_patches(np.random.default_rng(HELDOUT_SEED).random((len(images), PATCHES)), ratio)
    encoded, _ = model.vit.forward(MAEInputs(images, hidden))
    painted, _ = model.decoder.forward(encoded, hidden.restore)
    true, _ = patchify.forward(images, PATCH)
    return painted[hidden.mask].astype(np.float64), true[hidden.mask].astype(np.float64)


def structure(painted: Array, true: Array) -> float:
    """The correlation of both within a patch, averaged over those with ink: blind to each patch's mean and spread."""
    inked = true.std(axis=-1) > INK
    a, b = (x[inked] - x[inked].mean(axis=-1, keepdims=True) for x in (painted, true))
    return float(((a * b).sum(axis=-1) / np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1) + 1e-12)).mean())


class Measured(NamedTuple):
    """A trained arm on held-out letters; its errors are NaN where what it paints is no pixels."""

    name: str
    seed: int
    squared: dict[float, float]  # mean squared error by the share that is hidden
    absolute: float  # mean absolute error with 75 % hidden
    structure: float  # with 75 % hidden
    probe: float  # share of characters that a linear probe names right


def train_arm(parts: tuple[Letters, Letters], arm: Arm, seed: int, steps: int = ARM_STEPS) -> AblatedMAE:
    """Train one arm. All arms of a seed begin with the same weights and see the same images with the same noise."""
    model, images = AblatedMAE(arm, seed), parts[0].images
    train(model, lambda rng: images[rng.integers(len(images), size=ROWS)], steps, seed, learning_rate=5e-3)
    return model


def measure_arm(parts: tuple[Letters, Letters], name: str, seed: int, steps: int = ARM_STEPS) -> Measured:
    """Train one arm, and ask it what all are asked."""
    model = train_arm(parts, ARMS[name], seed, steps)
    painted, true = paint_patches(model, parts[1].images, 0.75)
    squared, absolute = dict.fromkeys(RATIOS, math.nan), math.nan
    if not ARMS[name].normalised:
        for ratio in RATIOS:
            at, there = paint_patches(model, parts[1].images, ratio)
            squared[ratio] = float(((at - there) ** 2).mean())
        absolute = float(abs(painted - true).mean())
    return Measured(name, seed, squared, absolute, structure(painted, true), probe(model, parts))


def run_ablation(parts: tuple[Letters, Letters], steps: int = ARM_STEPS, seeds: int = SEEDS) -> list[Measured]:
    """Every arm with every seed, as many at a time as there are cores."""
    jobs = [(name, seed) for name in ARMS for seed in range(seeds)]
    with Workers(available_cores()) as workers:
        return workers.map(lambda i: measure_arm(parts, *jobs[i], steps), len(jobs))


def probe(model: ViTMAEForPreTraining, parts: tuple[Letters, Letters]) -> float:
    """The linear probe of a frozen encoder: trained on its features of the training letters, asked about the others."""
    x, heldout_x = (features(model, part.images) for part in parts)
    return linear_probe(x, parts[0].labels, heldout_x, parts[1].labels)


class LetterLandmarks(NamedTuple):
    """What the measurements of the arms are compared with."""

    mean_image: float  # squared error of who paints the mean image of training, with 75 % hidden
    median_image: float  # absolute error of who paints the median of each pixel
    raw_pixels: float  # a linear probe on the pixels themselves
    untrained: list[float]  # and on the features of the first weights of each seed


def letter_landmarks(parts: tuple[Letters, Letters], seeds: int = SEEDS) -> LetterLandmarks:
    """The landmarks of these letters."""
    images, heldout = (part.images for part in parts)
    hidden = hide_patches(np.random.default_rng(HELDOUT_SEED).random((len(heldout), PATCHES)))
    pixels = hidden_pixels(hidden.mask, (SIZE, SIZE), PATCH)
    flat, heldout_flat = (x.reshape(len(x), -1).astype(np.float64) for x in (images, heldout))
    return LetterLandmarks(
        mean_image=float(((heldout - images.mean(axis=0))[:, 0][pixels] ** 2).mean()),
        median_image=float(abs(heldout - np.median(images, axis=0))[:, 0][pixels].mean()),
        raw_pixels=linear_probe(flat, parts[0].labels, heldout_flat, parts[1].labels),
        untrained=[probe(AblatedMAE(Arm(), seed), parts) for seed in range(seeds)],
    )


def letters_figure(folder: Path, steps: int = ARM_STEPS) -> None:
    """Held-out letters, what is visible of them, and what a model paints that was trained with L2, with L1."""
    parts = letters()
    images = parts[1].images[:8]
    hidden = hide_patches(np.random.default_rng(3).random((len(images), PATCHES)), 0.5)
    gone = hidden_pixels(hidden.mask, (SIZE, SIZE), PATCH)
    rows: list[tuple[str, Array, Array | None]] = [
        ("the image", images[:, 0], None), ("what is seen", images[:, 0], gone)
    ]  # fmt: skip
    for loss, arm in (("squared", Arm(0.5)), ("absolute", Arm(0.5, absolute=True))):
        model = train_arm(parts, arm, 0, steps)
        encoded, _ = model.vit.forward(MAEInputs(images, hidden))
        painted, _ = model.decoder.forward(encoded, hidden.restore)
        whole = patchify.backward(painted, patchify.forward(images, PATCH)[1])[:, 0]
        rows.append((f"trained with\n{loss} errors", np.where(gone, whole, images[:, 0]), None))
    plot_paintings(rows, folder / "lesson-9-letters.png", "gray")


def ablation_figure(folder: Path, steps: int = ARM_STEPS, seeds: int = SEEDS) -> None:
    """Which mask ratio is good at which; L1 against L2; what a linear probe finds in the features of each arm."""
    parts = letters()
    measured = run_ablation(parts, steps, seeds)
    marks = letter_landmarks(parts, seeds)
    of = {name: [m for m in measured if m.name == name] for name in ARMS}
    table = np.array([[np.mean([m.squared[at] for m in of[f"{100 * r:g} % hidden"]]) for at in RATIOS] for r in RATIOS])
    errors = {label: [(m.squared[0.75], m.absolute) for m in of[name]] for label, name in (("L2", BASE), ("L1", "L1"))}
    found = {name: [m.probe for m in of[name]] for name in ARMS}
    landmarks = {"raw pixels": marks.raw_pixels, "untrained": float(np.mean(marks.untrained))}
    plot_image_ablation(
        table, RATIOS, errors, (marks.mean_image, marks.median_image), found, landmarks,
        folder / "lesson-9-ablation.png",
    )  # fmt: skip


FIGURES: dict[str, Callable[[Path], None]] = {
    "lesson-8-reconstruction": reconstruction_figure,
    "lesson-9-letters": letters_figure,
    "lesson-9-ablation": ablation_figure,
}
