"""The comparisons with PyTorch run, having found the same losses and outputs on both sides. No time is asserted."""

import numpy as np
import pytest

from minissl.bench import everything, growth, inference, mae, memory, scaling, step
from minissl.errors import InputError
from minissl.models.bert import BertConfig, BertForPreTraining, BertModel
from minissl.models.mae import ViTMAEForPreTraining
from minissl.models.pretrained import ModelOutput

pytest.importorskip("torch", reason="the parity extra is not installed")
pytest.importorskip("transformers", reason="the parity extra is not installed")


pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile's own


@pytest.fixture
def few_images(monkeypatch):
    monkeypatch.setattr(mae, "BATCHES", {"fashion": 3})


@pytest.mark.parametrize(
    ("compare", "preset", "others"),
    [(step.compare, "tiny", 4), (inference.compare, "tiny", 2), (mae.compare, "fashion", 2)],
)
def test_the_comparison_names_every_side_and_the_libraries(compare, preset, others, few_images):
    table = compare(preset, 1, 1)
    assert table.count("median of 1; ") == 1 + others
    assert table.count("pair by pair: ") == others
    assert "1 thread(s)" in table
    assert "NumPy " in table


@pytest.mark.parametrize("measure", [scaling.measure_step, scaling.measure_evaluation])
def test_each_number_of_threads_is_timed_on_both_sides(measure):
    import torch

    used = []
    honest = torch.set_num_threads
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "set_num_threads", lambda number: used.append(number) or honest(number))
        found = measure("tiny", [1, 2], 1)
    assert {side: {n: len(t) for n, t in of_side.items()} for side, of_side in found.times.items()} == {
        side: {"1": 1, "2": 1} for side in ("minissl", "PyTorch")
    }
    assert used[-4:] == [1, 1, 2, 2]  # in turn, each before its time begins and in it
    assert found.speed_up("minissl")[0] == 1
    lines = scaling.shown(found).splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["threads", "1", "2"]


@pytest.mark.parametrize("threads", [[1, 1], [0, 2], [1, -2]])
def test_numbers_of_threads_that_cannot_be_compared(threads):
    with pytest.raises(InputError, match="--threads"):
        scaling.measure_step("tiny", threads, 1)


def test_scaling_of_another_loss_is_not_timed(monkeypatch):
    honest = BertForPreTraining.__call__
    monkeypatch.setattr(
        BertForPreTraining, "__call__", lambda self, **b: ModelOutput(loss=1.001 * honest(self, **b).loss)
    )
    with pytest.raises(InputError, match=r"that of expert .* nothing was compared"):
        scaling.measure_step("tiny", [1], 1)


def test_other_outputs_are_not_timed(monkeypatch):
    honest = BertModel.__call__

    def wrong(self, **inputs):
        out = honest(self, **inputs)
        out["last_hidden_state"] = out.last_hidden_state * 1.001
        return out

    monkeypatch.setattr(BertModel, "__call__", wrong)
    with pytest.raises(InputError, match=r"minissl: outputs differ by .* nothing was timed"):
        inference.compare("tiny", 1, 1)


def test_another_step_of_an_autoencoder_is_not_timed(monkeypatch, few_images):
    """The losses are the same until the first update: it is what the update leaves out that shows."""
    honest = ViTMAEForPreTraining.backward

    def wrong(self, cache, grads):
        honest(self, cache, grads)
        grads[self.decoder.decoder_pred.weight][...] = 0

    monkeypatch.setattr(ViTMAEForPreTraining, "backward", wrong)
    with pytest.raises(InputError, match=r"step 2: the losses differ, so nothing was timed"):
        mae.compare("fashion", 1, 1)


def test_other_losses_are_not_timed(monkeypatch):
    honest = BertForPreTraining.__call__
    monkeypatch.setattr(
        BertForPreTraining, "__call__", lambda self, **b: ModelOutput(loss=1.001 * honest(self, **b).loss)
    )
    with pytest.raises(InputError, match=r"minissl's loss is .* nothing was compared"):
        step.compare("tiny", 1, 1)


def test_without_a_compiler_that_side_is_left_out(monkeypatch):
    def missing(torch, model, batch):
        def loss_of():
            raise RuntimeError("no C++ compiler\nlong story")

        return loss_of

    monkeypatch.setattr(step, "compiled_loss", missing)
    with pytest.warns(UserWarning, match=r"^torch.compile does not run here, so it is left out \(no C\+\+ compiler\)$"):
        found = step.measure("tiny", 1, 1)
    assert list(found.times) == ["minissl", "Hugging Face", "expert", "products alone"]


def test_the_expert_computes_the_same_gradients():
    """The head at the masked positions alone is the same function, whose step may therefore be compared."""
    import torch
    import transformers

    config = BertConfig(
        vocab_size=90, hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=20,
        initializer_range=0.5,
    )  # fmt: skip
    model = BertForPreTraining(config, dtype="float64")
    batch = step.bert_batch(config, 3, 11)
    _, expected = model.loss_and_grads(**batch)
    theirs = transformers.BertForPreTraining(transformers.BertConfig(**config.to_dict())).double().eval()
    theirs.load_state_dict({key: torch.tensor(weight) for key, weight in model.state_dict().items()})
    step.expert_loss(torch, theirs, batch)().backward()
    for name, param in theirs.named_parameters():
        np.testing.assert_allclose(param.grad.numpy(), expected[name], atol=1e-10 * abs(expected[name]).max() + 1e-12)


def test_everything_of_one_preset_is_measured_listed_and_drawn(monkeypatch, tmp_path, few_images):
    monkeypatch.setattr(memory, "IMPORTS", 1)
    monkeypatch.setattr(growth, "VALUES", {"T": (4, 8)})
    said = []
    sections = everything.record(["tiny", "fashion"], 1, [1], tmp_path, said.append)
    assert [section["kind"] for section in everything.in_order(sections)] == list(everything.KINDS)
    assert said[-1] == f"{tmp_path / 'bench-all.json'}, {tmp_path / 'bench-all.png'}"
    assert "PyTorch" in sections["growth"]["conditions"]["versions"]
    assert 0 <= sections["step tiny"]["conditions"]["others"] <= 1
