"""Masked autoencoders (He et al. 2022): hide three quarters of an image's patches, and paint them again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from minissl.backend import Array, array_module, beside, to_number
from minissl.errors import InputError
from minissl.kernels import op
from minissl.models.pretrained import LearningModel, ModelOutput, PreTrainedModel, as_array, check_dtype
from minissl.models.vit import (
    Batch,
    ImageEncoderConfig,
    Layers,
    ViTModel,
    check_images,
    fit_positions,
    image_shapes,
    prepend,
)
from minissl.nn import Grads, Init, Linear, Module, PatchEmbedding, XavierInit
from minissl.ops.patches import grid_of
from minissl.ops.positions import sincos_positions
from minissl.pretext.patches import HiddenPatches, hide_patches, number_to_keep

gather_patches = op("gather_patches")
restore_patches = op("restore_patches")
patchify = op("patchify")
normalise_patches = op("normalise_patches")
masked_mse = op("masked_mse")


@dataclass(kw_only=True)
class ViTMAEConfig(ImageEncoderConfig):
    """The sizes and rates of a masked autoencoder, under Hugging Face's names; the defaults are its base model's."""

    model_type: ClassVar[str] = "vit_mae"
    decoder_num_attention_heads: int = 16
    decoder_hidden_size: int = 512
    decoder_num_hidden_layers: int = 8
    decoder_intermediate_size: int = 2048
    mask_ratio: float = 0.75
    norm_pix_loss: bool = False

    def __post_init__(self) -> None:
        """Raise InputError for values that no masked autoencoder can have, as a mask that leaves nothing to see."""
        super().__post_init__()
        try:
            number_to_keep(self.grid[0] * self.grid[1], self.mask_ratio)
        except InputError as error:
            raise InputError(f"config: mask_ratio: {error}") from None


class MAEInputs(NamedTuple):
    """Checked images, and which of their patches are hidden."""

    images: Array  # (B, C, H, W)
    hidden: HiddenPatches


def fixed_positions(grid: tuple[int, int], d: int, init: Init) -> Any:
    """A table (1, 1 + N, D) of sines and cosines, which is kept and never trained."""
    return init.fixed((1, 1 + grid[0] * grid[1], d), lambda: sincos_positions(grid, d))


class ViTMAEEmbeddings(Module):
    """[class token; visible patches], each with its fixed position."""

    def __init__(self, config: ViTMAEConfig, init: Init):
        self.cls_token = init.token(1, 1, config.hidden_size)
        self.position_embeddings = fixed_positions(config.grid, config.hidden_size, init)
        self.patch_embeddings = PatchEmbedding(config.num_channels, config.patch_size, config.hidden_size, init)
        self.grid, self.side = config.grid, config.patch_size

    def forward(self, inputs: MAEInputs) -> tuple[Array, Any]:
        """images (B, C, H, W) -> x (B, 1 + K, D), for the K patches that are kept."""
        x, patch_cache = self.patch_embeddings.forward(inputs.images)
        positions, _ = fit_positions(self.position_embeddings, self.grid, grid_of(inputs.images.shape[2:], self.side))
        visible, gather_cache = gather_patches.forward(x + positions[1:], beside(inputs.hidden.keep, x))
        return prepend(self.cls_token.data[0, 0] + positions[0], visible), (patch_cache, gather_cache)

    def backward(self, dx: Array, cache: Any, grads: Grads) -> None:
        """Hidden patches get no gradient."""
        patch_cache, gather_cache = cache
        grads.add(self.cls_token, dx[:, :1].sum(axis=0, keepdims=True))
        self.patch_embeddings.backward(gather_patches.backward(dx[:, 1:], gather_cache), patch_cache, grads)


class ViTMAEModel(PreTrainedModel):
    """The encoder, which sees the visible patches alone: images -> a vector for the class token and each of them."""

    config_class = ViTMAEConfig
    base_model_prefix = "vit"
    renames = ViTModel.renames

    def __init__(self, config: ViTMAEConfig, seed: int = 0, dtype: str = "float32", init: Init | None = None):
        check_dtype(dtype)
        init = init or XavierInit(np.random.default_rng(seed), dtype, config.initializer_range)
        self.config: ViTMAEConfig = config
        self.embeddings = ViTMAEEmbeddings(config, init)
        self.encoder = Layers(
            config, config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.intermediate_size,
            init,
        )  # fmt: skip

    def forward(self, inputs: MAEInputs, rng: np.random.Generator | None = None) -> tuple[Array, Any]:
        """-> hidden states (B, 1 + K, D)."""
        x, embedding_cache = self.embeddings.forward(inputs)
        hidden, cache = self.encoder.forward(x, rng)
        return hidden, (embedding_cache, cache)

    def backward(self, dhidden: Array, cache: Any, grads: Grads) -> None:
        """dhidden (B, 1 + K, D); pixels get no gradient."""
        embedding_cache, cache = cache
        self.embeddings.backward(self.encoder.backward(dhidden, cache, grads), embedding_cache, grads)

    def check_inputs(
        self, pixel_values: Any, noise: Any = None, interpolate_pos_encoding: bool = False,
        rng: np.random.Generator | None = None,
    ) -> MAEInputs:  # fmt: skip
        """Check images (see `check_images`) and choose what is hidden, by noise (B, N), or noise drawn from `rng`.

        With neither, the noise of `default_rng(0)`: the same patches at every call. Raises InputError for noise of
        another shape.
        """
        images = check_images(self, pixel_values, interpolate_pos_encoding)
        h, w = grid_of(images.shape[2:], self.config.patch_size)
        if noise is None:
            noise = (rng or np.random.default_rng(0)).random((len(images), h * w))
        noise = as_array("noise", noise)
        if noise.shape != (len(images), h * w):
            raise InputError(f"noise: shape {noise.shape} given, expected (images, patches) = {(len(images), h * w)}")
        return MAEInputs(images, hide_patches(noise, self.config.mask_ratio))

    def untrained(self) -> dict[str, Array]:
        """Name the entries that get no gradient, by design: the positions, which are fixed."""
        return {"embeddings.position_embeddings": np.ones(self.embeddings.position_embeddings.data.shape, bool)}

    def answer(self, inputs: MAEInputs, output_hidden_states: bool, output_attentions: bool) -> ModelOutput:
        """Evaluate on checked inputs."""
        x, _ = self.embeddings.forward(inputs)
        answer = self.encoder.answer(x, output_hidden_states, output_attentions)
        hidden = answer.pop("last_hidden_state")
        mask, restore = beside((inputs.hidden.mask.astype(hidden.dtype), inputs.hidden.restore), hidden)
        return ModelOutput(last_hidden_state=hidden, mask=mask, ids_restore=restore, **answer)

    def __call__(
        self, pixel_values: Array, noise: Array | None = None, output_hidden_states: bool = False,
        output_attentions: bool = False, interpolate_pos_encoding: bool = False,
    ) -> ModelOutput:  # fmt: skip
        """Evaluate: `last_hidden_state` (B, 1 + K, D), `mask` (B, N) with 1 = hidden, and `ids_restore` (B, N).

        For features of the whole image take `mask_ratio=0`. Noise, and errors, as in `check_inputs`.
        """
        inputs = self.check_inputs(pixel_values, noise, interpolate_pos_encoding)
        return self.answer(inputs, output_hidden_states, output_attentions)


class ViTMAEDecoder(Module):
    """A small transformer over all patches, the hidden ones behind a mask token, that paints each one's pixels."""

    def __init__(self, config: ViTMAEConfig, init: Init):
        d = config.decoder_hidden_size
        self.decoder_embed = Linear(config.hidden_size, d, init)
        self.mask_token = init.token(1, 1, d)
        self.decoder_pos_embed = fixed_positions(config.grid, d, init)
        self.blocks = Layers(
            config, d, config.decoder_num_hidden_layers, config.decoder_num_attention_heads,
            config.decoder_intermediate_size, init,
        )  # fmt: skip
        self.decoder_pred = Linear(d, config.patch_size**2 * config.num_channels, init)

    def forward(
        self, hidden: Array, restore: Array, rng: np.random.Generator | None = None, asked: Array | None = None
    ) -> tuple[Array, Any]:
        """hidden (B, 1 + K, D) -> pixels (B, N, P²C), or of the patches asked (B, M) alone (B, M, P²C)."""
        asked = np.broadcast_to(np.arange(restore.shape[1]), restore.shape) if asked is None else asked
        x, embed_cache = self.decoder_embed.forward(hidden)
        patches, restore_cache = restore_patches.forward(x[:, 1:], self.mask_token.data[0, 0], beside(restore, x))
        # to another number of patches Hugging Face interpolates this table along the sequence, not over the grid
        positions, _ = fit_positions(self.decoder_pos_embed, self._line(self.decoder_pos_embed), (1, restore.shape[1]))
        x = array_module(x).concatenate([x[:, :1], patches], axis=1) + positions
        x, cache = self.blocks.forward(x, rng, beside(1 + asked, x))  # nothing is painted from the class token
        pixels, pred_cache = self.decoder_pred.forward(x)
        return pixels, (embed_cache, restore_cache, cache, pred_cache)

    def backward(self, dpixels: Array, cache: Any, grads: Grads) -> Array:
        """dpixels as forward's result -> dhidden (B, 1 + K, D)."""
        embed_cache, restore_cache, cache, pred_cache = cache
        dx = self.decoder_pred.backward(dpixels, pred_cache, grads)
        dx = self.blocks.backward(dx, cache, grads)
        dvisible, dtoken = restore_patches.backward(dx[:, 1:], restore_cache)
        grads.add(self.mask_token, dtoken[None, None])
        dx = array_module(dx).concatenate([dx[:, :1], dvisible], axis=1)
        return self.decoder_embed.backward(dx, embed_cache, grads)

    def _line(self, table: Any) -> tuple[int, int]:
        return 1, table.data.shape[1] - 1


