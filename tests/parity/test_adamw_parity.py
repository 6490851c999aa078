"""A hundred steps of AdamW beside PyTorch's: the same weights, data, clipping and schedule, no dropout, in float64."""

import numpy as np
import pytest

from minissl.models import BertConfig, BertForPreTraining
from minissl.training.adamw import AdamW
from minissl.training.schedule import warmup_linear
from minissl.training.trainer import Trainer, TrainingOptions

torch = pytest.importorskip("torch", reason="the parity extra is not installed")
transformers = pytest.importorskip("transformers", reason="the parity extra is not installed")

STEPS, WARMUP, RATE, CLIP = 100, 10, 3e-3, 1.0
SIZES = {
    "vocab_size": 83, "hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 50, "num_hidden_layers": 2,
    "max_position_embeddings": 17, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip


def batches():
    """Sentences that count up from a random word, so that there is something to learn."""
    rng = np.random.default_rng(0)
    B, T = 6, 13
    for _ in range(STEPS):
        ids = 5 + rng.integers(0, 8, (B, 1)) + np.arange(T)
        asked = rng.random((B, T)) < 0.3
        asked[0, 0] = True
        visible = np.arange(T) < rng.integers(T // 2, T + 1, (B, 1))
        visible[0] = True
        yield {
            "input_ids": np.where(asked, 4, ids),
            "attention_mask": visible.astype(int),
            "token_type_ids": rng.integers(0, 2, (B, T)),
            "labels": np.where(asked & visible, ids, -100),
            "next_sentence_label": rng.integers(0, 2, B),
        }


def their_losses(weights):
    model = transformers.BertForPreTraining(transformers.BertConfig(**SIZES)).double().train()
    model.load_state_dict({key: torch.tensor(weight) for key, weight in weights.items()})
    plain = [p for name, p in model.named_parameters() if name.endswith("bias") or "LayerNorm" in name]
    decayed = [p for name, p in model.named_parameters() if not (name.endswith("bias") or "LayerNorm" in name)]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.999), eps=1e-6)
    rate = lambda step: warmup_linear(step + 1, STEPS, WARMUP)  # noqa: E731
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
    losses = []
    for batch in batches():
        optimiser.zero_grad()
        loss = model(**{name: torch.tensor(array) for name, array in batch.items()}).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("threads", [1, 2])
def test_a_hundred_steps(threads):
    model = BertForPreTraining(BertConfig(**SIZES), dtype="float64")
    expected = their_losses({key: weight.copy() for key, weight in model.state_dict().items()})
    options = TrainingOptions(STEPS, RATE, WARMUP / STEPS, CLIP, threads, adamw=AdamW(0.9, 0.999, 1e-6, 0.01))
    trainer = Trainer(model, options)
    got = [sum(trainer.train_step([batch]).losses.values()) for batch in batches()]
    trainer.close()
    assert expected[-1] < 0.8 * expected[0]  # something was learnt
    error = np.abs(np.array(got) / expected - 1).max()
    print(f"largest relative difference of {STEPS} losses: {error:.1e}")
    assert error <= 1e-4
