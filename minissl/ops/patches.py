"""Images as sequences of patches: cutting and joining, embedding, hiding and restoring. Images are (…, C, H, W)."""

from typing import NamedTuple

import numpy as np

from minissl.backend import Array, array_module, require_ids
from minissl.errors import InputError
from minissl.ops.embedding import LookupCache
from minissl.ops.linear import LinearCache, linear_backward, linear_forward


class PatchifyCache(NamedTuple):
    """What joins the patches again: their side, and the images' height and width."""

    side: int
    size: tuple[int, int]


def patchify_forward(images: Array, side: int) -> tuple[Array, PatchifyCache]:
    """Cut images (…, C, H, W) into N = H/P · W/P patches (…, N, P²C), row by row; P = `side`.

    A patch's numbers are in the order row, column, channel (He et al. 2022, MAE).
    Raises InputError where H or W does not divide by the side.
    """
    *leading, channels, height, width = images.shape
    rows, columns = grid_of((height, width), side)
    x = images.reshape(*leading, channels, rows, side, columns, side)
    x = x.transpose(*range(len(leading)), *(len(leading) + axis for axis in (1, 3, 2, 4, 0)))  # (…, h, w, P, P, C)
    return x.reshape(*leading, rows * columns, side * side * channels), PatchifyCache(side, (height, width))


def patchify_backward(dy: Array, cache: PatchifyCache) -> Array:
    """dimages: every pixel is in one patch, so its gradient is moved back, and nothing is summed."""
    return unpatchify_forward(dy, *cache)[0]


