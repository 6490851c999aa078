"""Synthetic images whose best possible reconstruction is known exactly: a Gaussian field.

The pixels of an image are jointly normal, x ~ N(μ, C), and which patches are hidden is drawn without a look at x. Of
all predictions f_i(x_v) of a hidden pixel i from the visible pixels v, the conditional mean has the least expected
squared error, and for a normal distribution both are known (Bishop 2006, equations 2.81 and 2.82):

    E[x_i | x_v] = μ_i + C_iv C_vv⁻¹ (x_v - μ_v)        Var[x_i | x_v] = C_ii - C_iv C_vv⁻¹ C_vi

The variance does not depend on what is seen, so its mean over the hidden pixels is the exact floor of the masked
autoencoder's loss, with raw pixels for targets (pixels normalised patch by patch are not normal, and have no such
floor). The conditional distribution is symmetric, so its mean is its median too, and the floor of SimMIM's absolute
error is the mean of √(2/π) · √Var. On a finite sample a model can be below either by chance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from minissl.backend import Array
from minissl.errors import InputError
from minissl.pretext.patches import hidden_pixels

LENGTH = 8.0  # pixels, over which the correlation of the stationary field falls to 1/e


class Conditional(NamedTuple):
    """What is known of each pixel once the visible ones are seen; these are themselves, with variance 0."""

    mean: Array  # (B, 1, H, W) float64
    variance: Array  # (B, 1, H, W) float64


@dataclass(frozen=True)
class GaussianField:
    """Grey images x ~ N(mean, covariance): `mean` (H, W), `covariance` (HW, HW), pixels row by row."""

    mean: Array
    covariance: Array
    _root: Array = field(init=False, repr=False)  # L with L Lᵀ = C

    def __post_init__(self) -> None:
        if self.mean.ndim != 2 or self.covariance.shape != (self.mean.size, self.mean.size):
            raise InputError(f"mean {self.mean.shape}, covariance {self.covariance.shape}: expected (H, W), (HW, HW)")
        if not np.allclose(self.covariance, self.covariance.T, rtol=0, atol=1e-12):
            raise InputError("covariance: expected a symmetric matrix")
        try:
            object.__setattr__(self, "_root", np.linalg.cholesky(self.covariance))
        except np.linalg.LinAlgError:
            raise InputError("covariance: expected a positive definite matrix") from None

    @classmethod
    def stationary(cls, size: tuple[int, int] = (16, 16), length: float = LENGTH) -> GaussianField:
        """Mean 0, variance 1, and exp(-distance/length) between two pixels; the field of `--data gaussian-field`.

        This covariance makes rough, cloudy pictures: what lies within a hidden patch cannot be had from outside it
        exactly, so that the floor is well above 0, and neighbours tell much, so that it is well below 1.
        Raises InputError for a length that is not above 0.
        """
        if not 0 < length < math.inf:
            raise InputError(f"length {length}: expected a number of pixels above 0")
        row, column = np.divmod(np.arange(size[0] * size[1]), size[1])
        distance = np.hypot(row[:, None] - row, column[:, None] - column)
        return cls(np.zeros(size), np.exp(-distance / length))

    def sample(self, rng: np.random.Generator, n: int) -> Array:
        """Draw n images (n, 1, H, W), float32: μ + L z for standard normal z."""
        x = self.mean.ravel() + rng.standard_normal((n, self.mean.size)) @ self._root.T
        return x.reshape(n, 1, *self.mean.shape).astype(np.float32)

    def conditional(self, images: Array, hidden: Array, side: int) -> Conditional:
        """Mean and variance of every pixel of images (B, 1, H, W), given those outside the hidden patches (B, N).

        Raises InputError for images of another size, or a mask that is not of their patches.
        """
        if images.shape[1:] != (1, *self.mean.shape):
            raise InputError(f"images {images.shape} given, expected (images, 1, H, W) = (…, {1, *self.mean.shape})")
        masks = hidden_pixels(hidden, self.mean.shape, side).reshape(len(images), -1)
        mean = images.reshape(masks.shape).astype(np.float64)
        variance = np.zeros_like(mean)
        for x, spread, h in zip(mean, variance, masks, strict=True):
            v = ~h
            between = self.covariance[np.ix_(v, h)]  # C_vh
            weights = np.linalg.solve(self.covariance[np.ix_(v, v)], between)  # C_vv⁻¹ C_vh
            x[h] = self.mean.ravel()[h] + (x[v] - self.mean.ravel()[v]) @ weights
            spread[h] = np.diag(self.covariance)[h] - (between * weights).sum(axis=0)
        return Conditional(mean.reshape(images.shape), variance.reshape(images.shape))

    def best_squared_error(self, hidden: Array, side: int) -> float:
        """The least expected mean squared error over the pixels of the hidden patches (B, N)."""
        return float(self._variances(hidden, side).mean())

    def best_absolute_error(self, hidden: Array, side: int) -> float:
        """The least expected mean absolute error over them: E|x - m| = √(2/π) σ for a normal x."""
        return float(np.sqrt(2 / math.pi * self._variances(hidden, side)).mean())

    def _variances(self, hidden: Array, side: int) -> Array:
        """Var[x_i | x_v] of the hidden pixels, which no image enters."""
        nothing = np.zeros((len(hidden), 1, *self.mean.shape))
        variance = self.conditional(nothing, hidden, side).variance
        return np.asarray(variance[:, 0][hidden_pixels(hidden, self.mean.shape, side)])
