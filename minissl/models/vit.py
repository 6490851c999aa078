"""ViT (Dosovitskiy et al. 2021): an image is a sequence of patches; and SimMIM (Xie et al. 2022), pre-trained on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from minissl.backend import Array, array_module, beside, to_number
from minissl.errors import InputError
from minissl.kernels import op
from minissl.models.labels import Asked, LabelledConfig, asked_labels, label_loss_backward, label_loss_forward
from minissl.models.pretrained import (
    LearningModel,
    ModelOutput,
    PreTrainedConfig,
    PreTrainedModel,
    as_array,
    check_dtype,
)
from minissl.nn import (
    Dropout,
    Grads,
    Init,
    LayerNorm,
    Linear,
    Module,
    Param,
    PatchEmbedding,
    TransformerLayer,
    activation,
)
from minissl.ops.patches import grid_of

linear = op("linear")
mask_patches = op("mask_patches")
masked_l1 = op("masked_l1")
patchify = op("patchify")
pixel_shuffle = op("pixel_shuffle")
interpolate_positions = op("interpolate_positions")

Batch = dict[str, Any]


@dataclass(kw_only=True)
class ImageEncoderConfig(PreTrainedConfig):
    """The sizes and rates of an encoder of images, under Hugging Face's names; the defaults are ViT-base's."""

    pairs: ClassVar[tuple[str, ...]] = ("image_size",)
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    image_size: int | Sequence[int] = 224  # one side, or (height, width)
    patch_size: int = 16
    num_channels: int = 3
    qkv_bias: bool = True

    def __post_init__(self) -> None:
        """Raise InputError for sizes that cannot be, as an image that does not divide into patches."""
        super().__post_init__()
        try:
            grid_of(self.size, self.patch_size)
        except InputError as error:
            raise InputError(f"config: {error}") from None

    @property
    def size(self) -> tuple[int, int]:
        """An image's height and width in pixels."""
        height, width = [self.image_size] * 2 if isinstance(self.image_size, int) else self.image_size
        return height, width

    @property
    def grid(self) -> tuple[int, int]:
        """An image's height and width in patches."""
        return grid_of(self.size, self.patch_size)


@dataclass(kw_only=True)
class ViTConfig(LabelledConfig, ImageEncoderConfig):
    """The sizes and rates of a ViT. It reads an MAE's configuration too, to fine-tune what that learnt."""

    model_type: ClassVar[str] = "vit"
    relatives: ClassVar[tuple[str, ...]] = ("vit_mae",)
    encoder_stride: int = 16  # the side of what SimMIM paints for each patch
    pooler_output_size: int | None = None  # None: hidden_size
    pooler_act: str = "tanh"

    def __post_init__(self) -> None:
        """Raise InputError for values that no ViT can have."""
        super().__post_init__()
        self.pooler_output_size = self.pooler_output_size or self.hidden_size
        if not isinstance(self.pooler_output_size, int) or self.pooler_output_size < 1:
            raise InputError(f"config: pooler_output_size is {self.pooler_output_size!r}, expected 1 or more")


class ViTEmbeddings(Module):
    """[class token; patches] + positions, with dropout; some patches may be hidden behind a mask token."""

    def __init__(self, config: ViTConfig, init: Init, use_mask_token: bool):
        self.cls_token = init.token(1, 1, config.hidden_size)
        if use_mask_token:
            self.mask_token = init.zeros(1, 1, config.hidden_size)
        self.position_embeddings = init.token(1, 1 + config.grid[0] * config.grid[1], config.hidden_size)
        self.patch_embeddings = PatchEmbedding(config.num_channels, config.patch_size, config.hidden_size, init)
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.grid, self.side = config.grid, config.patch_size

    def forward(
        self, images: Array, mask: Array | None = None, rng: np.random.Generator | None = None
    ) -> tuple[Array, Any]:
        """images (B, C, H, W), mask (B, N) with True = hidden -> x (B, 1 + N, D)."""
        x, patch_cache = self.patch_embeddings.forward(images)
        mask_cache = None
        if mask is not None:
            x, mask_cache = mask_patches.forward(x, self.mask_token.data[0, 0], beside(mask, x))
        positions, position_cache = fit_positions(
            self.position_embeddings, self.grid, grid_of(images.shape[2:], self.side)
        )
        x = prepend(self.cls_token.data[0, 0], x) + positions
        x, dropout_cache = self.dropout.forward(x, rng)
        return x, (patch_cache, mask_cache, position_cache, dropout_cache)

    def backward(self, dx: Array, cache: Any, grads: Grads) -> None:
        """Tokens and positions are the same for every image, so their gradients are summed over the batch."""
        patch_cache, mask_cache, position_cache, dropout_cache = cache
        dx = self.dropout.backward(dx, dropout_cache)
        dsum = dx.sum(axis=0, keepdims=True)  # (1, 1 + N, D)
        grads.add(self.position_embeddings, fit_positions_backward(dsum, position_cache))
        grads.add(self.cls_token, dsum[:, :1])
        dpatches = dx[:, 1:]
        if mask_cache is not None:
            dpatches, dtoken = mask_patches.backward(dpatches, mask_cache)
            grads.add(self.mask_token, dtoken[None, None])
        self.patch_embeddings.backward(dpatches, patch_cache, grads)


