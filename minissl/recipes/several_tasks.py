"""`minissl finetune tasks`: several tasks on one encoder, and each of them alone beside it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minissl.backend import Array, to_host
from minissl.errors import InputError
from minissl.files import write_json
from minissl.finetuning.baselines import BagOfWords, majority
from minissl.finetuning.batches import bucketed
from minissl.finetuning.classification import EVALUATION_ROWS, Rows, Special, drop_words, encode, inputs, special
from minissl.finetuning.loop import Epoch, FinetuneOptions, finetune
from minissl.models.bert import BertConfig
from minissl.models.bert_heads import BertForSequenceClassification, BertForTasks
from minissl.models.bert_tasks import MaskedLMTask, SequenceTask
from minissl.nn import Grads
from minissl.pretext.mlm import mask_tokens
from minissl.recipes.encoder import Encoder, load_encoder
from minissl.recipes.sentiment import LONGEST
from minissl.text.labelled import LabelledParts, hold_out, load_labelled, read_questions
from minissl.training.run_folder import METRICS, RunFolder
from minissl.training.trainer import Batch
from minissl.workers import Workers

MLM = "mlm"


@dataclass(frozen=True)
class TasksOptions:
    """What `minissl finetune tasks` can be told: NAME=PATH for each task, NAME=WEIGHT for its loss (1 by default).

    A PATH is a TSV or CSV of texts and labels, a folder with `train`, or SQuAD's JSON, whose questions have the title
    of their article as label. `masked_words` is the weight of masked language modelling on all the texts; 0: none.
    """

    model: str
    tasks: tuple[str, ...]
    weights: tuple[str, ...] = ()
    masked_words: float = 0.0
    dropout: float = 0.1
    word_dropout: float = 0.15

    def __post_init__(self) -> None:
        if len(self.paths) < 2 or len(self.paths) < len(self.tasks) or MLM in self.paths:
            given = " ".join(self.tasks)
            raise InputError(f"--task {given}: expected two or more NAME=PATH, each name once, none of them {MLM}")
        if not 0 <= self.masked_words < math.inf:
            raise InputError(f"--masked-words {self.masked_words}: expected a weight, 0 (none) or more")
        for name, weight in self.loss_weights.items():
            if name not in (*self.paths, MLM):
                raise InputError(f"--weight: there is no task {name!r}; there are: {', '.join(self.paths)}")
            if not 0 < weight < math.inf:
                raise InputError(f"--weight {name}={weight}: expected a number above 0")
        for option, share in (("dropout", self.dropout), ("word-dropout", self.word_dropout)):
            if not 0 <= share < 1:
                raise InputError(f"--{option} {share}: expected a share, 0 or more and below 1")

    @property
    def paths(self) -> dict[str, str]:
        """Name -> where its texts are."""
        return dict(_pair("--task", given) for given in self.tasks)

    @property
    def loss_weights(self) -> dict[str, float]:
        """Name -> the weight that was given for it."""
        weights = {}
        for given in self.weights:
            name, value = _pair("--weight", given)
            try:
                weights[name] = float(value)
            except ValueError as error:
                raise InputError(f"--weight {given}: {value!r} is no number") from error
        return weights | ({MLM: self.masked_words} if self.masked_words else {})


def _pair(option: str, given: str) -> tuple[str, str]:
    name, equals, value = given.partition("=")
    if not (name.isidentifier() and equals and value):
        raise InputError(f"{option} {given}: expected NAME=…, the name of letters, such as sentiment=reviews.tsv")
    return name, value


class TaskData(NamedTuple):
    """One task's texts, read and encoded."""

    parts: LabelledParts
    train: Rows
    heldout: Rows


class Together(NamedTuple):
    """Everything read: the tasks by name, and the encoder that they begin with."""

    encoder: Encoder
    ids: Special
    tasks: dict[str, TaskData]


def labels_of(name: str) -> str:
    """The column of a batch that holds a task's labels."""
    return f"{name}_labels"


def build(data: Together, names: Sequence[str], options: TasksOptions, seed: int) -> BertForTasks:
    """One encoder with a head for each of the names, MLM among them where it is named; weights as the options say."""
    rate = options.dropout
    config = data.encoder.changed(hidden_dropout_prob=rate, attention_probs_dropout_prob=rate, classifier_dropout=None)
    makers: list[Any] = []
    for name in names:
        if name == MLM:
            makers.append(partial(MaskedLMTask, labels=labels_of(MLM)))
        else:
            classes = len(data.tasks[name].parts.names)
            problem = "single_label_classification"
            makers.append(
                partial(SequenceTask, classes=classes, name=name, labels=labels_of(name), problem=problem, dropout=rate)
            )
    weights = {name: weight for name, weight in options.loss_weights.items() if name in names}
    model = BertForTasks(config, makers, weights, seed=seed)
    model.bert.load_state_dict(data.encoder.weights)
    return model


