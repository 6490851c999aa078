import copy
import gzip
import json
import os
import random
from pathlib import Path

import pytest

from minissl.errors import InputError
from minissl.text.squad import Answer, read_squad, split_articles

CONTEXT = "Ada Lovelace wrote the first programme in 1843. She lived in  London; Zoë 🦉 did not."


def squad(context=CONTEXT, text="1843", start=42, **entries):
    question = {"id": "q1", "question": "When?", "answers": [{"text": text, "answer_start": start}], **entries}
    return {"version": "1.1", "data": [{"title": "Ada", "paragraphs": [{"context": context, "qas": [question]}]}]}


def write(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def refusal(path, value=None):
    with pytest.raises(InputError) as caught:
        read_squad(path if value is None else write(path, value))
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_reads_articles_questions_and_answers_in_order(tmp_path):
    value = squad()
    value["data"][0]["paragraphs"].append({"context": "No questions here.", "qas": []})
    value["data"][0]["paragraphs"][0]["qas"][0]["answers"].append({"text": "in 1843", "answer_start": 39})
    (article,) = read_squad(write(tmp_path / "a.json", value))
    assert article.title == "Ada"
    assert article.contexts == (CONTEXT, "No questions here.")
    (question,) = article.questions
    assert (question.id, question.text, question.context) == ("q1", "When?", CONTEXT)
    assert question.answers == (Answer("1843", 42), Answer("in 1843", 39))
    for answer in question.answers:
        assert CONTEXT[answer.start : answer.stop] == answer.text


@pytest.mark.parametrize("name", ["a.json.gz", "gzip-under-another-name.json"])
def test_reads_gzip_by_content_and_a_byte_order_mark(tmp_path, name):
    (tmp_path / name).write_bytes(gzip.compress(b"\xef\xbb\xbf" + json.dumps(squad()).encode()))
    assert read_squad(tmp_path / name)[0].questions[0].id == "q1"


@pytest.mark.parametrize(
    ("text", "start", "said"),
    [
        ("1843", 43, ["'843.'", "'1843'", "stands at 42", "one less", "counted from 1"]),
        ("1843", 41, ["stands at 42"]),
        ("1843", -1, ["outside the passage of 84 characters"]),
        ("1843", 84, ["outside the passage of 84 characters"]),
        ("not.", CONTEXT[:80].encode().__len__(), ["stands at 80", "bytes counted"]),
        ("not.", 81, ["stands at 80", "one less"]),
        ("London", 61, ["stands at 62", "white space made single"]),
        ("in London", 58, ["other white space or capitals"]),
        ("ada lovelace", 0, ["other white space or capitals"]),
        ("Babbage", 0, ["'Ada Lov'", "nowhere in the passage", "another paragraph"]),
    ],
)
def test_an_answer_that_is_not_where_it_should_be_names_the_slip(tmp_path, text, start, said):
    message = refusal(tmp_path / "a.json", squad(text=text, start=start))
    assert "question 'q1'" in message
    assert f"answer_start {start}" in message
    for part in said:
        assert part in message


def test_utf16_units_are_named(tmp_path):
    context = "🦉🦉🦉🦉 owl"
    assert "UTF-16 units" in refusal(tmp_path / "a.json", squad(context, "owl", 9))
    assert read_squad(write(tmp_path / "b.json", squad(context, "owl", 5)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v.pop("data"), ["has no 'data'", "version"]),
        (lambda v: v.update(data={}), ["'data' is an object, expected a list"]),
        (lambda v: v.update(data=[]), ["no question at all"]),
        (lambda v: v["data"].append(7), ["article 2", "expected an object", "a whole number"]),
        (lambda v: v["data"][0].update(title=None), ["'title' is None"]),
        (lambda v: v["data"][0]["paragraphs"][0].pop("qas"), ["paragraph 1", "no 'qas'"]),
        (lambda v: v["data"][0]["paragraphs"][0].update(context=""), ["'context' is empty"]),
        (lambda v: v["data"][0]["paragraphs"][0]["qas"][0].update(id=5), ["'id' is a whole number, expected a text"]),
        (lambda v: v["data"][0]["paragraphs"][0]["qas"][0].update(question=[]), ["'question' is a list"]),
        (lambda v: v["data"][0]["paragraphs"][0]["qas"][0].update(question="\ud800"), ["surrogate"]),
        (lambda v: v["data"][0]["paragraphs"][0]["qas"][0].update(answers=[]), ["v2.0"]),
        (lambda v: v["data"][0]["paragraphs"][0]["qas"][0].update(is_impossible=True), ["v2.0"]),
        (lambda v: v["data"][0]["paragraphs"][0]["qas"][0]["answers"][0].update(answer_start="42"), ["is a text"]),
        (lambda v: v["data"][0]["paragraphs"][0]["qas"][0]["answers"][0].update(answer_start=42.0), ["is 42.0"]),
        (lambda v: v["data"][0]["paragraphs"][0]["qas"][0]["answers"][0].update(answer_start=True), ["is True"]),
        (lambda v: v["data"][0]["paragraphs"][0]["qas"][0]["answers"][0].update(text=" "), ["'text' is empty"]),
        (lambda v: v["data"].append(copy.deepcopy(v["data"][0])), ["'q1' is used twice"]),
    ],
)
def test_odd_entries_are_named(tmp_path, change, said):
    value = squad()
    change(value)
    message = refusal(tmp_path / "a.json", value)
    for part in said:
        assert part in message


