from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from minissl import kernels
from minissl.gradcheck import check_model, op_cases
from minissl.museum.exhibit import Exhibit
from minissl.recipes import gradcheck


@pytest.fixture
def few_cases(monkeypatch):
    """Two ops, one of them with a faster twin, and one case of the model."""
    cases = [next(case for case in op_cases() if case.op == name) for name in ("tanh", "layer_norm")]
    monkeypatch.setattr(gradcheck, "op_cases", lambda: cases)
    model_cases = gradcheck.model_cases()[1:2]
    monkeypatch.setattr(gradcheck, "model_cases", lambda: model_cases)
    return cases


def test_a_table_of_right_gradients(few_cases):
    said = []
    assert gradcheck.check_all(said.append) is True
    assert [text.split()[:2] for text in said[1:-1]] == [
        ["ok", "tanh"], ["ok", "layer_norm"], ["ok", "layer_norm,"], ["ok", "BertForPreTraining"]
    ]  # fmt: skip
    assert said[-1].startswith("4 of 4 checks passed")
    assert all(float(text.split()[-1]) <= 1e-7 for text in said[1:-1])


def test_a_wrong_op_and_a_wrong_twin_are_found(few_cases, monkeypatch):
    few_cases[0] = replace(few_cases[0], backward=lambda dy, cache: dy)
    right = kernels.twins()["layer_norm", "numpy"]

    def backward(dy, cache):
        dx, dgain, dbias = right.backward(dy, cache)
        return dx, dgain, 2 * dbias

    monkeypatch.setattr(gradcheck, "model_cases", list)
    monkeypatch.setattr(gradcheck, "twins", lambda: {("layer_norm", "numpy"): right._replace(backward=backward)})
    said = []
    assert gradcheck.check_all(said.append) is False
    wrong = [text.split()[1] for text in said if text.startswith("WRONG")]
    assert wrong == ["tanh", "layer_norm,"]
    assert said[-1].startswith("1 of 3 checks passed")


# a slip in a model's wiring, and the case that must see it
WIRING = [
    ("classes of larger images", "vit.fit_positions_backward", "return dtable[None]", "return 0 * dtable[None]"),
    ("painting hidden patches, with dropout", "vit.ViTForMaskedImageModeling.backward", "[0 * dh[:, :1]", "[dh[:, :1]"),
    ("normalised pixels", "mae.ViTMAEEmbeddings.backward", "dx[:, :1].sum(", "dx[:, :1].mean("),
]


@pytest.mark.parametrize(("label", "place", "old", "new"), WIRING, ids=[slip[1] for slip in WIRING])
def test_a_slip_in_a_models_wiring_is_found(label, place, old, new, monkeypatch):
    case = next(case for case in gradcheck.model_cases() if case.label == label)
    few = {name: array[:2] if isinstance(array, np.ndarray) else array for name, array in case.inputs.items()}
    monkeypatch.setattr(gradcheck, "op_cases", list)
    monkeypatch.setattr(gradcheck, "model_cases", lambda: [case._replace(inputs=few)])
    monkeypatch.setattr(gradcheck, "check_model", partial(check_model, entries=1, directions=1))
    said = []
    with Exhibit("slip", f"minissl.models.{place}", old, new, "incorrect", "", "").installed():
        assert gradcheck.check_all(said.append) is False
    assert said[1].startswith(f"WRONG {type(case.model).__name__}")
    assert said[-1].startswith("0 of 1 checks passed")


def test_every_kind_of_model_is_checked():
    assert {type(case.model).__name__ for case in gradcheck.model_cases()} == {
        "BertForPreTraining", "ViTForImageClassification", "ViTForMaskedImageModeling", "ViTMAEForPreTraining"
    }  # fmt: skip


def test_the_models_that_are_checked_have_no_two_sizes_alike():
    config, inputs = gradcheck.bert_cases(0)[0].model.config, gradcheck.bert_cases(0)[0].inputs
    different = [
        *np.shape(inputs["input_ids"]), config.vocab_size, config.hidden_size, config.num_attention_heads,
        config.intermediate_size, config.max_position_embeddings, config.num_hidden_layers,
    ]  # fmt: skip
    assert len(set(different)) == len(different)
    classes, *_, autoencoder = (case.model.config for case in gradcheck.image_cases(0))
    rows, channels, *_ = gradcheck.image_cases(0)[0].inputs["pixel_values"].shape
    side, config, (h, w) = classes.patch_size, autoencoder, autoencoder.grid
    kept = int(h * w * (1 - config.mask_ratio))
    different = [
        rows, channels, h, w, h * w, 1 + h * w, kept, 1 + kept, h * w - kept, side, side**2 * channels,
        config.hidden_size, config.num_attention_heads, config.intermediate_size, config.decoder_hidden_size,
        config.decoder_num_attention_heads, config.decoder_intermediate_size, classes.num_labels,
    ]  # fmt: skip
    assert len(set(different)) == len(different)
