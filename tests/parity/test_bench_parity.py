"""The comparisons with PyTorch run, having found the same losses and outputs on both sides. No time is asserted."""

import pytest

from minissl.bench import inference, mae, step
from minissl.errors import InputError
from minissl.models.bert import BertModel
from minissl.models.mae import ViTMAEForPreTraining

pytest.importorskip("torch", reason="the parity extra is not installed")
pytest.importorskip("transformers", reason="the parity extra is not installed")


@pytest.fixture
def few_images(monkeypatch):
    monkeypatch.setattr(mae, "BATCHES", {"fashion": 3})


@pytest.mark.parametrize(
    ("compare", "preset", "others"),
    [(step.compare, "tiny", 1), (inference.compare, "tiny", 2), (mae.compare, "fashion", 2)],
)
def test_the_comparison_names_every_side_and_the_libraries(compare, preset, others, few_images):
    table = compare(preset, 1, 1)
    assert table.count("median of 1; ") == 1 + others
    assert table.count("pair by pair: ") == others
    assert "1 thread(s)" in table
    assert "NumPy " in table


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
