"""A number that stopped being one is traced to the first place that holds it."""

import numpy as np
import pytest

from minissl.models.bert import BertConfig, BertForPreTraining
from minissl.training.diagnose import first_nonfinite


@pytest.fixture
def model():
    config = BertConfig(
        vocab_size=31, hidden_size=12, num_hidden_layers=3, num_attention_heads=3, intermediate_size=17,
        max_position_embeddings=13,
    )  # fmt: skip
    return BertForPreTraining(config)


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return {"input_ids": rng.integers(1, 31, (4, 9)), "labels": rng.integers(0, 31, (4, 9))}


def weights(model):
    return dict(model.named_parameters())


def test_a_weight_is_named(model, batch):
    weights(model)["bert.encoder.layer.1.output.dense.weight"].data[2, 3] = np.nan
    weights(model)["cls.predictions.bias"].data[0] = np.inf
    assert first_nonfinite(model, [batch]) == "first in the weight bert.encoder.layer.1.output.dense.weight"


def test_the_first_layer_whose_output_overflows_is_named(model, batch):
    for layer in (1, 2):
        weights(model)[f"bert.encoder.layer.{layer}.intermediate.dense.bias"].data[:] = 3e38
        weights(model)[f"bert.encoder.layer.{layer}.output.dense.weight"].data[:] = 2
    assert first_nonfinite(model, [batch]) == "first in the output of the layer bert.layers.1.feed_forward.down"


def test_a_gradient_is_named_where_every_output_is_finite(model, batch):
    """The masked-LM head's layer norm with a huge gain: a huge loss, and a gradient beyond float32 behind it."""
    weights(model)["cls.predictions.transform.LayerNorm.weight"].data[:] = 1e33
    weights(model)["cls.predictions.transform.LayerNorm.bias"].data[:] = 0
    weights(model)["bert.embeddings.word_embeddings.weight"].data[:] *= 1e4
    weights(model)["cls.predictions.transform.dense.weight"].data[:] *= 1e-10
    said = first_nonfinite(model, [batch])
    assert said.startswith("first in the gradient of cls.predictions.transform"), said


def test_later_micro_batches_are_looked_at_too(model, batch):
    """Only the second batch reads the row that overflows."""
    weights(model)["bert.embeddings.word_embeddings.weight"].data[30] = 3e38
    clean = {"input_ids": batch["input_ids"] % 29 + 1, "next_sentence_label": np.zeros(4, int)}
    said = first_nonfinite(model, [clean, {**clean, "input_ids": np.full((4, 9), 30)}])
    assert said.startswith("first in the output of the layer bert."), said


def test_finite_numbers_whose_squares_are_not_name_the_largest_gradient(model, batch):
    weights(model)["cls.predictions.transform.LayerNorm.weight"].data[:] = 1e25
    said = first_nonfinite(model, [batch])
    assert said.startswith("every single number is finite; the largest gradient is that of cls.predictions.tr"), said


def test_the_model_is_left_as_it_was(model, batch):
    before = dict(vars(model.bert.layers[0].attention.query))
    first_nonfinite(model, [batch])
    assert vars(model.bert.layers[0].attention.query) == before