def passes(
    data: Together, names: Sequence[str], options: TasksOptions, training: FinetuneOptions, steps: int
) -> Callable[[int], list[list[Batch]]]:
    """Return what gives a pass: `steps` updates, each from one batch of every task; short tasks begin anew."""

    def one_pass(epoch: int) -> list[list[Batch]]:
        streams = [
            _batches(data, name, options, training.batch_size, np.random.default_rng([training.seed, 3, i, epoch]))
            for i, name in enumerate(names)
        ]
        return [[next(stream) for stream in streams] for _ in range(steps)]

    return one_pass


def _batches(data: Together, name: str, options: TasksOptions, size: int, rng: np.random.Generator) -> Iterator[Batch]:
    if name == MLM:
        every = [task.train for task in data.tasks.values()]
        rows = Rows([row for one in every for row in one.ids], np.concatenate([one.classes for one in every]))
    else:
        rows = data.tasks[name].train
    lengths = [len(row) for row in rows.ids]
    while True:
        for part in bucketed(lengths, size, rng):
            batch = inputs(rows, part, data.ids)
            if name == MLM:
                yield _masked(batch, data, rng)
            else:
                yield {**drop_words(batch, options.word_dropout, data.ids, rng), labels_of(name): rows.classes[part]}


def _masked(batch: Batch, data: Together, rng: np.random.Generator) -> Batch:
    ids, tokenizer = batch["input_ids"], data.encoder.tokenizer
    words = batch["attention_mask"] & (ids != data.ids.cls) & (ids != data.ids.sep)
    masked, labels = mask_tokens(
        ids, words, mask_id=data.ids.mask, vocab_size=len(tokenizer), rng=rng, word_starts=tokenizer.word_start[ids]
    )
    return {**batch, "input_ids": masked, labels_of(MLM): labels}


def evaluate(model: BertForTasks, data: Together, workers: Workers) -> dict[str, float]:
    """Held-out accuracy of every classifying task that the model has."""
    found = {}
    for name, task in data.tasks.items():
        if name in model.tasks:
            said = _scores(model, name, task.heldout, data.ids, workers).argmax(axis=1)
            found[name] = float((said == task.heldout.classes).mean())
    return found


def _scores(model: BertForTasks, name: str, rows: Rows, ids: Special, workers: Workers) -> Array:
    parts = bucketed([len(row) for row in rows.ids], EVALUATION_ROWS)

    def work(i: int) -> Array:
        batch = inputs(rows, parts[i], ids)
        encoded = model.bert(batch["input_ids"], batch["attention_mask"])
        logits: Array = to_host(model.tasks[name].answer(model.bert, encoded)["logits"])
        return logits

    found = workers.map(work, len(parts))
    logits = np.empty((len(rows.ids), found[0].shape[1]))
    logits[np.concatenate(parts)] = np.concatenate(found)
    return logits


class Shared(NamedTuple):
    """Whether the gradients meet: how far the whole is from the weighted sum, and the cosine of every two of them."""

    difference: float
    cosines: dict[str, float]


def gradients_meet(model: BertForTasks, batches: dict[str, Batch]) -> Shared:
    """Compare the encoder's gradient for all the batches with the weighted sum of each task's own.

    `difference` is |g - Σ w_t g_t| / |g|: rounding alone, where the tasks share one encoder.
    """
    counts = {name: count for batch in batches.values() for name, count in model.counts(batch).items()}
    encoder = [param for _, param in model.bert.named_parameters()]

    def gradient(names: Sequence[str], weights: dict[str, float]) -> Array:
        kept, model.weights = model.weights, weights
        grads = Grads(model)
        try:
            for name in names:
                model.losses_and_backward(batches[name], counts, grads, None)
        finally:
            model.weights = kept
        return np.concatenate([to_host(grads[param]).ravel() for param in encoder]).astype(np.float64)

    ones = dict.fromkeys(model.weights, 1.0)
    whole = gradient(list(batches), model.weights)
    each = {name: gradient([name], ones) for name in batches}
    total = sum(model.weights[name] * g for name, g in each.items())
    cosines = {
        f"{a}, {b}": float(each[a] @ each[b] / np.linalg.norm(each[a]) / np.linalg.norm(each[b]))
        for i, a in enumerate(each)
        for b in list(each)[i + 1 :]
    }
    return Shared(float(np.linalg.norm(whole - total) / np.linalg.norm(whole)), cosines)


def several_tasks(
    options: TasksOptions, training: FinetuneOptions, out: Path, say: Callable[[str], None]
) -> dict[str, Any]:
    """Train all tasks on one encoder, and each alone with as many updates; write a folder for each, and the metrics.

    Raises InputError for what a person got wrong; nothing is left behind then, nor after Ctrl-C.
    """
    began = time.perf_counter()
    settings = {"finetune": "tasks", "options": asdict(options), "training": asdict(training)}
    with RunFolder.kept_if_done(out, settings) as folder:
        return _several_tasks(options, training, folder.path, say, began)


