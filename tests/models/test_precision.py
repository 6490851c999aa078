"""A whole BERT whose products round as a GPU's tensor cores do, beside the float64 reference on the host."""

import numpy as np
import pytest

import stand_in_cublas
from minissl import BertForPreTraining, reference_ops
from minissl.backend import product_precision, to_host
from minissl.bench.step import bert_batch
from minissl.errors import InputError
from minissl.kernels import enabled, gpu
from minissl.models.bert import BertConfig

CONFIG = BertConfig(
    vocab_size=211, hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=96,
    max_position_embeddings=32, initializer_range=0.15,
)  # fmt: skip
BATCH = bert_batch(CONFIG, 6, 21)
LIMITS = {"float32": 1e-5, "tf32": 1e-2, "float16": 1e-2, "bfloat16": 1e-2}
TYPES = {"float32": (0, 0, 68), "tf32": (0, 0, 77), "float16": (2, 0, 68), "bfloat16": (14, 0, 68)}  # A and B, C, sum

pytestmark = pytest.mark.skipif(not enabled(), reason="MINISSL_KERNELS=off: the reference ops multiply by @")


@pytest.fixture(scope="module")
def expected():
    return BertForPreTraining(CONFIG).astype("float64").loss_and_grads(**BATCH)


@pytest.fixture
def calls(cupy):
    """The calls of cuBLAS, where the device is the stand-in."""
    stand_in_cublas.CALLS.clear()
    return stand_in_cublas.CALLS


def on_device(precision, dtype="float32"):
    model = BertForPreTraining(CONFIG).astype(dtype).to("cuda")
    with product_precision(precision, model.decoder):
        loss, gradients = model.loss_and_grads(**BATCH)
    return loss, {key: to_host(gradient) for key, gradient in gradients.items()}


@pytest.mark.parametrize("precision", LIMITS)
@pytest.mark.parametrize("compiled", [True, False], ids=["kernels", "no kernels"])
def test_the_gradient_is_that_of_the_float64_reference(calls, expected, monkeypatch, precision, compiled):
    if precision == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed (extra: gpu)")
    if not compiled:
        monkeypatch.setattr(gpu, "applies", lambda *_: False)
    expected_loss, reference = expected
    loss, gradients = on_device(precision)
    assert loss == pytest.approx(expected_loss, rel=LIMITS[precision] / 10)
    off = {key: np.linalg.norm(gradients[key] - gradient) for key, gradient in reference.items()}
    size = {key: np.linalg.norm(gradient) for key, gradient in reference.items()}
    whole = np.linalg.norm([*size.values()])
    assert np.linalg.norm([*off.values()]) <= LIMITS[precision] * whole
    for key in reference:  # each by itself: within twice that; that of a key's bias is zero but for rounding
        assert off[key] <= 2 * LIMITS[precision] * max(size[key], 1e-2 * whole), key
    if calls:
        assert {(call["Atype"], call["Ctype"], call["computeType"]) for call in calls} == {TYPES[precision]}
        assert len(calls) >= 3 * (2 * 4 + 4)  # of each linear layer, three


def test_rounding_shows(cupy, expected):
    """Else the test above would pass where no precision reaches a product."""
    _, reference = expected
    key = "bert.encoder.layer.0.intermediate.dense.weight"
    size = np.linalg.norm(reference[key])
    off = [np.linalg.norm(on_device(name)[1][key] - reference[key]) / size for name in ("float32", "tf32", "float16")]
    assert off[0] < 1e-5 < 1e-4 < min(off[1:])


def test_the_reference_ops_do_not_round(calls, expected):
    with reference_ops():
        loss, _ = on_device("float16")
    assert loss == pytest.approx(expected[0], rel=1e-6)
    assert not calls


def test_a_float64_model_is_refused(cupy):
    with pytest.raises(InputError, match="expected a model in float32, got float64"):
        on_device("float16", "float64")
