"""Folders by path or by name: the cache of Hugging Face, downloading where it can be, and one line where it cannot."""

import re
import sys
import types
from pathlib import Path

import pytest

from minissl.errors import InputError
from minissl.hub import cache_folder, find_folder

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
COMMIT = "86b5e0934494bd15c9632b12f734a8a67f723594"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and no downloader."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home" / "hub"


def put(cache, name, *files, commit=COMMIT, ref=COMMIT):
    """A model as the cache stores it: each file a link to a blob."""
    model = cache / f"models--{name.replace('/', '--')}"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(ref)
    (model / "blobs").mkdir()
    snapshot = model / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for number, file in enumerate(files):
        (model / "blobs" / str(number)).write_text(file)
        (snapshot / file).symlink_to(Path("..", "..", "blobs", str(number)))
    return snapshot


def refuses(message):
    return pytest.raises(InputError, match=re.escape(message))


def test_a_folder_is_itself_and_comes_before_the_cache(tmp_path, cache):
    put(cache, "bert-base-uncased", "model.safetensors")
    assert find_folder(tmp_path, WEIGHTS) == tmp_path
    assert find_folder(str(tmp_path), WEIGHTS) == tmp_path
    Path("bert-base-uncased").mkdir()
    assert find_folder("bert-base-uncased", WEIGHTS) == Path("bert-base-uncased")


@pytest.mark.parametrize("stored", ["bert-base-uncased", "google-bert/bert-base-uncased"])
@pytest.mark.parametrize("asked", ["bert-base-uncased", "google-bert/bert-base-uncased"])
def test_a_name_in_the_cache(cache, stored, asked):
    snapshot = put(cache, stored, "config.json", "model.safetensors")
    put(cache, "someone/bert-base-uncased", "config.json", "model.safetensors")
    assert find_folder(asked, WEIGHTS) == snapshot
    assert (find_folder(asked, WEIGHTS) / "model.safetensors").read_text() == "model.safetensors"


def test_the_name_as_it_was_given_comes_first(cache):
    snapshots = {name: put(cache, name, *WEIGHTS) for name in ("bert-base-cased", "google-bert/bert-base-cased")}
    for name, snapshot in snapshots.items():
        assert find_folder(name, WEIGHTS) == snapshot


def test_the_one_of_two_that_has_the_files(cache):
    put(cache, "bert-base-cased", "vocab.txt")
    snapshot = put(cache, "google-bert/bert-base-cased", "model.safetensors.index.json")
    assert find_folder("bert-base-cased", WEIGHTS) == snapshot


def test_main_chooses_among_the_snapshots(cache):
    put(cache, "org/model", "model.safetensors")
    other = cache / "models--org--model" / "snapshots" / "0ther"
    other.mkdir()
    (other / "model.safetensors").touch()
    assert find_folder("org/model", WEIGHTS).name == COMMIT
    (cache / "models--org--model" / "refs" / "main").write_text("0ther\n")
    assert find_folder("org/model", WEIGHTS) == other


@pytest.mark.parametrize("ref", ["../../../../elsewhere", "..", "", "/", "gone", "a\nb"])
def test_a_ref_that_is_no_snapshot(tmp_path, cache, ref):
    (tmp_path / "elsewhere").mkdir()
    put(cache, "org/model", "model.safetensors", ref=ref)
    with refuses("org/model: no such folder, and no such model in the Hugging Face cache"):
        find_folder("org/model", WEIGHTS)


def test_the_cache_is_where_the_variables_say(tmp_path, monkeypatch):
    assert cache_folder() == tmp_path / "home" / "hub"
    monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "huggingface" / "hub"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "huggingface" / "hub"
    monkeypatch.setenv("HF_HOME", "~/models")
    assert cache_folder() == tmp_path / "models" / "hub"
    monkeypatch.setenv("HUGGINGFACE_HUB_CACHE", str(tmp_path / "older"))
    assert cache_folder() == tmp_path / "older"
    monkeypatch.setenv("HF_HUB_CACHE", "$HOME/newer")
    assert cache_folder() == tmp_path / "newer"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/nowhere/at/all",
        "./bert-base-uncased",
        "../bert",
        "a/b/c",
        "org/",
        "/x",
        "a b",
        "a--b",
        "a..b",
        "ü",
        "a" * 5000 + "/b/c",
    ],
)
def test_a_path_that_is_not_there_is_no_name(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=pytest.fail))
    with refuses(f"{name or repr(name)}: no such folder; is the path right?"):
        find_folder(name, WEIGHTS)


@pytest.mark.parametrize("name", ["a\n", "a\x00b"])
def test_a_name_that_would_break_the_line_is_quoted(name):
    with refuses(f"{name!r}: no such folder"):
        find_folder(name, WEIGHTS)


def test_a_path_object_is_never_a_name(cache):
    put(cache, "bert-base-uncased", "model.safetensors")
    with refuses("bert-base-uncased: no such folder; is the path right?"):
        find_folder(Path("bert-base-uncased"), WEIGHTS)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with refuses("model.safetensors: is a file, expected the folder that it is in"):
        find_folder(tmp_path / "model.safetensors", WEIGHTS)


def test_without_the_downloader_the_extra_is_named(cache):
    with refuses(f"in the Hugging Face cache ({cache}); pip install 'minissl[hub]' to download models by name"):
        find_folder("bert-base-uncased", WEIGHTS)


def downloader(monkeypatch, result):
    calls = []

    def snapshot_download(name, **options):
        calls.append((name, options))
        if isinstance(result, Exception):
            raise result
        return str(result)

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=snapshot_download))
    return calls


def test_what_is_not_cached_is_downloaded(tmp_path, cache, monkeypatch):
    put(cache, "bert-base-cased", "vocab.txt")  # the tokenizer alone
    calls = downloader(monkeypatch, tmp_path / "got")
    for name in ("org/model", "bert-base-cased"):
        assert find_folder(name, WEIGHTS, ["config.json"]) == tmp_path / "got"
    options = {"allow_patterns": [*WEIGHTS, "config.json"], "cache_dir": cache}
    assert calls == [("org/model", options), ("bert-base-cased", options)]


def test_what_is_cached_needs_no_network(cache, monkeypatch):
    calls = downloader(monkeypatch, OSError("no network"))
    snapshot = put(cache, "org/model", "model.safetensors")
    assert find_folder("org/model", WEIGHTS) == snapshot
    assert not calls


@pytest.mark.parametrize("error", [OSError("no network\nmany\nlines"), ValueError("bad"), RuntimeError()])
def test_a_download_that_fails_is_one_line(cache, monkeypatch, error):
    downloader(monkeypatch, error)
    with pytest.raises(InputError) as caught:
        find_folder("org/model", WEIGHTS)
    message = str(caught.value)
    assert message.startswith(f"org/model: no such folder, not in the Hugging Face cache ({cache}), and not downloaded")
    assert type(error).__name__ in message
    assert "\n" not in message


@pytest.mark.parametrize("offline", [True, False])
def test_a_snapshot_with_other_files_is_left_to_its_reader(cache, monkeypatch, offline):
    snapshot = put(cache, "org/model", "config.json", "pytorch_model.bin")
    if offline:
        downloader(monkeypatch, OSError("no network"))
    assert find_folder("org/model", WEIGHTS) == snapshot
