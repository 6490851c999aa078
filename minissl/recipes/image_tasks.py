"""What an image model learns from: batches as a function of (seed, step), and held-out images with their masks."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from minissl.backend import Array
from minissl.errors import InputError
from minissl.ops.patches import grid_of
from minissl.pretext.gaussian_field import LENGTH, GaussianField
from minissl.pretext.patches import hide_patches, mask_blocks, number_to_keep
from minissl.vision import PixelScale, augment, load_images, rows_of

Batch = dict[str, Array]
MASKS, VIEWS, HELDOUT = range(1, 4)  # which stream of random numbers: one seed, no two alike (0: weights)
HELDOUT_BATCH = 64  # whatever the training batch, so that runs compare, and memory stays small
CROP = 14  # an image is moved by up to this part of its side: 2 of 28 pixels
SAMPLE = 20_000  # images of a field that stand for all of them


@dataclass(frozen=True)
class ImageTaskOptions:
    """How batches are made. `image_size` 0: the images as they are."""

    objective: str
    data: str
    image_size: int
    patch_size: int
    mask_ratio: float
    batch_size: int
    augment: bool
    seed: int

    def grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Patches down and across. Raises InputError where they do not divide, or none is hidden, or none visible."""
        try:
            grid = grid_of(size, self.patch_size)
        except InputError as error:
            raise InputError(f"{self.data}: {error}; --patch-size sets the patches' side") from None
        number = grid[0] * grid[1]
        if self.objective == "mae" and number_to_keep(number, self.mask_ratio) == number:
            raise InputError(f"--mask-ratio {self.mask_ratio:g}: of {number} patches none would be hidden")
        return grid

    def masked(self, inputs: Array, rng: np.random.Generator) -> Batch:
        """A batch as the objective's model takes it, with what is hidden drawn from `rng`."""
        grid = self.grid(inputs.shape[2:])
        if self.objective == "mae":
            return {"pixel_values": inputs, "noise": rng.random((len(inputs), grid[0] * grid[1]))}
        # SimMIM hides blocks of a seventh of the image's side (32 of 224); here that is about one patch
        return {"pixel_values": inputs, "bool_masked_pos": mask_blocks(rng, len(inputs), grid, 1, self.mask_ratio)}

    def hidden(self, batch: Batch) -> Array:
        """Which patches of a batch are hidden, (B, N)."""
        if self.objective == "mae":
            return hide_patches(batch["noise"], self.mask_ratio).mask
        return batch["bool_masked_pos"]


@dataclass
class ImageTask:
    """The images of a set, seen shifted and mirrored, in shuffled passes."""

    options: ImageTaskOptions
    scale: PixelScale = field(init=False)
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        o = self.options
        self._parts = load_images(o.data, o.image_size or None)
        self.fingerprint = self._parts.fingerprint
        self.shape: tuple[int, int, int] = self._parts.train.pixels.shape[1:]
        o.grid(self.shape[1:])
        self.scale = PixelScale.of(self._parts.train)
        self._crop = min(self.shape[1:]) // CROP
        # in a mirror a written character is another one; sets of characters name their classes by them
        self._flip = not self._parts.classes or any(len(name) > 1 for name in self._parts.classes)

    def batch(self, step: int) -> Batch:
        """The batch of step 1, 2, …: every one has its own views and masks."""
        o = self.options
        pixels = self._parts.train.pixels
        pixels = pixels[rows_of(step, len(pixels), o.batch_size, o.seed)]
        if o.augment:
            views = np.random.default_rng([o.seed, VIEWS, step])
            pixels = augment(pixels, views, flip=self._flip, crop=self._crop)
        return o.masked(self.scale.apply(pixels), np.random.default_rng([o.seed, MASKS, step]))

    def heldout(self, most_images: int) -> list[Batch]:
        """At most so many held-out images, the same ones and the same masks whatever the seed."""
        pixels = self._parts.heldout.pixels
        chosen = np.random.default_rng([0, HELDOUT]).permutation(len(pixels))[:most_images]
        inputs = self.scale.apply(pixels[chosen])
        rng = np.random.default_rng([0, HELDOUT, 1])
        return [self.options.masked(inputs[i : i + HELDOUT_BATCH], rng) for i in range(0, len(inputs), HELDOUT_BATCH)]

    @property
    def summary(self) -> str:
        """How many images there are on either side."""
        channels, height, width = self.shape
        views = {"shifted": self._crop > 0, "mirrored": self._flip} if self.options.augment else {}
        seen = " and ".join(name for name, used in views.items() if used)
        return (
            f"train {len(self._parts.train.pixels):,} images{seen and ', ' + seen}, "
            f"held out {len(self._parts.heldout.pixels):,}; "
            f"{height} × {width} pixels, {'grey' if channels == 1 else 'colour'}"
        )

    @property
    def training_pixels(self) -> Array:
        """The training images (n, C, H, W), neither shifted nor mirrored."""
        return self._parts.train.pixels

    def floor(self, heldout: list[Batch]) -> float | None:
        """Of real images nobody knows the best possible reconstruction."""
        return None

    def best(self, batch: Batch) -> Array | None:
        """The best possible reconstruction (B, C, H, W): not known."""
        return None

    def picture(self, inputs: Array) -> Array:
        """Inputs (n, C, H, W) as values from 0, black, to 1, white."""
        return self.scale.undo(inputs)


