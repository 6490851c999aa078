from dataclasses import replace

import numpy as np
import pytest

from minissl import kernels
from minissl.gradcheck import op_cases
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


def test_the_model_that_is_checked_has_no_two_sizes_alike():
    config = gradcheck.small_bert().config
    B, T = np.shape(gradcheck.model_cases()[0][1]["input_ids"])
    sizes = [
        B, T, config.vocab_size, config.hidden_size, config.num_attention_heads, config.intermediate_size,
        config.max_position_embeddings, config.num_hidden_layers,
    ]  # fmt: skip
    assert len(set(sizes)) == len(sizes)
