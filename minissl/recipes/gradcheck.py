"""`minissl gradcheck`: every op, every faster twin and whole models against numerical differences."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from minissl.errors import InputError
from minissl.gradcheck import Report, check, check_model, op_cases
from minissl.gradcheck.random_cases import random_cases
from minissl.kernels import twins
from minissl.models.bert import BertConfig, BertForPreTraining
from minissl.models.mae import ViTMAEConfig, ViTMAEForPreTraining
from minissl.models.vit import ViTConfig, ViTForImageClassification, ViTForMaskedImageModeling
from minissl.pretext.patches import mask_blocks


def check_all(say: Callable[[str], None]) -> bool:
    """Print a table, one line a case; return whether every gradient is right."""
    began = time.perf_counter()
    results: list[bool] = []

    def row(name: str, label: str, report: Report) -> None:
        results.append(report.ok)
        say(f"{'ok   ' if report.ok else 'WRONG'} {name:<28} {label:<44} {report.relative_error:.1e}")
        if not report.ok:
            say(str(report))

    say(f"{'':5} {'op':<28} {'case':<44} relative error (≤ 1e-7)")
    pairs = twins()
    for case in op_cases():
        row(case.op, case.label, check(case.forward, case.backward, case.inputs))
        for (name, library), pair in pairs.items():
            if name == case.op and library == "numpy":
                row(f"{name}, twin in float64", case.label, check(pair.forward, pair.backward, case.inputs))
    for label, model, inputs in model_cases():
        row(type(model).__name__, label, check_model(model, inputs))
    say(f"{sum(results)} of {len(results)} checks passed in {time.perf_counter() - began:.1f} s")
    return all(results)


def check_random(count: int, seed: int, say: Callable[[str], None]) -> bool:
    """Check every op on `count` random cases, of all shapes and dtypes; print each alarm, all of them false.

    Raises InputError for a count below 1.
    """
    from tqdm import tqdm

    began = time.perf_counter()
    alarms = 0
    if count < 1:
        raise InputError(f"--random {count}: expected 1 or more")
    if seed < 0:
        raise InputError(f"--seed {seed}: expected 0 or more")
    for case in tqdm(random_cases(count, seed), total=count, unit="case", mininterval=0.5, dynamic_ncols=True):
        report = check(case.forward, case.backward, case.inputs, reference=case.forward)
        if not report.ok:
            alarms += 1
            say(f"{case.op}, {case.label}\n{report}")
    say(f"{count} random cases, {alarms} false alarms, in {time.perf_counter() - began:.1f} s")
    return not alarms


class ModelCase(NamedTuple):
    """A whole model in float64, of which every size differs from all others, and inputs for it."""

    label: str
    model: Any
    inputs: dict[str, object]


def model_cases(seed: int = 0) -> list[ModelCase]:
    """Every model that learns, asked in each of its ways."""
    return bert_cases(seed) + image_cases(seed)


def bert_cases(seed: int) -> list[ModelCase]:
    """Padding, two segments, both tasks, each alone, dropout."""
    config = BertConfig(
        vocab_size=29, hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=17,
        max_position_embeddings=11, type_vocab_size=2, layer_norm_eps=1e-12,
    )  # fmt: skip
    model = BertForPreTraining(config, dtype="float64")
    rng = np.random.default_rng(seed)
    B, T = 5, 7
    ids = rng.integers(1, 29, (B, T))  # not 0: the padding embedding is kept out of training, as in Hugging Face
    mask = np.ones((B, T), int)
    mask[1, 4:] = mask[3, 2:] = 0
    labels = np.where((rng.random((B, T)) < 0.4) & (mask > 0), rng.integers(0, 29, (B, T)), -100)
    inputs: dict[str, object] = {
        "input_ids": ids, "attention_mask": mask, "token_type_ids": rng.integers(0, 2, (B, T)),
    }  # fmt: skip
    both = {"labels": labels, "next_sentence_label": rng.integers(0, 2, B)}
    cases = [
        ("masked words and next sentence, padding", {**inputs, **both}),
        ("masked words alone", {**inputs, "labels": labels}),
        ("next sentence alone", {**inputs, "next_sentence_label": both["next_sentence_label"]}),
        ("both, with dropout", {**inputs, **both, "rng": np.random.default_rng(seed + 1)}),
    ]
    return [ModelCase(label, model, given) for label, given in cases]


def image_cases(seed: int) -> list[ModelCase]:
    """Images of three channels, higher than wide: their classes, painting what is hidden, autoencoders."""
    rng = np.random.default_rng(seed)
    B, C, P, h, w = 8, 3, 4, 7, 2
    encoder: dict[str, Any] = {
        "hidden_size": 20, "num_hidden_layers": 2, "num_attention_heads": 10, "intermediate_size": 17,
        "image_size": (h * P, w * P), "patch_size": P, "num_channels": C,
    }  # fmt: skip
    decoder: dict[str, Any] = {
        "decoder_hidden_size": 24, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 12,
        "decoder_intermediate_size": 19, "mask_ratio": 0.6,
    }  # fmt: skip
    dropout: dict[str, Any] = {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.3}

    def vit(kind: Any, **changes: Any) -> Any:
        return kind(ViTConfig(**encoder, **changes, encoder_stride=P, num_labels=11), dtype="float64")

    def mae(**changes: Any) -> ViTMAEForPreTraining:
        return ViTMAEForPreTraining(ViTMAEConfig(**encoder, **decoder, **changes), dtype="float64")

    images = {"pixel_values": rng.standard_normal((B, C, h * P, w * P))}
    larger = {"pixel_values": rng.standard_normal((B, C, (h + 1) * P, (w + 1) * P)), "interpolate_pos_encoding": True}
    labels = {"labels": np.array([8, 0, -100, 3, 3, 5, 10, 1])}
    hidden = {"bool_masked_pos": mask_blocks(rng, B, (h, w))}
    noise = {"noise": rng.random((B, h * w))}
    drop = {"rng": np.random.default_rng(seed + 1)}
    classes, simmim = ViTForImageClassification, ViTForMaskedImageModeling
    return [
        ModelCase("classes of images, with dropout", vit(classes, **dropout), {**images, **labels, **drop}),
        ModelCase("classes of larger images", vit(classes), {**larger, **labels}),
        ModelCase("painting hidden patches, with dropout", vit(simmim, **dropout), {**images, **hidden, **drop}),
        ModelCase("pixels, with dropout", mae(**dropout), {**images, **noise, **drop}),
        ModelCase("normalised pixels", mae(norm_pix_loss=True), {**images, **noise}),
    ]
