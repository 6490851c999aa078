"""The reader of safetensors: what it accepts is whole, and each damage has its own words."""

import json
import os
import re
import struct

import numpy as np
import pytest
from safetensors.numpy import save_file

from minissl import tensor_file
from minissl.errors import InputError
from minissl.tensor_file import TensorFile, shown


def written(path, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def tensor(begin=0, end=8, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


HEADERS = {
    "dtype unknown": ({"x": tensor(dtype="F8_E4M3")}, "x has dtype F8_E4M3, expected one of F64, F32, F16, BF16, C64"),
    "dtype a number": ({"x": {**tensor(), "dtype": 3}}, "x has dtype 3, expected one of"),
    "dtype a list": ({"x": {**tensor(), "dtype": ["F32"]}}, "x has dtype ['F32'], expected one of"),
    "another dtype": ({"x": tensor(dtype="F16")}, "x has 8 bytes, expected 4 for F16 of shape (2,)"),
    "another shape": ({"x": tensor(shape=(3,))}, "x has 8 bytes, expected 12 for F32 of shape (3,)"),
    "an enormous shape": (
        {"x": tensor(shape=(1 << 62, 1 << 62))},
        f"x has 8 bytes, expected {1 << 126} for F32 of shape ({1 << 62}, {1 << 62})",
    ),
    "a negative shape": ({"x": tensor(shape=(-1, -2))}, "x has shape [-1, -2], expected at most 64 sizes"),
    "a size beyond 63 bits": ({"x": tensor(shape=(1 << 63,))}, f"x has shape [{1 << 63}], expected at most"),
    "a fractional shape": ({"x": tensor(shape=(2.0,))}, "x has shape [2.0], expected"),
    "a size that is true": ({"x": tensor(shape=(2, True))}, "x has shape [2, True], expected"),
    "too many axes": ({"x": tensor(shape=(1,) * 64 + (2,))}, "x has shape [1, 1, 1"),
    "a shape that is no list": ({"x": {**tensor(), "shape": 2}}, "x has shape 2, expected"),
    "no shape": ({"x": {"dtype": "F32", "data_offsets": [0, 8]}}, "x lacks a dtype, shape or data_offsets"),
    "not a tensor": ({"x": 3}, "x lacks a dtype, shape or data_offsets"),
    "offsets backwards": ({"x": tensor(8, 0)}, "x has data_offsets [8, 0], expected [begin, end]"),
    "negative offsets": ({"x": tensor(-8, 0)}, "x has data_offsets [-8, 0], expected [begin, end]"),
    "one offset": ({"x": {**tensor(), "data_offsets": [8]}}, "x has data_offsets [8], expected [begin, end]"),
    "offsets beyond the file": ({"x": tensor(0, 16, (4,))}, "its tensors end at byte"),
    "offsets far beyond the file": ({"x": tensor(1 << 62, (1 << 62) + 8)}, f"x begins at byte {1 << 62}, expected 0"),
    "a hole in front": ({"x": tensor(4, 8, (1,))}, "x begins at byte 4, expected 0, where the one before ends"),
    "a hole between": ({"x": tensor(0, 4, (1,)), "y": tensor(6, 8, (1,), "F16")}, "y begins at byte 6, expected 4"),
    "an overlap": (
        {"x": tensor(), "y": tensor(4, 8, (1,))},
        "y begins at byte 4, expected 8, where the one before ends",
    ),
    "the same bytes twice": ({"x": tensor(), "y": tensor()}, "y begins at byte 0, expected 8"),
    "bytes left over": ({"x": tensor(0, 4, (1,))}, "its tensors end at byte"),
    "no tensors, but bytes": ({}, "its tensors end at byte 10"),
    "metadata of numbers": ({"__metadata__": {"a": 1}, "x": tensor()}, "its __metadata__ is no table of strings"),
    "metadata that is a list": ({"__metadata__": [], "x": tensor()}, "its __metadata__ is no table of strings"),
    "a list": ([1], "its header is no JSON object"),
    "a space in front": (b" " + json.dumps({"x": tensor()}).encode(), "its header is no JSON object"),
    "a byte order mark": (b"\xef\xbb\xbf" + json.dumps({"x": tensor()}).encode(), "its header is no JSON object"),
    "UTF-16": (json.dumps({"x": tensor()}).encode("utf-16-le"), "its header is not readable: "),
    "latin-1": ('{"ü": 1}'.encode("latin-1"), "its header is not readable: 'utf-8' codec can't decode"),
    "half a character": (rb'{"\ud800": 1}', "its header is not readable: 'utf-8' codec can't encode"),
    "not JSON": (b"{x}", "its header is not readable: "),
    "two objects": (b"{}{}", "its header is not readable: Extra data"),
    "NaN": (b'{"x": NaN}', "its header is not readable: NaN is no JSON"),
    "endless digits": (b'{"x": ' + b"9" * 5000 + b"}", "its header is not readable: "),
    "nested without end": (b'{"x":' * 50_000, "its header is not readable: "),
    "a key twice": (
        f'{{"x": {json.dumps(tensor())}, "x": {json.dumps(tensor())}}}'.encode(),
        "its header is not readable: x is there twice",
    ),
    "a dtype twice": (
        b'{"x": {"dtype": "F32", "dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}',
        "its header is not readable: dtype is there twice",
    ),
    "a name of two lines": ({"a\nb": 3}, "'a\\nb' lacks a dtype"),
    "a name without end": ({"a" * 100_000: 3}, f"{'a' * 120}… lacks a dtype"),
}


@pytest.mark.parametrize("label", HEADERS)
def test_headers_that_do_not_fit(tmp_path, label):
    header, message = HEADERS[label]
    path = written(tmp_path / "x.safetensors", header, bytes(8))
    with pytest.raises(InputError) as caught:
        TensorFile(path)
    said = str(caught.value)
    assert said.startswith(f"{path}: not readable as safetensors ({path.stat().st_size} bytes; ")
    assert message in said
    assert said.endswith("; is the file whole, or another kind?")
    assert len(said.splitlines()) == 1
    assert len(said) < 1000


@pytest.mark.parametrize("length", [17, 1 << 20, 1 << 40, (1 << 64) - 1])
def test_a_header_beyond_the_file(tmp_path, length):
    path = written(tmp_path / "x.safetensors", b"{}", bytes(14), length=length)
    with pytest.raises(InputError, match=f"its header would be {length} bytes long"):
        TensorFile(path)


def test_a_header_that_is_too_long_is_not_parsed(tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_file, "MOST_HEADER", 100)
    monkeypatch.setattr(tensor_file.json, "loads", pytest.fail)
    path = written(tmp_path / "x.safetensors", b"{" + b" " * 100 + b"}")
    with pytest.raises(InputError, match="its header is 102 bytes long, expected 100 at most"):
        TensorFile(path)


@pytest.mark.parametrize("size", range(8))
def test_too_short_for_a_length(tmp_path, size):
    (tmp_path / "x.safetensors").write_bytes(bytes(size))
    with pytest.raises(InputError, match=f"{size} bytes; its header would be 0 bytes long"):
        TensorFile(tmp_path / "x.safetensors")


def test_what_the_format_allows(tmp_path):
    header = {
        "z": tensor(0, 8),
        "__metadata__": {"format": "pt", "ü": "\n"},
        "none": tensor(8, 8, (0, 3)),
        "scalar": tensor(8, 12, ()),
        "none, and large": tensor(12, 12, (1 << 40, 0)),
        "half": tensor(12, 18, (3, 1), "BF16"),
    }
    text = json.dumps(header).encode() + b" " * 13
    data = np.array([1.5, -2, 7], "<f4").tobytes() + np.array([0x3FC0, 0xFF80, 0x7FC1], "<u2").tobytes()
    with TensorFile(written(tmp_path / "x.safetensors", text, data)) as file:
        assert file.metadata == {"format": "pt", "ü": "\n"}
        assert set(file.tensors) == header.keys() - {"__metadata__"}
        np.testing.assert_array_equal(file.read("z"), np.array([1.5, -2], "f4"))
        assert file.read("none").shape == (0, 3)
        assert file.read("none, and large").shape == (1 << 40, 0)
        assert file.read("scalar").shape == ()
        assert file.read("scalar") == 7
        half = file.read("half")
        assert half.dtype == np.float32
        assert half.shape == (3, 1)
        assert half.view(np.uint32).ravel().tolist() == [0x3FC00000, 0xFF800000, 0x7FC10000]


def test_an_empty_file_of_no_tensors(tmp_path):
    with TensorFile(written(tmp_path / "x.safetensors", b"{}")) as file:
        assert file.tensors == {}


@pytest.mark.parametrize(
    "dtype", ["float16", "float32", "float64", "int8", "int64", "uint8", "uint64", "bool", "complex64"]
)
def test_every_dtype_as_safetensors_writes_it(tmp_path, dtype):
    rng = np.random.default_rng(0)
    array = (100 * rng.random((3, 5)) > 50) if dtype == "bool" else (100 * rng.random((3, 5))).astype(dtype)
    save_file({"x": array}, tmp_path / "x.safetensors")
    with TensorFile(tmp_path / "x.safetensors") as file:
        got = file.read("x")
        assert got.dtype == array.dtype
        np.testing.assert_array_equal(got, array)
        got[...] = 0  # the reader's own


def test_pieces_join_up(tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_file, "CHUNK", 7)
    x = np.random.default_rng(0).standard_normal((5, 9)).astype("float16")
    save_file({"a": x, "b": x + 1}, tmp_path / "x.safetensors")
    with TensorFile(tmp_path / "x.safetensors") as file:
        for name, expected in (("a", x), ("b", x + 1)):
            for dtype in ("float32", "float64"):
                got = np.full(x.shape, 7, dtype)
                file.read_into(name, got)
                np.testing.assert_array_equal(got, expected.astype(dtype))
        assert [(start, len(piece)) for start, piece in file.pieces("a")] == [
            (i, min(7, 45 - i)) for i in range(0, 45, 7)
        ]


def test_a_byte_that_is_no_boolean(tmp_path):
    path = written(tmp_path / "x.safetensors", {"x": tensor(0, 3, (3,), "BOOL")}, b"\0\1\2")
    with (
        TensorFile(path) as file,
        pytest.raises(InputError, match="x is BOOL and holds a byte that is neither 0 nor 1"),
    ):
        file.read("x")


def test_a_file_that_shrinks_while_it_is_read(tmp_path):
    path = written(tmp_path / "x.safetensors", {"x": tensor(0, 4000, (1000,))}, bytes(4000))
    with TensorFile(path) as file:
        os.truncate(path, 2000)
        with pytest.raises(InputError, match="it has become shorter while it was read"):
            file.read("x")


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    path = written(tmp_path / "x.safetensors", b"{}")

    def refuse(*args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", refuse)
    with pytest.raises(InputError, match=re.escape(f"{path}: could not be opened (Permission denied)")):
        TensorFile(path)


def test_names_are_shown_on_one_line():
    assert shown("bert.pooler") == "bert.pooler"
    assert shown("a\nb") == "'a\\nb'"
    assert shown("\ud800") == "'\\ud800'"
    assert shown("") == "''"
    assert len(shown("x" * 10_000)) < 130
    assert len(shown("\n" * 10_000)) < 300
