"""`minissl bench --device cuda` as far as it goes without a GPU: its options, and the table with its bars."""

import sys

import pytest

from minissl.bench import gpu
from minissl.bench.conditions import conditions
from minissl.cli import main


def found(preset, rows, **times):
    sides = {"minissl": [2.0, 3.0, 4.0], **times}
    memory = dict.fromkeys(sides, 1_500_000_000)
    about = {"chip": "some chip", "driver": "1.2"}
    return gpu.GpuComparison(preset, rows, 128, "bfloat16", 10.9, sides, memory, about, conditions())


def test_the_table_says_bars_met_and_missed_pair_by_pair():
    table = gpu.shown(found("base", 64, expert=[2.0, 3.0, 5.0], compiled=[1.0, 2.0, 2.0]))
    assert "bar, at most 1.0 × expert: 1.00, met" in table
    assert "bar, at most 1.2 × compiled: 2.00, missed" in table
    assert "bfloat16; every side's loss 10.9" in table
    assert "minissl 1,500 MB, expert 1,500 MB, compiled 1,500 MB" in table
    assert "chip some chip, driver 1.2" in table


def test_a_side_that_did_not_run_has_no_bar():
    assert "bar," not in gpu.shown(found("small", 8, compiled=[1.0, 1.0, 1.0]))
    assert "bar," not in gpu.shown(found("base", 4, expert=[1.0, 1.0, 1.0]))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--device", "cuda", "--preset", "huge"], "--preset huge: expected one of tiny, mini, small, base"),
        (["--device", "cuda", "--rows", "0"], "--rows 0: expected 1 or more"),
        (["--device", "cuda", "--precision", "half"], "--precision half: expected one of float32, tf32, "),
        (["--device", "cuda", "--rounds", "0"], "--rounds 0"),
        (["--device", "cuda", "--mae"], "--device cuda compares BERT's training step; leave out "),
        (["--device", "cuda", "--threads", "2"], "--device cuda compares BERT's training step; leave out "),
        (["--rows", "64"], "--rows and --precision are for --device cuda"),
        (["--precision", "tf32"], "--rows and --precision are for --device cuda"),
        (["--device", "cuda"], "device 'cuda': CuPy is missing; pip install 'minissl[gpu]'"),
    ],
)
def test_what_cannot_be_compared_is_one_line(options, said, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert main(["bench", *options]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"minissl: {said}")
