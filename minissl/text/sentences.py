"""Splitting English text into sentences by rules: full stops are judged by the words on both sides of them."""

from __future__ import annotations

import re

LEAST_WORDS = 3  # a shorter sentence joins its neighbour: "Yes." alone says nothing about what follows
MOST_WORDS = 60  # a longer one is cut at a comma: text without full stops must still give pieces that fit a model

_CLOSERS = "\"'”’»)\\]}"
# The stops, what closes behind them, and the space: groups are the stops and the next two characters. In tokenised
# text (WikiText) the stop stands alone between two spaces.
_STOP = re.compile(rf"([.!?…]+)[{_CLOSERS}]*\s+(?=(\S\S?))|[。！？]+[」』”）]*()")
_WORD_BEFORE = re.compile(r"\S+\Z")
_ALONE = re.compile(r"(?:^|\s)[.!?](?:\s|$)")
_INNER_STOPS = re.compile(r"(?:[A-Za-z]\.)+[A-Za-z]")  # U.S  p.m  Ph.D is in the list
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+(?:['’.-]\w+)*")
_CUT = re.compile(r"(?<=[,;:—])\s+")

_NEVER_LAST = frozenset(
    "Mr Mrs Ms Dr Prof Rev Hon Gen Col Maj Capt Cmdr Lt Sgt Gov Sen Rep Pres St Ste Mt Ft Messrs Mme Mlle Sr. "
    "e.g i.e eg ie cf viz vs ca al approx incl resp Fig fig Figs figs Eq eq Eqs Sec sec Ch ch Vol vol pp ed eds trans "
    "Jan Feb Mar Apr Jun Jul Aug Sept Sep Oct Nov Dec".split()
)
_SOMETIMES_LAST = frozenset("etc Inc Ltd Co Corp Jr Sr Ph.D Bros Ave Blvd Rd a.m p.m".split())
_NUMBERED = frozenset("No no Nos nos p Art art Op op".split())  # "No. 5", but "He said no. Five left."
_STARTERS = frozenset(
    "The A An It He She They We You I This That These Those There In On At By For From If When While As But And Or So "
    "Then However Although After Before During His Her Its Their Our My Your".split()
)


def count_words(text: str) -> int:
    """Count words; a Chinese or Japanese character counts as one, as it becomes one token."""
    return len(_WORD.findall(text))


def split_sentences(text: str) -> list[str]:
    """Return the sentences of one paragraph, in order, with the white space inside each made single.

    Handles abbreviations, initials, decimals, ellipses, closing quotes, lower-case text and tokenised text (` . `).
    Sentences under LEAST_WORDS join a neighbour, sentences over MOST_WORDS are cut.
    """
    text = " ".join(text.split())
    cased = text != text.lower()
    tokenised = _ALONE.search(text) is not None
    pieces, start = [], 0
    for match in _STOP.finditer(text):
        end = match.end()
        if match[3] is None:
            if not _ends_sentence(text[start : match.end(1)], match, cased, tokenised):
                continue
            if tokenised and text[start:end].count('"') % 2 and text.startswith('" ', end):
                end += 2  # a lone quotation mark that closes belongs to this sentence
        pieces.append(text[start:end].strip())
        start = end
    pieces.append(text[start:].strip())
    return [part for piece in _join_short([p for p in pieces if p]) for part in _cut_long(piece)]


def _ends_sentence(sentence: str, match: re.Match[str], cased: bool, tokenised: bool) -> bool:
    """Say whether the stops that `match` found after `sentence` end it, from the word before and the word after."""
    stops, following = match[1], match[2]
    opened = following.lstrip("\"'“‘«([")[:1]
    if cased and opened.islower():
        return False
    if stops != ".":
        return True
    before = _WORD_BEFORE.search(sentence[:-1])
    if before is None or before.start() == before.end():
        return len(sentence) > 2  # a stop that stands alone
    if tokenised:
        return False  # here every stop that ends a sentence stands alone
    word = before[0].lstrip("\"'“‘«([")
    if word in _NEVER_LAST or (word in _NUMBERED and opened.isdigit()):
        return False
    if before.start() == 0 and (len(word) == 1 or word.isdigit()):
        return False  # "1. First item", "A. Lincoln"
    if len(word) == 1 and word.isupper() and word != "I":
        return False  # an initial
    if _INNER_STOPS.fullmatch(word) or word in _SOMETIMES_LAST:
        next_word = re.match(r"\W*(\w*)", match.string[match.end() :])
        return not cased or (next_word is not None and next_word[1] in _STARTERS)
    return True


def _join_short(sentences: list[str]) -> list[str]:
    """Join each sentence under LEAST_WORDS to the one before it, and a short first one to the second."""
    joined: list[str] = []
    for sentence in sentences:
        if joined and (count_words(sentence) < LEAST_WORDS or count_words(joined[-1]) < LEAST_WORDS):
            joined[-1] += " " + sentence
        else:
            joined.append(sentence)
    return joined


def _cut_long(sentence: str) -> list[str]:
    """Cut a sentence of more than MOST_WORDS words, at commas where there are any."""
    if sentence.count(" ") < MOST_WORDS:
        return [sentence]
    parts: list[list[str]] = [[]]
    for clause in _CUT.split(sentence):
        words = clause.split()
        if parts[-1] and len(parts[-1]) + len(words) > MOST_WORDS:
            parts.append([])
        parts[-1] += words
        while len(parts[-1]) > MOST_WORDS:
            parts[-1:] = [parts[-1][:MOST_WORDS], parts[-1][MOST_WORDS:]]
    return [" ".join(part) for part in parts]
