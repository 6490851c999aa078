"""Every command that trains or evaluates a model, whole, with `--device cuda`: what it finds is what the host finds."""

import json
import math
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from minissl.cli import main
from minissl.kernels import Op
from minissl.models.bert import PRESETS, BertConfig, BertForPreTraining
from minissl.recipes import question_answering, span_pretraining
from minissl.text.tokenizer import BertTokenizer

WORDS = ["good", "bad", "film", "plot", "actor", "is", "the", "a", "who", "found", "ada", "bo", "boat", ".", "?"]
DRAWINGS = [
    "finetuning.plot_confusion", "finetuning.plot_epochs", "finetuning.plot_tasks", "finetuning.plot_label_efficiency",
    "answers.plot_scores", "answers.plot_readings", "class_attention.plot_class_attention",
    "feature_map.plot_feature_map",
]  # fmt: skip
TEXT = ["--epochs", "2", "--batch-size", "16", "--threads", "1", "--dropout", "0", "--learning-rate", "1e-3"]
IMAGES = ["--epochs", "1", "--batch-size", "40", "--threads", "1", "--learning-rate", "1e-3"]


@pytest.fixture(autouse=True)
def seen(monkeypatch):
    """The kinds of arrays that ops were given."""
    kinds = set()
    forward = Op.forward

    def watched(op, x, *rest):
        kinds.add(type(x))
        return forward(op, x, *rest)

    monkeypatch.setattr(Op, "forward", watched)
    return kinds


@pytest.fixture(autouse=True)
def small(cupy, quick, monkeypatch):
    """Seconds for all of them: small networks, short passes and no pictures."""
    for name in DRAWINGS:
        monkeypatch.setattr(f"minissl.plots.{name}", lambda *_: None)
    monkeypatch.setattr("minissl.recipes.probe._tsne", lambda features: features[:, :2])
    monkeypatch.setattr("minissl.finetuning.classification.LEAST_ROWS", 50)
    monkeypatch.setattr("minissl.finetuning.image_classification.LEAST_ROWS", 50)
    monkeypatch.setattr("minissl.finetuning.probes.PENALTIES", (0.1,))
    monkeypatch.setattr(question_answering, "RANDOM_DRAWS", 1)
    monkeypatch.setattr(span_pretraining, "PASS_STEPS", 2)
    monkeypatch.setattr(span_pretraining, "HELDOUT_ROWS", 8)


@pytest.fixture
def bert(tmp_path):
    tokenizer = BertTokenizer(vocab=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=17,
        max_position_embeddings=128, initializer_range=0.3,
    )  # fmt: skip
    BertForPreTraining(config).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    return str(tmp_path / "bert")


@pytest.fixture
def reviews(tmp_path):
    rng = np.random.default_rng(0)
    lines = [
        f"the {WORDS[rng.integers(2, 5)]} is {('good', 'bad')[i % 2]} n{i}\t{('yes', 'no')[i % 2]}\n" for i in range(60)
    ]
    path = tmp_path / "reviews.tsv"
    path.write_text("".join(lines))
    return str(path)


@pytest.fixture
def squad(tmp_path):
    def article(i):
        context = f"Ada found the boat {i}. Bo found a film. The actor is good. The plot is bad."
        qas = [
            {"id": f"{i}-{j}", "question": f"Who found a {thing} ?",
             "answers": [{"text": who, "answer_start": context.index(who)}]}
            for j, (who, thing) in enumerate([("Ada", "boat"), ("Bo", "film")] * 3)
        ]  # fmt: skip
        return {"title": f"Title {i}", "paragraphs": [{"context": context, "qas": qas}]}

    path = tmp_path / "squad.json"
    path.write_text(json.dumps({"data": [article(i) for i in range(4)]}))
    return str(path)


@pytest.fixture
def on_both(cupy, seen):
    """Run a command on the host and on the device, which it then used; return the two folders."""

    def run(*command):
        for device, kind in (("cpu", np.ndarray), ("cuda", cupy.ndarray)):
            seen.clear()
            assert main([*command, "--device", device, "--out", device]) == 0
            assert kind in seen
            assert device == "cuda" or len(seen) == 1
        return Path("cpu"), Path("cuda")

    return run


@pytest.fixture
def said_on_both(cupy, seen, capsys):
    """The same for a command that only speaks; return what it said."""

    def run(*command):
        said = []
        for device, kind in (("cpu", np.ndarray), ("cuda", cupy.ndarray)):
            seen.clear()
            capsys.readouterr()
            assert main([*command, "--device", device]) == 0
            assert seen == {kind}
            said.append(capsys.readouterr().out)
        return said

    return run


def same_runs(host, moved, *numbers):
    """Run folders with the same files, the same numbers in those named, and other settings in the device alone."""
    assert sorted(os.listdir(moved)) == sorted(os.listdir(host))
    for name in numbers:
        alike(*(json.loads((folder / name).read_text()) for folder in (moved, host)), name)
    settings = [(folder / "run.json").read_text() for folder in (moved, host)]
    assert settings[0].replace('"device": "cuda"', '"device": "cpu"') == settings[1]
    assert settings[0] != settings[1]


