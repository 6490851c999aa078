"""One MAE training step of minissl beside Hugging Face's on PyTorch: the same weights, images, noise and threads."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np

from minissl.bench.conditions import Watch
from minissl.bench.step import training_step
from minissl.bench.turns import (
    WARM_UP,
    Comparison,
    check_options,
    import_torch,
    shown,
    times_in_turn,
    torch_step,
)
from minissl.errors import InputError
from minissl.models.mae import ViTMAEConfig, ViTMAEForPreTraining

PRESETS: dict[str, dict[str, Any]] = {
    "fashion": {  # Fashion-MNIST's images
        "image_size": 28, "patch_size": 4, "num_channels": 1, "layer_norm_eps": 1e-6,
        "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512,
        "decoder_hidden_size": 64, "decoder_num_hidden_layers": 2, "decoder_num_attention_heads": 4,
        "decoder_intermediate_size": 256,
    },
    "small": {  # a ViT-S/16 with the decoder of Hugging Face's default
        "hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6, "intermediate_size": 1536,
    },
    "base": {},  # Hugging Face's default: a ViT-B/16
}  # fmt: skip
BATCHES = {"fashion": 128, "small": 8, "base": 8}  # images
TOLERANCE = 1e-4  # of the loss: float32's rounding, at the start and after each step that warms up


def mae_batch(config: ViTMAEConfig, rows: int, seed: int = 0) -> dict[str, Any]:
    """Images of random numbers, and the noise that chooses what is hidden."""
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((rows, config.num_channels, *config.size), dtype=np.float32)
    return {"pixel_values": images, "noise": rng.random((rows, config.grid[0] * config.grid[1]), dtype=np.float32)}


def compare(preset: str, rounds: int, threads: int) -> str:
    """Time minissl and both of transformers' attentions in turn, A B C A B C …; return a table of medians and ratios.

    Raises InputError where PyTorch or transformers is missing, or their losses differ, over the first few steps too.
    """
    return shown(measure(preset, rounds, threads))


def measure(preset: str, rounds: int, threads: int) -> Comparison:
    """As `compare`, in numbers."""
    threads = check_options(preset, PRESETS, rounds, threads)
    torch, transformers = import_torch(threads)
    watch = Watch()
    config = ViTMAEConfig(**PRESETS[preset])
    model = ViTMAEForPreTraining(config)
    batch = mae_batch(config, BATCHES[preset])
    rivals: dict[str, Callable[[], float]] = {}
    for attention in ("sdpa", "eager"):
        theirs = theirs_with_weights(transformers, model, attention)
        rivals[f"PyTorch, {attention}"] = torch_step(torch, theirs.train(), their_loss(torch, theirs, batch))
    with closing(training_step(model, batch, threads)) as step:
        steps: dict[str, Callable[[], float]] = {"minissl": step, **rivals}
        for number in range(1, WARM_UP + 1):  # there is no dropout, so every side goes the same way
            losses = {name: one() for name, one in steps.items()}
            if not max(losses.values()) - min(losses.values()) <= TOLERANCE * losses["minissl"]:
                raise InputError(f"step {number}: the losses differ, so nothing was timed: {losses}")
        times = times_in_turn(steps, rounds, warm_up=0, watch=watch)
    what = f"MAE training step, {config.mask_ratio:.0%} hidden"
    shape = f"{BATCHES[preset]} of {config.num_channels} × {config.size[0]} × {config.size[1]}"
    agreed = f"every side's loss {losses['minissl']:.4f} after {WARM_UP} steps"
    return Comparison(what, preset, shape, threads, agreed, times, watch.conditions)


def theirs_with_weights(transformers: Any, model: ViTMAEForPreTraining, attention: str = "sdpa") -> Any:
    """Return Hugging Face's model with these weights, which trains what minissl's trains."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        theirs = transformers.ViTMAEForPreTraining.from_pretrained(folder, attn_implementation=attention)
    for name in model.untrained():  # which from_pretrained makes trainable (transformers 5.24)
        theirs.get_parameter(name).requires_grad_(False)
    return theirs


def their_loss(torch: Any, theirs: Any, batch: dict[str, Any]) -> Callable[[], Any]:
    """The loss of the batch as Hugging Face computes it."""
    tensors = {name: torch.tensor(array) for name, array in batch.items()}
    return lambda: theirs(**tensors).loss
