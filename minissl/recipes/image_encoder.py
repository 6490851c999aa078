"""The encoder that image classification begins with: a folder's, or fresh weights of the same or of preset sizes."""

from __future__ import annotations

import os
import warnings
from dataclasses import fields
from typing import Any, NamedTuple

from minissl.backend import Array
from minissl.checkpoint import SHARDS, WEIGHTS
from minissl.errors import InputError
from minissl.hub import find_folder
from minissl.models.mae import ViTMAEConfig, ViTMAEModel
from minissl.models.vit import ImageEncoderConfig, ViTConfig, ViTForImageClassification, ViTModel
from minissl.ops import interpolate_positions_forward
from minissl.recipes.image_pretraining import PRESETS
from minissl.training.run_folder import METRICS, SETTINGS
from minissl.vision.images import PREPROCESSOR, ImageParts, PixelScale

PATCHES = 7  # in a row or column of the preset, or more
KINDS = {1: ", grey", 3: ", colour"}
POSITIONS = "embeddings.position_embeddings"


class ImageEncoder(NamedTuple):
    """A ViT without its head: configuration, the weights learnt so far if any, and how it wants its pixels."""

    config: ViTConfig
    weights: dict[str, Array] | None
    scale: PixelScale

    def model(self, seed: int, *, from_scratch: bool = False) -> ViTModel:
        """The encoder alone, with its own weights or fresh ones."""
        encoder = ViTModel(self.config, seed=seed, add_pooling_layer=False)
        encoder.load_state_dict(self._begin(self.config, seed, from_scratch))
        return encoder

    def classifier(
        self, classes: tuple[str, ...], seed: int, *, dropout: float = 0.0, from_scratch: bool = False
    ) -> ViTForImageClassification:
        """The encoder, with its own weights or fresh ones, and a new head for the classes."""
        about = self.config.to_dict() | {
            "id2label": dict(enumerate(classes)), "problem_type": None, "hidden_dropout_prob": dropout,
            "attention_probs_dropout_prob": dropout,
        }  # fmt: skip
        config = ViTConfig.from_dict(about)
        model = ViTForImageClassification(config, seed=seed)
        model.vit.load_state_dict(self._begin(config, seed, from_scratch))
        return model

    def _begin(self, config: ViTConfig, seed: int, from_scratch: bool) -> dict[str, Array]:
        return fresh_weights(config, seed) if from_scratch or self.weights is None else self.weights


def fresh_weights(config: ViTConfig, seed: int) -> dict[str, Array]:
    """Random weights as a masked autoencoder begins with them: Xavier's, and positions that are sines and cosines.

    Small encoders learn faster from these than from ViT's own normal numbers of spread 0.02 and random positions, so
    what pre-training is compared with does not begin behind. Unlike an autoencoder's, the positions are then trained.
    """
    sizes = {f.name: getattr(config, f.name) for f in fields(ImageEncoderConfig)}
    return ViTMAEModel(ViTMAEConfig(**sizes, mask_ratio=0.0), seed=seed).state_dict()


def load_image_encoder(name_or_folder: str | os.PathLike[str]) -> ImageEncoder:
    """Read the encoder of a masked autoencoder, a SimMIM model or a ViT, from a folder or by its name (see `hub`).

    An autoencoder's fixed positions become the ViT's table of learned ones; decoders and heads are left. Raises
    InputError for a run that has not ended, files that do not fit, and a file without the whole encoder.
    """
    folder = find_folder(name_or_folder, WEIGHTS, ["config.json", SHARDS, PREPROCESSOR])
    if (folder / SETTINGS).is_file() and not (folder / METRICS).is_file():
        raise InputError(f"{folder}: this run has not ended; let it end before something is built on it")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that decoders and heads are left, and the pooler is new, was asked for
        model, loading = ViTModel.from_pretrained(folder, output_loading_info=True)
    lacking = sorted(key for key in loading["missing_keys"] if not key.startswith("pooler."))
    if lacking:
        raise InputError(f"{folder}: its file lacks {len(lacking)} of the encoder's weights, {lacking[0]} the first")
    scale = PixelScale.load(folder)
    if len(scale.mean) != model.config.num_channels:
        raise InputError(
            f"{folder}: {PREPROCESSOR} has means of {len(scale.mean)} channel(s), the model takes "
            f"{model.config.num_channels}: not of one run"
        )
    weights = {key: weight for key, weight in model.state_dict().items() if not key.startswith("pooler.")}
    return ImageEncoder(model.config, weights, scale)


def encoder_for(parts: ImageParts, model: str, interpolate: bool = False) -> ImageEncoder:
    """The encoder of the folder (or name) `model`, made to fit the images; with "" a fresh one of preset sizes.

    With `interpolate`, a table of positions for images of another size is resampled to these (see
    `interpolate_positions`). Raises InputError where the sizes (without it) or the channels differ.
    """
    channels, *size = parts.train.pixels.shape[1:]
    if not model:
        return ImageEncoder(preset_config((size[0], size[1]), channels), None, PixelScale.of(parts.train))
    encoder = load_image_encoder(model)
    config = encoder.config
    if channels != config.num_channels:
        theirs, ours = (f"{n} channel(s)" + KINDS.get(n, "") for n in (config.num_channels, channels))
        raise InputError(f"{model}: takes images of {theirs}, those of {parts.name} have {ours}")
    if config.size == tuple(size):
        return encoder
    if not interpolate:
        raise InputError(
            f"{model}: takes images of {_by(config.size)} pixels, those of {parts.name} have {_by(size)}; resize a "
            "folder of images with --image-size, or fit the model's positions to these with --interpolate"
        )
    fitted = ViTConfig.from_dict(config.to_dict() | {"image_size": list(size)})
    assert encoder.weights is not None
    table, _ = interpolate_positions_forward(encoder.weights[POSITIONS][0], config.grid, fitted.grid)
    return ImageEncoder(fitted, encoder.weights | {POSITIONS: table[None]}, encoder.scale)


def preset_config(size: tuple[int, int], channels: int) -> ViTConfig:
    """The encoder of `minissl pretrain mae --preset tiny` for images of this size.

    Its patches are the largest that leave seven or more in a row, and no smaller than two pixels where that divides.
    """
    side = max(p for p in range(1, max(2, min(size) // PATCHES) + 1) if not (size[0] % p or size[1] % p))
    sizes = PRESETS["tiny"]
    return ViTConfig(
        hidden_size=sizes.width, num_hidden_layers=sizes.layers, num_attention_heads=sizes.heads,
        intermediate_size=4 * sizes.width, layer_norm_eps=1e-6, patch_size=side, num_channels=channels,
        image_size=size[0] if size[0] == size[1] else list(size),
    )  # fmt: skip


def _by(size: Any) -> str:
    return f"{size[0]} × {size[1]}"
