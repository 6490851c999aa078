"""BERT's tokenizer: the same ids as Hugging Face's `BertTokenizerFast`, under the same names."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from minissl.backend import require_ids
from minissl.errors import InputError
from minissl.files import write_json, write_whole
from minissl.hub import find_folder
from minissl.text.added_tokens import AddedToken, Finder
from minissl.text.encoding import BatchEncoding, Layout, Span, as_columns, as_pairs, pair_windows, truncate, windows
from minissl.text.tokenizer_files import (
    CONFIG_TYPES,
    SETTINGS,
    SPECIAL_NAMES,
    VOCABULARIES,
    in_order,
    read_folder,
    read_vocab,
)
from minissl.text.wordpiece import (
    align,
    align_words,
    find_chunks,
    longest_match,
    normalize,
    split_chunks,
    split_words,
)

Ids = Sequence[int] | NDArray[Any]

_UNLIMITED = 10**20  # in Hugging Face a model_max_length above this stands for "none"
_CACHED_CHUNKS = 65536
_CACHED_CHARS = 64  # longer chunks are rare and seldom come again
_PADDINGS = {False: None, "do_not_pad": None, True: "longest", "longest": "longest", "max_length": "max_length"}
_TRUNCATIONS: dict[bool | str, str | None] = {False: None, "do_not_truncate": None, True: "longest_first"}
_TRUNCATIONS |= {cut: cut for cut in ("longest_first", "only_first", "only_second")}
_SIDES = {"right": "right", "left": "left"}
_TIGHTER = {" .": ".", " ?": "?", " !": "!", " ,": ",", " ' ": "'", " n't": "n't", " 'm": "'m", " 's": "'s"}
_TIGHTER |= {" 've": "'ve", " 're": "'re"}


class BertTokenizer:
    """Text to ids and back.

    The vocabulary comes from `vocab_file` (one token a line) or `vocab`, a list of tokens or a dict token → id.
    `strip_accents=None` follows `do_lower_case`. `added_tokens` are found in the text before any word is cut, as the
    special tokens are; those that the vocabulary lacks get the ids after it. Attributes: `vocab`, token → id;
    `word_start`, for each id whether it begins a word (False for "##" pieces), shape (V,).
    InputError: no vocabulary or two, a broken one, or one that lacks a special token.
    """

    def __init__(
        self,
        vocab_file: str | os.PathLike[str] | None = None,
        *,
        vocab: Sequence[str] | Mapping[str, int] | None = None,
        do_lower_case: bool = True,
        strip_accents: bool | None = None,
        tokenize_chinese_chars: bool = True,
        model_max_length: int = 512,
        padding_side: str = "right",
        clean_up_tokenization_spaces: bool = False,
        unk_token: str = "[UNK]",
        sep_token: str = "[SEP]",
        pad_token: str = "[PAD]",
        cls_token: str = "[CLS]",
        mask_token: str = "[MASK]",
        extra_special_tokens: Sequence[str] = (),
        added_tokens: Sequence[AddedToken] = (),
    ) -> None:
        if vocab_file is not None and vocab is None:
            self._tokens = read_vocab(Path(vocab_file))
        elif vocab is not None and vocab_file is None:
            self._tokens = in_order(vocab)
        else:
            raise InputError("BertTokenizer: expected one vocabulary, as vocab_file (a path) or as vocab (the tokens)")
        self.do_lower_case = do_lower_case
        self.strip_accents = strip_accents
        self.tokenize_chinese_chars = tokenize_chinese_chars
        self.model_max_length = model_max_length
        self.padding_side = _option("padding_side", padding_side, _SIDES)
        self.clean_up_tokenization_spaces = clean_up_tokenization_spaces
        self.unk_token, self.sep_token, self.pad_token = unk_token, sep_token, pad_token
        self.cls_token, self.mask_token = cls_token, mask_token
        self.extra_special_tokens = list(extra_special_tokens)
        named = [unk_token, sep_token, pad_token, cls_token, mask_token]
        self._pieces = {token: index for index, token in enumerate(self._tokens)}  # what a word is cut into
        self._added = {token.content: token for token in added_tokens}
        missing = [token for token in named if token not in self._pieces and token not in self._added]
        if missing:
            shown = ", ".join(token if token.isprintable() else repr(token) for token in missing)
            raise InputError(f"vocabulary: no {shown} in it, expected every special token; is it BERT's?")
        self.all_special_tokens = list(dict.fromkeys([*named, *extra_special_tokens]))
        for token in self.all_special_tokens:
            self._added.setdefault(token, AddedToken(token))
        for token in named:
            self._added[token] = self._added[token]._replace(special=True)
        self.vocab = dict(self._pieces)
        for token in self._added:
            self.vocab.setdefault(token, len(self.vocab))
        self._tokens = list(self.vocab)
        self.all_special_ids = [self.vocab[token] for token in self.all_special_tokens]
        self.unk_token_id, self.sep_token_id, self.pad_token_id = (self.vocab[token] for token in named[:3])
        self.cls_token_id, self.mask_token_id = (self.vocab[token] for token in named[3:])
        self.word_start: NDArray[np.bool_] = np.array([not token.startswith("##") for token in self._tokens])
        self._rules = do_lower_case, strip_accents, tokenize_chinese_chars
        added = self._added.values()
        normalized = {normalize(token.content, *self._rules): token for token in added if token.normalized}
        for spelling, added_token in normalized.items():
            self._tokens[self.vocab[added_token.content]] = spelling  # the name that Hugging Face gives the id
        self._finder = Finder({token.content: token for token in added if not token.normalized})
        self._later_finder = Finder(normalized) if normalized else None
        self._chunk_ids: dict[str, list[int]] = {}
        self._chunk_spans: dict[str, list[Span]] = {}

    @classmethod
    def from_pretrained(cls, name_or_folder: str | os.PathLike[str], **overrides: Any) -> BertTokenizer:
        """Read a folder that `save_pretrained` or Hugging Face wrote, or a model by name (see `hub`).

        `overrides` win over what the files say. Where they say nothing, `do_lower_case` is True and there is no
        `model_max_length`, as in Hugging Face. InputError: files missing, broken or another kind of tokenizer's.
        """
        folder = find_folder(name_or_folder, VOCABULARIES, SETTINGS)
        return cls(**(read_folder(folder) | overrides))

    def save_pretrained(self, folder: str | os.PathLike[str]) -> tuple[str, str]:
        """Write `vocab.txt` and `tokenizer_config.json`, which Hugging Face opens too, and return their paths."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        vocab_path, config_path = folder / "vocab.txt", folder / "tokenizer_config.json"
        write_whole(vocab_path, "".join(f"{token}\n" for token in self._pieces))
        config = {name: getattr(self, name) for name in (*CONFIG_TYPES, *SPECIAL_NAMES)}
        plain = [AddedToken(getattr(self, name)) for name in SPECIAL_NAMES]
        if not all(token in plain for token in self._added.values()):
            added = {self.vocab[content]: token._asdict() for content, token in self._added.items()}
            config |= {"added_tokens_decoder": added, "extra_special_tokens": self.extra_special_tokens}
        write_json(config_path, config | {"tokenizer_class": "BertTokenizer"})
        return str(vocab_path), str(config_path)

    @property
    def vocab_size(self) -> int:
        """The number of tokens in the vocabulary alone, without those that were added to it."""
        return len(self._pieces)

    def __len__(self) -> int:
        """The number of tokens, V."""
        return len(self._tokens)

    def get_vocab(self) -> dict[str, int]:
        """Return a copy of `vocab`."""
        return dict(self.vocab)

    def encode_words(self, text: str) -> list[int]:
        """Return the ids of the words alone: no special token is added, and none that the text spells is recognised."""
        ids: list[int] = []
        for chunk in split_chunks(text):
            known = self._chunk_ids.get(chunk)
            ids += self._encode_chunk(chunk) if known is None else known
        return ids

    def _encode_chunk(self, chunk: str) -> list[int]:
        """Work out the ids of text without whitespace, and remember them within bounds."""
        ids: list[int] = []
        for word in split_words(chunk, *self._rules):
            ids += longest_match(word, self._pieces) or [self.unk_token_id]
        _remember(self._chunk_ids, chunk, ids)
        return ids

    def _encode_text(self, text: str) -> list[int]:
        """Return the ids of a text where "[MASK]", or another special or added token that it spells, is that token."""
        if self._later_finder is None and not self._finder.is_in(text):
            return self.encode_words(text)
        ids: list[int] = []
        for token, part, _ in self._split_added(text):
            ids += self.encode_words(part) if token is None else [self.vocab[token.content]]
        return ids

    def _split_added(self, text: str) -> list[tuple[AddedToken | None, str, Sequence[int]]]:
        """Cut out the added tokens: for each part its token or None, its text, and each character's place in `text`."""
        parts: list[tuple[AddedToken | None, str, Sequence[int]]] = []
        for token, start, stop in self._finder.split(text):
            part = text[start:stop]
            if token is None and self._later_finder and self._later_finder.is_in(normalize(part, *self._rules)):
                part, places = align(part, *self._rules)
                for later, i, j in self._later_finder.split(part):
                    parts.append((later, part[i:j], [start + place for place in places[i:j]]))
            else:
                parts.append((token, part, range(start, stop)))
        return parts

    def _find_spans(self, text: str) -> list[Span]:
        """Return where in the text each token of `_encode_text` stands."""
        spans: list[Span] = []
        for token, part, places in self._split_added(text):
            if token is not None:
                spans.append((places[0], places[-1] + 1))
                continue
            for at, chunk in find_chunks(part):
                for start, stop in self._chunk_spans.get(chunk) or self._find_chunk_spans(chunk):
                    spans.append((places[at + start], places[at + stop - 1] + 1))
        return spans

    def _find_chunk_spans(self, chunk: str) -> list[Span]:
        """Work out where in text without whitespace its tokens stand, and remember it within bounds."""
        spans: list[Span] = []
        for word, places in align_words(chunk, *self._rules):
            pieces = longest_match(word, self._pieces)
            lengths = [len(word)] if pieces is None else [len(self._tokens[index]) for index in pieces]
            start = 0
            for length in lengths:
                stop = start + length - (2 if start else 0)  # without the "##"
                spans.append((places[start], places[stop - 1] + 1))
                start = stop
        _remember(self._chunk_spans, chunk, spans)
        return spans

    def __call__(
        self,
        text: str | Sequence[Any],
        text_pair: str | Sequence[str] | None = None,
        *,
        add_special_tokens: bool = True,
        padding: bool | str = False,
        truncation: bool | str | None = None,
        max_length: int | None = None,
        stride: int = 0,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_tensors: str | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
    ) -> BatchEncoding:
        """Encode a text as [CLS] a [SEP], a pair as [CLS] a [SEP] b [SEP], or a list of texts or of pairs.

        `padding`: True or "longest", "max_length"; rounded up to `pad_to_multiple_of`. `truncation`: True or
        "longest_first", "only_first", "only_second".
        The length is `max_length`, else `model_max_length`; `max_length` without `padding` truncates.
        `return_overflowing_tokens`: what is cut off comes back as further rows, windows that share `stride` tokens,
        and `overflow_to_sample_mapping` says which text each row is from. `return_offsets_mapping`: `offset_mapping`
        holds each token's (start, stop) in its own text, (0, 0) for special tokens and padding.
        Returns a list of ids for one text, a list of lists for several, int64 arrays (B, T) for `return_tensors="np"`.
        InputError: an unknown option, a length that cannot be reached, rows of several lengths for one array.
        """
        if return_tensors not in (None, "np"):
            raise InputError(f'return_tensors={return_tensors!r}: only "np" (NumPy arrays) and None (lists) work here')
        if truncation is None:
            truncation = max_length is not None and padding is False
        cut = _option("truncation", truncation, _TRUNCATIONS)
        pad_to = _option("padding", padding, _PADDINGS)
        side = _option("padding_side", padding_side or self.padding_side, _SIDES)
        max_length = _count("max_length", max_length, 0)
        multiple = _count("pad_to_multiple_of", pad_to_multiple_of, 1) or 1
        if max_length is None and self.model_max_length <= _UNLIMITED:
            max_length = self.model_max_length
        if cut is not None and pad_to is not None and max_length is not None and max_length % multiple:
            raise InputError(f"max_length {max_length} is no multiple of pad_to_multiple_of {multiple}, expected one")
        texts = as_pairs(text, text_pair)
        ids: list[tuple[list[int], list[int] | None]] = []
        spans: list[tuple[list[Span], list[Span] | None]] = []
        samples: list[int] = []
        for sample, (first, second) in enumerate(texts):
            a, b = self._encode_text(first), None if second is None else self._encode_text(second)
            n_a, n_b = len(a), 0 if b is None else len(b)
            if cut is not None and max_length is not None:
                n_special = (2 if b is None else 3) if add_special_tokens else 0
                n_a, n_b = truncate(n_a, None if b is None else n_b, cut, max_length, n_special)
            parts = [((0, n_a), (0, n_b))]
            if return_overflowing_tokens:
                parts = pair_windows(windows(len(a), n_a, stride), windows(len(b or ()), n_b, stride))
            ids += [(a[i:j], None if b is None else b[k:m]) for (i, j), (k, m) in parts]
            if return_offsets_mapping:
                s, t = self._find_spans(first), self._find_spans(second or "")
                spans += [(s[i:j], None if b is None else t[k:m]) for (i, j), (k, m) in parts]
            samples += [sample] * len(parts)
        sizes = [(len(a), None if b is None else len(b)) for a, b in ids]
        layout = Layout(sizes, int(add_special_tokens), 0, side)
        edges = self.cls_token_id, self.sep_token_id, self.sep_token_id
        columns: dict[str, list[Any]] = {"input_ids": layout.join(ids, edges, self.pad_token_id)}
        if pad_to is not None:
            longest = max(map(len, columns["input_ids"]))
            length = longest if pad_to == "longest" else max_length or 0
            layout = layout._replace(length=-(-length // multiple) * multiple)
            columns["input_ids"] = layout.pad(columns["input_ids"], self.pad_token_id)
        if return_token_type_ids is not False:
            columns["token_type_ids"] = layout.fill(0, 1, (0, 0, 1), 0)
        if return_attention_mask is not False:
            columns["attention_mask"] = layout.fill(1, 1, (1, 1, 1), 0)
        if return_special_tokens_mask:
            columns["special_tokens_mask"] = layout.fill(0, 0, (1, 1, 1), 1)  # not those that the text itself spells
        if return_offsets_mapping:
            columns["offset_mapping"] = layout.join(spans, ((0, 0),) * 3, (0, 0))
        if return_overflowing_tokens:
            columns["overflow_to_sample_mapping"] = samples
        elif isinstance(text, str) and return_tensors is None:
            return BatchEncoding({name: column[0] for name, column in columns.items()}, layout)
        if return_tensors is None:
            return BatchEncoding(columns, layout)
        if len(set(map(len, columns["input_ids"]))) > 1:
            raise InputError("the texts have several lengths, an array has one; add padding=True")
        return BatchEncoding({name: np.array(column, dtype=np.int64) for name, column in columns.items()}, layout)

    def pad(
        self,
        encoded_inputs: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        padding_side: str | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
    ) -> BatchEncoding:
        """Fill up rows that are encoded already: one encoding, an encoding of several rows, or a list of encodings.

        Options as in a call. Entries other than those of a call, such as labels, stay as they are; `attention_mask` is
        added where it is missing. InputError: no `input_ids`, entries of several numbers of rows, as in a call.
        """
        if return_tensors not in (None, "np"):
            raise InputError(f'return_tensors={return_tensors!r}: only "np" (NumPy arrays) and None (lists) work here')
        columns, is_one = as_columns(encoded_inputs)
        pad_to = _option("padding", padding, _PADDINGS)
        side = _option("padding_side", padding_side or self.padding_side, _SIDES)
        multiple = _count("pad_to_multiple_of", pad_to_multiple_of, 1) or 1
        max_length = _count("max_length", max_length, 0)
        if max_length is None and self.model_max_length <= _UNLIMITED:
            max_length = self.model_max_length
        if return_attention_mask is not False and "attention_mask" not in columns:
            columns["attention_mask"] = [[1] * len(row) for row in columns["input_ids"]]
        length = 0
        if pad_to is not None:
            length = max(map(len, columns["input_ids"]), default=0) if pad_to == "longest" else max_length or 0
        layout = Layout([], 0, -(-length // multiple) * multiple, side or "right")
        fillers = {"input_ids": self.pad_token_id, "token_type_ids": 0, "attention_mask": 0, "special_tokens_mask": 1}
        for name in fillers.keys() & columns.keys():
            columns[name] = layout.pad(columns[name], fillers[name])
        if return_tensors == "np":
            if len(set(map(len, columns["input_ids"]))) > 1:
                raise InputError("the texts have several lengths, an array has one; add padding=True")
            return BatchEncoding({name: np.array(column) for name, column in columns.items()})
        return BatchEncoding({name: column[0] for name, column in columns.items()} if is_one else columns)

    def encode(self, text: str, text_pair: str | None = None, **options: Any) -> list[int]:
        """Return the `input_ids` that calling the tokenizer with the same arguments gives."""
        ids: list[int] = self(text, text_pair, **options)["input_ids"]
        return ids

    def tokenize(self, text: str, pair: str | None = None, add_special_tokens: bool = False) -> list[str]:
        """Return the tokens of a text, as strings."""
        return self.convert_ids_to_tokens(self.encode(text, pair, add_special_tokens=add_special_tokens))

    @overload
    def convert_tokens_to_ids(self, tokens: str) -> int: ...
    @overload
    def convert_tokens_to_ids(self, tokens: list[str] | tuple[str, ...]) -> list[int]: ...
    def convert_tokens_to_ids(self, tokens: str | list[str] | tuple[str, ...]) -> int | list[int]:
        """Look up a token or a list of them; unknown ones give `unk_token_id`."""
        if isinstance(tokens, str):
            return self.vocab.get(tokens, self.unk_token_id)
        return [self.vocab.get(token, self.unk_token_id) for token in tokens]

    @overload
    def convert_ids_to_tokens(self, ids: int, skip_special_tokens: bool = False) -> str: ...
    @overload
    def convert_ids_to_tokens(self, ids: Ids, skip_special_tokens: bool = False) -> list[str]: ...
    def convert_ids_to_tokens(self, ids: int | Ids, skip_special_tokens: bool = False) -> str | list[str]:
        """Return the token of an id, or the tokens of several. InputError: an id outside the vocabulary."""
        if np.ndim(ids) > 1:
            raise InputError(f"ids: expected one row, got shape {np.shape(ids)}; batch_decode takes several")
        require_ids(np.asarray(ids), len(self), "ids to turn into tokens")
        if np.ndim(ids) == 0:
            return self._tokens[int(np.asarray(ids))]
        skipped = self.all_special_ids if skip_special_tokens else ()
        return [self._tokens[index] for index in np.asarray(ids).tolist() if index not in skipped]

    def decode(
        self,
        token_ids: int | Ids,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> str:
        """Join the tokens of one row of ids to a text, "##" pieces and punctuation such as "." without a space.

        `clean_up_tokenization_spaces` also takes the spaces out of "i ' m". InputError: as `convert_ids_to_tokens`.
        """
        tokens = self.convert_ids_to_tokens(np.atleast_1d(np.asarray(token_ids)))
        if skip_special_tokens:
            special = {token.content for token in self._added.values() if token.special}
            tokens = [token for token in tokens if token not in special]
        text = "".join(tokens[:1])
        for token in tokens[1:]:
            text += _tighten(token.removeprefix("##") if token.startswith("##") else f" {token}")
        if clean_up_tokenization_spaces is None:
            clean_up_tokenization_spaces = self.clean_up_tokenization_spaces
        return _tighten(text) if clean_up_tokenization_spaces else text

    def batch_decode(
        self,
        sequences: Sequence[Ids] | NDArray[Any],
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
    ) -> list[str]:
        """Decode each row of ids."""
        return [self.decode(ids, skip_special_tokens, clean_up_tokenization_spaces) for ids in sequences]


BertTokenizerFast = BertTokenizer


def _count(name: str, value: Any, least: int) -> int | None:
    """Return a whole number of at least `least`, or None as it is."""
    if value is not None and (isinstance(value, bool) or not hasattr(value, "__index__") or value < least):
        raise InputError(f"{name}={value!r}: expected a whole number of at least {least}, or None")
    return None if value is None else int(value)


def _remember(cache: dict[str, Any], chunk: str, value: Any) -> None:
    """Keep a chunk's result; long chunks are left out, and a full cache begins anew."""
    if len(chunk) <= _CACHED_CHARS:
        if len(cache) >= _CACHED_CHUNKS:
            cache.clear()
        cache[chunk] = value


def _option(name: str, value: Any, meanings: Mapping[Any, str | None]) -> Any:
    """Return what an option's value means."""
    if not isinstance(value, str | bool) or value not in meanings:
        raise InputError(f"{name}={value!r}: expected one of {', '.join(map(repr, meanings))}")
    return meanings[value]


def _tighten(text: str) -> str:
    """Take out the space before punctuation and English contractions."""
    for spaced, tight in _TIGHTER.items():
        text = text.replace(spaced, tight)
    return text
