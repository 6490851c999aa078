"""BERT's tokenizer: the same ids as Hugging Face's `BertTokenizerFast`, under the same names."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from minissl.backend import require_ids
from minissl.errors import InputError
from minissl.files import read_json, write_json, write_whole
from minissl.text.encoding import BatchEncoding, Span, as_pairs, join, pad, pair_windows, truncate, windows
from minissl.text.wordpiece import (
    MAX_WORD_CHARS,
    align_words,
    find_chunks,
    longest_match,
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
_CONFIG_TYPES: dict[str, type] = {"do_lower_case": bool, "strip_accents": bool, "tokenize_chinese_chars": bool}
_CONFIG_TYPES |= {"model_max_length": int, "padding_side": str, "clean_up_tokenization_spaces": bool}
_CONFIG_TYPES |= {f"{name}_token": str for name in ("unk", "sep", "pad", "cls", "mask")}


class BertTokenizer:
    """Text to ids and back.

    The vocabulary comes from `vocab_file` (one token a line) or `vocab`, a list of tokens or a dict token → id.
    `strip_accents=None` follows `do_lower_case`. Attributes: `vocab`, token → id; `word_start`, for each id whether it
    begins a word (False for "##" pieces), shape (V,).
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
    ) -> None:
        if vocab_file is not None and vocab is None:
            self._tokens = _read_vocab(Path(vocab_file))
        elif vocab is not None and vocab_file is None:
            self._tokens = _in_order(vocab)
        else:
            raise InputError("BertTokenizer: expected one vocabulary, as vocab_file (a path) or as vocab (the tokens)")
        self.vocab = {token: index for index, token in enumerate(self._tokens)}
        self.do_lower_case = do_lower_case
        self.strip_accents = strip_accents
        self.tokenize_chinese_chars = tokenize_chinese_chars
        self.model_max_length = model_max_length
        self.padding_side = _option("padding_side", padding_side, _SIDES)
        self.clean_up_tokenization_spaces = clean_up_tokenization_spaces
        self.unk_token, self.sep_token, self.pad_token = unk_token, sep_token, pad_token
        self.cls_token, self.mask_token = cls_token, mask_token
        self.all_special_tokens = [unk_token, sep_token, pad_token, cls_token, mask_token]
        missing = [token for token in self.all_special_tokens if token not in self.vocab]
        if missing:
            raise InputError(f"vocabulary: no {', '.join(missing)} in it, expected every special token; is it BERT's?")
        self.all_special_ids = [self.vocab[token] for token in self.all_special_tokens]
        self.unk_token_id, self.sep_token_id, self.pad_token_id = self.all_special_ids[:3]
        self.cls_token_id, self.mask_token_id = self.all_special_ids[3:]
        self.word_start: NDArray[np.bool_] = np.array([not token.startswith("##") for token in self._tokens])
        longest_first = sorted(self.all_special_tokens, key=len, reverse=True)
        self._special_regex = re.compile(f"({'|'.join(map(re.escape, longest_first))})")
        self._chunk_ids: dict[str, list[int]] = {}
        self._chunk_spans: dict[str, list[Span]] = {}

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], **overrides: Any) -> BertTokenizer:
        """Read a folder that `save_pretrained` or Hugging Face wrote; `overrides` win over what its files say.

        Reads `vocab.txt` (where there is none, `tokenizer.json`) and `tokenizer_config.json`.
        InputError: files missing, broken or another kind of tokenizer's; tokens added beside the five special ones.
        """
        folder = Path(folder)
        arguments: dict[str, Any] = {}
        added: list[str] = []
        if (folder / "vocab.txt").is_file():
            arguments["vocab_file"] = folder / "vocab.txt"
        elif (folder / "tokenizer.json").is_file():
            arguments, added = _read_tokenizer_json(folder / "tokenizer.json")
        else:
            raise InputError(f"{folder}: no tokenizer there, expected a folder with vocab.txt or tokenizer.json")
        if (folder / "tokenizer_config.json").is_file():
            configured, added_too = _read_config(folder / "tokenizer_config.json")
            arguments |= configured
            added += added_too
        tokenizer = cls(**(arguments | overrides))
        unknown = [token for token in added if token not in tokenizer.all_special_tokens]
        if unknown:
            raise InputError(f"{folder}: added tokens {', '.join(unknown)} are not supported, only BERT's five")
        return tokenizer

    def save_pretrained(self, folder: str | os.PathLike[str]) -> tuple[str, str]:
        """Write `vocab.txt` and `tokenizer_config.json`, which Hugging Face opens too, and return their paths."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        vocab_path, config_path = folder / "vocab.txt", folder / "tokenizer_config.json"
        write_whole(vocab_path, "".join(f"{token}\n" for token in self._tokens))
        config = {name: getattr(self, name) for name in _CONFIG_TYPES} | {"tokenizer_class": "BertTokenizer"}
        write_json(config_path, config)
        return str(vocab_path), str(config_path)

    @property
    def vocab_size(self) -> int:
        """The number of tokens, V."""
        return len(self._tokens)

    def __len__(self) -> int:
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
        for word in split_words(chunk, self.do_lower_case, self.strip_accents, self.tokenize_chinese_chars):
            ids += longest_match(word, self.vocab) or [self.unk_token_id]
        _remember(self._chunk_ids, chunk, ids)
        return ids

    def _encode_text(self, text: str) -> list[int]:
        """Return the ids of a text where "[MASK]", or another special token spelled exactly, is that token."""
        ids: list[int] = []
        for index, part in enumerate(self._special_regex.split(text)):
            ids += [self.vocab[part]] if index % 2 else self.encode_words(part)
        return ids

    def _find_spans(self, text: str) -> list[Span]:
        """Return where in the text each token of `_encode_text` stands."""
        spans: list[Span] = []
        begin = 0
        for index, part in enumerate(self._special_regex.split(text)):
            if index % 2:
                spans.append((begin, begin + len(part)))
            else:
                for place, chunk in find_chunks(part):
                    known = self._chunk_spans.get(chunk) or self._find_chunk_spans(chunk)
                    at = begin + place
                    spans += [(at + start, at + stop) for start, stop in known]
            begin += len(part)
        return spans

    def _find_chunk_spans(self, chunk: str) -> list[Span]:
        """Work out where in text without whitespace its tokens stand, and remember it within bounds."""
        spans: list[Span] = []
        for word, places in align_words(chunk, self.do_lower_case, self.strip_accents, self.tokenize_chinese_chars):
            pieces = longest_match(word, self.vocab)
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
        padding_side: str | None = None,
        return_tensors: str | None = None,
        return_token_type_ids: bool | None = None,
        return_attention_mask: bool | None = None,
        return_overflowing_tokens: bool = False,
        return_special_tokens_mask: bool = False,
        return_offsets_mapping: bool = False,
    ) -> BatchEncoding:
        """Encode a text as [CLS] a [SEP], a pair as [CLS] a [SEP] b [SEP], or a list of texts or of pairs.

        `padding`: True or "longest", "max_length". `truncation`: True or "longest_first", "only_first", "only_second".
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
        if max_length is None and self.model_max_length <= _UNLIMITED:
            max_length = self.model_max_length
        rows: list[dict[str, list[Any]]] = []
        samples: list[int] = []
        for sample, (first, second) in enumerate(as_pairs(text, text_pair)):
            a, b = self._encode_text(first), None if second is None else self._encode_text(second)
            n_a, n_b = len(a), 0 if b is None else len(b)
            if cut is not None and max_length is not None:
                n_special = (2 if b is None else 3) if add_special_tokens else 0
                n_a, n_b = truncate(n_a, None if b is None else n_b, cut, max_length, n_special)
            parts = [((0, n_a), (0, n_b))]
            if return_overflowing_tokens:
                parts = pair_windows(windows(len(a), n_a, stride), windows(len(b or ()), n_b, stride))
            spans_a = self._find_spans(first) if return_offsets_mapping else []
            spans_b = None if b is None else self._find_spans(second or "") if return_offsets_mapping else []
            for part_a, part_b in parts:
                row = self._row(a[slice(*part_a)], None if b is None else b[slice(*part_b)], add_special_tokens)
                if return_offsets_mapping:
                    spans = spans_a[slice(*part_a)], None if spans_b is None else spans_b[slice(*part_b)]
                    row["offset_mapping"] = join(*spans, [[(0, 0)] if add_special_tokens else []] * 3)
                rows.append(row)
            samples += [sample] * len(parts)
        longest = max(len(row["input_ids"]) for row in rows)
        length = {None: 0, "longest": longest, "max_length": max_length or 0}[pad_to]
        fillers: dict[str, Any] = {"input_ids": self.pad_token_id}
        if return_token_type_ids is not False:
            fillers["token_type_ids"] = 0
        if return_attention_mask is not False:
            fillers["attention_mask"] = 0
        if return_special_tokens_mask:
            fillers["special_tokens_mask"] = 1
        if return_offsets_mapping:
            fillers["offset_mapping"] = (0, 0)
        columns: dict[str, list[Any]] = {
            name: [pad(row[name], length, filler, side) for row in rows] for name, filler in fillers.items()
        }
        sequence_ids = [pad(row["sequence_ids"], length, None, side) for row in rows]
        if return_overflowing_tokens:
            columns["overflow_to_sample_mapping"] = samples
        elif isinstance(text, str) and return_tensors is None:
            return BatchEncoding({name: column[0] for name, column in columns.items()}, sequence_ids)
        if return_tensors is None:
            return BatchEncoding(columns, sequence_ids)
        if len({len(row) for row in columns["input_ids"]}) > 1:
            raise InputError("the texts have several lengths, an array has one; add padding=True")
        return BatchEncoding({name: np.array(column, dtype=np.int64) for name, column in columns.items()}, sequence_ids)

    def _row(self, a: list[int], b: list[int] | None, add_special_tokens: bool) -> dict[str, list[Any]]:
        """Put the special tokens round one or two texts, and say of each position what it is."""
        n_a, n_b, n_edge = len(a), 0 if b is None else len(b), int(add_special_tokens)

        def column(of_a: Any, of_b: Any, *edges: Any) -> list[Any]:
            return join([of_a] * n_a, None if b is None else [of_b] * n_b, [[edge] * n_edge for edge in edges])

        special_ids = (self.cls_token_id, self.sep_token_id, self.sep_token_id)
        ids = join(a, b, [[edge] * n_edge for edge in special_ids])
        return {
            "input_ids": ids,
            "token_type_ids": column(0, 1, 0, 0, 1),
            "attention_mask": [1] * len(ids),
            "special_tokens_mask": column(0, 0, 1, 1, 1),  # not those that the text itself spells
            "sequence_ids": column(0, 1, None, None, None),
        }

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
        tokens = self.convert_ids_to_tokens(np.atleast_1d(np.asarray(token_ids)), skip_special_tokens)
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


