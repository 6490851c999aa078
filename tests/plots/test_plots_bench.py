"""The picture of a comparison, and the numbers kept beside it."""

import json

import pytest

from minissl.bench import growth
from minissl.bench import record as recorder
from minissl.bench.conditions import conditions
from minissl.bench.turns import Comparison
from minissl.errors import InputError
from minissl.plots.bench import plot_bench, ratios

TIMES = {"minissl": [1.0, 2.0, 3.0], "theirs": [2.0, 2.0, 2.0], "products alone": [0.5, 1.0, 2.0]}


def compared(preset, *_):
    return Comparison("A step", preset, "3 × 4", 2, "loss 9", TIMES, conditions())


def test_ratios_are_taken_round_by_round():
    assert ratios(TIMES) == {"theirs": [0.5, 1.0, 1.5], "products alone": [1.5, 2.0, 2.0]}


def test_the_picture_shows_each_preset_and_is_the_same_bytes_again(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    written = []
    honest = Axes.annotate
    monkeypatch.setattr(
        Axes, "annotate", lambda self, text, *a, **k: written.append(text) or honest(self, text, *a, **k)
    )
    for name in ("one", "again"):
        plot_bench({"tiny": TIMES, "mini": TIMES}, "A step", tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "again").read_bytes()
    assert written == ["2.00", "1.00"] * 4  # the floor below the rival


def test_a_record_keeps_every_round(tmp_path, monkeypatch):
    monkeypatch.setattr(recorder, "import_torch", lambda threads: None)
    monkeypatch.setattr(recorder, "measure", compared)
    said = []
    recorder.record(["tiny", "mini"], 3, 2, tmp_path / "out", said.append)
    kept = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert list(kept) == ["tiny", "mini"]
    assert kept["mini"]["times"] == TIMES
    assert (tmp_path / "out" / "bench.png").stat().st_size > 10_000
    assert "minissl / theirs, pair by pair: 1.00 (0.50 … 1.50)" in said[0]
    assert said[0].startswith("A step, preset tiny, batch 3 × 4, 2 thread(s), float32; loss 9")
    assert kept["tiny"]["conditions"]["versions"]["NumPy"] in said[0]


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(recorder, "import_torch", lambda threads: None)
    monkeypatch.setattr(recorder, "measure", compared)
    assert len(recorder.record(["tiny"], 3, 2, None, lambda _: None)) == 1
    assert not list(tmp_path.iterdir())


def test_growth_names_every_letter_and_what_doubling_costs(tmp_path, monkeypatch):
    monkeypatch.setattr(growth, "VALUES", {"T": (4, 8), "D": (64, 128), "B": (2, 4)})
    settings = []
    honest = growth._step
    monkeypatch.setattr(growth, "_step", lambda setting: settings.append(setting) or honest(setting))
    said = []
    found = growth.record(1, 2, tmp_path, said.append)
    assert [(one.letter, one.values) for one in found.found] == [("T", [4, 8]), ("D", [64, 128]), ("B", [2, 4])]
    assert {(s.B, s.T, s.D, s.threads) for s in settings} >= {(32, 4, 128, 2), (32, 64, 64, 2), (2, 64, 128, 2)}
    assert growth.Growth("T", [1, 2, 4], [3.0, 5.0, 27.0]).doubling == pytest.approx(3)
    assert said[0].startswith("length T: 4 ")
    assert (tmp_path / "growth.png").stat().st_size > 10_000
    kept = json.loads((tmp_path / "growth.json").read_text())
    assert [one["letter"] for one in kept["found"]] == ["T", "D", "B"]
    assert kept["conditions"]["cores"] >= 1


def test_growth_needs_a_round():
    with pytest.raises(InputError, match="--rounds 0"):
        growth.measure(0, 1)
