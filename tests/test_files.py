"""Files are written whole or not at all, and what is damaged or foreign is refused in one line."""

import errno
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from minissl import files
from minissl.errors import InputError
from minissl.files import read_arrays, read_json, write_arrays, write_json, write_whole


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("content", "expected"), [("ü\n", "ü\n".encode()), (b"\x00\xff", b"\x00\xff"), ("", b"")])
def test_write_whole(tmp_path, content, expected):
    write_whole(tmp_path / "a.txt", content)
    assert (tmp_path / "a.txt").read_bytes() == expected
    write_whole(str(tmp_path / "a.txt"), b"new")
    assert (tmp_path / "a.txt").read_bytes() == b"new"
    assert names(tmp_path) == ["a.txt"]


def test_the_bytes_are_on_the_disk_before_the_name_is_taken(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        original = getattr(os, name)
        monkeypatch.setattr(files.os, name, lambda *a, name=name, call=original: (calls.append(name), call(*a))[1])
    write_whole(tmp_path / "a.txt", "x")
    assert calls == ["fsync", "replace"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), OSError("no number")])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step, error):
    write_whole(tmp_path / "a.txt", "old")

    def fail(*args):
        raise error

    monkeypatch.setattr(files.os, step, fail)
    with pytest.raises(InputError) as caught:
        write_whole(tmp_path / "a.txt", "new")
    assert str(tmp_path / "a.txt") in str(caught.value)
    assert (error.strerror or "no number") in str(caught.value)
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    write_whole(tmp_path / "a.txt", "old")

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


FILL = """
import resource, signal, sys
from minissl.errors import InputError
from minissl.files import write_whole
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_whole(sys.argv[1], b"n" * 100_000)
except InputError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits on the size of files are POSIX")
def test_a_disk_that_takes_only_a_part(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", FILL, path], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{path}: could not be written (")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file" / "inside", tmp_path / "missing" / "a.txt", tmp_path):
        with pytest.raises(InputError, match="could not be written"):
            write_whole(path, "x")
    assert names(tmp_path) == ["file"]


def test_json_round_trip(tmp_path):
    value = {"näme": [1, 2.5, None, True], "nested": {"a": "b"}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert (tmp_path / "a.json").read_text(encoding="utf-8").endswith("}\n")
    assert "näme" in (tmp_path / "a.json").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b'{"a": 1', b"[1]", b"3", b"null", b"\xff", b"{'a': 1}", b"[" * 100_000, b'{"a":' * 100_000, b"\x00"],
    ids=lambda content: repr(content[:8]),
)
def test_json_that_is_damaged_or_no_object(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_json_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_json(tmp_path / "a.json")
    with pytest.raises(InputError, match="is not a file, expected one with JSON in it"):
        read_json(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(InputError, match="is not a file"):
        read_json(tmp_path / "a.json")
    with pytest.raises(InputError, match="no such file"):
        read_arrays(tmp_path / "a.json")


def arrays():
    rng = np.random.default_rng(0)
    return {
        "float32": rng.standard_normal((3, 4)).astype("float32"),
        "float64": rng.standard_normal(5),
        "int64": rng.integers(-9, 9, (2, 3, 4)),
        "bool": np.array([True, False]),
        "scalar": np.array(2.5),
        "empty": np.zeros((0, 3), "float32"),
    }


def same(got, expected):
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        assert got[name].dtype == array.dtype, name
        assert got[name].shape == array.shape, name
        np.testing.assert_array_equal(got[name], array)


def test_arrays_round_trip(tmp_path):
    path = tmp_path / "a.safetensors"
    write_arrays(path, arrays(), {"step": "12", "näme": "ü"})
    got, metadata = read_arrays(path)
    same(got, arrays())
    assert metadata == {"step": "12", "näme": "ü"}
    for array in got.values():
        array[...] = 0  # they are the reader's own
    write_arrays(path, {"x": np.ones(2)})
    assert read_arrays(path)[1] == {}
    assert names(tmp_path) == ["a.safetensors"]


def test_the_file_opens_after_it_was_replaced(tmp_path):
    """What was read must not be a window into the file."""
    path = tmp_path / "a.safetensors"
    write_arrays(path, {"x": np.arange(1000.0)})
    before, _ = read_arrays(path)
    write_arrays(path, {"x": np.zeros(1000)})
    np.testing.assert_array_equal(before["x"], np.arange(1000.0))


def test_arrays_that_do_not_lie_in_one_piece(tmp_path):
    x = np.random.default_rng(0).standard_normal((4, 5, 6)).astype("float32")
    given = {
        "transposed": x[0].T,
        "strided": x[:, ::2, 1:],
        "reversed": x[::-1],
        "fortran": np.asfortranarray(x[1]),
        "broadcast": np.broadcast_to(x[0, 0], (3, 6)),
        "view": x.reshape(-1)[7:19].reshape(3, 4),
    }
    path = tmp_path / "a.safetensors"
    write_arrays(path, given)
    same(read_arrays(path)[0], given)


def test_writing_leaves_the_arrays_alone(tmp_path):
    given = arrays()
    write_arrays(tmp_path / "a.safetensors", given)
    same(given, arrays())


def safetensors(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(shape, begin, end, dtype="F32"):
    return {"x": {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}}


class Trap:
    """Unpickling it would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