def _remember(cache: dict[str, Any], chunk: str, value: Any) -> None:
    """Keep a chunk's result; long chunks are left out, and a full cache begins anew."""
    if len(chunk) <= _CACHED_CHARS:
        if len(cache) >= _CACHED_CHUNKS:
            cache.clear()
        cache[chunk] = value


def _option(name: str, value: Any, meanings: Mapping[Any, str | None]) -> Any:
    """Return what an option's value means."""
    if value not in meanings:
        raise InputError(f"{name}={value!r}: expected one of {', '.join(map(repr, meanings))}")
    return meanings[value]


def _tighten(text: str) -> str:
    """Take out the space before punctuation and English contractions."""
    for spaced, tight in _TIGHTER.items():
        text = text.replace(spaced, tight)
    return text


def _in_order(vocab: Sequence[str] | Mapping[str, int]) -> list[str]:
    """Return the tokens by id. InputError: ids with gaps, a token twice, or one that no line of vocab.txt can hold."""
    if isinstance(vocab, str):
        raise InputError("vocab: got a string, expected the tokens; write vocab_file= for a path")
    tokens = list(vocab)
    if isinstance(vocab, Mapping):
        if sorted(vocab.values()) != list(range(len(vocab))):
            raise InputError(f"vocab: expected the ids 0 … {len(vocab) - 1}, each once; got others")
        tokens.sort(key=vocab.__getitem__)
    seen: dict[str, int] = {}
    for index, token in enumerate(tokens):
        if not isinstance(token, str) or not token or token != token.rstrip() or "\n" in token:
            raise InputError(f"vocab: {token!r} at id {index}, expected a token on one line; is a line blank?")
        if seen.setdefault(token, index) != index:
            raise InputError(f"vocab: {token!r} has the ids {seen[token]} and {index}, expected each token once")
    return tokens


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}), expected a tokenizer's file") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text, expected a tokenizer's file; is it damaged?") from None