def prepend(token: Array, x: Array) -> Array:
    """A token (D,) before every sequence: (B, N, D) -> (B, 1 + N, D)."""
    xp = array_module(x)
    return xp.concatenate([xp.zeros((len(x), 1, x.shape[2]), x.dtype) + token, x], axis=1)


def fit_positions(table: Param, grid: tuple[int, int], new_grid: tuple[int, int]) -> tuple[Array, Any]:
    """The rows of a table (1, 1 + N, D) for a grid; interpolated where it is not the table's own."""
    if new_grid == grid:
        return table.data[0], None
    return interpolate_positions.forward(table.data[0], grid, new_grid)


def fit_positions_backward(dpositions: Array, cache: Any) -> Array:
    """dpositions (1, 1 + N', D) -> dtable (1, 1 + N, D)."""
    if cache is None:
        return dpositions
    dtable: Array = interpolate_positions.backward(dpositions[0], cache)
    return dtable[None]


class ViTPooler(Module):
    """act(W h_class + b): one vector for the whole image."""

    def __init__(self, config: ViTConfig, init: Init):
        self.dense = Linear(config.hidden_size, config.pooler_output_size or config.hidden_size, init)
        self.act = activation(config.pooler_act)

    def forward(self, hidden: Array) -> tuple[Array, Any]:
        """hidden (B, 1 + N, D) -> pooled (B, pooler_output_size)."""
        h, dense_cache = self.dense.forward(hidden[:, 0])
        pooled, act_cache = self.act.forward(h)
        return pooled, (hidden.shape, dense_cache, act_cache)

    def backward(self, dpooled: Array, cache: Any, grads: Grads) -> Array:
        """dpooled -> dhidden (B, 1 + N, D), which is zero but at the class token."""
        shape, dense_cache, act_cache = cache
        dclass = self.dense.backward(self.act.backward(dpooled, act_cache), dense_cache, grads)
        return at_class_token(dclass, shape)


def at_class_token(dclass: Array, shape: tuple[int, ...]) -> Array:
    """The gradient of hidden states of `shape`, of which only the class token was used."""
    dhidden = array_module(dclass).zeros(shape, dclass.dtype)
    dhidden[:, 0] = dclass
    return dhidden