def load_tasks(options: TasksOptions) -> Together:
    """Read the encoder and every task's texts. Raises InputError for what is wrong with them."""
    encoder = load_encoder(options.model)
    longest = min(LONGEST, encoder.config.max_position_embeddings)
    tasks = {}
    for name, path in options.paths.items():
        is_squad = path.endswith((".json", ".json.gz"))
        parts = hold_out(read_questions(path), path) if is_squad else load_labelled(path)
        rows = [encode(encoder.tokenizer, part, parts.names, longest) for part in (parts.train, parts.heldout)]
        tasks[name] = TaskData(parts, *rows)
    return Together(encoder, special(encoder.tokenizer), tasks)


def _several_tasks(
    options: TasksOptions, training: FinetuneOptions, out: Path, say: Callable[[str], None], began: float
) -> dict[str, Any]:
    data = load_tasks(options)
    names = [*data.tasks, *([MLM] if options.masked_words else [])]
    for name, task in data.tasks.items():
        say(
            f"{name}: {len(task.train.ids):,} labelled texts, {len(task.heldout.ids):,} held out, "
            f"{len(task.parts.names)} labels"
        )
    steps = max(-(-len(task.train.ids) // training.batch_size) for task in data.tasks.values())
    marks = {name: _landmarks(task) for name, task in data.tasks.items()}
    together, epochs = _train(data, names, options, training, steps)
    streams = passes(data, names, options, training, 1)(0)[0]
    shared = gradients_meet(together, dict(zip(names, streams, strict=True)))
    together.to("cpu")
    scores = {name: {"together": epochs[-1].heldout[name], **marks[name]} for name in data.tasks}
    for name in data.tasks:
        _, alone = _train(data, [name], options, training, steps)
        scores[name]["alone"] = alone[-1].heldout[name]
    encoder_size = sum(param.data.size for _, param in together.bert.named_parameters())
    metrics = {
        "accuracy": scores,
        "weights": together.weights,
        "encoder_weights": encoder_size,
        "head_weights": {name: sum(p.data.size for _, p in together.tasks[name].named_parameters()) for name in names},
        "gradient_difference": shared.difference,
        "gradient_cosines": shared.cosines,
        "updates": steps * training.epochs,
        "epochs": [epoch._asdict() for epoch in epochs],
        "seconds": round(time.perf_counter() - began, 2),
    }
    _write(out, data, together, metrics)
    return metrics


def _train(
    data: Together, names: Sequence[str], options: TasksOptions, training: FinetuneOptions, steps: int
) -> tuple[BertForTasks, list[Epoch]]:
    model = build(data, names, options, training.seed).to(training.device)
    batches = passes(data, names, options, training, steps)
    first = next(name for name in names if name != MLM)
    epochs = finetune(model, training, batches, partial(evaluate, model, data), better=first)
    return model, epochs


def _landmarks(task: TaskData) -> dict[str, float]:
    truth, classes = task.heldout.classes, task.train.classes.tolist()
    said = BagOfWords(len(task.parts.names)).fit(task.parts.train.texts, classes).predict(task.parts.heldout.texts)
    return {
        "majority": float((truth == majority(classes)).mean()),
        "bag of words": float((truth == said.argmax(axis=1)).mean()),
    }


def _write(out: Path, data: Together, model: BertForTasks, metrics: dict[str, Any]) -> None:
    """Write each task as a classifier of its own, which `transformers` opens, the picture and, last, the metrics."""
    from minissl.plots.finetuning import plot_tasks

    for name, task in data.tasks.items():
        config = BertConfig.from_dict({**model.config.to_dict(), "id2label": dict(enumerate(task.parts.names))})
        single = BertForSequenceClassification(config)
        single.bert.load_state_dict(model.bert.state_dict())
        own = dict(model.tasks[name].named_parameters())
        for key, param in single.tasks["classification"].named_parameters():
            param.data[...] = own[key].data
        single.save_pretrained(out / name)
        data.encoder.tokenizer.save_pretrained(out / name)
    plot_tasks(metrics["accuracy"], out / "tasks.png")
    write_json(out / METRICS, metrics)


def report(metrics: dict[str, Any], folder: Path) -> str:
    """The result in a few lines: each task together and alone, beside its landmarks, and what is shared."""
    columns = ("together", "alone", "bag of words", "majority")
    width = max(len(name) for name in metrics["accuracy"])
    lines = [f"{'accuracy':<{max(width, 8)}}  " + "  ".join(f"{column:>12}" for column in columns)]
    lines += [
        f"{name:<{max(width, 8)}}  " + "  ".join(f"{scores[column]:>12.1%}" for column in columns)
        for name, scores in metrics["accuracy"].items()
    ]
    heads = ", ".join(f"{name} {size:,}" for name, size in metrics["head_weights"].items())
    cosines = ", ".join(f"{names}: {value:+.2f}" for names, value in metrics["gradient_cosines"].items())
    lines += [
        f"one encoder of {metrics['encoder_weights']:,} weights; heads: {heads}",
        f"its gradient is the weighted sum of the tasks' (off by {metrics['gradient_difference']:.0e} of it); "
        f"cosines: {cosines}",
        f"{metrics['seconds']:.0f} s; everything is in {folder}",
    ]
    return "\n".join(lines)
