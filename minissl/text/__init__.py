"""From text to ids: the tokenizer, its vocabulary, and corpora of documents and sentences."""

from minissl.text.tokenizer import BertTokenizer, BertTokenizerFast

__all__ = ["BertTokenizer", "BertTokenizerFast"]