class Layers(Module):
    """Pre-norm transformer layers, one after another, and the layer norm after the last."""

    def __init__(self, config: ImageEncoderConfig, d: int, layers: int, heads: int, d_ff: int, init: Init):
        self.layers = [
            TransformerLayer(
                d, heads, d_ff, config.hidden_act, config.hidden_dropout_prob, config.attention_probs_dropout_prob,
                config.layer_norm_eps, init, pre_norm=True, qkv_bias=config.qkv_bias,
            )
            for _ in range(layers)
        ]  # fmt: skip
        self.norm = LayerNorm(d, config.layer_norm_eps, init)

    def forward(
        self, x: Array, rng: np.random.Generator | None = None, asked: Array | None = None
    ) -> tuple[Array, Any]:
        """x (B, T, D) -> hidden states (B, T, D); of the positions asked (B, M) alone, (B, M, D), where they are given.

        The last layer then computes nothing else.
        """
        caches = []
        *before, last = self.layers
        for layer in before:
            x, cache = layer.forward(x, None, rng)
            caches.append(cache)
        x, cache = last.forward(x, None, rng) if asked is None else last.forward_at(x, asked, rng)
        hidden, norm_cache = self.norm.forward(x)
        return hidden, ([*caches, cache], norm_cache)

    def backward(self, dhidden: Array, cache: Any, grads: Grads) -> Array:
        """Layers in reverse; each one's cache is let go as soon as it has been used."""
        caches, norm_cache = cache
        dx = self.norm.backward(dhidden, norm_cache, grads)
        *before, last = self.layers
        backward = last.backward if caches[-1].asked is None else last.backward_at
        dx = backward(dx, caches.pop(), grads)
        for layer in reversed(before):
            dx = layer.backward(dx, caches.pop(), grads)
        return dx

    def states(self, x: Array) -> Iterator[tuple[Array, Array | None]]:
        """Evaluate, yielding (states, attention weights) before the layers (no weights) and after each."""
        yield x, None
        for layer in self.layers:
            x, cache = layer.forward(x)
            weights = cache.attention.weights
            del cache  # evaluation keeps nothing that only backward needs
            yield x, weights

    def answer(self, x: Array, output_hidden_states: bool, output_attentions: bool) -> ModelOutput:
        """Evaluate: `last_hidden_state`; on request every layer's own `hidden_states` and `attentions`."""
        states: list[Array] = []
        attentions: list[Array] = []
        for state, weights in self.states(x):
            if output_hidden_states:
                states.append(state)
            if output_attentions and weights is not None:
                attentions.append(weights)
        out = ModelOutput(last_hidden_state=self.norm.forward(state)[0])
        if output_hidden_states:
            out["hidden_states"] = tuple(states)
        if output_attentions:
            out["attentions"] = tuple(attentions)
        return out


class ViTModel(PreTrainedModel):
    """The encoder: images -> a vector for the class token and each patch, and one for the image."""

    config_class = ViTConfig
    base_model_prefix = "vit"
    renames: ClassVar[tuple[tuple[str, str], ...]] = (
        ("encoder.layers.", "encoder.layer."),
        ("encoder.norm.", "layernorm."),
        (".attention.query.", ".attention.attention.query."),
        (".attention.key.", ".attention.attention.key."),
        (".attention.value.", ".attention.attention.value."),
        (".attention.out.", ".attention.output.dense."),
        (".attention_norm.", ".layernorm_before."),
        (".feed_forward.up.", ".intermediate.dense."),
        (".feed_forward.down.", ".output.dense."),
        (".output_norm.", ".layernorm_after."),
        ("patch_embeddings.", "patch_embeddings.projection."),
        (".gain", ".weight"),
    )

    def __init__(
        self, config: ViTConfig, seed: int = 0, dtype: str = "float32", init: Init | None = None,
        add_pooling_layer: bool = True, use_mask_token: bool = False,
    ):  # fmt: skip
        check_dtype(dtype)
        init = init or Init(np.random.default_rng(seed), dtype, config.initializer_range)
        self.config: ViTConfig = config
        self.embeddings = ViTEmbeddings(config, init, use_mask_token)
        self.encoder = Layers(
            config, config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.intermediate_size,
            init,
        )  # fmt: skip
        if add_pooling_layer:
            self.pooler = ViTPooler(config, init)

    def forward(
        self, images: Array, mask: Array | None = None, rng: np.random.Generator | None = None,
        asked: Array | None = None,
    ) -> tuple[Array, Any]:  # fmt: skip
        """images (B, C, H, W), mask (B, N) with True = hidden -> hidden states (B, 1 + N, D), or those asked (B, M)."""
        x, embedding_cache = self.embeddings.forward(images, mask, rng)
        hidden, cache = self.encoder.forward(x, rng, asked)
        return hidden, (embedding_cache, cache)

    def backward(self, dhidden: Array, cache: Any, grads: Grads) -> None:
        """dhidden as forward's result; pixels get no gradient."""
        embedding_cache, cache = cache
        self.embeddings.backward(self.encoder.backward(dhidden, cache, grads), embedding_cache, grads)

    def __call__(
        self, pixel_values: Array, bool_masked_pos: Array | None = None, output_hidden_states: bool = False,
        output_attentions: bool = False, interpolate_pos_encoding: bool = False,
    ) -> ModelOutput:  # fmt: skip
        """Evaluate: `last_hidden_state` (B, 1 + N, D), `pooler_output` where there is a pooler; on request every
        layer's own `hidden_states` and `attentions`.

        Raises InputError for images as `check_images` says, and for a mask without a mask token.
        """
        images = check_images(self, pixel_values, interpolate_pos_encoding)
        mask = None
        if bool_masked_pos is not None:
            if not hasattr(self.embeddings, "mask_token"):
                raise InputError("bool_masked_pos: this model has no mask token; make it with use_mask_token=True")
            mask = check_mask(bool_masked_pos, images, self.config)
        x, _ = self.embeddings.forward(images, mask)
        answer = self.encoder.answer(x, output_hidden_states, output_attentions)
        if not hasattr(self, "pooler"):
            return answer
        hidden = answer.pop("last_hidden_state")
        return ModelOutput(last_hidden_state=hidden, pooler_output=self.pooler.forward(hidden)[0], **answer)


