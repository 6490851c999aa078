"""The peak memory of each side is measured in a process of its own. No size is asserted but that there is one."""

import pytest

from minissl.bench import memory
from minissl.errors import InputError

pytest.importorskip("torch", reason="the parity extra is not installed")
pytest.importorskip("transformers", reason="the parity extra is not installed")


def test_each_side_is_measured_beyond_its_imports(monkeypatch):
    monkeypatch.setattr(memory, "IMPORTS", 1)
    said = []
    memory.main(["tiny"], said.append)
    assert [line.split()[0] for line in said[0].splitlines()[1:4]] == ["minissl", "Hugging", "expert"]
    more, total, _ = memory.peak_memory("BERT", "minissl", "tiny", 1)
    assert 3 * 4 * 1_500_000 < more < total  # weights and two moments of AdamW at least
    assert "a fresh process that imports BertForPreTraining of Hugging Face: " in said[-1]


def test_an_autoencoder_too():
    found = memory.measure("MAE", "fashion", 1)
    assert list(found.peaks) == ["minissl", "Hugging Face"]
    assert all(3 * 4 * 800_000 < more < total for more, total in found.peaks.values())
    assert "MAE training, peak memory, preset fashion, 1 thread(s)" in memory.shown(found)


def test_other_losses_are_not_compared(monkeypatch):
    monkeypatch.setattr(memory, "peak_memory", lambda kind, side, *_: (1, 2, 8.01 if side == "minissl" else 8.0))
    with pytest.raises(InputError, match=r"that of Hugging Face 8.0: nothing was compared"):
        memory.measure("MAE", "fashion", 1)


def test_a_process_that_fails_says_why():
    with pytest.raises(InputError, match=r"(?s)BERT none, minissl: its process ended without a result: .*KeyError"):
        memory.peak_memory("BERT", "minissl", "none", 1)
