"""`minissl finetune sentiment`: a class for every text, learnt from examples, beside what needs no network."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minissl.backend import Array
from minissl.errors import InputError, require_values
from minissl.files import write_json, write_whole
from minissl.finetuning.baselines import BagOfWords, majority
from minissl.finetuning.classification import Rows, Special, encode, fine_tune, predict, special
from minissl.finetuning.loop import Epoch, FinetuneOptions
from minissl.finetuning.metrics import accuracy, confusion_matrix, macro_f1
from minissl.models.bert_heads import BertForSequenceClassification
from minissl.recipes.encoder import Encoder, load_encoder
from minissl.recipes.head_start import head_start
from minissl.recipes.pretrain import PretrainOptions, pretrain
from minissl.recipes.pretrain import report as pretraining_report
from minissl.text.labelled import Columns, LabelledParts, choose_rows, load_labelled
from minissl.training.run_folder import METRICS, RunFolder
from minissl.workers import Workers

# single sentences, so no pairs; whole words, so that one is not guessed from its other half
PRETRAINING: dict[str, Any] = {"nsp": False, "whole_word": True, "vocab_size": 8192, "steps": 12000}
LONGEST = 128  # ids in a row: what is over is cut off
FROZEN_RATE = 5e-3  # a head alone, on features that stand still, bears steps ten times as large


@dataclass(frozen=True)
class SentimentOptions:
    """What `minissl finetune sentiment` can be told."""

    model: str
    data: str = ""
    text_column: str | None = None
    label_column: str | None = None
    from_scratch: bool = False
    frozen: bool = False
    labels: int = 0  # labelled rows to learn from; 0: all
    seeds: tuple[int, ...] = (0,)
    dropout: float = 0.1
    word_dropout: float = 0.15

    def __post_init__(self) -> None:
        expected: list[tuple[str, bool, str]] = [
            ("labels", self.labels >= 0, "how many labelled rows to learn from (0: all)"),
            ("seeds", bool(self.seeds) and min(self.seeds) >= 0, "numbers from 0, such as 0 1 2"),
            ("dropout", 0 <= self.dropout < 1, "a share, 0 or more and below 1"),
            ("word_dropout", 0 <= self.word_dropout < 1, "a share, 0 or more and below 1"),
            ("frozen", not (self.frozen and self.from_scratch), "not beside --from-scratch: nothing was learnt yet"),
        ]
        require_values(self, expected)


class Arm(NamedTuple):
    """One fine-tuned model, and what it says of the held-out texts."""

    model: BertForSequenceClassification
    epochs: list[Epoch]
    probabilities: Array
    confusion: Array


class Material(NamedTuple):
    """Data and encoder, read and checked, and made for each other."""

    name: str
    parts: LabelledParts
    encoder: Encoder
    train: Rows
    heldout: Rows
    ids: Special


def default_data() -> str:
    """SST-2 in the folder of well-known sets that MINISSL_DATA names. Raises InputError where it names none."""
    folder = os.environ.get("MINISSL_DATA")
    if not folder:
        raise InputError("--data: expected a TSV or CSV of texts and labels, or a folder with train.tsv and dev.tsv")
    return str(Path(folder, "sentiment", "SST2"))


def default_texts(data: str) -> tuple[str, ...]:
    """What is pre-trained on: Python's manual, the shared English texts, and the training texts without labels."""
    folder = os.environ.get("MINISSL_DATA")
    shared = [str(path) for path in sorted(Path(folder, "text").iterdir()) if path.is_dir()] if folder else []
    return ("docs", *shared, data)


def pretrain_for(
    texts: tuple[str, ...], out: Path, say: Callable[[str], None], steps: int = 0, device: str = "cpu"
) -> Path:
    """Pre-train into the new folder `out`, as PRETRAINING says; return the folder."""
    about = {**PRETRAINING, "data": "\n".join(texts), "device": device} | ({"steps": steps} if steps else {})
    say(pretraining_report(pretrain(PretrainOptions(**about), out, say), out))
    return out