class ViTForImageClassification(LearningModel):
    """A class for an image (`config.num_labels` of them), several at once, or a number, from the class token.

    Labels (B,) of classes, or numbers (B, C), by `config.problem_type`: see `asked_labels`.
    """

    config_class = ViTConfig
    base_model_prefix = "vit"
    renames = ViTModel.renames

    def __init__(self, config: ViTConfig, seed: int = 0, dtype: str = "float32"):
        check_dtype(dtype)
        init = Init(np.random.default_rng(seed), dtype, config.initializer_range)
        self.config: ViTConfig = config
        self.vit = ViTModel(config, dtype=dtype, init=init, add_pooling_layer=False)
        self.classifier = Linear(config.hidden_size, config.num_labels, init)

    def forward(self, images: Array, asked: Asked, rng: np.random.Generator | None = None) -> tuple[Array, Any]:
        """images (B, C, H, W) -> the loss."""
        class_token = array_module(images).zeros((len(images), 1), int)
        hidden, vit_cache = self.vit.forward(images, None, rng, class_token)  # (B, 1, D)
        logits, linear_cache = self.classifier.forward(hidden[:, 0])
        loss, loss_cache = label_loss_forward(logits, asked)
        return loss, (hidden.shape, vit_cache, linear_cache, loss_cache)

    def backward(self, cache: Any, grads: Grads) -> None:
        """Only the class token gets a gradient from the head."""
        shape, vit_cache, linear_cache, loss_cache = cache
        dclass = self.classifier.backward(label_loss_backward(grads.loss_scale, loss_cache), linear_cache, grads)
        self.vit.backward(at_class_token(dclass, shape), vit_cache, grads)

    def counts(self, batch: Batch) -> dict[str, int]:
        """What the loss divides by. Raises InputError where no label is asked."""
        return {"classification": self._asked(batch.get("labels")).divisor}

    def losses_and_backward(
        self, batch: Batch, counts: dict[str, int], grads: Grads, rng: np.random.Generator | None
    ) -> dict[str, float]:
        """One share of a step: the loss over its part of the batch, divided by the whole batch's count."""
        images = check_images(self, batch["pixel_values"], batch.get("interpolate_pos_encoding", False))
        asked = self._asked(batch.get("labels"), len(images), counts["classification"])
        loss, cache = self.forward(images, asked, rng)
        self.backward(cache, grads)
        return {"classification": to_number(loss)}

    def __call__(
        self, pixel_values: Array, labels: Array | None = None, output_hidden_states: bool = False,
        output_attentions: bool = False, interpolate_pos_encoding: bool = False,
    ) -> ModelOutput:  # fmt: skip
        """Evaluate: `logits` (B, C), and `loss` where labels are given."""
        answer = self.vit(pixel_values, None, output_hidden_states, output_attentions, interpolate_pos_encoding)
        logits, _ = self.classifier.forward(answer.pop("last_hidden_state")[:, 0])
        out = ModelOutput()
        if labels is not None:
            out["loss"] = label_loss_forward(logits, self._asked(labels, len(logits)))[0]
        return ModelOutput(**out, logits=logits, **answer)

    def _asked(self, labels: Any, rows: int | None = None, count: int | None = None) -> Asked:
        if labels is None:
            raise InputError("nothing to learn from: give labels")
        asked = asked_labels("labels", labels, self.config.num_labels, self.config.problem_type, rows, count)
        moved: Asked = beside(asked, self.classifier.weight.data)
        return moved


