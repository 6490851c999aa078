"""All comparisons in one record: what is kept, listed and drawn, also where a part fails or a person interrupts."""

import json
from pathlib import Path

import pytest

from minissl.bench import everything
from minissl.bench.conditions import conditions
from minissl.bench.everything import Part, overview, parts, table
from minissl.bench.growth import Growth, Growths
from minissl.bench.memory import Imports, Peaks
from minissl.bench.scaling import Scaling
from minissl.bench.turns import Comparison
from minissl.errors import InputError
from minissl.plots.bench import Share


def compared(preset, *rivals, what="A step"):
    times = {"minissl": [1.0, 2.0, 3.0], **{rival: [2.0 + i, 2.0 + i, 2.0 + i] for i, rival in enumerate(rivals)}}
    return Comparison(what, preset, "3 × 4", 2, "loss 9", times, conditions())


def scaled():
    times = {"minissl": {"1": [4.0, 4.0], "2": [2.0, 1.0]}, "PyTorch": {"1": [6.0, 6.0], "2": [5.0, 4.0]}}
    return Scaling("A step", "tiny", "3 × 4", [1, 2], "loss 9", times, conditions())


FOUND = {
    ("import", ""): lambda: Imports("imports", {"minissl": [0.1, 0.2], "Hugging Face": [2.0, 2.0]}, conditions()),
    ("step", "tiny"): lambda: compared("tiny", "Hugging Face", "expert", "compiled", "products alone"),
    ("evaluation", "tiny"): lambda: compared("tiny", "PyTorch, sdpa", "PyTorch, eager"),
    ("MAE step", "fashion"): lambda: compared("fashion", "PyTorch, sdpa", "PyTorch, eager"),
    ("memory", "tiny"): lambda: Peaks(
        "memory", "tiny", 2, 3, "loss 9",
        {"minissl": [10**8, 2 * 10**8], "Hugging Face": [2 * 10**8, 10**9], "expert": [2 * 10**8, 8 * 10**8]},
        conditions(),
    ),
    ("threads, step", "tiny"): scaled,
    ("growth", ""): lambda: Growths(2, 3, [Growth(x, [1, 2, 4], [3.0, 6.0, 12.0]) for x in "TDB"], conditions()),
}  # fmt: skip


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(everything, "import_torch", lambda threads: None)

    def choose(found=FOUND):
        monkeypatch.setattr(everything, "parts", lambda *_: [Part(*name, make) for name, make in found.items()])

    choose()
    return choose


def test_every_part_is_kept_listed_and_drawn(quick, tmp_path):
    said = []
    sections = everything.record(None, 2, [0], tmp_path / "out", said.append)
    path = tmp_path / "out" / "bench-all.json"
    once, each = map(sum, zip(*(everything.SECONDS[f"{kind} {preset}".strip()] for kind, preset in FOUND), strict=True))
    minutes = round((once + 5 * each) / 60)
    assert said[0] == f"7 parts, about {minutes} minutes on two cores; each is kept in {path} as it ends"
    kept = json.loads((tmp_path / "out" / "bench-all.json").read_text())
    assert kept == json.loads(json.dumps(sections))
    assert set(kept) == {f"{kind} {preset}".strip() for kind, preset in FOUND}
    for section in kept.values():
        assert {"date", "versions", "blas", "load", "others", "settings"} <= set(section["conditions"])
    assert (tmp_path / "out" / "bench-all.png").stat().st_size > 30_000
    assert kept["step tiny"]["times"]["minissl"] == [1.0, 2.0, 3.0]


def test_the_table_has_a_line_for_each_rival(quick):
    sections = everything.record(None, 2, [0], None, lambda _: None)
    lines = [line.split() for line in table(sections).splitlines()]
    assert ["BERT", "training", "step", "tiny", "2,000.0", "ms", "expert", "3,000.0", "ms"] in [x[:9] for x in lines]
    said = table(sections)
    assert "0.67 (0.33 … 1.00)" in said
    assert "minissl 1.00 ×, 3.00 ×; PyTorch 1.00 ×, 1.35 ×" in said
    assert "minissl's step by length T, 1 … 4: × 2.00 a doubling" in said
    assert "MB   expert, beyond imports            200 MB   0.50" in said