@dataclass
class FieldTask:
    """Images of a Gaussian field, whose best reconstruction is known. Every batch is new."""

    options: ImageTaskOptions
    fingerprint: str = "gaussian-field"

    def __post_init__(self) -> None:
        self.field = GaussianField.stationary()
        self.shape = (1, *self.field.mean.shape)
        self.options.grid(self.shape[1:])
        self.scale = PixelScale((0.0,), (1.0,), 1.0)  # by definition: nothing to measure

    def batch(self, step: int) -> Batch:
        """The batch of step 1, 2, …: fresh images, freshly masked."""
        rng = np.random.default_rng([self.options.seed, MASKS, step])
        return self.options.masked(self.field.sample(rng, self.options.batch_size), rng)

    def heldout(self, most_images: int) -> list[Batch]:
        """So many images that no training step draws."""
        rng = np.random.default_rng([0, HELDOUT])
        sizes = [min(HELDOUT_BATCH, most_images - i) for i in range(0, most_images, HELDOUT_BATCH)]
        return [self.options.masked(self.field.sample(rng, size), rng) for size in sizes]

    @property
    def summary(self) -> str:
        """What the images are."""
        height, width = self.shape[1:]
        return (
            f"a Gaussian field of {height} × {width} pixels, mean 0, variance 1, correlation "
            f"exp(-distance/{LENGTH:g}); every image is drawn anew"
        )

    @property
    def training_pixels(self) -> Array:
        """A large sample (n, 1, H, W)."""
        return self.field.sample(np.random.default_rng([0, HELDOUT, 2]), SAMPLE)

    def floor(self, heldout: list[Batch]) -> float:
        """The least expected error for the masks of these batches: squared for MAE, absolute for SimMIM."""
        o = self.options
        hidden = np.concatenate([o.hidden(batch) for batch in heldout])
        best = self.field.best_squared_error if o.objective == "mae" else self.field.best_absolute_error
        return best(hidden, o.patch_size)

    def best(self, batch: Batch) -> Array:
        """The exact conditional mean (B, 1, H, W) of the hidden pixels; the visible ones as they are."""
        return self.field.conditional(batch["pixel_values"], self.options.hidden(batch), self.options.patch_size).mean

    def picture(self, inputs: Array) -> Array:
        """Inputs (n, 1, H, W) as values from 0, black, to 1, white: three standard deviations either way."""
        return 0.5 + inputs / 6


def make_image_task(options: ImageTaskOptions) -> ImageTask | FieldTask:
    """Build the task of `options.data`. Raises InputError for images that cannot be used."""
    return FieldTask(options) if options.data == "gaussian-field" else ImageTask(options)
