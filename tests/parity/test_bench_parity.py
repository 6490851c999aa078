"""The comparisons with PyTorch run, having found the same losses and outputs on both sides. No time is asserted."""

import pytest

from minissl.bench import inference, step
from minissl.errors import InputError
from minissl.models.bert import BertModel

pytest.importorskip("torch", reason="the parity extra is not installed")
pytest.importorskip("transformers", reason="the parity extra is not installed")


@pytest.mark.parametrize(("compare", "others"), [(step.compare, 1), (inference.compare, 2)])
def test_the_comparison_names_every_side_and_the_libraries(compare, others):
    table = compare("tiny", 1, 1)
    assert table.count("median of 1)") == 1 + others
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
