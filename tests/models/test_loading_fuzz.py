"""Damaged folders: whatever is in them, the right weights or one clear line; no crash, no hang, no memory blow-up.

Seeded. `MINISSL_FUZZ_CASES=100000 pytest -n 0 tests/models/test_loading_fuzz.py` tries that many of each kind.
"""

import copy
import json
import os
import shutil
import signal
import struct
import tracemalloc
import warnings

import numpy as np
import pytest
from safetensors import safe_open

from minissl.errors import InputError
from minissl.files import read_arrays, write_arrays, write_json
from minissl.models import BertConfig, BertForPreTraining, BertForSequenceClassification, BertModel

CASES = int(os.environ.get("MINISSL_FUZZ_CASES", "60"))
MOST_MEMORY = 48 << 20  # bytes beyond what is there before, of which most may be weights drawn anew
CONFIG = BertConfig(
    vocab_size=11, hidden_size=6, num_hidden_layers=1, num_attention_heads=2, intermediate_size=7,
    max_position_embeddings=5,
)  # fmt: skip
KINDS = (BertForPreTraining, BertModel, BertForSequenceClassification)
DTYPES = ["F32", "F64", "F16", "BF16", "I64", "I32", "U8", "BOOL", "F8_E4M3", "C64", "F4", "f32", "", "F32 "]
STRANGE = [
    0, 1, -1, 2, 3, 7, 255, 1 << 31, 1 << 40, (1 << 63) - 1, 1 << 63, 1 << 64, 10**12, 10**30, 10**400, 0.0, 0.5, -1.5,
    1e308, float("nan"), float("inf"), True, False, None, "", "x", "0", "\ud800", "\n", [], [1], {}, {"a": 1}, [[1]],
]  # fmt: skip
FILES = [
    "model.safetensors", "../model.safetensors", "../outside.safetensors", "/outside.safetensors", "a/b.safetensors",
    "model-00001.safetensors", "model-00002.safetensors", "config.json", "", ".", "gone.safetensors", "\0.safetensors",
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with one file, and the same in two shards under an index."""
    single, sharded = (tmp_path_factory.mktemp(name) for name in ("single", "sharded"))
    model, rng = BertForPreTraining(CONFIG), np.random.default_rng(0)
    for _, param in model.named_parameters():
        param.data[...] = rng.standard_normal(param.data.shape)
    model.save_pretrained(single)
    shutil.copy(single / "config.json", sharded)
    weights, metadata = read_arrays(single / "model.safetensors")
    where = {}
    for number in (1, 2):
        part = {key: weights[key] for key in sorted(weights)[number - 1 :: 2]}
        name = f"model-{number:05}.safetensors"
        write_arrays(sharded / name, part, metadata)
        where |= dict.fromkeys(part, name)
    write_json(sharded / "model.safetensors.index.json", {"metadata": {}, "weight_map": where})
    return {"single": single, "sharded": sharded}


def split(content):
    """The header's JSON, and the numbers behind it."""
    length = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def joined(header, data, rng):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(text) if rng.random() < 0.9 else int(rng.integers(0, 2 * len(text)))
    return struct.pack("<Q", length) + text + data


def any_of(rng, values):
    return copy.deepcopy(values[rng.integers(len(values))])


def damage_bytes(content, rng):
    """A few bytes changed, cut out, put in, or the end cut off; mostly near the front, where the header is."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        where = (
            int(rng.integers(len(content) + 1)) if rng.random() < 0.3 else int(rng.integers(min(len(content), 400) + 1))
        )
        kind = rng.integers(6)
        if kind == 0:
            content[where : where + 1] = bytes([rng.integers(256)])
        elif kind == 1 and where < len(content):
            content[where] ^= 1 << rng.integers(8)
        elif kind == 2:
            del content[where : where + rng.integers(1, 20)]
        elif kind == 3:
            content[where:where] = rng.bytes(rng.integers(1, 20))
        elif kind == 4:
            del content[where:]
        elif where < len(content) and chr(content[where]).isdigit():
            content[where] = ord("0") + int(rng.integers(10))
    return bytes(content)


def damage_header(content, rng):
    """The header as JSON, with a value that is wrong, missing, doubled or of another kind."""
    header, data = split(content)
    for _ in range(rng.integers(1, 3)):
        name = any_of(rng, [key for key in header if key != "__metadata__"])
        tensor = header[name]
        if not isinstance(tensor, dict):
            break
        kind = rng.integers(12)
        if kind == 0:
            tensor["dtype"] = any_of(rng, DTYPES)
        elif kind == 1:
            tensor[any_of(rng, ["dtype", "shape", "data_offsets"])] = any_of(rng, STRANGE)
        elif kind in (2, 3):
            values = tensor.get(any_of(rng, ["shape", "data_offsets"]))
            if isinstance(values, list) and values:
                values[rng.integers(len(values))] = any_of(rng, STRANGE)
        elif kind == 4 and isinstance(tensor.get("shape"), list):
            tensor["shape"].insert(0, any_of(rng, [1, 1, 0, 2, 1 << 62]))
        elif kind == 5 and isinstance(tensor.get("shape"), list):
            tensor["shape"].reverse()
        elif kind == 6:
            tensor.pop(any_of(rng, ["dtype", "shape", "data_offsets"]), None)
        elif kind == 7:
            header[any_of(rng, ["x", "bert." + name, name.removeprefix("bert."), "__metadata__", "\n", "\ud800"])] = (
                tensor
            )
        elif kind == 8:
            del header[name]
        elif kind == 9:
            header["__metadata__"] = any_of(rng, [*STRANGE, {"format": 1}, {"a": "b"}])
        elif kind == 10:
            other = any_of(rng, list(header))
            header[name], header[other] = header[other], header[name]
        else:
            header[name] = any_of(rng, STRANGE)
    text = json.dumps(header)
    kind = rng.integers(16)
    if kind == 0:
        text = text[:-1] + f', "{name}": {json.dumps(tensor)}}}'  # the same key twice
    elif kind == 1:
        text = any_of(rng, ["\ufeff", " ", "[", "", "{"]) + text
    elif kind == 2:
        text = text + any_of(rng, [" " * 9, "\0", "}", "x"])
    elif kind == 3:
        text = json.dumps(any_of(rng, STRANGE))
    encoding = any_of(rng, ["utf-16", "latin-1", "utf-32"]) if rng.random() < 0.05 else "utf-8"
    return joined(text.encode(encoding, "replace"), data, rng)


def damage_json(content, rng):
    """A config or an index, with values changed, lost or added."""
    values = json.loads(content)
    inside = values["weight_map"] if "weight_map" in values and rng.random() < 0.9 else values
    for _ in range(rng.integers(1, 3)):
        key = any_of(rng, list(inside))
        if rng.random() < 0.2:
            del inside[key]
        else:
            inside[key] = any_of(rng, FILES if inside is not values and rng.random() < 0.7 else STRANGE)
        if rng.random() < 0.1:
            inside[any_of(rng, ["x", "num_labels", "id2label", "is_decoder", "dtype"])] = any_of(rng, STRANGE)
        if not inside:
            break
    return json.dumps(values).encode()


DAMAGE = {
    "bytes": ("model.safetensors", damage_bytes),
    "header": ("model.safetensors", damage_header),
    "config": ("config.json", damage_json),
    "config bytes": ("config.json", damage_bytes),
    "shard": ("model-00002.safetensors", damage_bytes),
    "shard header": ("model-00001.safetensors", damage_header),
    "index": ("model.safetensors.index.json", damage_json),
    "index bytes": ("model.safetensors.index.json", damage_bytes),
}


def check_weights(model, info, folder):
    """What was loaded is what `safetensors` itself reads in the files."""
    expected = {}
    index = folder / "model.safetensors.index.json"
    paths = sorted(folder.glob("model-*.safetensors")) if index.exists() else [folder / "model.safetensors"]
    for path in paths:
        with safe_open(path, "np") as file:  # which refuses whatever breaks the format
            for name in file.keys():  # noqa: SIM118
                if file.get_slice(name).get_dtype() != "BF16":
                    expected[name] = file.get_tensor(name)
    fresh = info["missing_keys"] | {key for key, *_ in info["mismatched_keys"]}
    for key, weight in model.state_dict().items():
        if key in fresh:
            continue
        of = next((name for name in (key, f"bert.{key}", key.removeprefix("bert.")) if name in expected), None)
        if of is not None:
            with np.errstate(all="ignore"):
                np.testing.assert_array_equal(weight, expected[of].astype(weight.dtype), err_msg=key)


def attempt(folder, rng):
    """Load; return whether it could be."""
    dtype = any_of(rng, ["float32", "float64"])
    options = {"ignore_mismatched_sizes": bool(rng.random() < 0.3), "output_loading_info": True}
    tracemalloc.reset_peak()
    before, loaded, refusal = tracemalloc.get_traced_memory()[0], None, ""
    try:
        loaded = any_of(rng, KINDS).from_pretrained(folder, dtype, **options)
    except InputError as error:
        refusal = str(error)
    assert tracemalloc.get_traced_memory()[1] - before < MOST_MEMORY
    assert len(refusal.splitlines()) <= 1
    assert len(refusal.encode("utf-8")) < 2000
    if loaded:
        check_weights(*loaded, folder)
    return loaded is not None


@pytest.fixture
def watched():
    """Memory is counted, and what hangs is ended."""
    tracemalloc.start()
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_VIRTUAL, 60 + CASES / 20)  # seconds of computing; its end ends the process
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)
        yield
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    tracemalloc.stop()


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_folders(whole, tmp_path, watched, kind):
    name, damage = DAMAGE[kind]
    source = whole["sharded" if "shard" in kind or "index" in kind else "single"]
    folder = shutil.copytree(source, tmp_path / "folder")
    shutil.copy(whole["single"] / "model.safetensors", tmp_path / "outside.safetensors")
    content = (source / name).read_bytes()
    loaded = 0
    for case in range(CASES):
        rng = np.random.default_rng(case)
        damaged = damage(content, rng)
        (folder / name).write_bytes(damaged)
        try:
            loaded += attempt(folder, rng)
        except BaseException:
            print(f"case {case}: {damaged[:2000]!r}")
            raise
    print(f"{kind}: {CASES} cases, {loaded} could be loaded")
    assert 0 < loaded < CASES


def test_the_whole_folders_load(whole, tmp_path, watched):
    for folder in whole.values():
        assert all(attempt(folder, np.random.default_rng(seed)) for seed in range(8))
