"""`import minissl` is light, and its public names are there."""

import importlib
import json
import pkgutil
import subprocess
import sys

import pytest

import minissl

HEAVY = [
    "huggingface_hub",
    "matplotlib",
    "safetensors",
    "tqdm",
    "threadpoolctl",
    "scipy",
    "torch",
    "transformers",
    "tokenizers",
    "cupy",
    "PIL",
    "sklearn",
]
ROOMS = ["gradcheck", "kernels", "models", "nn", "ops", "pretext", "text", "training", "vision"]


def modules_after(code):
    code += "; import json, sys; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize(
    "code",
    [
        "import minissl",
        "import minissl; minissl.BertConfig, minissl.BertForPreTraining, minissl.BertTokenizer, minissl.gradcheck",
    ],
)
def test_nothing_heavy_is_loaded(code):
    loaded = modules_after(code)
    assert "minissl" in loaded
    assert not loaded.intersection(HEAVY)


def test_a_model_is_built_and_run_without_anything_heavy():
    code = (
        "from minissl import BertConfig, BertForPreTraining as B;"
        "c = BertConfig(9, 4, 1, 2, 5, max_position_embeddings=6);"
        "B(c).loss_and_grads(input_ids=[[1, 2]], labels=[[1, -100]])"
    )
    assert not modules_after(code).intersection(HEAVY)


def test_every_public_name_is_there():
    for name in minissl.__all__:
        assert getattr(minissl, name) is not None
    assert sorted(minissl.__all__) == list(minissl.__all__)
    assert set(dir(minissl)) >= {*minissl.__all__, *ROOMS, "__version__"}
    for room in ROOMS:
        assert getattr(minissl, room) is importlib.import_module(f"minissl.{room}")


@pytest.mark.parametrize("room", ["minissl", *(f"minissl.{room}" for room in ROOMS)])
def test_all_lists_what_exists_once(room):
    module = importlib.import_module(room)
    public = getattr(module, "__all__", [])
    assert len(set(public)) == len(public)
    for name in public:
        assert hasattr(module, name), name


def test_every_module_can_be_imported_and_says_what_it_is():
    for found in pkgutil.walk_packages(minissl.__path__, "minissl."):
        if found.name != "minissl.__main__":
            assert importlib.import_module(found.name).__doc__, found.name


def test_an_unknown_name_raises_and_says_what_there_is():
    with pytest.raises(AttributeError, match="minissl has no 'BertForPretraining'; it has: BertConfig, "):
        minissl.BertForPretraining  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'Bert'"):
        from minissl import Bert  # noqa: F401


def test_one_tokenizer_under_two_names():
    assert minissl.BertTokenizerFast is minissl.BertTokenizer