@pytest.mark.parametrize("is_impossible", [False, None])
def test_version_2_files_are_read_where_every_question_has_an_answer(tmp_path, is_impossible):
    assert read_squad(write(tmp_path / "a.json", squad(is_impossible=is_impossible)))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (json.dumps(squad()).encode()[:-9], "line 1, column"),
        (b"[" * 100_000, "no JSON that can be read"),
        (b'{"data": ' + b"9" * 5000 + b"}", "no JSON that can be read"),
        (b'{"data": "\xff"}', "not UTF-8 (byte 10)"),
        (b"[1]", "expected an object with 'data'"),
        (gzip.compress(json.dumps(squad()).encode())[:-12], "gzip is damaged"),
        (gzip.compress(json.dumps(squad()).encode())[:3], "gzip is damaged"),
        (b"\x1f\x8bnonsense", "gzip is damaged"),
    ],
)
def test_damaged_files(tmp_path, content, said):
    (tmp_path / "a.json").write_bytes(content)
    assert said in refusal(tmp_path / "a.json")


def test_no_file_a_folder_and_a_bomb(tmp_path, monkeypatch):
    assert "no such file" in refusal(tmp_path / "none.json")
    assert "could not be read" in refusal(tmp_path)
    monkeypatch.setattr("minissl.text.squad.MOST_BYTES", 1 << 20)
    (tmp_path / "bomb.json.gz").write_bytes(gzip.compress(b" " * (1 << 22)))
    assert "more than 1 MiB" in refusal(tmp_path / "bomb.json.gz")


def test_no_change_of_a_byte_breaks_the_reader(tmp_path):
    """Whatever a byte becomes, the file is read or refused in one line."""
    rng = random.Random(0)
    plain = json.dumps(squad()).encode()
    path = tmp_path / "a.json"
    messages = []
    for _ in range(400):
        content = bytearray(rng.choice([plain, gzip.compress(plain, mtime=0)]))
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(content)
        try:
            read_squad(path)
        except InputError as error:
            messages.append(str(error))
    assert len(messages) > 100
    assert not [message for message in messages if "\n" in message]


def articles(tmp_path, counts):
    context = "It was blue."
    data = [
        {
            "title": f"article {i}",
            "paragraphs": [
                {
                    "context": context,
                    "qas": [
                        {"id": f"{i}-{j}", "question": "What?", "answers": [{"text": "blue", "answer_start": 7}]}
                        for j in range(count)
                    ],
                }
            ],
        }
        for i, count in enumerate(counts)
    ]
    return read_squad(write(tmp_path / "articles.json", {"data": data}))


def test_split_keeps_articles_whole_and_holds_out_about_the_share(tmp_path):
    given = articles(tmp_path, [10, 3, 7, 5, 8, 2, 9, 6])
    seen = set()
    for seed in range(8):
        train, heldout = split_articles(given, 0.3, seed)
        assert sorted(train + heldout) == sorted(given)
        assert train == [a for a in given if a in train]  # the file's order
        asked = sum(len(a.questions) for a in heldout)
        assert 0 < asked <= 15
        assert split_articles(given, 0.3, seed) == (train, heldout)
        seen.add(tuple(a.title for a in heldout))
    assert len(seen) > 1


def test_split_of_two_articles_and_of_too_few(tmp_path):
    train, heldout = split_articles(articles(tmp_path, [9, 2, 0]), 0.01)
    assert [len(a.questions) for a in train] == [9, 0]
    assert [len(a.questions) for a in heldout] == [2]
    with pytest.raises(InputError, match=r"1 article\(s\) with questions"):
        split_articles(articles(tmp_path, [4, 0]))
    for share in (0, 1, 20):
        with pytest.raises(InputError, match="share"):
            split_articles(articles(tmp_path, [4, 5]), share)


@pytest.mark.skipif(not os.environ.get("MINISSL_DATA"), reason="needs MINISSL_DATA: SQuAD")
def test_the_shared_articles():
    path = Path(os.environ["MINISSL_DATA"], "qa", "squad", "squad-v1.1-dev-32articles.json.gz")
    if not path.is_file():
        pytest.skip(f"{path.name} is not in MINISSL_DATA")
    given = read_squad(path)
    assert (len(given), sum(len(a.contexts) for a in given), sum(len(a.questions) for a in given)) == (32, 1267, 6678)
    train, heldout = split_articles(given)
    assert {a.title for a in train}.isdisjoint(a.title for a in heldout)
    assert 0.15 < sum(len(a.questions) for a in heldout) / 6678 <= 0.2