def _read_vocab(path: Path) -> list[str]:
    lines = _read(path).removesuffix("\n").split("\n")
    try:
        return _in_order([line.rstrip() for line in lines])
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _content(token: Any) -> Any:
    """Return the text of a token, which Hugging Face writes as a string or as an object."""
    return token.get("content") if isinstance(token, dict) else token


def _read_config(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the constructor's arguments in a tokenizer_config.json, and the tokens it adds."""
    config = read_json(path)
    arguments = {}
    for name, kind in _CONFIG_TYPES.items():
        value = _content(config.get(name))
        if value is not None and not isinstance(value, kind):
            raise InputError(f"{path}: {name} is {value!r}, expected {kind.__name__}")
        if value is not None:
            arguments[name] = value
    added = [*(config.get("added_tokens_decoder") or {}).values()]
    for name in ("additional_special_tokens", "extra_special_tokens"):
        added += config.get(name) or []
    return arguments, [str(_content(token)) for token in added]


def _read_tokenizer_json(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the constructor's arguments in a tokenizer.json, and the tokens it adds."""
    content = read_json(path)
    try:
        model, normalizer = content["model"], content["normalizer"]
        kind = model.get("type", "WordPiece"), normalizer["type"]  # old files leave out the model's
        if kind != ("WordPiece", "BertNormalizer"):
            raise InputError(f"{path}: a {kind[0]} tokenizer with the normalizer {kind[1]}, expected BERT's WordPiece")
        if (model["continuing_subword_prefix"], model["max_input_chars_per_word"]) != ("##", MAX_WORD_CHARS):
            raise InputError(f'{path}: expected the prefix "##" and words of up to {MAX_WORD_CHARS} characters')
        arguments = {
            "vocab": dict(model["vocab"]),
            "unk_token": model["unk_token"],
            "do_lower_case": normalizer["lowercase"],
            "strip_accents": normalizer["strip_accents"],
            "tokenize_chinese_chars": normalizer["handle_chinese_chars"],
        }
        return arguments, [token["content"] for token in content["added_tokens"]]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not a tokenizer.json ({error} is missing or wrong); is it damaged?") from None
