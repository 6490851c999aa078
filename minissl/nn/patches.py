"""From images to sequences of patches."""

from typing import Any

from minissl.backend import Array
from minissl.kernels import op
from minissl.nn.layers import Init
from minissl.nn.module import Grads, Module

patch_embedding = op("patch_embedding")


class PatchEmbedding(Module):
    """y_n = W patch_n + b: images (B, C, H, W) -> (B, N, D); the weight (D, C, P, P) is a convolution's."""

    def __init__(self, channels: int, side: int, d: int, init: Init):
        self.weight = init.weight(d, channels, side, side)
        self.bias = init.zeros(d)

    def forward(self, images: Array) -> tuple[Array, Any]:
        """images (B, C, H, W) -> y (B, N, D), the patches row by row."""
        return patch_embedding.forward(images, self.weight.data, self.bias.data)

    def backward(self, dy: Array, cache: Any, grads: Grads) -> Array:
        """dy (B, N, D) -> dimages (B, C, H, W)."""
        dimages, dweight, dbias = patch_embedding.backward(dy, cache)
        grads.add(self.weight, dweight)
        grads.add(self.bias, dbias)
        return dimages
