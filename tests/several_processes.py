"""Run by mpirun in `test_processes.py`: some steps of training, whose weights and losses process 0 writes to a file.

mpirun -n 2 python several_processes.py FILE THREADS
"""

import sys

import numpy as np

from minissl.backend import to_host
from minissl.bench.step import bert_batch
from minissl.models.bert import BertConfig, BertForPreTraining
from minissl.training import buckets
from minissl.training import trainer as trainer_module
from minissl.training.processes import find_processes
from minissl.training.trainer import Trainer, TrainingOptions

CONFIG = BertConfig(
    vocab_size=300, hidden_size=96, num_hidden_layers=3, num_attention_heads=4, intermediate_size=211,
    max_position_embeddings=16, initializer_range=0.3, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
)  # fmt: skip
STEPS = 4


def batch(rows, seed, asks_words=True):
    made = bert_batch(CONFIG, rows, 13, seed)
    if not asks_words:
        del made["labels"]
    return made


def steps(model, trainer):
    """Losses and norms; steps differ in what they ask, in rows and in micro-batches."""
    records = [trainer.train_step([batch(48, step), batch(41, 100 + step)]) for step in range(STEPS)]
    records += [trainer.train_step([batch(47, 50 + step, asks_words=False)]) for step in range(3)]
    records += [trainer.train_step([batch(3, 70)]), trainer.train_step([batch(48, 0), batch(41, 1)])]
    return [[*record.losses.values(), record.grad_norm] for record in records]


def run(threads, processes=None, device="cpu"):
    model = BertForPreTraining(CONFIG, dtype="float64").to(device)
    trainer = Trainer(model, TrainingOptions(20, 1e-3, threads=threads), processes=processes)
    try:
        numbers = np.concatenate(steps(model, trainer))
        return {"numbers": numbers, "weights": to_host(trainer.weights).copy()}, trainer
    finally:
        trainer.close()


class Counted(buckets.Buckets):
    """Notes for each step how many buckets were on their way before the threads had ended, and how many there are."""

    def finish(self):
        EARLY.append(len(self._sums))
        ALL.append(len(self._buckets))
        return super().finish()


EARLY: list[int] = []
ALL: list[int] = []


def write(path, threads, device="cpu"):
    buckets.BUCKET = 4096
    trainer_module.Buckets = Counted
    processes = find_processes()
    if device == "cuda":
        processes.take_gpu()
    found, trainer = run(threads, processes, device)
    firsts = trainer.weights.copy()
    processes.copy_from_first(firsts)
    differing = processes.sum(np.array([float(not np.array_equal(to_host(firsts), found["weights"]))]))
    if processes.rank == 0:
        np.savez(path, **found, differing=differing, early=EARLY, buckets=ALL)


def assert_as_one_process(path):
    """What several processes wrote is what one gets; before any update to rounding alone."""
    found = np.load(path)
    alone, _ = run(1)
    scale = np.abs(alone["numbers"])
    assert (np.abs(found["numbers"] - alone["numbers"]) <= 1e-11 * scale).all()
    assert np.abs(found["numbers"][:3] - alone["numbers"][:3]).max() <= 1e-12 * scale[:3].max()
    np.testing.assert_allclose(found["weights"], alone["weights"], atol=1e-10)
    assert found["differing"] == 0, "the processes ended with different weights"
    assert found["early"].max() > found["buckets"][0] / 2, "no gradient was sent while backward ran"


if __name__ == "__main__":
    write(sys.argv[1], int(sys.argv[2]))
