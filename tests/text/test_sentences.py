import pytest

from minissl.text.sentences import MOST_WORDS, count_words, split_sentences


@pytest.mark.parametrize(
    "sentences",
    [
        ["Dr. Smith met J. R. Jones, e.g. in the U.S. Senate.", "He paid 3.5 dollars for it.", "Was it too much?"],
        ["He lives in the U.S.", "They came at 5 p.m. on Monday.", "It was flour, eggs, etc.", "The end came soon."],
        ['He said "Go away now."', "Then he left (by the back door.)", "[Nobody saw him.]", "“We did see him!”"],
        ["It was No. 5 in Fig. 3, cf. Sec. 2.", "He said no.", "Five men left."],
        ["And so... it went on and on.", "What is this thing...", "I do not know."],
        ['"Stop it now!" he cried to them.', "Version 3.11.2 is newer than 3.9.", "5 men came along."],
        ["1. First item is here.", "2. Second item is there."],
    ],
)
def test_recovers_sentences_that_were_joined(sentences: list[str]) -> None:
    assert split_sentences(" ".join(sentences)) == sentences
    assert split_sentences("\n   ".join(" ".join(sentences).split())) == sentences  # wrapped lines, odd spaces


def test_lower_case_text() -> None:
    sentences = ["the cat sat, e.g. on the mat.", "the dog ran away!", "what now, my friend?", "it rained a lot."]
    assert split_sentences(" ".join(sentences)) == sentences


def test_tokenised_text_splits_only_at_stops_that_stand_alone() -> None:
    sentences = [
        "H. [UNK] , of St. Louis , grew to 60 cm ( 24 in ) .",
        '" The lobsters are blue . "',
        "[UNK] said no more .",
        "Was it all blue ?",
    ]
    assert split_sentences(" " + " ".join(sentences) + " ") == sentences


def test_full_width_stops_need_no_space() -> None:
    sentences = ["今天天气很好。", "你去哪里？", "「我去学校。」"]
    assert split_sentences("".join(sentences)) == sentences


def test_short_sentences_join_a_neighbour() -> None:
    assert split_sentences("Yes. I saw him there. No. Why?") == ["Yes. I saw him there. No. Why?"]
    assert split_sentences("") == split_sentences(" \n ") == []
    assert split_sentences("Yes.") == ["Yes."]


def test_long_sentences_are_cut_at_commas_and_lose_no_word() -> None:
    words = [f"w{i}," if i % 7 == 0 else f"w{i}" for i in range(500)]
    parts = split_sentences(" ".join(words))
    assert " ".join(parts).split() == words
    assert max(len(part.split()) for part in parts) <= MOST_WORDS
    assert all(part.endswith(",") for part in parts[:-1])
    assert [len(part.split()) for part in split_sentences("word " * 130)] == [60, 60, 10]


@pytest.mark.parametrize("text", ["Yes. " * 40_000, "Foo. bar " * 40_000, "." * 50_000, "word " * 200_000])
def test_long_texts_lose_no_word(text: str) -> None:
    """A cost that grows with the square of the length would take minutes here."""
    assert " ".join(split_sentences(text)).split() == text.split()


def test_count_words() -> None:
    assert count_words("Don't re-read 3.5 pages, J. R.!") == 6
    assert count_words("我去学校 today") == 5
