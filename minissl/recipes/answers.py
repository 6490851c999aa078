"""A reader's answers, for people: a table, passages with the answer marked, files and pictures; `minissl ask`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minissl.errors import InputError
from minissl.files import write_json, write_whole
from minissl.finetuning.reading import Reading, Reply, inputs, reply
from minissl.models.bert_heads import BertForQuestionAnswering
from minissl.ops import softmax_forward
from minissl.recipes.encoder import load_model
from minissl.text.answers import Score, score_answer
from minissl.text.squad import Question
from minissl.text.tokenizer import BertTokenizer
from minissl.text.windows import answer_positions

SHOWN = 6  # right answers, and as many wrong ones
AROUND = 90  # characters of the passage on either side of an answer that is shown
PREDICTIONS, LINES = "predictions.json", "predictions.jsonl"


def table(scores: Mapping[str, Score]) -> str:
    """One line for each name: exact match and F1."""
    return "\n".join(f"  {name:<18} exact match {exact:6.1%}   F1 {f1:6.1%}" for name, (exact, f1) in scores.items())


def text_of(question: Question, given: Reply) -> str:
    """The answer's own words."""
    return question.context[given.start : given.stop]


def best_texts(questions: Sequence[Question], replies: Sequence[Sequence[Reply]]) -> dict[str, str]:
    """Question id -> the best answer's words, the official format of predictions."""
    return {q.id: text_of(q, given[0]) for q, given in zip(questions, replies, strict=True)}


def _scored(question: Question, given: Reply) -> Score:
    return score_answer(text_of(question, given), (answer.text for answer in question.answers))


def write_predictions(folder: Path, questions: Sequence[Question], replies: Sequence[Sequence[Reply]]) -> None:
    """Write `predictions.json`, which SQuAD's own scorer reads, and `predictions.jsonl` with each question's detail."""
    write_json(folder / PREDICTIONS, best_texts(questions, replies))
    lines = []
    for question, (best, *_) in zip(questions, replies, strict=True):
        exact, f1 = _scored(question, best)
        line = {
            "id": question.id, "question": question.text, "prediction": text_of(question, best), "start": best.start,
            "probability": round(best.probability, 4), "answers": [answer.text for answer in question.answers],
            "exact_match": bool(exact), "f1": round(f1, 4),
        }  # fmt: skip
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    write_whole(folder / LINES, "".join(lines))


def shown_answers(questions: Sequence[Question], replies: Sequence[Sequence[Reply]], seed: int = 0) -> str:
    """SHOWN right answers and as many wrong ones, drawn from `seed`, each in its passage."""
    order = np.random.default_rng(seed).permutation(len(questions)).tolist()
    right = [i for i in order if _scored(questions[i], replies[i][0]).exact_match]
    wrong = [i for i in order if not _scored(questions[i], replies[i][0]).exact_match]
    parts = [("right", right[:SHOWN], len(right)), ("wrong", wrong[:SHOWN], len(wrong))]
    return "\n".join(
        "\n".join([f"{name}, {len(some)} of {number:,}:", *(in_passage(questions[i], replies[i][0]) for i in some)])
        for name, some, number in parts
        if some
    )


def in_passage(question: Question, given: Reply) -> str:
    """One answer in two lines: the question, and the passage round the answer, which stands in [[ ]]."""
    exact, f1 = _scored(question, given)
    truth = ", ".join(dict.fromkeys(answer.text for answer in question.answers))
    verdict = "" if exact else f" (F1 {f1:.0%}; annotators: {truth})"
    return f"  {' '.join(question.text.split())}{verdict}\n    {excerpt(question.context, given)}"


def excerpt(passage: str, given: Reply) -> str:
    """The answer in [[ ]] with what stands round it, in one line."""
    left, right = max(0, given.start - AROUND), min(len(passage), given.stop + AROUND)
    text = f"{passage[left : given.start]}[[{passage[given.start : given.stop]}]]{passage[given.stop : right]}"
    return ("…" if left else "") + " ".join(text.split()) + ("…" if right < len(passage) else "")


def draw(
    folder: Path, model: BertForQuestionAnswering, tokenizer: BertTokenizer, reading: Reading,
    questions: Sequence[Question], replies: Sequence[Sequence[Reply]], scores: Mapping[str, Score],
) -> None:  # fmt: skip
    """Draw `scores.png`, and `reading.png`: a right answer and a wrong one (the first of each in one window)."""
    from minissl.plots.answers import plot_readings, plot_scores

    plot_scores(scores, list(scores)[-1], folder / "scores.png")
    pictures: dict[bool, Any] = {}
    for question, (best, *_) in zip(questions, replies, strict=True):
        exact = bool(_scored(question, best).exact_match)
        if exact not in pictures and (picture := _picture(model, tokenizer, reading, question, best)) is not None:
            pictures[exact] = picture
        if len(pictures) == 2:
            break
    if pictures:
        plot_readings([pictures[exact] for exact in sorted(pictures, reverse=True)], folder / "reading.png")


def _picture(
    model: BertForQuestionAnswering, tokenizer: BertTokenizer, reading: Reading, question: Question, best: Reply
) -> Any:
    """What `plot_readings` draws of one question; None where its passage takes several windows."""
    from minissl.plots.answers import Reading as Picture

    windows = reading.windows([(question.text, question.context)], tokenizer)
    (first, *_), (last, *_) = answer_positions(windows, [question.answers[0]])
    if len(windows.sample) > 1 or not first:
        return None
    taken: Any = inputs(windows, np.arange(1))
    out = model(**taken)
    places = np.flatnonzero(windows.in_passage[0])
    start, end = (softmax_forward(logits[0, places])[0] for logits in (out.start_logits, out.end_logits))
    tokens = tokenizer.convert_ids_to_tokens(windows.input_ids[0, places])
    answer = int(first - places[0]), int(last - places[0])
    return Picture(question.text, tokens, start, end, answer, text_of(question, best))


def load_reader(folder: str | os.PathLike[str], **changes: Any) -> tuple[BertForQuestionAnswering, BertTokenizer, bool]:
    """Read a folder, and say whether the head for answers was in it (else it is fresh); as `load_model`."""
    return load_model(folder, BertForQuestionAnswering, "qa_outputs.", **changes)


def read_passage(path: Path) -> str:
    """The text of a UTF-8 file. Raises InputError where there is none."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: could not be read ({error.strerror}); expected a text file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 (byte {error.start}); save it as UTF-8") from error


def ask(
    folder: str | os.PathLike[str], question: str, passage: str, best: int = 3, device: str = "cpu"
) -> list[tuple[float, str]]:
    """The `best` answers that the model in `folder` finds in a passage: probability, and the answer where it stands.

    Raises InputError for an empty question or passage, `best` < 1, a folder without a model that answers, and a device
    that is not there.
    """
    if best < 1:
        raise InputError(f"--best {best}: expected 1 or more")
    if not question.strip() or not passage.strip():
        raise InputError("the question or the passage is empty; give both")
    model, tokenizer, answers = load_reader(folder, device=device)
    if not answers:
        raise InputError(f"{folder}: this model has not learnt to answer; train it with minissl finetune qa --model")
    reading = Reading(length=min(Reading.length, model.config.max_position_embeddings))
    (found,) = reply(model, reading.windows([(question, passage)], tokenizer), reading)
    return [(given.probability, excerpt(passage, given)) for given in found[:best]]
