"""A folder of `minissl finetune sentiment` opens in `transformers`, which then says what predictions.jsonl says."""

import json

import numpy as np
import pytest

from minissl.cli import main
from minissl.models.bert import BertConfig, BertForPreTraining
from minissl.text.tokenizer import BertTokenizer

torch = pytest.importorskip("torch", reason="needs the extra `parity`")
transformers = pytest.importorskip("transformers", reason="needs the extra `parity`")

WORDS = ["good", "bad", "film", "##s", "plot", "is", "the", "a", "very"]


def test_transformers_opens_the_folder(tmp_path):
    tokenizer = BertTokenizer(vocab=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=16, initializer_range=0.3,
    )  # fmt: skip
    BertForPreTraining(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    lines = [f"The films {i} {'is very good' if i % 3 else 'bad'}\t{'yes' if i % 3 else 'no'}\n" for i in range(40)]
    (tmp_path / "reviews.tsv").write_text("".join(lines))
    data = ["--data", str(tmp_path / "reviews.tsv"), "--model", str(tmp_path / "model"), "--out", str(tmp_path / "out")]
    assert main(["finetune", "sentiment", "--epochs", "1", "--threads", "1", *data]) == 0
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert theirs.config.id2label == {0: "no", 1: "yes"}
    for line in map(json.loads, (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()):
        with torch.no_grad():
            p = theirs(**words(line["text"], return_tensors="pt")).logits.softmax(-1)[0].numpy()
        np.testing.assert_allclose(p, [line["probabilities"]["no"], line["probabilities"]["yes"]], atol=1e-5)
        assert theirs.config.id2label[int(p.argmax())] == line["predicted"]
