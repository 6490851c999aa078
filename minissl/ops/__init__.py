"""The mathematics: each component a pair `name_forward`, `name_backward` of pure functions.

    y, cache = name_forward(*arrays, ...)
    dx, dweight, ... = name_backward(dy, cache)

`dname` has the shape of `name`, and gradients come back in forward's argument order, one for each floating-point
array. Nothing that goes in is changed.
Leading axes are free: every op works on the last axis (attention on the last two).
"""

from minissl.ops.activations import (
    gelu_backward,
    gelu_forward,
    gelu_tanh_backward,
    gelu_tanh_forward,
    quick_gelu_backward,
    quick_gelu_forward,
    relu_backward,
    relu_forward,
    silu_backward,
    silu_forward,
    tanh_backward,
    tanh_forward,
)
from minissl.ops.attention import attention_backward, attention_forward
from minissl.ops.cross_entropy import (
    binary_cross_entropy_backward,
    binary_cross_entropy_forward,
    cross_entropy_backward,
    cross_entropy_forward,
    masked_cross_entropy_backward,
    masked_cross_entropy_forward,
)
from minissl.ops.dropout import dropout_backward, dropout_forward
from minissl.ops.embedding import embedding_backward, embedding_forward, take_positions_backward, take_positions_forward
from minissl.ops.erf import erf
from minissl.ops.layer_norm import layer_norm_backward, layer_norm_forward
from minissl.ops.linear import linear_backward, linear_forward
from minissl.ops.patches import (
    gather_patches_backward,
    gather_patches_forward,
    mask_patches_backward,
    mask_patches_forward,
    normalise_patches_backward,
    normalise_patches_forward,
    patch_embedding_backward,
    patch_embedding_forward,
    patchify_backward,
    patchify_forward,
    pixel_shuffle_backward,
    pixel_shuffle_forward,
    restore_patches_backward,
    restore_patches_forward,
    unpatchify_backward,
    unpatchify_forward,
)
from minissl.ops.positions import (
    bicubic_weights,
    interpolate_positions_backward,
    interpolate_positions_forward,
    sincos_positions,
)
from minissl.ops.regression import masked_l1_backward, masked_l1_forward, masked_mse_backward, masked_mse_forward
from minissl.ops.softmax import softmax_backward, softmax_forward

__all__ = [
    "attention_backward",
    "attention_forward",
    "bicubic_weights",
    "binary_cross_entropy_backward",
    "binary_cross_entropy_forward",
    "cross_entropy_backward",
    "cross_entropy_forward",
    "dropout_backward",
    "dropout_forward",
    "embedding_backward",
    "embedding_forward",
    "erf",
    "gather_patches_backward",
    "gather_patches_forward",
    "gelu_backward",
    "gelu_forward",
    "gelu_tanh_backward",
    "gelu_tanh_forward",
    "interpolate_positions_backward",
    "interpolate_positions_forward",
    "layer_norm_backward",
    "layer_norm_forward",
    "linear_backward",
    "linear_forward",
    "mask_patches_backward",
    "mask_patches_forward",
    "masked_cross_entropy_backward",
    "masked_cross_entropy_forward",
    "masked_l1_backward",
    "masked_l1_forward",
    "masked_mse_backward",
    "masked_mse_forward",
    "normalise_patches_backward",
    "normalise_patches_forward",
    "patch_embedding_backward",
    "patch_embedding_forward",
    "patchify_backward",
    "patchify_forward",
    "pixel_shuffle_backward",
    "pixel_shuffle_forward",
    "quick_gelu_backward",
    "quick_gelu_forward",
    "relu_backward",
    "relu_forward",
    "restore_patches_backward",
    "restore_patches_forward",
    "silu_backward",
    "silu_forward",
    "sincos_positions",
    "softmax_backward",
    "softmax_forward",
    "take_positions_backward",
    "take_positions_forward",
    "tanh_backward",
    "tanh_forward",
    "unpatchify_backward",
    "unpatchify_forward",
]
