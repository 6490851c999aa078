"""What a reconstruction's error means: the errors of answers that need no network, and the exact floor where known.

All errors are means over the pixels of the hidden held-out patches, as the loss is: squared for MAE, absolute for
SimMIM. Inputs have variance 1, so a squared error of 1 is that of one grey level for everything.

- The training mean image: each hidden pixel gets the mean of the training images at that place (for absolute errors
  the median, which is best there). It is the best answer that does not look at the image.
- Each patch's own mean (median): every hidden patch in one colour, and the right one. It looks at the truth, so it is
  no rival, but a mark: below it a model paints what lies within the patches, and not only their brightness.
- The exact floor: only a Gaussian field has one (`pretext/gaussian_field.py`).

With `norm_pix`, the target is each patch's pixels less their mean, over their spread, and the first two are those of
such targets: a patch's own mean is then 0 in grey images, and no landmark measures how bright it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from minissl.backend import Array, to_host
from minissl.ops.patches import normalise_patches_forward, patchify_forward
from minissl.recipes.image_tasks import Batch, FieldTask, ImageTask

CHUNK = 1024  # images that are looked at together, which bounds the memory


class Target(NamedTuple):
    """What is asked of a model: the objective, the patches' side, and whether each patch is normalised."""

    objective: str
    patch_size: int
    norm_pix: bool

    @property
    def middle(self) -> str:
        """What is the best constant answer: the mean for squared errors, the median for absolute ones."""
        return "mean" if self.objective == "mae" else "median"

    def patches(self, images: Array) -> Array:
        """Inputs (B, C, H, W) -> what is to be predicted of each patch, (B, N, P²C)."""
        patches, _ = patchify_forward(images, self.patch_size)
        return normalise_patches_forward(patches)[0] if self.norm_pix else patches

    def predicted(self, model: Any, batch: Batch) -> Array:
        """What a model predicts of each patch, (B, N, P²C)."""
        out = model(**batch)
        if self.objective == "mae":
            return to_host(out.logits)  # type: ignore[no-any-return]
        return patchify_forward(to_host(out.reconstruction), self.patch_size)[0]

    def error(self, predicted: Array, patches: Array, hidden: Array) -> float:
        """The sum over the hidden patches of each one's mean squared, or absolute, error."""
        difference = (predicted - patches)[hidden].astype(np.float64)
        errors = difference**2 if self.objective == "mae" else np.abs(difference)
        return float(errors.mean(axis=-1).sum())

    def own_mean(self, patches: Array) -> Array:
        """Each patch (…, P²C) in its own mean colour; in its median, channel by channel, for absolute errors."""
        by_channel = patches.reshape(*patches.shape[:-1], self.patch_size**2, -1)
        middle = np.mean if self.objective == "mae" else np.median
        colour = middle(by_channel, axis=-2, keepdims=True)
        return np.broadcast_to(colour, by_channel.shape).reshape(patches.shape)


class Landmarks(NamedTuple):
    """Errors to compare with; `mean_image` (N, P²C) is the first one's answer."""

    mean_image: float
    patch_mean: float
    floor: float | None


def mean_image(task: ImageTask | FieldTask, target: Target) -> Array:
    """The mean (median) of the training images' targets at every place, (N, P²C)."""
    pixels = task.training_pixels
    if target.objective == "mae":
        chunks = (task.scale.apply(pixels[i : i + CHUNK]) for i in range(0, len(pixels), CHUNK))
        return np.asarray(sum(target.patches(chunk).sum(axis=0, dtype=np.float64) for chunk in chunks) / len(pixels))
    rows = [np.median(pixels[:, :, row], axis=0) for row in range(pixels.shape[2])]  # one at a time bounds the memory
    image: Array = target.patches(task.scale.apply(np.stack(rows, axis=1)[None]))[0]
    return image


def landmarks(task: ImageTask | FieldTask, target: Target, heldout: list[Batch]) -> Landmarks:
    """The landmarks of a task on held-out batches."""
    image = mean_image(task, target)
    return Landmarks(
        mean_error(task, target, heldout, lambda patches: np.broadcast_to(image, patches.shape)),
        mean_error(task, target, heldout, target.own_mean),
        None if target.norm_pix else task.floor(heldout),
    )


def mean_error(
    task: ImageTask | FieldTask, target: Target, heldout: list[Batch], answer: Callable[[Array], Array]
) -> float:
    """The error of an answer that is a function of the true patches (B, N, P²C), or ignores them."""
    total = count = 0.0
    for batch in heldout:
        patches, hidden = target.patches(batch["pixel_values"]), task.options.hidden(batch)
        total += target.error(answer(patches), patches, hidden)
        count += np.count_nonzero(hidden)
    return total / count
