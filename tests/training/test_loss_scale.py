"""Loss scaling: S multiplies every gradient by a power of two, halves after an overflow, grows, and resumes."""

import numpy as np
import pytest

from minissl.backend import product_precision, to_host
from minissl.bench.step import bert_batch
from minissl.errors import InputError
from minissl.kernels import enabled
from minissl.models.bert import BertConfig, BertForPreTraining
from minissl.nn import Grads
from minissl.nn.module import Module, Param
from minissl.training import NonFiniteError, Trainer, TrainingOptions, loss_scale
from minissl.training.loss_scale import FIRST, GROW_AFTER, LossScale

CONFIG = BertConfig(
    vocab_size=53, hidden_size=24, num_hidden_layers=1, num_attention_heads=3, intermediate_size=40,
    max_position_embeddings=16, initializer_range=0.2,
)  # fmt: skip
BATCHES = [bert_batch(CONFIG, 5, 11, seed) for seed in range(2)]

rounds = pytest.mark.skipif(not enabled(), reason="MINISSL_KERNELS=off: the reference ops multiply by @")


def test_it_halves_down_to_one():
    scale = LossScale()
    values = [scale.value]
    while scale.halve():
        values.append(scale.value)
    assert values == [FIRST / 2**i for i in range(17)]
    assert scale.value == 1


def test_it_doubles_after_so_many_good_steps_in_a_row():
    scale = LossScale()

    def steps(count):
        for _ in range(count):
            scale.stepped()
        return scale.value

    assert steps(GROW_AFTER - 1) == FIRST
    assert scale.halve()
    assert steps(GROW_AFTER - 1) == FIRST / 2
    assert steps(1) == FIRST
    assert steps(GROW_AFTER) == 2 * FIRST


class Weight(Module):
    """A Trainable of one number: its loss is finite, and its gradient is as large as one likes."""

    def __init__(self, gradient):
        self.weight = Param(np.ones(1, np.float32), decay=False)
        self.gradient = gradient
        self.scales = []

    def counts(self, batch):
        return {"loss": 1}

    def losses_and_backward(self, batch, counts, grads, rng):
        self.scales.append(grads.loss_scale)
        scaled = np.float32(self.gradient) * np.float32(grads.loss_scale)
        grads.add(self.weight, self.weight.data * (float(scaled) if abs(scaled) < 65504 else np.inf))
        return {"loss": 1.0}


def trainer(model, steps=8, precision="float16", **changes):
    return Trainer(model, TrainingOptions(steps, 1e-2, threads=1, precision=precision, **changes))


def toy(cupy, gradient):
    model = Weight(gradient)
    model.weight.data = cupy.asarray(model.weight.data)
    return model


def state_of(one):
    return {name: to_host(array).copy() for name, array in one.state().items()}


@pytest.fixture(autouse=True)
def quiet():
    """As in the loop of training: a number too large for float16 is no warning, it is seen in the gradient."""
    with np.errstate(all="ignore"):
        yield


def test_an_overflow_is_done_again_at_half_the_scale(cupy):
    model = toy(cupy, 10.0)
    one = trainer(model, clip_norm=1.0)
    record = one.train_step([{"rows": np.zeros(1)}])
    assert model.scales == [FIRST / 2**i for i in range(5)]  # 10 · 2¹² < 65504
    assert record.step == 1
    assert record.grad_norm == pytest.approx(10)
    assert to_host(one.mean)[0] == pytest.approx(0.1 * 1.0, rel=1e-5)  # the gradient 10, clipped to 1: S is divided out
    assert state_of(one)["loss_scale"].tolist() == [FIRST / 16, 1]
    one.train_step([{"rows": np.zeros(1)}])
    assert model.scales[5:] == [FIRST / 16]
    one.close()


