"""What is hidden and what is asked: masked tokens, sentence pairs, spans to find, a language of known best loss."""

from minissl.pretext.hmm import HiddenMarkovModel
from minissl.pretext.mlm import IGNORE, mask_tokens, number_to_mask
from minissl.pretext.nsp import Pairs, make_pairs, make_segments
from minissl.pretext.span_selection import SpanQuestions, make_span_questions, unlikely_answers

__all__ = [
    "IGNORE",
    "HiddenMarkovModel",
    "Pairs",
    "SpanQuestions",
    "make_pairs",
    "make_segments",
    "make_span_questions",
    "mask_tokens",
    "number_to_mask",
    "unlikely_answers",
]
