"""What `minissl bench` cannot run or keep is said before anything is timed."""

import pytest

from minissl.bench import growth, inference, mae, record, scaling, turns
from minissl.cli import main


@pytest.fixture(autouse=True)
def nothing_is_timed(monkeypatch):
    def measure(*_):
        pytest.fail("it began to measure")

    for module in (growth, record, inference, mae):
        monkeypatch.setattr(module, "measure", measure)
    monkeypatch.setattr(scaling, "measure_step", measure)
    monkeypatch.setattr(scaling, "measure_evaluation", measure)
    monkeypatch.setattr(record, "import_torch", lambda threads: None)


@pytest.mark.parametrize(
    "kind", [[], ["--inference"], ["--mae"], ["--threads", "1,2"], ["--inference", "--threads", "1,2"]]
)
def test_every_preset_is_checked_first(capsys, kind):
    assert main(["bench", *kind, "--preset", "base", "nope"]) == 2
    assert capsys.readouterr().err.startswith("minissl: --preset nope: expected one of ")


@pytest.mark.parametrize("kind", [[], ["--growth"]])
def test_a_folder_that_cannot_be_made_is_said_first(capsys, tmp_path, kind):
    (tmp_path / "file").write_text("mine")
    assert main(["bench", *kind, "--out", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err == f"minissl: {tmp_path / 'file'}: File exists\n"
    assert (tmp_path / "file").read_text() == "mine"


def test_growth_takes_no_preset(capsys):
    assert main(["bench", "--growth", "--preset", "tiny"]) == 2
    assert capsys.readouterr().err == "minissl: --growth has sizes of its own; leave out --preset\n"


def test_more_threads_than_pytorch_can_count():
    class Torch:
        def set_num_threads(self, _):
            raise ValueError("Overflow when unpacking long")

        def get_num_threads(self):
            return 2

    with pytest.raises(turns.InputError, match="PyTorch runs on 2 threads, not 99999999999, so nothing was timed"):
        turns.hold_torch(Torch(), 99999999999)
