import json
import os

import numpy as np
import pytest

from minissl.errors import InputError
from minissl.training.run_folder import CHECKPOINT, LOG, METRICS, SETTINGS, RunFolder

STATE = {"weights": np.arange(5, dtype=np.float32), "mean": np.ones(5, np.float32)}


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create(tmp_path / "run", {"steps": 3})


def steps(folder):
    return [record["step"] for record in folder.read_log()]


def test_a_new_folder_holds_its_settings_and_opens_again(folder):
    assert os.listdir(folder.path) == [SETTINGS]
    assert os.listdir(folder.path.parent) == ["run"]
    assert RunFolder.open(folder.path).settings == {"steps": 3}
    assert not folder.complete
    (folder.path / METRICS).write_text("{}")
    assert folder.complete


@pytest.mark.parametrize("what", ["folder", "file"])
def test_what_exists_is_not_touched(tmp_path, what):
    path = tmp_path / "mine"
    path.mkdir() if what == "folder" else path.write_text("precious")
    with pytest.raises(InputError, match="mine: exists; nothing in it was touched"):
        RunFolder.create(path, {})
    assert os.listdir(tmp_path) == ["mine"]
    assert path.is_dir() or path.read_text() == "precious"


def test_a_folder_that_appears_meanwhile_is_not_touched(tmp_path, monkeypatch):
    """Two runs that begin at once with one name: the later one gives way."""
    path = tmp_path / "new" / "run"

    def other_run_first(*args):
        path.mkdir()
        (path / "precious").write_text("of the other run")
        monkeypatch.undo()
        return os.rename(*args)

    monkeypatch.setattr(os, "rename", other_run_first)
    with pytest.raises(InputError, match="could not be made"):
        RunFolder.create(path, {})
    assert os.listdir(tmp_path / "new") == ["run"]
    assert os.listdir(path) == ["precious"]


def test_a_folder_that_cannot_be_made_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("no folder")
    for path in (tmp_path / "file" / "run", tmp_path / "a" / "b" / ("x" * 250)):
        with pytest.raises(InputError, match="could not be made"):
            RunFolder.create(path, {})
    with pytest.raises(InputError, match="could not be made"):
        RunFolder.create(tmp_path / "c" / "run", {"data": "\udcff"})  # a file name that is not UTF-8
    assert os.listdir(tmp_path) == ["file"]


def test_removing_takes_the_parents_that_were_made_for_it_and_no_others(tmp_path):
    (tmp_path / "old").mkdir()
    for parent in ("old", "new/deeper"):
        RunFolder.create(tmp_path / parent / "run", {}).remove()
    assert os.listdir(tmp_path) == ["old"]
    first = RunFolder.create(tmp_path / "runs" / "1", {})
    RunFolder.create(tmp_path / "runs" / "2", {})
    first.remove()
    assert os.listdir(tmp_path / "runs") == ["2"]


def test_checkpoints_replace_one_another_and_come_back(folder):
    assert folder.load_checkpoint() is None
    for step in (2, 4):
        folder.save_checkpoint({name: array * step for name, array in STATE.items()}, step, 1.5)
    state, step, seconds = folder.load_checkpoint()
    assert (step, seconds) == (4, 1.5)
    assert set(state) == set(STATE)
    for name, array in STATE.items():
        np.testing.assert_array_equal(state[name], array * 4)
    assert sorted(os.listdir(folder.path)) == sorted([CHECKPOINT, LOG, SETTINGS])
    folder.remove_checkpoint()
    assert folder.load_checkpoint() is None


def test_loading_cuts_the_log_back_and_clears_what_a_kill_left(folder):
    for step in (1, 2, 3, 4):
        folder.log({"step": step, "mlm": 0.1 * step})
    folder.save_checkpoint(STATE, 3, 1.5)
    with (folder.path / LOG).open("ab") as file:
        file.write(b'{"step": 5, "mlm": 0.\n\xff\xfe{"st')
    (folder.path / f".{CHECKPOINT}.4242.part").write_bytes(b"half")
    assert steps(folder) == [1, 2, 3, 4]
    folder.load_checkpoint()
    assert [json.loads(line) for line in (folder.path / LOG).read_text().splitlines()] == [
        {"step": step, "mlm": 0.1 * step} for step in (1, 2, 3)
    ]
    assert sorted(os.listdir(folder.path)) == sorted([CHECKPOINT, LOG, SETTINGS])
    folder.remove_checkpoint()
    folder.load_checkpoint()
    assert steps(folder) == []


def test_other_data_is_refused_and_nothing_changes(folder):
    folder.log({"step": 1})
    folder.log({"step": 2})
    folder.require_data("data")
    again = RunFolder.open(folder.path)
    again.require_data("data")
    with pytest.raises(InputError, match="the data has changed since this run began"):
        again.require_data("other data")
    assert steps(again) == [1, 2]


@pytest.mark.parametrize("content", [b"", b"\x80\x04pickle", b"garbage" * 99], ids=["empty", "pickle", "garbage"])
def test_a_damaged_checkpoint_is_refused(folder, content):
    (folder.path / CHECKPOINT).write_bytes(content)
    with pytest.raises(InputError, match=CHECKPOINT):
        folder.load_checkpoint()


def test_a_foreign_or_truncated_checkpoint_is_refused(folder):
    from minissl.files import write_arrays

    write_arrays(folder.path / CHECKPOINT, STATE, {"format": "pt"})
    with pytest.raises(InputError, match="not a checkpoint of minissl"):
        folder.load_checkpoint()
    folder.save_checkpoint(STATE, 1, 1.5)
    whole = (folder.path / CHECKPOINT).read_bytes()
    (folder.path / CHECKPOINT).write_bytes(whole[:-3])
    with pytest.raises(InputError, match="not readable as safetensors"):
        folder.load_checkpoint()


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(InputError, match=r"not the folder of a run \(no run.json in it\)"):
        RunFolder.open(tmp_path)
    (tmp_path / SETTINGS).write_text("{")
    with pytest.raises(InputError, match="not readable JSON"):
        RunFolder.open(tmp_path)


def test_how_to_go_on_can_be_pasted(tmp_path):
    assert RunFolder(tmp_path / "my run", {}).go_on.endswith(f"--resume '{tmp_path}/my run'")


def test_a_full_disk_is_said_with_the_way_on(folder, monkeypatch):
    folder.save_checkpoint(STATE, 1, 1.5)
    before = (folder.path / CHECKPOINT).read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"No space left on device.* when there is room, go on with: minissl pretrain"):
        folder.save_checkpoint(STATE, 2, 1.5)
    monkeypatch.undo()
    assert (folder.path / CHECKPOINT).read_bytes() == before
    assert sorted(os.listdir(folder.path)) == sorted([CHECKPOINT, SETTINGS])
    (folder.path / LOG).mkdir()
    with pytest.raises(InputError, match=r"log.jsonl: could not be written .* go on with"):
        folder.log({"step": 1})