class PatchDecoder(Module):
    """The pixels of every patch from its vector: a convolution of kernel 1 and a pixel shuffle."""

    def __init__(self, config: ViTConfig, init: Init):
        self.side = config.encoder_stride
        numbers = self.side**2 * config.num_channels
        self.weight = init.weight(numbers, config.hidden_size, 1, 1)
        self.bias = init.zeros(numbers)

    def forward(self, h: Array, grid: tuple[int, int]) -> tuple[Array, Any]:
        """h (B, N, D), the patches of a `grid` -> images (B, C, H, W)."""
        pixels, linear_cache = linear.forward(h, self.weight.data[:, :, 0, 0], self.bias.data)  # (B, N, C side²)
        images, shuffle_cache = pixel_shuffle.forward(pixels, self.side, (grid[0] * self.side, grid[1] * self.side))
        return images, (linear_cache, shuffle_cache)

    def backward(self, dimages: Array, cache: Any, grads: Grads) -> Array:
        """dimages (B, C, H, W) -> dh (B, N, D)."""
        linear_cache, shuffle_cache = cache
        dh, dweight, dbias = linear.backward(pixel_shuffle.backward(dimages, shuffle_cache), linear_cache)
        grads.add(self.weight, dweight[:, :, None, None])
        grads.add(self.bias, dbias)
        return dh  # type: ignore[no-any-return]


class ViTForMaskedImageModeling(LearningModel):
    """SimMIM: the encoder sees mask tokens for the hidden patches, and a linear head paints them (Xie et al. 2022)."""

    config_class = ViTConfig
    base_model_prefix = "vit"
    renames = ViTModel.renames

    def __init__(self, config: ViTConfig, seed: int = 0, dtype: str = "float32"):
        check_dtype(dtype)
        init = Init(np.random.default_rng(seed), dtype, config.initializer_range)
        self.config: ViTConfig = config
        self.vit = ViTModel(config, dtype=dtype, init=init, add_pooling_layer=False, use_mask_token=True)
        self.decoder = [PatchDecoder(config, init)]  # Hugging Face's key is decoder.0

    def forward(
        self, images: Array, mask: Array, count: int, rng: np.random.Generator | None = None
    ) -> tuple[Array, Any]:
        """images (B, C, H, W), mask (B, N) -> the loss: the mean absolute error over the pixels of `count` patches."""
        hidden, vit_cache = self.vit.forward(images, mask, rng)
        painted, decoder_cache = self.decoder[0].forward(
            hidden[:, 1:], grid_of(images.shape[2:], self.config.patch_size)
        )
        loss, loss_cache = self._loss(painted, images, mask, count)
        return loss, (vit_cache, decoder_cache, loss_cache)

    def backward(self, cache: Any, grads: Grads) -> None:
        """The class token is not painted from, so its last state gets no gradient."""
        vit_cache, decoder_cache, (cut, error) = cache
        dpatches, _ = masked_l1.backward(grads.loss_scale, error)  # the true pixels are not trained
        dh = self.decoder[0].backward(patchify.backward(dpatches, cut), decoder_cache, grads)
        self.vit.backward(array_module(dh).concatenate([0 * dh[:, :1], dh], axis=1), vit_cache, grads)

    def counts(self, batch: Batch) -> dict[str, int]:
        """How many patches are hidden. Raises InputError where none is."""
        if batch.get("bool_masked_pos") is None:
            raise InputError("nothing to learn from: give bool_masked_pos (minissl.pretext.mask_blocks draws it)")
        hidden = int(np.count_nonzero(as_array("bool_masked_pos", batch["bool_masked_pos"])))
        if not hidden:
            raise InputError("bool_masked_pos: no patch is hidden, so the loss has nothing to average over")
        return {"simmim": hidden}

    def losses_and_backward(
        self, batch: Batch, counts: dict[str, int], grads: Grads, rng: np.random.Generator | None
    ) -> dict[str, float]:
        """One share of a step: the loss over its part of the batch, divided by the whole batch's count."""
        images = check_images(self, batch["pixel_values"], batch.get("interpolate_pos_encoding", False))
        self._require_stride()
        loss, cache = self.forward(
            images, check_mask(batch["bool_masked_pos"], images, self.config), counts["simmim"], rng
        )
        self.backward(cache, grads)
        return {"simmim": to_number(loss)}

    def __call__(
        self, pixel_values: Array, bool_masked_pos: Array | None = None, output_hidden_states: bool = False,
        output_attentions: bool = False, interpolate_pos_encoding: bool = False,
    ) -> ModelOutput:  # fmt: skip
        """Evaluate: `reconstruction` (B, C, H, W), and `loss` where a mask is given."""
        asked = bool_masked_pos is not None
        if asked:
            self._require_stride()
        answer = self.vit(
            pixel_values, bool_masked_pos, output_hidden_states, output_attentions, interpolate_pos_encoding
        )
        images = check_images(self, pixel_values, interpolate_pos_encoding)
        grid = grid_of(images.shape[2:], self.config.patch_size)
        painted, _ = self.decoder[0].forward(answer.pop("last_hidden_state")[:, 1:], grid)
        out = ModelOutput()
        if asked:
            mask = check_mask(bool_masked_pos, images, self.config)
            out["loss"] = self._loss(painted, images, mask, self.counts({"bool_masked_pos": mask})["simmim"])[0]
        return ModelOutput(**out, reconstruction=painted, **answer)

    def _loss(self, painted: Array, images: Array, mask: Array, count: int) -> tuple[Array, Any]:
        side = self.config.patch_size
        prediction, cut = patchify.forward(painted, side)
        target, _ = patchify.forward(images, side)
        # Hugging Face adds 1e-5 to the number of hidden pixels, in float32, where from 256 on nothing is left of it
        divisor = float(np.float32(count * side**2) + np.float32(1e-5)) / side**2
        loss, error = masked_l1.forward(prediction, target, beside(np.flatnonzero(mask), prediction), divisor)
        return loss, (cut, error)

    def _require_stride(self) -> None:
        side, stride = self.config.patch_size, self.config.encoder_stride
        if side != stride:
            raise InputError(
                f"config: patch_size {side} and encoder_stride {stride} differ, so the painted image has another size "
                "than the true one; to learn, they must be equal"
            )