def alike(found, expected, where):
    """The same, numbers but for rounding, but for what time and memory were taken."""
    if isinstance(expected, dict):
        assert list(found) == list(expected), where
        for name in expected:
            if not name.startswith(("seconds", "peak_memory", "device")):
                alike(found[name], expected[name], f"{where}: {name}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for i, (one, other) in enumerate(zip(found, expected, strict=True)):
            alike(one, other, f"{where}: {i}")
    elif isinstance(expected, float):
        assert math.isclose(found, expected, rel_tol=1e-3, abs_tol=1e-4), f"{where}: {found}, on the host {expected}"
    else:
        assert found == expected, where


def test_words_and_next_sentences_are_learnt(small_text, on_both):
    options = ["--steps", "4", "--batch-size", "4", "--seq-len", "24", "--vocab-size", "150", "--threads", "1"]
    same_runs(*on_both("pretrain", "--data", str(small_text), *options), "metrics.json")


def test_texts_get_their_classes(bert, reviews, on_both):
    same_runs(*on_both("finetune", "sentiment", "--model", bert, "--data", reviews, *TEXT), "metrics.json")


def test_a_frozen_encoder_and_early_stopping(bert, reviews, on_both):
    options = [*TEXT, "--frozen", "--patience", "1"]
    same_runs(*on_both("finetune", "sentiment", "--model", bert, "--data", reviews, *options), "metrics.json")


def test_questions_are_learnt_and_asked(bert, squad, on_both, said_on_both):
    options = [*TEXT, "--span-pretraining", "2", "--length", "80", "--stride", "16", "--longest-answer", "4"]
    folders = on_both("finetune", "qa", "--model", bert, "--data", squad, *options)
    same_runs(*folders, "metrics.json", "predictions.json")
    host, moved = said_on_both("ask", "cuda", "Who found a boat?", "--passage", "Ada found a boat.")
    assert host == moved != ""


def test_several_tasks_share_an_encoder(bert, reviews, squad, on_both):
    tasks = ["--task", f"mood={reviews}", "--task", f"topic={squad}", "--masked-words", "0.5"]
    host, moved = on_both("finetune", "tasks", "--model", bert, *tasks, *TEXT)
    measured = json.loads((moved / "metrics.json").read_text())
    assert measured["gradient_difference"] < 1e-6
    for folder in (host, moved):  # rounding alone, which differs
        metrics = json.loads((folder / "metrics.json").read_text())
        (folder / "metrics.json").write_text(json.dumps({**metrics, "gradient_difference": 0}))
    same_runs(host, moved, "metrics.json")


def test_what_pretraining_is_worth(reviews, on_both, monkeypatch):
    monkeypatch.setitem(PRESETS, "tiny", {**PRESETS["tiny"], "hidden_size": 16, "intermediate_size": 32})
    monkeypatch.setattr(
        "minissl.recipes.sentiment.PRETRAINING", {"nsp": False, "vocab_size": 200, "seq_len": 16, "threads": 1}
    )
    options = ["--data", reviews, "--texts", reviews, "--steps", "2", "--labels", "20", "--seeds", "0"]
    host, moved = on_both("finetune", "label-efficiency", *options, *TEXT)
    alike(*(json.loads((folder / "label-efficiency.json").read_text()) for folder in (moved, host)), "")
    devices = [json.loads(Path("runs", f"label-efficiency-{i}", "run.json").read_text()) for i in (1, 2)]
    assert [run["options"]["device"] for run in devices] == ["cpu", "cuda"]


@pytest.mark.parametrize("options", [["--dropout", "0.1"], ["--frozen", "--patience", "1"]])
def test_images_get_their_classes(image_set, mae, on_both, options):
    same_runs(*on_both("finetune", "image", "--model", mae, "--data", image_set, *IMAGES, *options), "metrics.json")


def test_what_pretraining_on_images_is_worth(image_set, mae, on_both):
    options = ["--model", mae, "--data", image_set, "--labels", "2", "--seeds", "0"]
    host, moved = on_both("finetune", "image-label-efficiency", *options, *IMAGES)
    alike(*(json.loads((folder / "image-label-efficiency.json").read_text()) for folder in (moved, host)), "")


def test_features_are_probed(image_set, mae, on_both):
    options = ["--labels-per-class", "3", "--threads", "1"]
    same_runs(*on_both("probe", "--model", mae, "--data", image_set, *options), "metrics.json")


def test_masked_words_are_guessed(bert, said_on_both):
    host, moved = said_on_both("fill", bert, "The [MASK] is good.")
    assert host == moved != ""


COMMANDS = {
    "pretrain": ["--data", "hmm"],
    "pretrain mae": [],
    "finetune sentiment": ["--model", "m"],
    "finetune qa": ["--data", "d"],
    "finetune tasks": ["--model", "m", "--task", "a=b", "--task", "b=c"],
    "finetune label-efficiency": [],
    "finetune image": [],
    "finetune image-label-efficiency": ["--model", "m"],
    "probe": ["--model", "m"],
    "fill": ["MODEL", "[MASK]"],
    "bench": [],
    "ask": ["MODEL", "who?", "--passage", "me"],
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("device", "said"),
    [("gpu", "device 'gpu': expected 'cpu' or 'cuda'"), ("cuda", "device 'cuda': CuPy is missing; pip install")],
)
def test_a_device_that_is_not_there_is_one_line(monkeypatch, bert, capsys, command, device, said):
    options = [bert if option == "MODEL" else option for option in COMMANDS[command]]
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "cupy", None)
        assert main([*command.split(), *options, "--device", device]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"minissl: {said}")
    assert error.count("\n") == 1
    assert not Path("runs").exists()