FOREIGN = {
    "empty": b"",
    "text": b"name,value\na,1\n",
    "html": b"<!DOCTYPE html><html>404</html>",
    "git lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n",
    "npy": b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (3,)}\n" + bytes(12),
    "zeros": bytes(64),
    "ones": b"\xff" * 64,
    "eight bytes": struct.pack("<Q", 10),
    "a header beyond the file": struct.pack("<Q", 1 << 40) + b"{}",
    "a header that is no JSON": safetensors(b"not json"),
    "a header that is a list": safetensors([1]),
    "a header nested without end": safetensors(b'{"x":' * 50_000),
    "data beyond the file": safetensors(tensor([4], 0, 16), bytes(8)),
    "data left over": safetensors(tensor([4], 0, 16), bytes(99)),
    "a shape that does not fit": safetensors(tensor([5], 0, 16), bytes(16)),
    "an enormous shape": safetensors(tensor([1 << 40, 1 << 40], 0, 16), bytes(16)),
    "offsets backwards": safetensors(tensor([4], 16, 0), bytes(16)),
    "a negative shape": safetensors(tensor([-4], 0, 16), bytes(16)),
    "an unknown dtype": safetensors(tensor([4], 0, 16, "F31"), bytes(16)),
    "a dtype that NumPy lacks": safetensors(tensor([4], 0, 4, "F8_E4M3"), bytes(4)),
}


@pytest.mark.parametrize("label", FOREIGN)
def test_files_of_another_kind(tmp_path, label):
    path = tmp_path / "a.safetensors"
    path.write_bytes(FOREIGN[label])
    with pytest.raises(InputError) as caught:
        read_arrays(path)
    assert str(caught.value).startswith(f"{path}: not readable as safetensors ({len(FOREIGN[label])} bytes")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_is_never_opened(tmp_path, protocol):
    path, trap = tmp_path / "pytorch_model.bin", tmp_path / "sprung"
    path.write_bytes(pickle.dumps(Trap(trap), protocol=protocol))
    with pytest.raises(InputError) as caught:
        read_arrays(path)
    if protocol >= 2:
        assert "is a pickle, which can run code and is never opened" in str(caught.value)
    assert not trap.exists()


def test_a_zip_as_torch_save_writes_it_is_never_opened(tmp_path):
    path, trap = tmp_path / "pytorch_model.bin", tmp_path / "sprung"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Trap(trap)))
    with pytest.raises(InputError, match="is a pickle"):
        read_arrays(path)
    assert not trap.exists()


def test_a_file_that_is_not_there(tmp_path):
    for path in (tmp_path / "a.safetensors", tmp_path, tmp_path / "a" / "b"):
        with pytest.raises(InputError, match="no such file"):
            read_arrays(path)


def test_cut_and_changed_bytes_are_refused_or_give_arrays(tmp_path):
    """A cut is always refused. A changed byte in the header may leave a file that can be read, but never a crash."""
    path = tmp_path / "a.safetensors"
    write_arrays(path, arrays(), {"step": "12"})
    whole = path.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    rng = np.random.default_rng(0)
    refused = {"cut": 0, "changed": 0, "flipped": 0}
    for trial in range(400):
        damaged = bytearray(whole)
        kind = ("cut", "changed", "flipped")[trial % 3]
        if kind == "cut":
            del damaged[rng.integers(len(whole)) :]
        elif kind == "changed":
            damaged[rng.integers(header)] = rng.integers(256)
        else:
            damaged[rng.integers(header)] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            got, _ = read_arrays(path)
        except InputError:
            refused[kind] += 1
        else:
            assert kind != "cut"
            assert sum(array.nbytes for array in got.values()) <= len(whole)
    assert refused["cut"] == 134
    assert min(refused.values()) > 50