def check_images(model: PreTrainedModel, pixel_values: Any, interpolate_pos_encoding: bool = False) -> Array:
    """Check images at the door, and return them (B, C, H, W) in the model's dtype, on its device.

    Raises InputError for images of different sizes, of another size or number of channels than the configuration's,
    that do not divide into patches, are not floating-point numbers, or have pixels that are not finite.
    """
    config = model.config
    assert isinstance(config, ImageEncoderConfig)
    images = image_shapes(config, pixel_values, interpolate_pos_encoding)
    if images.dtype.kind != "f":
        raise InputError(
            f"pixel_values: dtype {images.dtype} given, expected floating-point numbers; divide bytes by 255, and "
            "normalise as for the training images"
        )
    bad = np.flatnonzero(~np.isfinite(images).all(axis=(1, 2, 3)))
    if bad.size:
        raise InputError(f"pixel_values: image {bad[0]} has NaN or infinite pixels; was it divided by a spread of 0?")
    weight = next(iter(model.named_parameters()))[1].data
    moved: Array = beside(images.astype(weight.dtype, copy=False), weight)
    return moved


def image_shapes(config: ImageEncoderConfig, pixel_values: Any, interpolate_pos_encoding: bool = False) -> Array:
    """Return the images as an array; the part of `check_images` that reads no pixel."""
    images = as_array("pixel_values", pixel_values, "the images of a batch have one size: crop or resize them")
    if images.ndim != 4 or images.size == 0:
        raise InputError(
            f"pixel_values: shape {images.shape} given, expected (batch, channels, height, width); one image is [image]"
        )
    channels, size = images.shape[1], images.shape[2:]
    if channels != config.num_channels:
        slip = "grey images for a model of colours?"
        if images.shape[3] == config.num_channels:
            slip = "the channels come first: transpose(0, 3, 1, 2)"
        raise InputError(
            f"pixel_values: {channels} channel(s) given, the config's num_channels is {config.num_channels}; {slip}"
        )
    if size != config.size and not interpolate_pos_encoding:
        raise InputError(
            f"pixel_values: images of {size[0]} × {size[1]} given, the config's image_size is {config.size[0]} × "
            f"{config.size[1]}; crop or resize them, or ask for interpolate_pos_encoding"
        )
    grid_of(size, config.patch_size)
    return images


def check_mask(bool_masked_pos: Any, images: Array, config: ImageEncoderConfig) -> Array:
    """Return which patches are hidden, (B, N) booleans. Raises InputError for another shape, or other than 0 and 1."""
    mask = as_array("bool_masked_pos", bool_masked_pos)
    h, w = grid_of(images.shape[2:], config.patch_size)
    if mask.shape != (len(images), h * w):
        raise InputError(
            f"bool_masked_pos: shape {mask.shape} given, expected (images, patches) = {(len(images), h * w)}"
        )
    if mask.dtype != bool and ((mask != 0) & (mask != 1)).any():
        raise InputError("bool_masked_pos: expected True (hidden) or False (visible) for each patch, or 1 and 0")
    hidden: Array = mask != 0
    return hidden
