"""A tokenizer's files as released folders have them; where they differ, the one wins that wins in Hugging Face."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from minissl.errors import InputError
from minissl.files import read_json
from minissl.text.added_tokens import AddedToken
from minissl.text.encoding import SURROGATE_REGEX
from minissl.text.wordpiece import MAX_WORD_CHARS

VOCABULARIES = ("tokenizer.json", "vocab.txt")
SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
SPECIAL_NAMES = ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
CONFIG_TYPES: dict[str, type] = {"do_lower_case": bool, "strip_accents": bool, "tokenize_chinese_chars": bool}
CONFIG_TYPES |= {"model_max_length": int, "padding_side": str, "clean_up_tokenization_spaces": bool}


def read_folder(folder: Path) -> dict[str, Any]:
    """Return the arguments that a folder's files give the tokenizer's constructor.

    The vocabulary is that of tokenizer.json, else vocab.txt; the settings are those of tokenizer_config.json, and their
    defaults, whatever tokenizer.json says of lower-casing; added tokens come from the config's `added_tokens_decoder`,
    where it has none from special_tokens_map.json, added_tokens.json and tokenizer.json.
    InputError: no files, or broken ones, or those of another kind of tokenizer.
    """
    arguments: dict[str, Any] = {"model_max_length": int(1e30)}
    in_json: list[tuple[Any, Any]] = []
    if (folder / "tokenizer.json").is_file():
        vocab, in_json = _read_tokenizer_json(folder / "tokenizer.json")
        arguments["vocab"] = _located(folder / "tokenizer.json", vocab)
    elif (folder / "vocab.txt").is_file():
        arguments["vocab_file"] = folder / "vocab.txt"
    else:
        raise InputError(f"{folder}: no tokenizer there, expected a folder with vocab.txt or tokenizer.json")
    config_path, map_path = folder / "tokenizer_config.json", folder / "special_tokens_map.json"
    config = read_json(config_path) if config_path.is_file() else {}
    for name, kind in CONFIG_TYPES.items():
        value = config.get(name)
        if isinstance(value, float) and kind is int and value.is_integer():
            value = int(value)  # 1e30, which stands for no limit
        if value is not None:
            if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
                raise InputError(f"{config_path}: {name} is {value!r}, expected {kind.__name__}")
            arguments[name] = value
    if config.get("truncation_side", "right") != "right":
        raise InputError(f"{config_path}: truncation_side {config['truncation_side']!r} is not supported, only right")
    named, source = config, config_path
    extras = _extras(config, config_path)
    if (decoder := config.get("added_tokens_decoder")) is not None:
        if not isinstance(decoder, dict):
            raise InputError(f"{source}: added_tokens_decoder is {decoder!r}, expected an object of ids and tokens")
        added = _entries(decoder.items(), source)
    else:
        if map_path.is_file():
            named, source = config | read_json(map_path), map_path
        added = {}
        if (path := folder / "added_tokens.json").is_file():
            specials = [*(_content(named.get(name)) for name in SPECIAL_NAMES), *extras]
            for content, index in read_json(path).items():
                added |= _entries([(index, {"content": content, "special": content in specials})], path)
        added |= _entries(in_json, folder / "tokenizer.json")
        extras = extras or _extras(named, source)
    tokens: dict[str, AddedToken] = {}
    for _, token in sorted(added.items()):  # of two that are spelled alike the second counts; special once is special
        special = token.special or (token.content in tokens and tokens[token.content].special)
        tokens[token.content] = token._replace(special=special)
    for name, value in named.items():
        if name.endswith("_token") and isinstance(value, str | dict):
            token = _added_token(value, source, special=True)
            token = tokens.get(token.content, token)._replace(special=True)
            if name in SPECIAL_NAMES:
                arguments[name] = token.content
            if name not in SPECIAL_NAMES or token != AddedToken(token.content) or token.content in tokens:
                tokens[token.content] = token  # a bare name adds nothing: the vocabulary should have it
        elif name in SPECIAL_NAMES and value is not None:
            raise InputError(f"{source}: {name} is {value!r}, expected str")
    arguments["extra_special_tokens"] = extras
    arguments["added_tokens"] = list(tokens.values())
    return arguments


def _read_tokenizer_json(path: Path) -> tuple[dict[str, int], list[tuple[Any, Any]]]:
    """Return the vocabulary of a tokenizer.json, token → id, and what it adds: ids and tokens."""
    content = read_json(path)
    try:
        model, normalizer = content["model"], content["normalizer"]
        kind = model.get("type", "WordPiece"), normalizer["type"]  # old files leave out the model's
        if kind != ("WordPiece", "BertNormalizer"):
            raise InputError(
                f"{path}: a {kind[0]!r} tokenizer with the normalizer {kind[1]!r}, expected BERT's WordPiece"
            )
        if (model["continuing_subword_prefix"], model["max_input_chars_per_word"]) != ("##", MAX_WORD_CHARS):
            raise InputError(f'{path}: expected the prefix "##" and words of up to {MAX_WORD_CHARS} characters')
        return dict(model["vocab"]), [(token["id"], token) for token in content["added_tokens"]]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not a tokenizer.json ({error} is missing or wrong); is it damaged?") from None


def _content(token: Any) -> Any:
    """Return the text of a token, which Hugging Face writes as a string or as an object."""
    return token.get("content") if isinstance(token, dict) else token


def _is_text(token: Any) -> TypeGuard[str]:
    """Say whether a token is a text that a file can hold."""
    return isinstance(token, str) and token != "" and (token.isascii() or not SURROGATE_REGEX.search(token))


def _added_token(token: Any, path: Path, special: bool = False) -> AddedToken:
    """Read one token. InputError: it is no text, or a flag of it is not true or false."""
    fields = token if isinstance(token, dict) else {"content": token}
    content = fields.get("content")
    is_special = special or fields.get("special", False)
    flags = {name: fields.get(name, False) for name in ("lstrip", "rstrip", "single_word")}
    flags |= {"normalized": fields.get("normalized", not is_special), "special": is_special}
    if not _is_text(content) or not all(isinstance(flag, bool) for flag in flags.values()):
        raise InputError(f"{path}: {token!r} is no token, expected a text, or an object with content, lstrip, …")
    return AddedToken(content, **flags)


def _entries(tokens: Iterable[tuple[Any, Any]], path: Path) -> dict[int, AddedToken]:
    """Read tokens and their ids, which JSON holds as strings in places. InputError: no id, or no token."""
    entries = {}
    for index, token in tokens:
        if not re.fullmatch("[0-9]{1,9}", str(index)):
            raise InputError(f"{path}: the added token {token!r} has the id {index!r}, expected a whole number")
        entries[int(index)] = _added_token(token, path)
    return entries


def _extras(config: Mapping[str, Any], path: Path) -> list[str]:
    """Return the special tokens beyond the five, which older files call additional."""
    for name in ("extra_special_tokens", "additional_special_tokens"):
        extras = config.get(name) or []
        if isinstance(extras, dict):
            extras = list(extras.values())
        if not isinstance(extras, list):
            raise InputError(f"{path}: {name} is {extras!r}, expected a list of tokens")
        if extras:
            return [_added_token(token, path).content for token in extras]
    return []


def in_order(vocab: Sequence[str] | Mapping[str, int]) -> list[str]:
    """Return the tokens by id. InputError: ids with gaps, a token twice, or one that no line of vocab.txt can hold."""
    if isinstance(vocab, str):
        raise InputError("vocab: got a string, expected the tokens; write vocab_file= for a path")
    tokens = list(vocab)
    if isinstance(vocab, Mapping):
        ids = list(vocab.values())
        if not all(type(index) is int for index in ids) or sorted(ids) != list(range(len(vocab))):
            raise InputError(f"vocab: expected the ids 0 … {len(vocab) - 1}, each once; got others")
        tokens.sort(key=vocab.__getitem__)
    seen: dict[str, int] = {}
    for index, token in enumerate(tokens):
        if not _is_text(token) or token != token.rstrip() or "\n" in token:
            raise InputError(f"vocab: {token!r} at id {index}, expected a token on one line; is a line blank?")
        if seen.setdefault(token, index) != index:
            raise InputError(f"vocab: {token!r} has the ids {seen[token]} and {index}, expected each token once")
    return tokens


def read_vocab(path: Path) -> list[str]:
    """Return the tokens of a vocab.txt. InputError: the file is missing, not UTF-8, has blank lines or doubles."""
    try:
        lines = path.read_bytes().decode("utf-8").removesuffix("\n").split("\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}), expected a tokenizer's file") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text, expected a tokenizer's file; is it damaged?") from None
    return _located(path, [line.rstrip() for line in lines])


def _located(path: Path, vocab: Sequence[str] | Mapping[str, int]) -> list[str]:
    """Return the tokens by id, or say which file they are from."""
    try:
        return in_order(vocab)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
