"""`training_step`, which others time beside theirs: the gradient of `loss_and_grads` for every kind of model."""

from contextlib import closing

import numpy as np
import pytest

from minissl import (
    BertConfig,
    BertForPreTraining,
    BertModel,
    InputError,
    ViTConfig,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
    ViTMAEConfig,
    ViTMAEForPreTraining,
)
from minissl.bench import training_step
from minissl.bench.step import bert_batch
from minissl.nn.module import packing_order

SIZES = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 17}
SIZES |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
IMAGES = {"image_size": 8, "patch_size": 4, "num_channels": 1}
DECODER = {"decoder_hidden_size": 8, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
BERT = BertConfig(vocab_size=31, **SIZES)
rng = np.random.default_rng(0)
PIXELS = rng.standard_normal((5, 1, 8, 8))
CASES = [
    (BertForPreTraining, BERT, bert_batch(BERT, 5, 9)),
    (
        ViTForImageClassification,
        ViTConfig(**SIZES, **IMAGES),
        {"pixel_values": PIXELS, "labels": np.array([0, 1, 1, 0, 1])},
    ),
    (
        ViTForMaskedImageModeling,
        ViTConfig(**SIZES, **IMAGES, encoder_stride=4),
        {"pixel_values": PIXELS, "bool_masked_pos": rng.random((5, 4)) < 0.6},
    ),
    (
        ViTMAEForPreTraining,
        ViTMAEConfig(**SIZES, **IMAGES, **DECODER, decoder_intermediate_size=9),
        {"pixel_values": PIXELS, "noise": rng.random((5, 4))},
    ),
]


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize(("cls", "config", "batch"), CASES, ids=[cls.__name__ for cls, _, _ in CASES])
def test_its_loss_and_gradient_are_the_models_own(cls, config, batch, threads):
    model = cls(config, seed=1, dtype="float64")
    loss, gradients = model.loss_and_grads(**batch)
    names = {param: name for name, param in model.named_parameters()}
    expected = np.concatenate([gradients[names[param]].ravel() for param in packing_order(model)])
    with closing(training_step(model, batch, threads)) as step:
        _, gradient, _ = step._trainer._losses_and_gradient([batch])
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-12 * np.abs(expected).max())
        losses = [step() for _ in range(20)]
    assert losses[0] == pytest.approx(loss, rel=1e-12)
    assert losses[-1] < losses[0]


def test_what_cannot_be_run_is_said_at_once():
    with pytest.raises(InputError, match="BertModel has no losses to learn from; give a model with a head"):
        training_step(BertModel(BERT), CASES[0][2])
    with pytest.raises(InputError, match="threads -1: expected 0"):
        training_step(BertForPreTraining(BERT), CASES[0][2], -1)
