from itertools import islice

import numpy as np
import pytest

from minissl.finetuning.loop import FinetuneOptions
from minissl.models import BertConfig, BertForQuestionAnswering, ModelOutput
from minissl.recipes import span_pretraining
from minissl.recipes.span_pretraining import LONG, SHORT, SpanTask, pretrain_on_spans
from minissl.text import BertTokenizer

WORDS = [f"{a}{b}" for a in "bdfgklmnprst" for b in "aeiou"]


@pytest.fixture
def task():
    rng = np.random.default_rng(0)
    tokenizer = BertTokenizer(vocab=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])
    documents = [[rng.integers(5, 65, 12).tolist() for _ in range(9)] for _ in range(300)]
    return SpanTask(documents[:280], documents[280:], tokenizer, batch_size=4, seed=1)


def test_batches_are_what_a_model_trains_on_and_a_seed_says_which(task):
    first, again = (list(islice(task.batches(SHORT), 40)) for _ in range(2))
    for a, b in zip(first, again, strict=True):
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])
        assert a["attention_mask"].sum(axis=1).max() == a["input_ids"].shape[1] <= SHORT
    model = BertForQuestionAnswering(BertConfig(65, 12, 1, 3, 20))
    loss, _ = model.loss_and_grads(**first[0])
    assert 0.5 * np.log(SHORT) < loss < 2 * np.log(SHORT)


def test_a_pass_shows_every_document_and_the_next_asks_otherwise(task):
    per_pass = 0
    seen: set[tuple[int, ...]] = set()
    for batch in task.batches(LONG):
        rows = {tuple(row[row > 4].tolist()[-12:]) for row in batch["input_ids"]}  # the passage's last sentence
        per_pass += len(rows)
        seen |= rows
        if per_pass >= 560:
            break
    assert len(seen) > 250  # of 280 documents


class Knowing:
    """Says where the answers are of the rows that it knows; its second kind knows the start alone."""

    def __init__(self, batches, ends):
        self.places = {
            row.tobytes(): (start, end if ends else end + 1)
            for batch in batches
            for row, start, end in zip(
                batch["input_ids"], batch["start_positions"], batch["end_positions"], strict=True
            )
        }

    def __call__(self, input_ids, attention_mask, token_type_ids):
        start, end = np.zeros((2, *input_ids.shape))
        for i, row in enumerate(input_ids):
            first, last = self.places[row.tobytes()]
            start[i, first] = end[i, last] = 1
        start[~attention_mask.astype(bool)] = 5  # padding is no answer
        return ModelOutput(start_logits=start, end_logits=end)


@pytest.mark.parametrize(("ends", "expected"), [(True, {"start": 1, "both": 1}), (False, {"start": 1, "both": 0})])
def test_what_is_measured_and_that_short_sequences_come_first(task, monkeypatch, ends, expected):
    lengths = []

    def finetune(model, options, batches, evaluate, *, better):
        class Workers:
            def map(self, work, count):
                return [work(i) for i in range(count)]

        lengths.extend(max(b["input_ids"].shape[1] for b in batches(n)) for n in range(options.epochs))
        return [evaluate(Workers())]

    monkeypatch.setattr(span_pretraining, "finetune", finetune)
    monkeypatch.setattr(span_pretraining, "PASS_STEPS", 6)
    (measured,) = pretrain_on_spans(Knowing(task.heldout(), ends), task, FinetuneOptions(epochs=4))
    assert measured == expected
    assert max(lengths[:2]) <= SHORT < min(lengths[2:]) <= LONG