def load_material(data: str, columns: Columns, model: str) -> Material:
    """Read the labelled texts and the encoder. Raises InputError for what is wrong with either."""
    data = data or default_data()
    encoder = load_encoder(model)
    parts = load_labelled(data, columns)
    longest = min(LONGEST, encoder.config.max_position_embeddings)
    train, heldout = (encode(encoder.tokenizer, p, parts.names, longest) for p in (parts.train, parts.heldout))
    return Material(Path(data).resolve().stem, parts, encoder, train, heldout, special(encoder.tokenizer))


def rows_for(material: Material, labels: int, seed: int) -> list[int]:
    """Which training rows a run may learn from: all, or so many drawn by the seed."""
    if not labels:
        return list(range(len(material.train.ids)))
    try:
        return choose_rows(material.parts.train.labels, labels, np.random.default_rng([seed, 2]))
    except InputError as error:
        raise InputError(f"--labels: {error}") from error


def train_arm(
    material: Material, rows: list[int], training: FinetuneOptions, *, from_scratch: bool, frozen: bool, dropout: float,
    word_dropout: float, landmarks: str = "",
) -> Arm:  # fmt: skip
    """Fine-tune one model on the rows named, with the seed of `training`, and let it judge the held-out texts."""
    names = dict(enumerate(material.parts.names))
    config = material.encoder.changed(
        id2label=names, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout, classifier_dropout=None
    )
    model = BertForSequenceClassification(config, seed=training.seed)
    if from_scratch:
        head_start(model)  # as pre-training begins
    else:
        model.bert.load_state_dict(material.encoder.weights)
    model.to(training.device)
    epochs = fine_tune(
        model, material.train.take(rows), material.heldout, material.ids, training, word_dropout=word_dropout,
        frozen=frozen, landmarks=landmarks,
    )  # fmt: skip
    with Workers(training.working_threads) as workers:
        probabilities = predict(model, material.heldout, material.ids, workers)
    said = probabilities.argmax(axis=1)
    return Arm(model.to("cpu"), epochs, probabilities, confusion_matrix(material.heldout.classes, said, len(names)))


class Baselines(NamedTuple):
    """Accuracy on the held-out texts without a network."""

    majority: float
    bag_of_words: float


def baselines(material: Material, rows: list[int]) -> Baselines:
    """The most frequent label's, and a bag of words' that learnt from the same rows."""
    truth, classes = material.heldout.classes, material.train.classes[rows].tolist()
    texts = [material.parts.train.texts[i] for i in rows]
    said = BagOfWords(len(material.parts.names)).fit(texts, classes).predict(material.parts.heldout.texts)
    return Baselines(float((truth == majority(classes)).mean()), float((truth == said.argmax(axis=1)).mean()))


def sentiment(
    options: SentimentOptions, training: FinetuneOptions, out: Path, say: Callable[[str], None]
) -> dict[str, Any]:
    """Fine-tune into the new folder `out`, once for each seed; return the metrics. The folder has the first seed's.

    Raises InputError for what a person got wrong; nothing is left behind then, nor after Ctrl-C.
    """
    began = time.perf_counter()
    settings = {"finetune": "sentiment", "options": asdict(options), "training": asdict(training)}
    with RunFolder.kept_if_done(out, settings) as folder:
        return _sentiment(options, training, folder.path, say, began)


