"""Where an exhibit can be wrong, and what is looked at there: layers, BERT, the steps around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from minissl.backend import Array
from minissl.gradcheck import Finding, check_model, check_module
from minissl.gradcheck.kinds import NOTES
from minissl.models.bert import BertConfig, BertForPreTraining, MaskedLMHead
from minissl.museum.steps import STEPS
from minissl.nn import (
    Dropout,
    Embedding,
    FeedForward,
    Grads,
    Init,
    LayerNorm,
    Linear,
    MultiHeadAttention,
    TransformerLayer,
)  # fmt: skip

B, T, S, D, H, F, V = 2, 3, 5, 4, 2, 6, 13
PADDING = np.arange(T) < np.array([T, 2])[:, None]  # (B, T)


class Area(NamedTuple):
    """What is looked at when something in it is wrong.

    `values` is what the right one computes, for comparison with the wrong one's forward; `findings` looks at the rest.
    """

    by: str
    values: Callable[[], list[Array]]
    findings: Callable[[], list[Finding]]


def wrong(report: Any) -> list[Finding]:
    """Return what a report found wrong, without its notes."""
    return [finding for finding in report.findings if finding.kind not in NOTES]


# ---- layers


def _init() -> Init:
    return Init(np.random.default_rng(0), "float64", std=0.5)


def _normal(*shape: int) -> Array:
    return np.random.default_rng(1).standard_normal(shape)


def _rng() -> np.random.Generator:
    return np.random.default_rng(7)


def _attention_cases() -> Iterator[tuple[Any, dict[str, Any]]]:
    x, mask = _normal(B, T, D), PADDING[:, None, None]
    yield MultiHeadAttention(D, H, 0.3, _init()), {"x": x, "mask": mask, "rng": _rng()}
    yield MultiHeadAttention(D, H, 0.0, _init()), {"x": x, "memory": _normal(B, S, D)}


def _feed_forward_cases() -> Iterator[tuple[Any, dict[str, Any]]]:
    for shape in ((D,), (T, D)):  # one row alone: there a lost factor is seen in the bias
        yield FeedForward(D, F, "gelu", _init()), {"x": _normal(*shape)}


def _head_cases() -> Iterator[tuple[Any, dict[str, Any]]]:
    for shape in ((D,), (T, D)):
        yield MaskedLMHead(_config(layers=1), _init()), {"h": _normal(*shape)}


def _layer_cases() -> Iterator[tuple[Any, dict[str, Any]]]:
    x, mask = _normal(B, T, D), PADDING[:, None, None]
    for pre_norm, dropout in ((False, 0.0), (True, 0.0), (False, 0.4)):
        layer = TransformerLayer(D, H, F, "gelu", dropout, dropout, 1e-12, _init(), pre_norm)
        yield layer, {"x": x, "mask": mask, **({"rng": _rng()} if dropout else {})}


def _single_cases() -> Iterator[tuple[Any, dict[str, Any]]]:
    yield Linear(D, F, _init()), {"x": _normal(B, T, D)}
    yield Embedding(V, D, _init()), {"ids": np.array([[3, 0, 3], [10, 3, 1]])}
    yield LayerNorm(D, 0.5, _init()), {"x": _normal(B, T, D)}
    yield Dropout(0.3), {"x": _normal(B, T, D), "rng": _rng()}
    yield Dropout(0.3), {"x": _normal(B, T, D)}


def _module_area(by: str, cases: Callable[[], Iterator[tuple[Any, dict[str, Any]]]]) -> Area:
    def values() -> list[Array]:
        return [module.forward(**inputs)[0] for module, inputs in cases()]

    def findings() -> list[Finding]:
        for module, inputs in cases():
            findings = wrong(check_module(module, inputs))
            if findings:
                return findings  # of the first case that shows something
        return []

    return Area(f"check_module of {by}", values, findings)


# ---- BERT


def _config(layers: int) -> BertConfig:
    return BertConfig(
        vocab_size=V, hidden_size=D, num_hidden_layers=layers, num_attention_heads=H, intermediate_size=F,
        max_position_embeddings=S, layer_norm_eps=1e-12, initializer_range=0.5,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip


def _bert(layers: int) -> BertForPreTraining:
    return BertForPreTraining(_config(layers), dtype="float64")


def _bert_inputs() -> dict[str, Any]:
    """Both tasks, with padding, at the last position in every row; the first position is masked too."""
    rng = np.random.default_rng(3)
    visible = np.arange(T + 1) < np.array([T, 2])[:, None]
    return {
        "input_ids": np.where(visible, rng.integers(1, V, visible.shape), 0),
        "attention_mask": visible.astype(int),
        "token_type_ids": np.array([[0, 0, 1, 0], [0, 1, 0, 0]]),
        "labels": np.array([[5, -100, 7, -100], [3, 5, -100, -100]]),
        "next_sentence_label": np.array([0, 1]),
    }


def _bert_values() -> list[Array]:
    model, inputs = _bert(layers=2), _bert_inputs()
    logits, _, pair_logits = model.predict_masked(inputs)
    return [np.asarray(model.loss_and_grads(**inputs)[0]), logits, pair_logits]


def _bert_findings() -> list[Finding]:
    inputs = _bert_inputs()
    return (
        list(_bert_promises(_bert(layers=1), inputs))
        or wrong(check_model(_bert(layers=1), inputs, entries=1, directions=1))
        or list(_along_one_direction(_bert(layers=2), inputs))
    )


def _bert_promises(model: BertForPreTraining, inputs: dict[str, Any]) -> Iterator[Finding]:
    """What must hold for the gradients of any BERT, whatever their values."""
    words_alone = {name: array for name, array in inputs.items() if name != "next_sentence_label"}
    pairs_alone = {name: array for name, array in inputs.items() if name != "labels"}
    both, words, pairs = (model.loss_and_grads(**given)[1] for given in (inputs, words_alone, pairs_alone))
    for name in both:
        if not np.allclose(both[name], words[name] + pairs[name], rtol=1e-9, atol=1e-12):
            message = (
                f"the gradient of {name} for both tasks is not the sum of each one's: does one overwrite the other?"
            )
            yield Finding("accumulation", name, None, message)
            break
    table = "bert.embeddings.position_embeddings.weight"
    if both[table][T].any():
        yield Finding("ignored_positions", table, (T,), "a position that is padding in every row gets a gradient")
    del pairs_alone["attention_mask"]  # now padding is seen, and its own vector is still nothing to learn from
    table = "bert.embeddings.word_embeddings.weight"
    if model.loss_and_grads(**pairs_alone)[1][table][0].any():
        yield Finding("ignored_positions", table, (0,), "the word embedding of padding gets a gradient")


def _along_one_direction(model: BertForPreTraining, inputs: dict[str, Any]) -> Iterator[Finding]:
    """All parameters of a deeper model at once: too little to tell what is wrong, enough to see that something is."""
    rng, h = np.random.default_rng(0), 1e-5
    params = dict(model.named_parameters())
    directions = {name: rng.standard_normal(param.data.shape) for name, param in params.items()}
    grads = Grads(model)
    model.losses_and_backward(inputs, model.counts(inputs), grads, None)
    got = sum(float(np.vdot(grads[param], directions[name])) for name, param in params.items())
    losses = []
    for step in (h, -2 * h):
        for name, param in params.items():
            param.data += step * directions[name]
        losses.append(float(model.loss_and_grads(**inputs)[0]))
    expected = (losses[0] - losses[1]) / (2 * h)
    if abs(got - expected) > 1e-5 * max(abs(got), abs(expected)):
        message = (
            f"with two layers, the derivative along a direction is {got:.6g} by backward, {expected:.6g} by differences"
        )
        yield Finding("incorrect", "", None, message)


BERT = Area("check_model of BERT", _bert_values, _bert_findings)
AREAS = {
    "minissl.nn.attention.": _module_area("attention", _attention_cases),
    "minissl.nn.feed_forward.": _module_area("feed-forward", _feed_forward_cases),
    "minissl.nn.transformer.": _module_area("the transformer layer", _layer_cases),
    "minissl.nn.layers.": _module_area("layers with one op", _single_cases),
    "minissl.nn.module.": BERT,
    "minissl.models.": BERT,
    "minissl.models.bert.MaskedLMHead.": _module_area("the masked-word head", _head_cases),
    **{place: Area(by, list, findings) for place, (by, findings) in STEPS.items()},
}
