"""A whole run: what it leaves, what its numbers mean, and that a seed fixes it."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from minissl import BertForPreTraining, BertTokenizer
from minissl.errors import InputError
from minissl.models.bert import PRESETS, BertConfig
from minissl.recipes.pretrain import PretrainOptions, evaluate, next_folder, pretrain, report, resume
from minissl.recipes.tasks import make_task
from minissl.training import Trainer

FILES = ["attention.png", "config.json", "log.jsonl", "loss.png", "metrics.json", "model.safetensors", "run.json"]
FILES += ["tokenizer_config.json", "vocab.txt"]
METRICS = {
    "mlm_loss": float, "mlm_unigram": float, "mlm_chance": float, "mlm_accuracy": float, "nsp_pairs": int,
    "seconds": float, "steps": int, "peak_memory_mb": float,
}  # fmt: skip


def options(**chosen):
    return PretrainOptions.for_data(
        **{"data": "hmm", "steps": 6, "batch_size": 4, "seq_len": 12, "threads": 1, "save_every": 3, **chosen}
    )


def silent(text):
    pass


def model_bytes(run):
    return (Path(run) / "model.safetensors").read_bytes()


def test_everything_that_a_run_leaves(tmp_path, small_text, monkeypatch):
    """With its pictures and all its held-out rows."""
    monkeypatch.setattr("minissl.recipes.pretrain.CURVE_BATCHES", 1)
    run, said = tmp_path / "run", []
    metrics = pretrain(options(data=str(small_text), vocab_size=150, seq_len=24), run, said.append)
    assert sorted(os.listdir(run)) == FILES
    assert json.loads((run / "metrics.json").read_text()) == metrics
    assert {name: type(metrics[name]) for name in METRICS} == METRICS
    assert metrics["mlm_floor"] is None
    assert metrics["steps"] == 6
    assert metrics["nsp_pairs"] >= 2000
    assert 0 <= metrics["mlm_accuracy"] <= 1
    assert 0.3 < metrics["nsp_accuracy"] < 0.7
    assert 0 < metrics["nsp_loss"] < 2
    assert metrics["mlm_unigram"] < metrics["mlm_chance"] < metrics["mlm_loss"] + 1
    for name in ("loss.png", "attention.png"):
        assert (run / name).read_bytes().startswith(b"\x89PNG")
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in log] == [1, 2, 3, 4, 5, 6]
    assert {"mlm", "nsp", "grad_norm", "lr", "heldout_mlm_loss", "heldout_nsp_loss"} < set(log[0])

    model, tokenizer = BertForPreTraining.from_pretrained(run), BertTokenizer.from_pretrained(run)
    out = model(**tokenizer("The cat sees [MASK].", return_tensors="np"))
    assert out.prediction_logits.shape == (1, len(tokenizer("The cat sees [MASK].")["input_ids"]), len(tokenizer))
    assert "27 documents" in said[0]
    assert f"chance {metrics['mlm_chance']:.3f}, unigram {metrics['mlm_unigram']:.3f}" in said[0]


def test_the_metrics_are_those_of_the_saved_model(quick):
    metrics = pretrain(options(), Path("run"), silent)
    task = make_task(options().task)
    heldout = task.heldout(64)
    model = BertForPreTraining.from_pretrained("run")
    losses, right, count = 0.0, 0, 0
    for batch in heldout:
        logits = model(batch["input_ids"]).prediction_logits.astype(float)
        log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        for row, column in np.argwhere(batch["labels"] != -100):
            label = batch["labels"][row, column]
            losses -= log_p[row, column, label]
            right += log_p[row, column].argmax() == label
            count += 1
    assert metrics["mlm_loss"] == pytest.approx(losses / count, rel=1e-5)
    assert metrics["mlm_accuracy"] == pytest.approx(right / count)


def test_hmm_has_a_floor_and_no_pairs(quick):
    metrics = pretrain(options(steps=30), Path("run"), silent)
    assert metrics["nsp_loss"] is None
    assert metrics["nsp_accuracy"] is None
    assert metrics["nsp_pairs"] == 0
    assert isinstance(metrics["mlm_floor"], float)
    assert 0 < metrics["mlm_floor"] < metrics["mlm_unigram"] < metrics["mlm_chance"]
    assert metrics["mlm_loss"] > metrics["mlm_floor"]
    log = [json.loads(line) for line in Path("run/log.jsonl").read_text().splitlines()]
    assert log[-1]["mlm"] < log[0]["mlm"]


def test_one_seed_fixes_everything_and_another_changes_it(quick, small_text):
    for data in ("hmm", str(small_text)):
        chosen = {"data": data, "threads": 2} | ({} if data == "hmm" else {"vocab_size": 150})
        names = [Path(f"{Path(data).stem}-{i}") for i in range(3)]
        for name, seed in zip(names, (5, 5, 6), strict=True):
            pretrain(options(**chosen, seed=seed), name, silent)
        assert model_bytes(names[0]) == model_bytes(names[1])
        assert (names[0] / "log.jsonl").read_bytes() == (names[1] / "log.jsonl").read_bytes()
        assert model_bytes(names[0]) != model_bytes(names[2])
        assert (names[0] / "vocab.txt").read_bytes() == (names[2] / "vocab.txt").read_bytes()


@pytest.mark.parametrize(
    "chosen",
    [
        {"dropout": 0.3}, {"learning_rate": 2e-3}, {"warmup": 0.9}, {"bias_correction": False}, {"steps": 7},
        {"batch_size": 5}, {"accumulate": 2}, {"seq_len": 14},
    ],
)  # fmt: skip
def test_every_option_has_an_effect(quick, chosen):
    pretrain(options(), Path("plain"), silent)
    pretrain(options(**chosen), Path("chosen"), silent)
    assert model_bytes("plain") != model_bytes("chosen")


def test_whole_words_and_no_nsp_have_an_effect(quick, small_text):
    runs = [{}, {"whole_word": True}, {"nsp": False}]
    for i, chosen in enumerate(runs):
        pretrain(options(data=str(small_text), vocab_size=110, **chosen), Path(str(i)), silent)
    assert len({model_bytes(str(i)) for i in range(3)}) == 3
    metrics = json.loads(Path("2/metrics.json").read_text())
    assert (metrics["nsp_pairs"], metrics["nsp_loss"], metrics["nsp_accuracy"]) == (0, None, None)


def test_saving_more_often_changes_nothing(quick):
    for every in (1, 100):
        pretrain(options(save_every=every), Path(str(every)), silent)
    assert model_bytes("1") == model_bytes("100")


def test_more_threads_than_rows_are_not_kept(quick):
    pretrain(options(threads=500), Path("many"), silent)
    pretrain(options(threads=4), Path("four"), silent)
    assert model_bytes("many") == model_bytes("four")


def test_a_run_that_cannot_begin_leaves_nothing(quick, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        pretrain(options(data="missing.txt"), Path("runs/deep/missing"), silent)
    assert os.listdir(tmp_path) == []


def test_the_folder_of_a_run_can_be_moved(quick):
    pretrain(options(), Path("a"), silent)
    os.rename("a", "b")
    with pytest.raises(InputError, match="b: this run is complete"):
        resume(Path("b"), silent)


def test_the_next_free_folder(quick, tmp_path):
    assert next_folder("docs") == Path("runs/docs-1")
    Path("runs/docs-1").mkdir(parents=True)
    Path("runs/docs-2").touch()
    assert next_folder("docs") == Path("runs/docs-3")
    assert next_folder("books/my.novel.txt") == Path("runs/my.novel-1")
    assert next_folder(".") == Path(f"runs/{tmp_path.name}-1")


def test_defaults_suit_the_data():
    assert PretrainOptions.for_data(data="hmm").seq_len != PretrainOptions.for_data().seq_len
    assert PretrainOptions.for_data(data="hmm", seq_len=40).seq_len == 40
    assert PretrainOptions(threads=7).training().threads == 7
    assert PretrainOptions(threads=7, batch_size=3).training().threads == 3


def test_evaluation_does_not_depend_on_how_rows_are_batched_or_threaded():
    task = make_task(options().task)
    model = BertForPreTraining(BertConfig(**{**PRESETS["tiny"], "vocab_size": len(task.tokenizer)}))
    whole = task.heldout(64)
    halves = [{name: array[i : i + 7] for name, array in batch.items()} for batch in whole for i in range(0, 32, 7)]
    found = []
    for threads, batches in ((1, whole), (3, whole), (2, halves)):
        trainer = Trainer(model, options(threads=threads).training())
        metrics = evaluate(model, batches, trainer)
        found.append((metrics["mlm_loss"], metrics["mlm_accuracy"]))
        trainer.close()
    assert found[0] == pytest.approx(found[1], rel=1e-12)
    assert found[0] == pytest.approx(found[2], rel=1e-6)


def test_the_report_puts_each_number_beside_its_landmark():
    metrics = {
        "mlm_loss": 3.5, "mlm_unigram": 5.25, "mlm_chance": 9.0, "mlm_floor": None, "mlm_accuracy": 0.25,
        "nsp_loss": 0.5, "nsp_accuracy": 0.75, "nsp_pairs": 2048, "seconds": 61.2, "steps": 9, "peak_memory_mb": 200.4,
    }  # fmt: skip
    text = report(metrics, Path("runs/x"))
    for part in ("3.500", "unigram 5.250", "chance 9.000", "25.0%", "75.0% over 2,048 pairs", "chance 50", "200 MB"):
        assert part in text
    assert f"ln 2 = {math.log(2):.3f}" in text
    assert "floor" not in text
    bare = report({**metrics, "mlm_floor": 2.0, "nsp_pairs": 0, "peak_memory_mb": None}, Path("runs/x"))
    assert "exact floor 2.000" in bare
    assert "next-sentence" not in bare
    assert "MB" not in bare


SHARED = os.environ.get("MINISSL_DATA")


@pytest.mark.skipif(not SHARED, reason="MINISSL_DATA names no folder with the well-known sets")
@pytest.mark.parametrize("data", ["text/wikitext-2", "text/tinyshakespeare/input.txt"])
def test_real_text(tmp_path, monkeypatch, data):
    source = Path(SHARED) / data
    if not source.exists():
        pytest.skip(f"{data} is not in MINISSL_DATA")
    chosen = PretrainOptions(data=str(source), steps=30, vocab_size=2000, warmup=0.3)
    monkeypatch.setattr("minissl.recipes.pretrain.CURVE_BATCHES", 1)
    metrics = pretrain(chosen, tmp_path / "run", silent)
    assert sorted(os.listdir(tmp_path / "run")) == FILES
    assert metrics["nsp_pairs"] >= 2000
    assert 0.5 * metrics["mlm_chance"] < metrics["mlm_unigram"] < metrics["mlm_chance"]
    assert metrics["mlm_loss"] < metrics["mlm_chance"] - 0.5  # thirty steps learn the frequent words
    assert 0.4 < metrics["nsp_accuracy"] < 0.6
