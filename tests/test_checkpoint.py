"""The weights of a folder: one file, or shards under an index; what is missing or strange is named."""

import re

import numpy as np
import pytest

from minissl.checkpoint import INDEX, SINGLE, Checkpoint, some
from minissl.errors import InputError
from minissl.files import write_arrays, write_json

ONE, TWO = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
WHERE = {"a": ONE, "b": TWO, "c": ONE}


def refuses(message):
    return pytest.raises(InputError, match=re.escape(message))


def put(folder, name, *keys):
    write_arrays(folder / name, {key: np.full(3, ord(key[0]), "f4") for key in keys})


@pytest.fixture
def shards(tmp_path):
    put(tmp_path, ONE, "a", "c")
    put(tmp_path, TWO, "b")
    write_json(tmp_path / INDEX, {"metadata": {"total_size": 36}, "weight_map": WHERE})
    return tmp_path


def test_shards_are_one_checkpoint(shards):
    with Checkpoint(shards) as checkpoint:
        assert set(checkpoint.tensors) == {"a", "b", "c"}
        for name, file in checkpoint.home.items():
            assert file.path.name == WHERE[name]
            np.testing.assert_array_equal(file.read(name), np.full(3, ord(name)))


def test_one_file_comes_before_an_index(shards):
    put(shards, SINGLE, "x")
    with Checkpoint(shards) as checkpoint:
        assert set(checkpoint.tensors) == {"x"}


def test_a_shard_may_hold_more_than_its_index_says(shards):
    write_json(shards / INDEX, {"weight_map": {"a": ONE, "b": TWO}})
    with Checkpoint(shards) as checkpoint:
        assert set(checkpoint.tensors) == {"a", "b", "c"}


@pytest.mark.parametrize(
    "name",
    [
        "../" + ONE,
        "/etc/" + ONE,
        "a/" + ONE,
        "..",
        "a\\b.safetensors",
        "model.bin",
        "",
        3,
        None,
        [ONE],
        "\0.safetensors",
    ],
)
def test_names_that_leave_the_folder_or_are_none(shards, name):
    (shards / "inside").mkdir()
    (shards / INDEX).rename(shards / "inside" / INDEX)
    write_json(shards / "inside" / INDEX, {"weight_map": {"a": name}})
    with refuses(f"{INDEX}: a would be in ") as caught:
        Checkpoint(shards / "inside")
    assert "expected the name of a .safetensors file in the same folder" in str(caught.value)


@pytest.mark.parametrize(
    "index", [{}, {"weight_map": []}, {"weight_map": {}}, {"weight_map": None}, {"weight_map": "a"}]
)
def test_an_index_without_a_map(shards, index):
    write_json(shards / INDEX, index)
    with refuses(f"{shards / INDEX}: expected a weight_map with the file of every weight"):
        Checkpoint(shards)


def test_an_index_that_is_damaged(shards):
    (shards / INDEX).write_text("{")
    with refuses(f"{shards / INDEX}: is not readable JSON"):
        Checkpoint(shards)


def test_shards_that_are_not_there(shards):
    (shards / TWO).unlink()
    with refuses(f"{shards / INDEX}: names {TWO}, which is not there; is the download complete?"):
        Checkpoint(shards)
    (shards / TWO).mkdir()
    with refuses(f"names {TWO}, which is not there"):
        Checkpoint(shards)


def test_a_shard_that_lacks_what_the_index_promises(shards):
    put(shards, ONE, "c")
    with refuses(f"{shards / ONE}: lacks a, which {INDEX} says is there; is the shard another's?"):
        Checkpoint(shards)


def test_one_weight_in_two_shards(shards):
    put(shards, TWO, "b", "c")
    with refuses(f"{shards / TWO}: c is in {ONE} too; which is right?"):
        Checkpoint(shards)


def test_a_damaged_shard_is_named(shards):
    (shards / TWO).write_bytes((shards / TWO).read_bytes()[:-1])
    with refuses(f"{shards / TWO}: not readable as safetensors"):
        Checkpoint(shards)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model.bin.index.json"])
def test_a_folder_with_a_pickle_alone(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK\x03\x04")
    with refuses(
        f"{tmp_path}: has {name}, a pickle, which can run code and is never opened, and no {SINGLE}"
    ) as caught:
        Checkpoint(tmp_path)
    assert "M.from_pretrained(FOLDER).save_pretrained(NEW)" in str(caught.value)
    put(tmp_path, SINGLE, "x")
    with Checkpoint(tmp_path) as checkpoint:
        assert set(checkpoint.tensors) == {"x"}


def test_a_folder_without_weights(tmp_path):
    with refuses(f"{tmp_path / SINGLE}: no such file"):
        Checkpoint(tmp_path)


def test_a_few_of_many_names():
    assert some([]) == "none"
    assert some(["a", "b\n"]) == "a, 'b\\n'"
    assert some(list("abcdef")) == "a, b, c, d and 2 more"
