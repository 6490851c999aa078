"""What is hidden and asked: masked tokens and patches, sentence pairs, spans; data whose best loss is known."""

from minissl.pretext.gaussian_field import GaussianField
from minissl.pretext.hmm import HiddenMarkovModel
from minissl.pretext.mlm import IGNORE, mask_tokens, number_to_mask
from minissl.pretext.nsp import Pairs, make_pairs, make_segments
from minissl.pretext.patches import HiddenPatches, hidden_pixels, hide_patches, mask_blocks, number_to_keep
from minissl.pretext.span_selection import SpanQuestions, make_span_questions, unlikely_answers

__all__ = [
    "IGNORE",
    "GaussianField",
    "HiddenMarkovModel",
    "HiddenPatches",
    "Pairs",
    "SpanQuestions",
    "hidden_pixels",
    "hide_patches",
    "make_pairs",
    "make_segments",
    "make_span_questions",
    "mask_blocks",
    "mask_tokens",
    "number_to_keep",
    "number_to_mask",
    "unlikely_answers",
]