def test_what_does_not_fit_at_a_scale_of_one_ends_the_run_with_the_weights_as_they_were(cupy):
    model = toy(cupy, 1e6)
    one = trainer(model)
    before = state_of(one)
    with pytest.raises(NonFiniteError, match=r"step 1: .*gradient norm inf"):
        one.train_step([{"rows": np.zeros(1)}])
    after = state_of(one)
    assert [after[name].tolist() for name in ("weights", "mean", "square")] == [[1], [0], [0]]
    assert (before["weights"] == after["weights"]).all()
    assert model.scales[-1] == 1
    assert one.step == 0
    one.close()


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
def test_nothing_else_is_scaled(cupy, precision):
    if precision == "bfloat16":
        pytest.importorskip("ml_dtypes", reason="ml_dtypes is not installed (extra: gpu)")
    model = toy(cupy, 10.0)
    one = trainer(model, precision=precision)
    one.train_step([{"rows": np.zeros(1)}])
    assert model.scales == [1]
    assert list(one.state()) == ["weights", "mean", "square"]
    model.gradient = 1e6
    with pytest.raises(NonFiniteError):
        one.train_step([{"rows": np.zeros(1)}])
    assert model.scales == [1, 1]
    one.close()


def bert():
    return BertForPreTraining(CONFIG, seed=1).to("cuda")


def train(steps, precision="float16", state=None, at=0, total=6):
    one = trainer(bert(), total, precision)
    if state is not None:
        one.load_state(state, at)
    losses = [sum(one.train_step([BATCHES[i % 2]]).losses.values()) for i in range(at, steps)]
    one.close()
    return losses, state_of(one)


@rounds
def test_a_short_training_in_float16_is_that_in_float32(cupy):
    losses, state = train(6)
    expected, reference = train(6, "float32")
    assert losses[-1] < losses[0] - 0.05
    assert losses == pytest.approx(expected, rel=1e-2)
    assert losses != expected
    moved = np.linalg.norm(reference["weights"] - to_host(bert().pack()))
    assert np.linalg.norm(state["weights"] - reference["weights"]) < 0.1 * moved
    assert state["loss_scale"].tolist() == [FIRST, 6]


@rounds
def test_after_overflows_the_run_is_the_one_that_began_at_the_smaller_scale(cupy, monkeypatch):
    monkeypatch.setattr(loss_scale, "FIRST", 2.0**24)
    losses, state = train(4)
    settled, good = state["loss_scale"]
    assert 2.0**8 < settled < 2.0**24
    assert good == 4
    monkeypatch.setattr(loss_scale, "FIRST", float(settled))
    expected, reference = train(4)
    assert losses == expected
    for name in reference:
        np.testing.assert_array_equal(state[name], reference[name], err_msg=name)


@rounds
def test_a_run_goes_on_with_the_scale_it_had(cupy, monkeypatch):
    monkeypatch.setattr(loss_scale, "FIRST", 2.0**24)
    monkeypatch.setattr(loss_scale, "GROW_AFTER", 4)
    losses, whole = train(6)
    _, half = train(3)
    rest, resumed = train(6, state=half, at=3)
    assert rest == losses[3:]
    for name in whole:
        np.testing.assert_array_equal(resumed[name], whole[name], err_msg=name)
    assert half["loss_scale"][1] == 3
    assert whole["loss_scale"][1] < 3  # it grew after step 4, and halved again
    del half["loss_scale"]
    with pytest.raises(InputError, match="'loss_scale' is missing"):
        train(6, state=half, at=3)


@rounds
def test_without_a_scale_small_gradients_vanish_in_float16(cupy):
    """Which is what S is for: a loss that is divided by a large count has gradients that float16 calls zero."""
    model, found = bert(), {}
    counts = {name: count * 10**6 for name, count in model.counts(BATCHES[0]).items()}
    for scale, precision in ((1.0, "float32"), (1.0, "float16"), (FIRST, "float16")):
        grads = Grads(model)
        grads.loss_scale = scale
        with product_precision(precision, model.decoder):
            model.losses_and_backward(BATCHES[0], counts, grads, None)
        found[scale, precision] = to_host(grads.collect()) / scale
    exact = found[1.0, "float32"]
    size = np.linalg.norm(exact)
    assert np.linalg.norm(found[1.0, "float16"] - exact) > 0.5 * size
    assert np.linalg.norm(found[FIRST, "float16"] - exact) < 0.01 * size


@rounds
def test_a_loss_that_overflows_is_not_tried_again(cupy):
    model = bert()
    model.predictions.dense.weight.data *= 1e30
    one = trainer(model)
    with pytest.raises(NonFiniteError, match="mlm nan"):
        one.train_step([BATCHES[0]])
    assert to_host(one.state()["loss_scale"])[0] == FIRST
    one.close()


def test_on_the_host_only_float32_trains():
    with pytest.raises(InputError, match="only a GPU multiplies faster in it"):
        trainer(BertForPreTraining(CONFIG))