def _sentiment(
    options: SentimentOptions, training: FinetuneOptions, out: Path, say: Callable[[str], None], began: float
) -> dict[str, Any]:
    material = load_material(options.data, Columns(options.text_column, options.label_column), options.model)
    rows = rows_for(material, options.labels, options.seeds[0])
    say(_introduction(options, material, len(rows)))
    marks = baselines(material, rows)
    landmarks = f"majority {marks.majority:.3f}, bag of words {marks.bag_of_words:.3f}"
    arms = []
    for seed in options.seeds:
        arm = train_arm(
            material, rows_for(material, options.labels, seed), replace(training, seed=seed),
            from_scratch=options.from_scratch, frozen=options.frozen, dropout=options.dropout,
            word_dropout=options.word_dropout, landmarks=landmarks,
        )  # fmt: skip
        arms.append(arm)
        if len(options.seeds) > 1:
            say(f"seed {seed}: accuracy {accuracy(arms[-1].confusion):.1%} ({landmarks})")
    metrics = {
        "accuracy": accuracy(arms[0].confusion),
        "macro_f1": macro_f1(arms[0].confusion),
        "majority_accuracy": marks.majority,
        "bag_of_words_accuracy": marks.bag_of_words,
        "labels": material.parts.names,
        "confusion": arms[0].confusion.tolist(),
        "seeds": {str(seed): accuracy(arm.confusion) for seed, arm in zip(options.seeds, arms, strict=True)},
        "labelled_rows": len(rows),
        "heldout_rows": len(material.heldout.ids),
        "from_scratch": options.from_scratch,
        "frozen": options.frozen,
        "epochs": [epoch._asdict() for epoch in arms[0].epochs],
        "seconds": round(time.perf_counter() - began, 2),
    }
    _write(out, material, arms[0], marks, metrics)
    return metrics


def _introduction(options: SentimentOptions, material: Material, rows: int) -> str:
    begin = "fresh weights" if options.from_scratch else f"weights of {options.model}"
    size = sum(weight.size for weight in material.encoder.weights.values())
    return (
        f"{material.name}: {rows:,} labelled texts, {len(material.heldout.ids):,} held out; "
        f"labels: {', '.join(material.parts.names)}\n"
        f"BERT of {size:,} weights, {begin}" + (", frozen: its pooler and head alone learn" if options.frozen else "")
    )


def _write(out: Path, material: Material, arm: Arm, marks: Baselines, metrics: dict[str, Any]) -> None:
    """Write the model, what it says of each held-out text, the pictures and, last, the metrics."""
    from minissl.plots.finetuning import plot_confusion, plot_epochs

    arm.model.save_pretrained(out)
    material.encoder.tokenizer.save_pretrained(out)
    names, heldout = material.parts.names, material.parts.heldout
    lines = [
        {
            "text": text,
            "label": label,
            "predicted": names[int(p.argmax())],
            "probabilities": {name: round(float(share), 6) for name, share in zip(names, p, strict=True)},
        }
        for text, label, p in zip(heldout.texts, heldout.labels, arm.probabilities, strict=True)
    ]
    write_whole(out / "predictions.jsonl", "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    plot_confusion(arm.confusion, names, out / "confusion.png")
    beside = {"majority": marks.majority, "bag of words": marks.bag_of_words}
    plot_epochs(arm.epochs, "accuracy", beside, out / "epochs.png")
    write_json(out / METRICS, metrics)


def report(metrics: dict[str, Any], folder: Path) -> str:
    """The result in a few lines, each number beside its landmark."""
    names, confusion = metrics["labels"], metrics["confusion"]
    width = max(7, *(len(name) for name in names), *(len(f"{n:,}") for row in confusion for n in row))
    scores = list(metrics["seeds"].values())
    lines = [
        f"held-out accuracy {metrics['accuracy']:.1%} (majority {metrics['majority_accuracy']:.1%}, bag of words "
        f"{metrics['bag_of_words_accuracy']:.1%}); macro-F1 {metrics['macro_f1']:.3f}"
    ]
    if len(scores) > 1:
        lines.append(f"over {len(scores)} seeds: {np.mean(scores):.1%} ± {np.std(scores, ddof=1):.1%}")
    lines.append(f"{'true':<{width}}  " + "  ".join(f"{name:>{width}}" for name in names) + "  (predicted)")
    lines += [
        f"{name:<{width}}  " + "  ".join(f"{n:>{width},}" for n in row)
        for name, row in zip(names, confusion, strict=True)
    ]
    return "\n".join([*lines, f"{metrics['seconds']:.0f} s; everything is in {folder}"])
