"""What a tokenizer returns, and how texts are cut and filled up to a length: counts and places, no words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

from minissl.errors import InputError

SURROGATE_REGEX = re.compile("[\ud800-\udfff]")

Item = TypeVar("Item")
Span = tuple[int, int]  # from … up to, without the end


class Layout(NamedTuple):
    """How rows are made of texts: the tokens of each row's first and second text, and what stands round them."""

    sizes: list[tuple[int, int | None]]  # (n_first, n_second); None for no second text
    n_edge: int  # special tokens at each edge: 1, or 0 without any
    length: int  # up to which rows are filled
    side: str

    def fill(
        self, of_first: Item, of_second: Item, of_edges: tuple[Item, Item, Item], of_padding: Item
    ) -> list[list[Item]]:
        """Return rows that hold one value for each kind of token: `of_edges` for [CLS], [SEP] and the last [SEP]."""
        cls, sep, end = ([item] * self.n_edge for item in of_edges)
        rows = []
        for n_first, n_second in self.sizes:
            row = cls + [of_first] * n_first + sep
            rows.append(row if n_second is None else row + [of_second] * n_second + end)
        return self.pad(rows, of_padding)

    def join(
        self, rows: Iterable[tuple[list[Item], list[Item] | None]], edges: tuple[Item, Item, Item], filler: Item
    ) -> list[list[Item]]:
        """Put the edges round the texts of each row, and fill it up."""
        cls, sep, end = ([item] * self.n_edge for item in edges)
        return self.pad(
            [cls + a + sep if b is None else cls + a + sep + b + end for a, b in rows],
            filler,
        )

    def pad(self, rows: list[list[Item]], filler: Item) -> list[list[Item]]:
        """Fill rows up to `length`; longer ones stay as they are."""
        if self.side == "right":
            return [row + [filler] * (self.length - len(row)) for row in rows] if self.length else rows
        return [[filler] * (self.length - len(row)) + row for row in rows] if self.length else rows


class BatchEncoding(dict[str, Any]):
    """What a model takes: a dict whose entries can be read as attributes too."""

    def __init__(self, entries: Mapping[str, Any], layout: Layout | None = None) -> None:
        super().__init__(entries)
        self._layout = layout

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"this encoding has no {name!r}, it has {', '.join(self)}") from None

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """Return, for each token of a row, 0 or 1 for the text that it belongs to; None for special tokens and padding.

        InputError: there is no such row.
        """
        sizes = self._layout.sizes if self._layout else []
        if self._layout is None or not -len(sizes) <= batch_index < len(sizes):
            raise InputError(f"sequence_ids({batch_index}): this encoding has the texts of {len(sizes)} rows")
        one_row = self._layout._replace(sizes=[sizes[batch_index]])
        return one_row.fill(0, 1, (None, None, None), None)[0]


def as_pairs(text: Any, text_pair: Any) -> list[tuple[str, str | None]]:
    """Bring every accepted form of input to a list of (text, second text or None).

    InputError: another type, no text at all, or half a character (a lone surrogate).
    """
    pairs: list[Any]
    if isinstance(text, str):
        # as in Hugging Face, an empty second text is none here, but not in a list
        pairs = [(text, None if isinstance(text_pair, str) and not text_pair else text_pair)]
    elif not isinstance(text, list | tuple) or not text:
        raise InputError(
            f"text to encode: expected a string or a list of strings with something in it, got {_say(text)}"
        )
    elif text_pair is None:
        pairs = [(item, None) if isinstance(item, str) else item for item in text]
    elif isinstance(text_pair, list | tuple) and len(text_pair) == len(text):
        pairs = list(zip(text, text_pair, strict=True))
    else:
        raise InputError(f"text_pair: for a list of {len(text)} texts, expected a list of {len(text)} second texts")
    for pair in pairs:
        fits = isinstance(pair, list | tuple) and len(pair) == 2
        if not fits or not isinstance(pair[0], str) or not isinstance(pair[1], str | None):
            raise InputError(f"text to encode: expected a string or a pair of strings, got {_say(pair)}")
        for part in pair:
            if part and not part.isascii() and (half := SURROGATE_REGEX.search(part)):
                raise InputError(
                    f"text to encode: U+{ord(half[0]):X} at character {half.start()} is half a character; "
                    "was the text read in the wrong encoding?"
                )
    return pairs


