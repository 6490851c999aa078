"""`minissl gradcheck`: every op, every faster twin and the whole model against numerical differences."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from minissl.errors import InputError
from minissl.gradcheck import Report, check, check_model, op_cases
from minissl.gradcheck.random_cases import random_cases
from minissl.kernels import twins
from minissl.models.bert import BertConfig, BertForPreTraining


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
    for label, inputs in model_cases():
        row("BertForPreTraining", label, check_model(small_bert(), inputs))
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


def small_bert() -> BertForPreTraining:
    """A BERT with two layers and two segments, of which every other size differs from all others, in float64."""
    config = BertConfig(
        vocab_size=29, hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=17,
        max_position_embeddings=11, type_vocab_size=2, layer_norm_eps=1e-12,
    )  # fmt: skip
    return BertForPreTraining(config, dtype="float64")


def model_cases(seed: int = 0) -> list[tuple[str, dict[str, object]]]:
    """Inputs for `small_bert`: padding, both tasks, each alone, dropout."""
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
    return [
        ("masked words and next sentence, padding", {**inputs, **both}),
        ("masked words alone", {**inputs, "labels": labels}),
        ("next sentence alone", {**inputs, "next_sentence_label": both["next_sentence_label"]}),
        ("both, with dropout", {**inputs, **both, "rng": np.random.default_rng(seed + 1)}),
    ]
