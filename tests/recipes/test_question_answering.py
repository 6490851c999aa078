import json
import re
from dataclasses import replace

import numpy as np
import pytest

from minissl.cli import main
from minissl.errors import InputError
from minissl.finetuning.loop import FinetuneOptions
from minissl.models import BertConfig, BertForPreTraining, BertForQuestionAnswering
from minissl.recipes import question_answering, span_pretraining
from minissl.recipes.answers import ask, excerpt, in_passage
from minissl.recipes.question_answering import AnsweringOptions, answer_questions, report
from minissl.text import BertTokenizer
from minissl.text.answers import score
from minissl.text.squad import Answer, Question, read_squad
from minissl.text.windows import Span

PEOPLE = ["Ada", "Bo", "Cleo", "Dana", "Emil", "Fay", "Gus", "Hana"]
THINGS = ["the red boat", "an old clock", "nine apples", "the bridge", "a green lamp", "two letters"]
PLACES = ["in Rome", "near the sea", "at school", "in May", "on Monday", "at home"]


def squad(articles=4, passages=4, seed=0):
    """Passages of facts, one sentence each, and a question about every fact."""
    rng = np.random.default_rng(seed)
    data = []
    for a in range(articles):
        paragraphs = []
        for p in range(passages):
            context, qas = "", []
            for person in rng.permutation(PEOPLE)[:4].tolist():
                thing, place = (str(rng.choice(some)) for some in (THINGS, PLACES))
                start = len(context) + len(f"{person} found ")
                context += f"{person} found {thing} {place} and took it to a friend. "
                answers = [{"text": thing, "answer_start": start}] * 2
                qas.append({"id": f"{a}-{p}-{person}", "question": f"What did {person} find?", "answers": answers})
            paragraphs.append({"context": context.strip(), "qas": qas})
        data.append({"title": f"Article {a}", "paragraphs": paragraphs})
    return {"data": data}


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "facts.json"
    path.write_text(json.dumps(squad()), encoding="utf-8")
    return path


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(question_answering, "READER", {
        "num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24,
    })  # fmt: skip
    monkeypatch.setattr(question_answering, "RANDOM_DRAWS", 2)
    monkeypatch.setattr(span_pretraining, "PASS_STEPS", 3)
    monkeypatch.setattr(span_pretraining, "HELDOUT_ROWS", 20)


TRAINING = FinetuneOptions(epochs=2, batch_size=8, threads=1)
SHORT = {"length": 80, "stride": 16}


def train(folder, data, training=TRAINING, say=lambda text: None, **chosen):
    return answer_questions(AnsweringOptions(data=str(data), **{**SHORT, **chosen}), training, folder, say)


def test_from_a_file_to_a_folder_of_answers(tmp_path, data, small):
    said = []
    metrics = train(tmp_path / "out", data, say=said.append, heldout=0.25, span_pretraining=2)
    heldout = [q for a in read_squad(data) if a.title in metrics["heldout_articles"] for q in a.questions]
    assert len(heldout) == metrics["questions"] == 16
    predictions = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert (metrics["exact_match"], metrics["f1"]) == score(predictions, heldout)
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    for question, line in zip(heldout, lines, strict=True):
        assert (line["id"], line["prediction"]) == (question.id, predictions[question.id])
        assert question.context.startswith(line["prediction"], line["start"])
        assert 0 < line["probability"] <= 1
    assert metrics == json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert [len(metrics[name]) for name in ("span_pretraining", "finetuning")] == [2, 2]
    assert set(metrics["landmarks"]) == {"random span", "best sentence", "second annotator"}
    assert metrics["landmarks"]["second annotator"]["exact_match"] == 1
    for picture in ("scores.png", "reading.png"):
        assert (tmp_path / "out" / picture).read_bytes().startswith(b"\x89PNG")
    text = "\n".join([*said, report(metrics, tmp_path / "out")])
    assert re.search(r"held out 1 articles, 4 passages, 16 questions", text)
    assert re.search(rf"this model +exact match +{metrics['exact_match']:.1%}", text)
    assert re.search(r"\[\[.+\]\]", text)

    # the folder answers again as it did
    answers = ask(tmp_path / "out", heldout[0].text, heldout[0].context, best=2)
    assert f"[[{predictions[heldout[0].id]}]]" in answers[0][1]
    assert len(answers) == 2
    model = BertForQuestionAnswering.from_pretrained(tmp_path / "out")
    assert model.config.hidden_dropout_prob == 0.1


