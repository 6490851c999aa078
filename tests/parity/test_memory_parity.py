"""The peak memory of each side is measured in a process of its own. No size is asserted but that there is one."""

import pytest

from minissl.bench import memory

pytest.importorskip("torch", reason="the parity extra is not installed")
pytest.importorskip("transformers", reason="the parity extra is not installed")


def test_each_side_is_measured_beyond_its_imports(monkeypatch):
    monkeypatch.setattr(memory, "IMPORTS", 1)
    said = []
    memory.main(["tiny"], said.append)
    assert [line.split()[0] for line in said[1:4]] == ["minissl", "Hugging", "expert"]
    more, total = memory.peak_memory("minissl", "tiny", 1)
    assert 3 * 4 * 1_500_000 < more < total  # weights and two moments of AdamW at least
    assert said[-1].startswith("a fresh process that imports BertForPreTraining of Hugging Face: ")
