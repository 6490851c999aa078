"""Splitting English text into sentences by rules: full stops are judged by the words on both sides of them."""

from __future__ import annotations

import re

LEAST_WORDS = 3  # a shorter sentence joins its neighbour: "Yes." alone says nothing about what follows
MOST_WORDS = 60  # a longer one is cut at a comma: text without full stops must still give pieces that fit a model

_CLOSERS = "\"'”’»)\\]}"
# The stops (group 1), what closes behind them, and the space; or full-width stops, after which no space is written.
_STOP = re.compile(rf"(?<![.!?…])([.!?…]+)[{_CLOSERS}]*\s+|[。！？]+[」』”）]*")
# In tokenised text (WikiText) a stop stands alone between two spaces.
_ALONE = re.compile(r"(?:^|\s)[.!?](?:\s|$)")
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+(?:['’.-]\w+)*")
_CUT = re.compile(r"(?<=[,;:—])\s+")

# Words before a full stop, without it: those that never end a sentence, those that may, those that a number follows
# ("No. 5", but "He said no. Five left."); and words with which a sentence often begins.
_NEVER_LAST = re.compile(
    "Mrs?|Ms|Dr|Prof|Rev|Hon|Gen|Col|Maj|Capt|Cmdr|Lt|Sgt|Gov|Sen|Rep|Pres|Ste?|Mt|Mme|Mlle|Messrs|Ft|e\\.?g|i\\.?e|cf|"
    "viz|vs|ca|al|approx|incl|resp|[Ff]igs?|[Ee]qs?|[Ss]ec|[Cc]h|[Vv]ol|pp|eds?|trans|"
    "Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec"
)
_MAY_BE_LAST = re.compile(r"(?:[A-Za-z]\.)+[A-Za-z]|etc|Inc|Ltd|Co|Corp|[JS]r|Ph\.D|Bros|Ave|Blvd|Rd")
_BEFORE_NUMBER = re.compile("[Nn]os?|p|[Aa]rt|[Oo]p")
_STARTER = re.compile(
    r"\W*(?:The|An?|It|S?[Hh]e|They|We|You|I|This|That|These|Those|There|In|On|At|By|For|From|If|When|While|As|But|And|Or|"
    r"So|Then|However|Although|After|Before|During|His|Her|Its|Their|Our|My|Your)\b"
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
    stops = list(_STOP.finditer(text))
    begins = [_first_letter(text), *(_first_letter(text[match.end() : match.end() + 9]) for match in stops)]
    cased = 2 * sum(letter.islower() for letter in begins) <= len(begins)
    tokenised = _ALONE.search(text) is not None
    pieces, start = [], 0
    for match, following in zip(stops, begins[1:], strict=True):
        end = match.end()
        if match[1] and not _ends_sentence(text, start, match, following, cased, tokenised):
            continue
        if tokenised and text.startswith('" ', end) and text.count('"', start, end) % 2:
            end += 2  # a lone quotation mark that closes belongs to this sentence
        pieces.append(text[start:end].strip())
        start = end
    pieces.append(text[start:].strip())
    return [part for piece in _join_short([p for p in pieces if p]) for part in _cut_long(piece)]


def _first_letter(text: str) -> str:
    """Return the first character behind opening quotes and brackets; none for [UNK], whose case is not known."""
    text = text.lstrip("\"'“‘«([ ")
    return "" if text.startswith("UNK]") else text[:1]


def _ends_sentence(text: str, start: int, match: re.Match[str], following: str, cased: bool, tokenised: bool) -> bool:
    """Say whether the stops that `match` found end the sentence from `start`, by the word before and what follows."""
    if cased and following.islower():
        return False
    if match[1] != ".":
        return True
    stop = match.start()
    word = text[max(start, stop - 30) : stop].rpartition(" ")[2].lstrip("\"'“‘«([")
    if not word:
        return stop > start  # the stop stands alone
    if tokenised:
        return False  # here every stop that ends a sentence stands alone
    if _NEVER_LAST.fullmatch(word) or (_BEFORE_NUMBER.fullmatch(word) and following.isdigit()):
        return False
    if stop - start == len(word) and (len(word) == 1 or word.isdigit()):
        return False  # "1. First item", "A. Lincoln"
    if len(word) == 1 and word.isupper() and word != "I":
        return False  # an initial
    if _MAY_BE_LAST.fullmatch(word):
        return not cased or _STARTER.match(text, match.end()) is not None
    return True


def _join_short(sentences: list[str]) -> list[str]:
    """Join each sentence under LEAST_WORDS to the one before it, and a short first one to the second."""

    def short(sentence: str) -> bool:
        return len(sentence) < 100 and count_words(sentence) < LEAST_WORDS

    joined: list[str] = []
    for sentence in sentences:
        if joined and (short(joined[-1]) or (short(sentence) and len(joined[-1]) < 400)):
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
        for i in range(0, len(words), MOST_WORDS):
            if len(parts[-1]) + len(words[i : i + MOST_WORDS]) > MOST_WORDS:
                parts.append([])
            parts[-1] += words[i : i + MOST_WORDS]
    return [" ".join(part) for part in parts]