def unpatchify_forward(patches: Array, side: int, size: tuple[int, int]) -> tuple[Array, PatchifyCache]:
    """Join patches (…, N, P²C), as `patchify_forward` orders them, into images (…, C, H, W) of `size` (H, W).

    Raises InputError where the number of patches or of a patch's numbers is not that of such images.
    """
    *leading, number, numbers = patches.shape
    rows, columns = grid_of(size, side)
    _require_patches(number, numbers, rows * columns, side, size)
    x = patches.reshape(*leading, rows, columns, side, side, numbers // side**2)
    x = x.transpose(*range(len(leading)), *(len(leading) + axis for axis in (4, 0, 2, 1, 3)))  # (…, C, h, P, w, P)
    return x.reshape(*leading, -1, *size), PatchifyCache(side, size)


def unpatchify_backward(dy: Array, cache: PatchifyCache) -> Array:
    """dpatches: the images' gradient, cut into patches."""
    return patchify_forward(dy, cache.side)[0]


def pixel_shuffle_forward(x: Array, side: int, size: tuple[int, int]) -> tuple[Array, PatchifyCache]:
    """Join patches (…, N, CP²), in the order channel, row, column, into images (…, C, H, W) (Shi et al. 2016).

    Raises InputError as `unpatchify_forward` does.
    """
    *leading, number, numbers = x.shape
    rows, columns = grid_of(size, side)
    _require_patches(number, numbers, rows * columns, side, size)
    x = x.reshape(*leading, rows, columns, numbers // side**2, side, side)
    x = x.transpose(*range(len(leading)), *(len(leading) + axis for axis in (2, 0, 3, 1, 4)))  # (…, C, h, P, w, P)
    return x.reshape(*leading, -1, *size), PatchifyCache(side, size)


def pixel_shuffle_backward(dy: Array, cache: PatchifyCache) -> Array:
    """dx (…, N, CP²): the images' gradient, cut into patches, in the order channel, row, column."""
    dpatches, _ = patchify_forward(dy, cache.side)  # (…, N, P²C)
    shape = dpatches.shape
    return dpatches.reshape(*shape[:-1], cache.side**2, -1).swapaxes(-1, -2).reshape(shape)


class PatchEmbeddingCache(NamedTuple):
    """The caches of cutting and of the linear map, and the shape of the weight."""

    patches: PatchifyCache
    linear: LinearCache
    shape: tuple[int, ...]


def patch_embedding_forward(images: Array, weight: Array, bias: Array) -> tuple[Array, PatchEmbeddingCache]:
    """y_n = W patch_n + b: images (…, C, H, W), weight (D, C, P, P), bias (D,) -> y (…, N, D).

    It is the convolution of kernel P and stride P whose weight this is, as Hugging Face stores it (Dosovitskiy et al.
    2021, equation 1). Raises InputError for images of other channels, or that do not divide into patches.
    """
    d, channels, side, _ = weight.shape
    if images.shape[-3] != channels:
        raise InputError(f"patch embedding: images of {images.shape[-3]} channel(s) given, the weight has {channels}")
    patches, cut = patchify_forward(images, side)
    rows = weight.transpose(0, 2, 3, 1).reshape(d, -1)  # (D, P²C): a patch's numbers run row, column, channel
    y, linear = linear_forward(patches, rows, bias)
    return y, PatchEmbeddingCache(cut, linear, weight.shape)


def patch_embedding_backward(dy: Array, cache: PatchEmbeddingCache) -> tuple[Array, Array, Array]:
    """As for a linear map, with the weight's gradient back in the order channel, row, column."""
    d, channels, side, _ = cache.shape
    dpatches, drows, dbias = linear_backward(dy, cache.linear)
    dweight = drows.reshape(d, side, side, channels).transpose(0, 3, 1, 2)
    return patchify_backward(dpatches, cache.patches), dweight, dbias


def gather_patches_forward(x: Array, ids: Array) -> tuple[Array, LookupCache]:
    """y_bk = x_b,ids[b,k]: of each row's patches x (B, N, D) those that ids (B, K) name, in their order; y (B, K, D).

    Raises InputError for an id outside 0 … N-1, or one that is twice in a row.
    """
    require_ids(ids, x.shape[1], "patch ids", "are they those of another image size?")
    if isinstance(ids, np.ndarray) and (np.diff(np.sort(ids, axis=1), axis=1) == 0).any():
        raise InputError("patch ids: one is twice in a row; each patch is kept or hidden once")
    return x[_rows(x, ids), ids], LookupCache(ids, x.shape)


def gather_patches_backward(dy: Array, cache: LookupCache) -> Array:
    """dx is dy where a patch was taken, zero elsewhere: none was taken twice, so nothing is summed."""
    ids, shape = cache
    dx = array_module(dy).zeros(shape, dy.dtype)
    dx[_rows(dy, ids), ids] = dy
    return dx


def restore_patches_forward(visible: Array, mask_token: Array, ids: Array) -> tuple[Array, LookupCache]:
    """Put K visible patches (B, K, D) back into the places of N, with the mask token (D,) in the others; y (B, N, D).

    y_bn = visible_b,ids[b,n], or the mask token where ids[b,n] ≥ K. Each row of ids (B, N) is a permutation: the
    inverse of the one that put the visible patches first (He et al. 2022, MAE).

    Raises InputError for ids that are no permutations.
    """
    rows, number = ids.shape
    hidden = array_module(visible).zeros((rows, number - visible.shape[1], visible.shape[2]), visible.dtype)
    everything = array_module(visible).concatenate([visible, hidden + mask_token], axis=1)  # (B, N, D)
    y, taken = gather_patches_forward(everything, ids)
    return y, LookupCache(taken.ids, visible.shape)


def restore_patches_backward(dy: Array, cache: LookupCache) -> tuple[Array, Array]:
    """dvisible: each patch's gradient from its place. dmask_token: the sum over every place where it stood."""
    ids, shape = cache
    deverything = gather_patches_backward(dy, LookupCache(ids, dy.shape))
    return deverything[:, : shape[1]], deverything[:, shape[1] :].sum(axis=(0, 1))


def mask_patches_forward(x: Array, mask_token: Array, mask: Array) -> tuple[Array, Array]:
    """y = the mask token (D,) where mask (…, N) is True, x (…, N, D) elsewhere (Xie et al. 2022, SimMIM)."""
    return array_module(x).where(mask[..., None], mask_token, x), mask


def mask_patches_backward(dy: Array, cache: Array) -> tuple[Array, Array]:
    """dx is dy at the visible patches. dmask_token is the sum of dy over the hidden ones."""
    hidden = dy * cache[..., None]
    return dy - hidden, hidden.sum(axis=tuple(range(dy.ndim - 1)))


class NormalisedPatchesCache(NamedTuple):
    """The normalised patches and 1/σ."""

    normed: Array
    inv_std: Array


def normalise_patches_forward(patches: Array, eps: float = 1e-6) -> tuple[Array, NormalisedPatchesCache]:
    """y = (x - μ)/√(σ² + eps) for each patch (…, P), σ² the sum of squares over P - 1 (He et al. 2022, section 4).

    MAE's target of this kind has the unbiased variance; layer norm has the other. Raises InputError where P is 1.
    """
    if patches.shape[-1] < 2:
        raise InputError("normalised pixels: a patch of one number has no variance; use larger patches")
    centred = patches - patches.mean(axis=-1, keepdims=True)
    variance = (centred * centred).sum(axis=-1, keepdims=True) / (patches.shape[-1] - 1)
    inv_std = 1 / array_module(patches).sqrt(variance + eps)
    normed = centred * inv_std
    return normed, NormalisedPatchesCache(normed, inv_std)


def normalise_patches_backward(dy: Array, cache: NormalisedPatchesCache) -> Array:
    """dx = (dy - mean(dy) - n Σ(dy n)/(P - 1)) / σ, n the normalised patch: layer norm's, with its variance's P - 1."""
    normed, inv_std = cache
    mean_part = dy.mean(axis=-1, keepdims=True)
    variance_part = normed * ((dy * normed).sum(axis=-1, keepdims=True) / (dy.shape[-1] - 1))
    return inv_std * (dy - mean_part - variance_part)


def grid_of(size: tuple[int, int], side: int) -> tuple[int, int]:
    """(H/P, W/P): how many patches there are below and beside one another. Raises InputError where it is not whole."""
    height, width = size
    if side < 1 or height < side or width < side or height % side or width % side:
        raise InputError(
            f"images of {height} × {width} pixels do not divide into patches of {side} × {side}; crop or resize them"
        )
    return height // side, width // side


def _rows(x: Array, ids: Array) -> Array:
    return array_module(x).arange(len(ids))[:, None]  # (B, 1), beside ids (B, K)


def _require_patches(number: int, numbers: int, expected: int, side: int, size: tuple[int, int]) -> None:
    if number != expected or numbers % side**2:
        raise InputError(
            f"{number} patches of {numbers} numbers given, expected {expected} of a multiple of {side}²: "
            f"images of {size[0]} × {size[1]} in patches of {side} × {side}"
        )