def as_columns(encoded: Any) -> tuple[dict[str, list[Any]], bool]:
    """Bring encodings to one dict of rows, and say whether it was a single row.

    InputError: another type, no `input_ids`, encodings that differ in their entries, entries that differ in their rows.
    """
    if isinstance(encoded, list | tuple) and encoded and all(isinstance(row, Mapping) for row in encoded):
        if any(row.keys() != encoded[0].keys() for row in encoded):
            raise InputError("encodings to pad: they differ in their entries, expected the same in each")
        encoded = {name: [row[name] for row in encoded] for name in encoded[0]}
    if not isinstance(encoded, Mapping) or "input_ids" not in encoded:
        raise InputError(f"encodings to pad: expected a dict with input_ids or a list of them, got {_say(encoded)}")
    columns = {name: [_as_list(row) for row in _as_list(column)] for name, column in encoded.items()}
    is_one = not columns["input_ids"] or not isinstance(columns["input_ids"][0], list)
    if is_one:
        return {name: [column] for name, column in columns.items()}, True
    if len({len(column) for column in columns.values()}) > 1:
        raise InputError("encodings to pad: the entries have several numbers of rows, expected one")
    return columns, False


def _as_list(value: Any) -> Any:
    """An array, a tuple or an array's number, as Python's own."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value


def _say(value: Any) -> str:
    """Show a value of any kind and size in one short line."""
    shown = " ".join(repr(value).split())
    return f"{shown if len(shown) <= 60 else shown[:60] + '…'} ({type(value).__name__})"


def truncate(n_first: int, n_second: int | None, strategy: str, max_length: int, n_special: int) -> tuple[int, int]:
    """Return how many tokens of each text fit into `max_length` beside the special tokens; `n_second` None is no text.

    "longest_first" takes from the longer text until both are equally long, then from both. InputError: impossible.
    """
    room = max_length - n_special
    excess = n_first + (n_second or 0) - room
    if room < 0:  # Hugging Face would silently return everything, longer than asked
        raise InputError(f"max_length {max_length} has no room for the {n_special} special tokens; make it longer")
    if excess <= 0:
        return n_first, n_second or 0
    if room == 0:
        return 0, 0
    if strategy == "longest_first":
        if n_second is None:
            return room, 0
        n_shorter = min(n_first, n_second, room // 2)
        kept = n_shorter if n_first <= n_second else room - n_shorter
        return kept, room - kept
    n_cut = n_first if strategy == "only_first" else n_second
    if n_cut is None or n_cut <= excess:
        given = "no second text was given" if n_cut is None else f"it has {n_cut} tokens and {excess} must go"
        raise InputError(f'truncation="{strategy}" cannot reach max_length {max_length}: {given}; try "longest_first"')
    return (n_cut - excess, n_second or 0) if strategy == "only_first" else (n_first, n_cut - excess)


def windows(n_tokens: int, size: int, stride: int) -> list[Span]:
    """Cut a text into windows of `size` tokens, each of which begins with the last `stride` tokens of the one before.

    InputError: windows that never get to the end.
    """
    if n_tokens <= size:
        return [(0, n_tokens)]
    if not 0 <= stride < size:
        raise InputError(
            f"stride {stride}: a window holds {size} tokens of a text beside the other text and the special tokens, "
            "expected a stride from 0 to one less; lower it, or raise max_length"
        )
    starts = range(0, n_tokens - stride, size - stride)
    return [(start, min(start + size, n_tokens)) for start in starts]


def pair_windows(firsts: list[Span], seconds: list[Span]) -> list[tuple[Span, Span]]:
    """Return each window of one text beside each of the other, in Hugging Face's order: both first ones come first."""
    return [
        (firsts[0], seconds[0]),
        *((first, second) for first in firsts[1:] for second in seconds),
        *((firsts[0], second) for second in seconds[1:]),
    ]
