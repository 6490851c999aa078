"""`minissl museum list | show | race | check`."""

import pytest

from minissl.errors import InputError
from minissl.museum import EXHIBITS, Exhibit, commands, find


@pytest.fixture
def said():
    return []


def test_list_names_every_exhibit_once_by_module(said):
    assert commands.list_exhibits(said.append) == 0
    lines = "\n".join(said).splitlines()
    for exhibit in EXHIBITS:
        assert len([line for line in lines if line.split()[:1] == [exhibit.name]]) == 1
    assert lines.count("minissl.ops.layer_norm") == 1


def test_show_tells_everything_about_one(said):
    assert commands.show("layer-norm-mean-term", said.append) == 0
    text = "\n".join(said)
    exhibit = find("layer-norm-mean-term")
    for part in (
        exhibit.story,
        exhibit.training,
        "seen in a public project",
        "-    dx = inv_std",
        "missing_term: the grad",
    ):
        assert part in text


def test_race_writes_into_the_folder(said, tmp_path):
    assert commands.race("masked-mse-sum", tmp_path, said.append, steps=2) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"masked-mse-sum.png", "masked-mse-sum.json"}


@pytest.mark.parametrize("command", [commands.show, lambda name, say: commands.race(name, None, say)])
def test_an_unknown_name_is_refused(said, command):
    with pytest.raises(InputError, match="did you mean"):
        command("layer-norm", said.append)


@pytest.fixture
def right(monkeypatch):
    """What is right is looked at by the tests of the inspections; here nothing."""
    monkeypatch.setattr(commands, "inspect_right", list)


def test_check_counts_what_is_caught_and_named(said, monkeypatch, right):
    monkeypatch.setattr(commands, "EXHIBITS", [find("linear-bias-mean"), find("mlm-not-hidden")])
    assert commands.check(said.append) == 0
    assert "✓ scale" in said[1]
    assert said[-1].startswith("caught: 2 of 2; gradient bugs named with their kind: 1 of 1 (100%); false alarms")


def test_check_fails_where_one_gets_through(said, monkeypatch, right):
    same = Exhibit("same", "minissl.ops.linear.linear_backward", "dweight = ", "dweight  = ", "zero", "", "")
    monkeypatch.setattr(commands, "EXHIBITS", [same])
    assert commands.check(said.append) == 1
    assert said[-1] == "NOT CAUGHT: same"


def test_check_fails_where_what_is_right_is_flagged(said, monkeypatch):
    monkeypatch.setattr(commands, "EXHIBITS", [find("linear-bias-mean")])
    alarm = commands.inspect(find("linear-bias-mean"))
    monkeypatch.setattr(commands, "inspect_right", lambda: [alarm])
    assert commands.check(said.append) == 1
    assert said[-1].startswith("FALSE ALARM: check of linear: scale: ")
