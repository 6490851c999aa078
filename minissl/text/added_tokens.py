"""Tokens that are found in a text before any word is cut: "[MASK]", and what a checkpoint added to its vocabulary."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import NamedTuple

_SPACE_REGEX = re.compile(r"[^\S\x1c-\x1f]")  # \s in Python holds four control characters that Unicode's has not


class AddedToken(NamedTuple):
    """A token, and how it is found in a text, as Hugging Face has it.

    `lstrip`, `rstrip`: it takes the whitespace on that side along. `single_word`: not beside a letter or a digit.
    `normalized`: it is looked for after cleaning and lower-casing. `special`: `decode` can skip it.
    """

    content: str
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = False
    special: bool = True


class Finder:
    """Finds tokens in a text, at each place the longest; `tokens` maps what the text must spell to the token."""

    def __init__(self, tokens: Mapping[str, AddedToken]) -> None:
        self._tokens = tokens
        longest_first = sorted(filter(None, tokens), key=len, reverse=True)
        self._regex = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")  # (?!) is found nowhere

    def is_in(self, text: str) -> bool:
        """Say whether the text spells a token."""
        return self._regex.search(text) is not None

    def split(self, text: str) -> list[tuple[AddedToken | None, int, int]]:
        """Cut a text into tokens and what stands between them (None), each with its start and stop."""
        parts: list[tuple[AddedToken | None, int, int]] = []
        done = 0
        for match in self._regex.finditer(text):
            token, (start, stop) = self._tokens[match[0]], match.span()
            if token.single_word and (_is_in_word(text[start - 1 : start]) or _is_in_word(text[stop : stop + 1])):
                continue
            if token.lstrip:
                start = max(start, done)  # what the token before took along
            while token.lstrip and start > done and _SPACE_REGEX.match(text, start - 1):
                start -= 1
            while token.rstrip and _SPACE_REGEX.match(text, stop):
                stop += 1
            if done < start:
                parts.append((None, done, start))
            parts.append((token, start, stop))
            done = stop
        if done < len(text):
            parts.append((None, done, len(text)))
        return parts


def _is_in_word(character: str) -> bool:
    """Say whether a character belongs to a word, as `\\w` does in Unicode's regular expressions (UTS 18, annex C)."""
    kind = unicodedata.category(character) if character else ""
    return kind[:1] in ("L", "M") or kind in ("Nd", "Nl", "Pc") or character in ("\u200c", "\u200d")
