"""`python -m minissl.bench.tokenizer [FILE …]`: words a second, on one core, beside `BertTokenizerFast` if it is here.

A word is what stands between whitespace. The text is that of the files, else Python's own manual. Cold: a tokenizer
that has seen nothing yet; warm: the same one again.
"""

from __future__ import annotations

import argparse
import gc
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from minissl.errors import InputError
from minissl.text.corpora import load_corpus
from minissl.text.tokenizer import BertTokenizer
from minissl.text.wordpiece import train_wordpiece

VOCAB_SIZE = 8192


def read_lines(paths: list[str]) -> list[str]:
    """The lines of UTF-8 files that hold a word, or the sentences of Python's manual. InputError: no such file."""
    if not paths:
        return [sentence for document in load_corpus("docs").train for sentence in document.sentences]
    try:
        return [line for path in paths for line in Path(path).read_text("utf-8").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{error}; expected UTF-8 text files") from None


def seconds(call: Callable[[], Any]) -> float:
    """The time of one call, with the garbage of those before it gone."""
    gc.collect()
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def main(arguments: list[str] | None = None, say: Callable[[str], None] = print) -> None:
    """Print a line for each case and tokenizer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="UTF-8 text files")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core for one core
    lines = read_lines(parser.parse_args(arguments).files)
    n_words = sum(len(line.split()) for line in lines)
    vocab = train_wordpiece(lines, VOCAB_SIZE)
    makers: dict[str, Callable[[], Any]] = {"minissl": lambda: BertTokenizer(vocab=vocab, model_max_length=10**30)}
    try:
        from transformers import BertTokenizerFast
    except ImportError:
        say("BertTokenizerFast is not here: pip install 'minissl[parity]'")
    else:
        ids = {token: index for index, token in enumerate(vocab)}
        makers["BertTokenizerFast"] = lambda: BertTokenizerFast(vocab=ids)
    cases: dict[str, tuple[Any, dict[str, Any]]] = {
        "lines": (lines, {}),
        "one text": ("\n".join(lines), {}),
        "lines, offsets": (lines, {"return_offsets_mapping": True}),
    }
    say(f"{len(lines):,} lines, {n_words:,} words, vocabulary {len(vocab):,}")
    for case, (text, options) in cases.items():
        for name, make in makers.items():
            tokenizer = make()
            cold, warm = (seconds(partial(tokenizer, text, **options)) for _ in range(2))
            say(f"{case:<15} {name:<18} cold {n_words / cold:10,.0f}   warm {n_words / warm:10,.0f} words a second")


if __name__ == "__main__":
    main()