def test_the_table_says_once_what_disturbed_it_most(quick):
    sections = everything.record(None, 2, [0], None, lambda _: None)
    for section, others in zip(sections.values(), (0.05, 0.4, 0.3), strict=False):
        section["conditions"]["others"] = others
    said = [line for line in table(sections).splitlines() if "other processes took" in line]
    assert [line.partition(" of the cores")[0] for line in said] == ["caution: other processes took 40%"]
    assert said[0] in overview(sections).foot


def test_the_picture_takes_the_fastest_of_pytorch_and_memory_beside_the_expert(quick):
    found = overview(everything.record(None, 2, [0], None, lambda _: None))
    assert found.shares["evaluation"] == [Share("tiny", "PyTorch", 0.5, 1.0, 1.5)]
    assert [one.rival for one in found.shares["step"]] == ["Hugging Face", "expert", "compiled"]
    assert [(one.rival, one.median) for one in found.shares["memory"]] == [("beyond imports", 0.5), ("in all", 0.25)]
    assert found.import_seconds == {"minissl": pytest.approx(0.15), "Hugging Face": 2.0}
    assert found.growth["width D"] == ([1, 2, 4], [3.0, 6.0, 12.0])


def test_an_interrupted_run_keeps_what_is_finished(quick, tmp_path):
    def interrupt():
        raise KeyboardInterrupt

    quick({**dict(list(FOUND.items())[:2]), ("step", "mini"): interrupt, ("growth", ""): FOUND["growth", ""]})
    said = []
    with pytest.raises(KeyboardInterrupt):
        everything.record(None, 2, [0], tmp_path, said.append)
    assert list(json.loads((tmp_path / "bench-all.json").read_text())) == ["import", "step tiny"]
    assert (tmp_path / "bench-all.png").exists()
    quick({("growth", ""): FOUND["growth", ""]})
    everything.record(None, 2, [0], tmp_path, said.append)
    assert list(json.loads((tmp_path / "bench-all.json").read_text())) == ["import", "step tiny", "growth"]


def test_a_part_that_fails_is_left_out_and_named(quick, tmp_path):
    def fail():
        raise InputError("the losses differ")

    everything.record(None, 2, [0], tmp_path, lambda _: None)
    quick({("step", "tiny"): fail, ("growth", ""): FOUND["growth", ""]})
    said = []
    with pytest.raises(InputError, match="1 of 2 parts are left out, for the reasons above: step tiny"):
        everything.record(None, 2, [0], tmp_path, said.append)
    assert "step tiny: the losses differ" in "\n".join(said)
    kept = json.loads((tmp_path / "bench-all.json").read_text())
    assert "step tiny" not in kept  # what an earlier run found is not this one's
    assert "growth" in kept


@pytest.mark.parametrize("content", ['{"tiny": {"preset": "tiny"}}', '{"a": 1}', "[]"])
def test_a_file_of_something_else_is_not_written_over(quick, tmp_path, content):
    path = Path(tmp_path / "bench-all.json")
    path.write_text(content)
    with pytest.raises(InputError, match=r"bench-all.json: "):
        everything.record(None, 2, [0], tmp_path, lambda _: None)
    assert path.read_text() == content


def test_the_parts_of_a_preset():
    names = [part.name for part in parts(["tiny", "fashion"], 2, 2, [1, 2])]
    assert names == [
        "import", "step tiny", "evaluation tiny", "MAE step fashion", "memory tiny", "MAE memory fashion",
        "threads, step tiny", "threads, evaluation tiny", "growth",
    ]  # fmt: skip
    every = [part.name for part in parts(["tiny", "mini", "small", "base", "fashion"], 2, 2, [1, 2])]
    assert "MAE step small" in every
    assert set(every) <= set(everything.SECONDS)
    assert [name for name in every if name.startswith("threads")] == [
        "threads, step small",
        "threads, evaluation small",
    ]


def test_a_preset_that_there_is_not():
    with pytest.raises(InputError, match="--preset huge: expected one of tiny, mini, small, base, fashion"):
        everything.record(["huge"], 2, [0], None, print)