class ViTMAEForPreTraining(LearningModel):
    """The autoencoder: the mean squared error of the hidden patches' pixels, normalised patch by patch if so set.

    Batches hold `pixel_values` and, if they are to choose what is hidden, `noise` (B, N); else it is drawn from the
    `rng` of the step.
    """

    config_class = ViTMAEConfig
    base_model_prefix = "vit"
    renames: ClassVar[tuple[tuple[str, str], ...]] = (
        ("blocks.layers.", "decoder_layers."),
        ("blocks.norm.", "decoder_norm."),
        *ViTModel.renames,
    )
    spellings: ClassVar[tuple[tuple[str, str], ...]] = (("decoder.decoder_encoder.layer.", "decoder.decoder_layers."),)

    def __init__(self, config: ViTMAEConfig, seed: int = 0, dtype: str = "float32"):
        check_dtype(dtype)
        init = XavierInit(np.random.default_rng(seed), dtype, config.initializer_range)
        self.config: ViTMAEConfig = config
        self.vit = ViTMAEModel(config, dtype=dtype, init=init)
        self.decoder = ViTMAEDecoder(config, init)

    def asked(self, inputs: MAEInputs) -> Array | None:
        """Which patches (B, M) the loss looks at, and training paints: the hidden ones. None: all."""
        return inputs.hidden.hide

    def forward(self, inputs: MAEInputs, count: int, rng: np.random.Generator | None = None) -> tuple[Array, Any]:
        """-> the loss, averaged over `count` hidden patches."""
        hidden, vit_cache = self.vit.forward(inputs, rng)
        pixels, decoder_cache = self.decoder.forward(hidden, inputs.hidden.restore, rng, self.asked(inputs))
        loss, loss_cache = self._loss(pixels, inputs, count)
        return loss, (vit_cache, decoder_cache, loss_cache)

    def backward(self, cache: Any, grads: Grads) -> None:
        """From the hidden patches' pixels through the decoder to the visible patches."""
        vit_cache, decoder_cache, loss_cache = cache
        dpixels, _ = masked_mse.backward(grads.loss_scale, loss_cache)  # the true pixels are not trained
        self.vit.backward(self.decoder.backward(dpixels, decoder_cache, grads), vit_cache, grads)

    def untrained(self) -> dict[str, Array]:
        """Name the entries that get no gradient, by design: both tables of positions, which are fixed."""
        tables = {f"vit.{key}": rows for key, rows in self.vit.untrained().items()}
        return tables | {"decoder.decoder_pos_embed": np.ones(self.decoder.decoder_pos_embed.data.shape, bool)}

    def counts(self, batch: Batch) -> dict[str, int]:
        """How many patches are hidden. Raises InputError where none is."""
        images = image_shapes(self.config, batch["pixel_values"], batch.get("interpolate_pos_encoding", False))
        h, w = grid_of(images.shape[2:], self.config.patch_size)
        hidden = len(images) * (h * w - number_to_keep(h * w, self.config.mask_ratio))
        if not hidden:
            raise InputError(
                f"config: at mask_ratio {self.config.mask_ratio:g} no patch is hidden: nothing to learn from"
            )
        return {"mae": hidden}

    def losses_and_backward(
        self, batch: Batch, counts: dict[str, int], grads: Grads, rng: np.random.Generator | None
    ) -> dict[str, float]:
        """One share of a step: the loss over its part of the batch, divided by the whole batch's count."""
        inputs = self.vit.check_inputs(**batch, rng=rng)
        loss, cache = self.forward(inputs, counts["mae"], rng)
        self.backward(cache, grads)
        return {"mae": to_number(loss)}

    def __call__(
        self, pixel_values: Array, noise: Array | None = None, output_hidden_states: bool = False,
        output_attentions: bool = False, interpolate_pos_encoding: bool = False,
    ) -> ModelOutput:  # fmt: skip
        """Evaluate: `loss` where a patch is hidden, `logits` (B, N, P²C), `mask` and `ids_restore` (B, N).

        Noise, and errors, as in `ViTMAEModel.check_inputs`.
        """
        inputs = self.vit.check_inputs(pixel_values, noise, interpolate_pos_encoding)
        answer = self.vit.answer(inputs, output_hidden_states, output_attentions)
        pixels, _ = self.decoder.forward(answer.pop("last_hidden_state"), answer.ids_restore)
        out = ModelOutput()
        if inputs.hidden.mask.any():
            asked = self.asked(inputs)
            painted = pixels if asked is None else gather_patches.forward(pixels, beside(asked, pixels))[0]
            out["loss"] = self._loss(painted, inputs, inputs.hidden.hide.size)[0]
        return ModelOutput(**out, logits=pixels, **answer)

    def _loss(self, painted: Array, inputs: MAEInputs, count: int) -> tuple[Array, Any]:
        """The loss of the hidden patches, painted (B, M, P²C)."""
        target, _ = patchify.forward(inputs.images, self.config.patch_size)
        target, _ = gather_patches.forward(target, beside(inputs.hidden.hide, target))
        if self.config.norm_pix_loss:
            target, _ = normalise_patches.forward(target)
        return masked_mse.forward(painted, target, beside(np.arange(inputs.hidden.hide.size), painted), count)