def test_the_same_seed_gives_the_same_weights_and_another_gives_others(tmp_path, data, small):
    weights = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(tmp_path / name, data, replace(TRAINING, seed=seed), span_pretraining=1)
        weights.append((tmp_path / name / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


def test_from_a_pretrained_folder_and_its_sizes_alone(tmp_path, data, small):
    words = sorted({w for q in read_squad(data)[0].questions for w in q.context.lower().replace(".", " .").split()})
    tokenizer = BertTokenizer(vocab=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "what", "did", "find", "?", *words])
    config = BertConfig(len(tokenizer), 12, 2, 3, 20, max_position_embeddings=90)
    BertForPreTraining(config, seed=3).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    begun = {}
    for scratch in (False, True):
        options = AnsweringOptions(data=str(data), model=str(tmp_path / "model"), from_scratch=scratch, **SHORT)
        model, _ = question_answering._begin(options, [], [], 0)
        begun[scratch] = model.bert.layers[0].feed_forward.up.weight.data
        assert model.config.hidden_size == 12
    expected = BertForPreTraining.from_pretrained(tmp_path / "model").bert.layers[0].feed_forward.up.weight.data
    np.testing.assert_array_equal(begun[False], expected)
    assert (begun[True] != expected).any()
    with pytest.raises(InputError, match="reads 90 tokens at most"):
        train(tmp_path / "o", data, model=str(tmp_path / "model"), length=128)
    assert not (tmp_path / "o").exists()
    with pytest.raises(InputError, match="has not learnt to answer"):
        ask(tmp_path / "model", "What?", "This.")


def test_early_stopping_sets_articles_aside(tmp_path, data, small):
    said = []
    train(tmp_path / "out", data, replace(TRAINING, epochs=1, patience=1), said.append)
    assert "set aside to stop by 1 articles" in said[0]
    assert any(line.startswith("pass 1") and "set aside: exact match" in line for line in said)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"span_pretraining": -1}, "--span-pretraining -1"),
        ({"dropout": 1.0}, "--dropout 1.0"),
        ({"texts": ("a.txt",)}, "beside --span-pretraining"),
        ({"longest_answer": 0}, "--longest-answer 0"),
        ({"heldout": 1.5}, "--heldout 1.5"),
        ({"length": 30}, "windows of 30 tokens"),
        ({"from_scratch": True}, "--from-scratch"),
    ],
)
def test_wrong_use_is_refused_and_leaves_nothing(tmp_path, data, small, wrong, said):
    with pytest.raises(InputError, match=said):
        train(tmp_path / "out", data, **wrong)
    assert not (tmp_path / "out").exists()


def test_answers_are_shown_in_their_passage():
    context = "a" * 200 + " The\nNile is long. " + "b" * 200
    question = Question("q", "Which\nriver?", context, (Answer("Nile", 206),))
    start = context.index("Nile")
    shown = excerpt(context, Span(start, start + 4, 1.0))
    assert "The [[Nile]] is long." in shown
    assert shown.startswith("…")
    assert shown.endswith("…")
    assert in_passage(question, Span(start, start + 4, 1.0)).splitlines() == ["  Which river?", f"    {shown}"]
    wrong = in_passage(question, Span(start - 4, start + 4, 1.0))
    assert "F1 100%" not in wrong
    assert excerpt("Nile", Span(0, 4, 1.0)) == "[[Nile]]"


@pytest.mark.parametrize(("question", "passage", "best"), [(" ", "x", 1), ("x", "", 1), ("x", "x", 0)])
def test_asking_nothing(tmp_path, question, passage, best):
    with pytest.raises(InputError, match=r"empty|--best 0"):
        ask(tmp_path, question, passage, best)


def test_the_command_asks_of_a_file_or_a_text(tmp_path, data, small, capsys):
    train(tmp_path / "out", data, replace(TRAINING, epochs=1))
    capsys.readouterr()
    (tmp_path / "passage.txt").write_text("\ufeffAda found nine apples.", encoding="utf-8")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    command = ["ask", str(tmp_path / "out"), "What did Ada find?"]
    assert main([*command, "--passage", "Ada found nine apples.", "--best", "2"]) == 0
    said = capsys.readouterr().out
    assert re.fullmatch(r"( *\d+\.\d%  [^\n]*\[\[[^\n]+\]\][^\n]*\n){2}", said)
    assert main([*command, "--file", str(tmp_path / "passage.txt"), "--best", "2"]) == 0
    assert capsys.readouterr().out == said
    for wrong, message in [("none.txt", "could not be read"), ("latin.txt", "not UTF-8 (byte 3)")]:
        assert main([*command, "--file", str(tmp_path / wrong)]) == 2
        assert message in capsys.readouterr().err


def test_the_command_trains_and_reports_and_refuses_in_one_line(tmp_path, data, small, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = ["--length", "80", "--stride", "16", "--epochs", "1", "--batch-size", "8", "--threads", "1"]
    assert main(["finetune", "qa", "--data", str(data), *given]) == 0
    assert "everything is in runs/qa-1" in capsys.readouterr().out
    assert (tmp_path / "runs" / "qa-1" / "predictions.json").is_file()
    data.write_text(data.read_text().replace('"answer_start": 1', '"answer_start": 2', 1))
    assert main(["finetune", "qa", "--data", str(data)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(r"minissl: .*question '.*': answer_start \d+ gives .*, expected the answer", error)
