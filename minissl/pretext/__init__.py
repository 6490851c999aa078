"""What is hidden and what is asked: masked tokens, sentence pairs, and a language with a known best loss."""

from minissl.pretext.hmm import HiddenMarkovModel
from minissl.pretext.mlm import IGNORE, mask_tokens, number_to_mask
from minissl.pretext.nsp import Pairs, make_pairs, make_segments

__all__ = ["IGNORE", "HiddenMarkovModel", "Pairs", "make_pairs", "make_segments", "mask_tokens", "number_to_mask"]
