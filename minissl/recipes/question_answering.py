"""`minissl finetune qa`: a reader that answers questions from passages, beside what needs no learning."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from minissl.errors import InputError, require_values
from minissl.files import write_json
from minissl.finetuning.loop import Epoch, FinetuneOptions, finetune
from minissl.finetuning.reading import Reading, Reply, TrainingWindows, reply
from minissl.models.bert import BertConfig
from minissl.models.bert_heads import BertForQuestionAnswering
from minissl.recipes.answers import best_texts, draw, load_reader, shown_answers, table, write_predictions
from minissl.recipes.head_start import head_start, sharpen_likeness
from minissl.recipes.session import peak_memory_mb
from minissl.recipes.span_pretraining import SpanTask, pretrain_on_spans
from minissl.text.answers import Score, best_sentence, random_spans, score, second_annotator
from minissl.text.corpora import load_corpus
from minissl.text.sentences import split_sentences
from minissl.text.squad import Article, Question, read_squad, split_articles
from minissl.text.tokenizer import BertTokenizer
from minissl.text.wordpiece import train_wordpiece
from minissl.training.run_folder import METRICS, RunFolder
from minissl.workers import Workers

READER: dict[str, Any] = {
    "num_hidden_layers": 4, "hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 512,
}  # fmt: skip
VOCABULARY = 8192
SPAN_LEARNING_RATE = 1e-3
RANDOM_DRAWS = 10  # of the random baseline, which are averaged
WATCHED = 0.15  # the share of the training questions that early stopping sets aside, by article
MINE, SENTENCE = "this model", "best sentence"


@dataclass(frozen=True)
class AnsweringOptions:
    """What `minissl finetune qa` can be told."""

    data: str
    model: str = ""
    from_scratch: bool = False
    texts: tuple[str, ...] = ()
    span_pretraining: int = 0  # passes
    heldout: float = 0.2
    dropout: float = 0.1
    length: int = 256
    stride: int = 64
    longest_answer: int = 30

    def __post_init__(self) -> None:
        expected: list[tuple[str, bool, str]] = [
            ("span_pretraining", self.span_pretraining >= 0, "0 (none) or more passes"),
            ("heldout", 0 < self.heldout < 1, "a share of the questions between 0 and 1, such as 0.2"),
            ("dropout", 0 <= self.dropout < 1, "a share, 0 or more and below 1"),
            ("longest_answer", self.longest_answer >= 1, "1 token or more"),
            ("texts", not self.texts or self.span_pretraining > 0, "them beside --span-pretraining, which reads them"),
            ("from_scratch", bool(self.model) or not self.from_scratch, "it beside --model, whose sizes it takes"),
        ]
        require_values(self, expected)

    @property
    def reading(self) -> Reading:
        """How passages are read."""
        return Reading(length=self.length, stride=self.stride, longest_answer=self.longest_answer)


class Data(NamedTuple):
    """The articles to learn from, those that early stopping watches, and those that are held out."""

    train: list[Article]
    watched: list[Article]
    heldout: list[Article]


def questions_of(articles: Sequence[Article]) -> list[Question]:
    """All questions about some articles, in order."""
    return [question for article in articles for question in article.questions]


def answer_questions(
    options: AnsweringOptions, training: FinetuneOptions, out: Path, say: Callable[[str], None]
) -> dict[str, Any]:
    """Train a reader and measure it on held-out articles; return the metrics that are written into the folder `out`.

    Raises InputError for what a person got wrong; the folder is then removed again.
    """
    began = time.perf_counter()
    data = _read(options, training)
    settings = {"options": asdict(options), "training": asdict(training)}
    with RunFolder.kept_if_done(out, settings) as folder:
        return _run(options, training, data, folder.path, began, say)


def _read(options: AnsweringOptions, training: FinetuneOptions) -> Data:
    train, heldout = split_articles(read_squad(options.data), options.heldout)
    watched: list[Article] = []
    if training.patience:
        train, watched = split_articles(train, WATCHED, seed=1)
    return Data(train, watched, heldout)


def _run(
    options: AnsweringOptions, training: FinetuneOptions, data: Data, folder: Path, began: float,
    say: Callable[[str], None],
) -> dict[str, Any]:  # fmt: skip
    say(_summary(options, data))
    train, heldout = questions_of(data.train), questions_of(data.heldout)
    landmarks = measure_landmarks(train, heldout)
    say("landmarks on the held-out questions:\n" + table(landmarks))
    texts = [load_corpus(text) for text in options.texts]
    documents = [split_sentences(c) for article in data.train for c in article.contexts]
    documents += [document.sentences for corpus in texts for document in (*corpus.train, *corpus.heldout)]
    model, tokenizer = _begin(options, documents, train, training.seed)
    size = sum(param.data.size for _, param in model.named_parameters())
    model.to(training.device)
    say(f"{_origin(options)}: {size:,} weights, vocabulary {len(tokenizer):,}")
    seconds = {"preparation": time.perf_counter() - began}

    span_epochs: list[Epoch] = []
    if options.span_pretraining:
        started = time.perf_counter()
        span_epochs = _pretrain(options.span_pretraining, training, model, tokenizer, documents, data.heldout)
        seconds["span_pretraining"] = time.perf_counter() - started
        found, spent = span_epochs[-1].heldout, seconds["span_pretraining"]
        say(
            f"span selection: {len(span_epochs)} passes, {spent:.0f} s; of held-out articles' own questions "
            f"the first token is found of {found['start']:.1%}, first and last of {found['both']:.1%}"
        )
    started = time.perf_counter()
    model = with_dropout(model, options.dropout).to(training.device)
    epochs = _finetune(options, training, model, tokenizer, data, landmarks, say)
    seconds["finetuning"] = time.perf_counter() - started

    started = time.perf_counter()
    replies = read_all(model, tokenizer, heldout, options.reading, training.working_threads)
    model.to("cpu")
    result = score(best_texts(heldout, replies), heldout)
    seconds["evaluation"] = time.perf_counter() - started
    say(shown_answers(heldout, replies))
    metrics: dict[str, Any] = {
        "exact_match": result.exact_match,
        "f1": result.f1,
        "questions": len(heldout),
        "landmarks": {name: s._asdict() for name, s in landmarks.items()},
        "weights": size,
        "span_pretraining": [epoch._asdict() for epoch in span_epochs],
        "finetuning": [epoch._asdict() for epoch in epochs],
        "heldout_articles": [article.title for article in data.heldout],
        "seconds": {name: round(s, 1) for name, s in seconds.items()},
    }
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_predictions(folder, heldout, replies)
    draw(folder, model, tokenizer, options.reading, heldout, replies, {**landmarks, MINE: result})
    metrics["seconds_total"] = round(time.perf_counter() - began, 1)
    metrics["peak_memory_mb"] = peak_memory_mb()
    write_json(folder / METRICS, metrics)
    return metrics


def measure_landmarks(train: Sequence[Question], heldout: Sequence[Question]) -> dict[str, Score]:
    """What is reached on the held-out questions without learning, and by a person where there are several.

    The random spans are as long as the training answers; their scores are the mean over RANDOM_DRAWS draws.
    """
    lengths = [len(answer.text.split()) for question in train for answer in question.answers]
    draws = [score(random_spans(heldout, lengths, np.random.default_rng([0, i])), heldout) for i in range(RANDOM_DRAWS)]
    marks = {
        "random span": Score(*np.mean(draws, axis=0).tolist()),
        SENTENCE: score({q.id: best_sentence(q) for q in heldout}, heldout),
    }
    person, count = second_annotator(heldout)
    return marks | ({"second annotator": person} if count else {})


def _summary(options: AnsweringOptions, data: Data) -> str:
    def part(name: str, articles: list[Article]) -> str:
        passages = sum(len(article.contexts) for article in articles)
        return f"{name} {len(articles)} articles, {passages:,} passages, {len(questions_of(articles)):,} questions"

    parts = [("train", data.train), ("set aside to stop by", data.watched), ("held out", data.heldout)]
    return f"{options.data}: " + "; ".join(part(name, articles) for name, articles in parts if articles)


def _origin(options: AnsweringOptions) -> str:
    if not options.model:
        return "a new BERT"
    return f"{options.model}, its sizes and vocabulary alone" if options.from_scratch else options.model


def _begin(
    options: AnsweringOptions, documents: list[list[str]], train: list[Question], seed: int
) -> tuple[BertForQuestionAnswering, BertTokenizer]:
    """The model that training begins with, without dropout, and its tokenizer."""
    if options.model:
        model, tokenizer, _ = load_reader(options.model, **_dropout(0.0))
        if options.from_scratch:
            model = BertForQuestionAnswering(model.config, seed=seed)
            head_start(model)
        longest = model.config.max_position_embeddings
        if options.length > longest:
            raise InputError(f"--length {options.length}: {options.model} reads {longest} tokens at most")
        return model, tokenizer
    texts = (s for part in (*documents, [q.text for q in train]) for s in part)
    tokenizer = BertTokenizer(vocab=train_wordpiece(texts, VOCABULARY))
    config = BertConfig(
        vocab_size=len(tokenizer),
        **READER,
        initializer_range=0.02 * math.sqrt(768 / READER["hidden_size"]),  # BERT-base's own at its width
        **_dropout(0.0),
    )
    model = BertForQuestionAnswering(config, seed=seed)
    head_start(model)
    sharpen_likeness(model)
    return model, tokenizer


def _dropout(rate: float) -> dict[str, Any]:
    return {"hidden_dropout_prob": rate, "attention_probs_dropout_prob": rate}


def with_dropout(model: BertForQuestionAnswering, rate: float) -> BertForQuestionAnswering:
    """The same weights in a model that drops another share."""
    other = BertForQuestionAnswering(replace(model.config, **_dropout(rate)))
    other.load_state_dict(model.state_dict())
    return other


def _pretrain(
    passes: int, training: FinetuneOptions, model: BertForQuestionAnswering, tokenizer: BertTokenizer,
    documents: list[list[str]], heldout: list[Article],
) -> list[Epoch]:  # fmt: skip
    def encoded(texts: list[list[str]]) -> list[list[list[int]]]:
        return [[tokenizer.encode_words(sentence) for sentence in text] for text in texts]

    others = [split_sentences(context) for article in heldout for context in article.contexts]
    task = SpanTask(encoded(documents), encoded(others), tokenizer, training.batch_size, training.seed)
    training = replace(training, epochs=passes, learning_rate=SPAN_LEARNING_RATE, layer_decay=1.0, patience=0)
    return pretrain_on_spans(model, task, training)


def _finetune(
    options: AnsweringOptions, training: FinetuneOptions, model: BertForQuestionAnswering, tokenizer: BertTokenizer,
    data: Data, landmarks: dict[str, Score], say: Callable[[str], None],
) -> list[Epoch]:  # fmt: skip
    windows = TrainingWindows(questions_of(data.train), tokenizer, options.reading, training.seed)
    watched = questions_of(data.watched or data.heldout)
    watched_windows = options.reading.windows([(q.text, q.context) for q in watched], tokenizer)

    def evaluate(workers: Workers) -> dict[str, float]:
        replies = reply(model, watched_windows, options.reading, workers)
        return score(best_texts(watched, replies), watched)._asdict()

    beside = measure_landmarks(questions_of(data.train), watched) if data.watched else landmarks
    epochs = finetune(
        model, training, lambda number: windows.batches(number, training.batch_size), evaluate,
        better="f1", landmarks=f"best sentence {beside[SENTENCE].f1:.3f}",
    )  # fmt: skip
    chance = float(np.log(windows.windows.attention_mask.sum(axis=1)).mean())
    for epoch in epochs:
        loss = sum(epoch.losses.values())
        say(
            f"pass {epoch.number}: loss {loss:.3f} (any token alike: {chance:.3f}); "
            f"{'set aside' if data.watched else 'held out'}: exact match {epoch.heldout['exact_match']:.1%}, "
            f"F1 {epoch.heldout['f1']:.1%} (best sentence {beside[SENTENCE].f1:.1%})"
        )
    return epochs


def read_all(
    model: BertForQuestionAnswering, tokenizer: BertTokenizer, questions: Sequence[Question], reading: Reading,
    threads: int,
) -> list[list[Reply]]:  # fmt: skip
    """The best answers to each question."""
    windows = reading.windows([(q.text, q.context) for q in questions], tokenizer)
    with Workers(threads) as workers:
        return reply(model, windows, reading, workers)


def report(metrics: dict[str, Any], folder: Path) -> str:
    """The result beside its landmarks."""
    scores = {name: Score(**s) for name, s in metrics["landmarks"].items()}
    scores[MINE] = Score(metrics["exact_match"], metrics["f1"])
    memory = "" if metrics["peak_memory_mb"] is None else f", {metrics['peak_memory_mb']:.0f} MB at most"
    return (
        f"{metrics['questions']:,} held-out questions:\n{table(scores)}\n"
        f"{metrics['seconds_total']:.0f} s{memory}; everything is in {folder}\n"
        f'ask it: minissl ask {folder} "QUESTION" --passage "TEXT"'
    )
