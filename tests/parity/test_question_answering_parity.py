"""Windows and a trained reader against Hugging Face's. Needs the `parity` extra."""

import warnings

import numpy as np
import pytest

from minissl.models import BertConfig, BertForQuestionAnswering
from minissl.text import BertTokenizer
from minissl.text.windows import make_windows

torch = pytest.importorskip("torch", reason="the parity extra is not installed")
transformers = pytest.importorskip("transformers", reason="the parity extra is not installed")

WORDS = [f"{a}{b}" for a in "bdfgklmnprst" for b in "aeiou"]
VOCAB = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "?", ",", *WORDS, *(f"##{w}" for w in WORDS)]


def test_a_saved_reader_reads_the_same_windows_to_the_same_scores(tmp_path):
    rng = np.random.default_rng(0)
    pairs = [
        ("Ba ko, mi?", " ".join("".join(rng.choice(WORDS, rng.integers(1, 4))) + "," * (rng.random() < 0.1)
                               for _ in range(n)))
        for n in (5, 40, 1, 90)
    ]  # fmt: skip
    tokenizer = BertTokenizer(vocab=VOCAB)
    model = BertForQuestionAnswering(BertConfig(len(VOCAB), 24, 3, 4, 40, initializer_range=0.5), seed=1)
    for place in (model, tokenizer):
        place.save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        theirs = transformers.AutoModelForQuestionAnswering.from_pretrained(tmp_path).eval()
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    encoded = their_tokenizer(
        [question for question, _ in pairs], [passage for _, passage in pairs], truncation="only_second", max_length=32,
        stride=7, return_overflowing_tokens=True, return_offsets_mapping=True, padding="longest", return_tensors="np",
    )  # fmt: skip
    windows = make_windows(pairs, tokenizer, length=32, stride=7, most_question=8)
    for name in ("input_ids", "token_type_ids", "attention_mask"):
        np.testing.assert_array_equal(getattr(windows, name), encoded[name])
    np.testing.assert_array_equal(windows.sample, encoded["overflow_to_sample_mapping"])
    np.testing.assert_array_equal(windows.offsets[windows.in_passage], encoded["offset_mapping"][windows.in_passage])
    for row in range(len(windows.sample)):
        assert windows.in_passage[row].tolist() == [i == 1 for i in encoded.sequence_ids(row)]
    taken = {name: encoded[name] for name in ("input_ids", "token_type_ids", "attention_mask")}
    with torch.no_grad():
        expected = theirs(**{name: torch.tensor(a) for name, a in taken.items()})
    mine = model(**taken)
    for name in ("start_logits", "end_logits"):
        scale = np.abs(expected[name].numpy()).max()
        np.testing.assert_allclose(mine[name], expected[name].numpy(), atol=2e-5 * scale)
