"""One BERT training step of minissl beside PyTorch's, in several hands: the same weights, batch, losses and threads."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np

from minissl.backend import Array
from minissl.bench.conditions import Watch
from minissl.bench.turns import (
    LEARNING_RATE,
    Comparison,
    check_options,
    import_torch,
    shown,
    times_in_turn,
    torch_step,
)
from minissl.errors import InputError
from minissl.models.bert import PRESETS, BertConfig, BertForPreTraining
from minissl.pretext.mlm import IGNORE, mask_tokens
from minissl.training.trainer import Trainer, TrainingOptions
from minissl.workers import Workers, available_cores

TOLERANCE = 1e-4  # of the loss: float32's rounding
SHAPES = {"tiny": (32, 64), "mini": (16, 128), "small": (8, 128), "base": (4, 128)}  # batch × length


class TrainingStep:
    """One whole step of training, on the same batch at every call."""

    def __init__(self, model: Any, batch: dict[str, Array], threads: int, precision: str):
        options = TrainingOptions(10**6, LEARNING_RATE, 0.0, threads=threads, precision=precision)
        self._trainer = Trainer(model, options)
        self._batch = batch

    def __call__(self) -> float:
        """Forward, losses, backward, clipping and AdamW; the sum of the losses."""
        return sum(self._trainer.train_step([self._batch]).losses.values())

    def close(self) -> None:
        """End its threads and give BLAS its own back, which what is timed next may need."""
        self._trainer.close()


def training_step(model: Any, batch: dict[str, Array], threads: int = 0, precision: str = "float32") -> TrainingStep:
    """Return a callable that runs one whole step (forward, losses, backward, clip, AdamW) and returns the loss.

    `precision`: of the matrix products of a model on a device.
    Raises InputError for a model without losses, and for fewer than 0 threads (0: one for each core).
    """
    if not hasattr(model, "losses_and_backward"):
        raise InputError(f"{type(model).__name__} has no losses to learn from; give a model with a head")
    if threads < 0:
        raise InputError(f"threads {threads}: expected 0 (one for each core) or more")
    return TrainingStep(model, batch, threads or available_cores(), precision)


def bert_batch(config: BertConfig, rows: int, length: int, seed: int = 0) -> dict[str, Any]:
    """A full batch of random words: 15 % masked, two segments, both labels."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(5, config.vocab_size, (rows, length))
    maskable = np.ones_like(ids, bool)
    masked, labels = mask_tokens(ids, maskable, mask_id=4, vocab_size=config.vocab_size, rng=rng)
    segments = np.broadcast_to(np.arange(length) >= length // 2, ids.shape).astype(np.int64)
    return {
        "input_ids": masked,
        "attention_mask": np.ones_like(ids),
        "token_type_ids": segments,
        "labels": labels,
        "next_sentence_label": rng.integers(0, 2, rows),
    }


def compare(preset: str, rounds: int, threads: int) -> str:
    """Time minissl's step beside its rivals in turn, A B C … A B C …; return a table of medians and ratios.

    Raises InputError where PyTorch or transformers is missing, or the sides do not compute the same losses.
    """
    return shown(measure(preset, rounds, threads))


def measure(preset: str, rounds: int, threads: int) -> Comparison:
    """As `compare`, in numbers. A rival that cannot run here, as torch.compile without a compiler, is left out.

    The sides: Hugging Face's `BertForPreTraining` as its users run it; the same with the head computed at the masked
    positions alone, as an expert would; that under torch.compile; and minissl's matrix products alone, the floor.
    """
    threads = check_options(preset, PRESETS, rounds, threads)
    torch, transformers = import_torch(threads)
    watch = Watch()
    config = BertConfig(**PRESETS[preset])
    model = BertForPreTraining(config)
    rows, length = SHAPES[preset]
    batch = bert_batch(config, rows, length)
    loss = float(model(**batch).loss)
    rivals: dict[str, Callable[[], Any]] = {}
    for name, kind in (("Hugging Face", plain_loss), ("expert", expert_loss), ("compiled", compiled_loss)):
        try:
            expected, rivals[name] = rival(torch, transformers, model, batch, kind)
        except Exception as error:
            if kind is not compiled_loss:
                raise
            left_out(error)
            continue
        check_loss(loss, expected, name)
    with closing(training_step(model, batch, threads)) as step, Workers(threads) as workers:
        floor = products(config, rows, length, len(np.flatnonzero(batch["labels"] != IGNORE)), workers)
        times = times_in_turn({"minissl": step, **rivals, "products alone": floor}, rounds, watch=watch)
    what, agreed = "BERT training step, dropout on", f"every side's loss {loss:.4f}"
    return Comparison(what, preset, f"{rows} × {length}", threads, agreed, times, watch.conditions)


Loss = Callable[[Any, Any, dict[str, Array]], Callable[[], Any]]  # of PyTorch, a model of theirs and a batch


def rival(
    torch: Any, transformers: Any, model: BertForPreTraining, batch: dict[str, Array], kind: Loss
) -> tuple[float, Callable[[], float]]:
    """Return the loss, in evaluation, of Hugging Face's model with minissl's weights, and its training step."""
    theirs = theirs_with_weights(torch, transformers, model)
    loss_of = kind(torch, theirs, batch)
    theirs.eval()
    expected = float(loss_of().item())
    return expected, torch_step(torch, theirs.train(), loss_of)


def theirs_with_weights(torch: Any, transformers: Any, model: BertForPreTraining) -> Any:
    """Hugging Face's model with the weights of minissl's, which is on the host."""
    theirs = transformers.BertForPreTraining(transformers.BertConfig(**model.config.to_dict()))
    theirs.load_state_dict({key: torch.tensor(weight) for key, weight in model.state_dict().items()})
    return theirs


def left_out(error: Exception) -> None:
    """Warn that torch.compile does not run here."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    warnings.warn(f"torch.compile does not run here, so it is left out ({reason})", stacklevel=3)


def check_loss(loss: float, expected: float, name: str, tolerance: float = TOLERANCE) -> None:
    """Raise InputError where the other side computes another loss: times of two things are no comparison."""
    if not abs(loss - expected) <= tolerance * expected:
        raise InputError(f"minissl's loss is {loss}, that of {name} {expected}: nothing was compared")


def plain_loss(torch: Any, model: Any, batch: dict[str, Array]) -> Callable[[], Any]:
    """The sum of both losses as Hugging Face computes it: scores of every word at every position."""
    tensors = {name: torch.tensor(array, device=model.device) for name, array in batch.items()}
    return lambda: model(**tensors).loss


def expert_loss(torch: Any, model: Any, batch: dict[str, Array]) -> Callable[[], Any]:
    """The same sum, with scores at the masked positions alone."""
    tensors = {name: torch.tensor(array, device=model.device) for name, array in batch.items()}
    labels, follows = tensors.pop("labels").reshape(-1), tensors.pop("next_sentence_label")
    positions = torch.nonzero(labels != IGNORE).reshape(-1)
    targets = labels[positions]
    cross_entropy = torch.nn.functional.cross_entropy

    def loss_of() -> Any:
        out = model.bert(**tensors)
        hidden = out.last_hidden_state
        masked = hidden.reshape(-1, hidden.shape[-1])[positions]
        scores = model.cls.predictions(masked)
        return cross_entropy(scores, targets) + cross_entropy(model.cls.seq_relationship(out.pooler_output), follows)

    return loss_of


def compiled_loss(torch: Any, model: Any, batch: dict[str, Array]) -> Callable[[], Any]:
    """The expert's, under torch.compile, which compiles at the first call of each mode."""
    return torch.compile(expert_loss(torch, model, batch))  # type: ignore[no-any-return]


def products(config: BertConfig, rows: int, length: int, masked: int, workers: Workers) -> Callable[[], Any]:
    """A step's matrix products and nothing else, each thread's on its share of the rows: what no step can be below.

    One product forward and two backward for each weight (queries, keys and values in one), and for scores and sums.
    """
    threads = workers.threads
    d, f, h = config.hidden_size, config.intermediate_size, config.num_attention_heads
    n, m = rows * length // threads, max(1, masked // threads)
    linears = [(n, d, 3 * d), (n, d, d), (n, d, f), (n, f, d)] * config.num_hidden_layers
    linears += [(m, d, d), (m, d, config.vocab_size), (max(1, rows // threads), d, d)]
    inputs = _Arrays(np.random.default_rng(0))
    results = [_Arrays(np.random.default_rng(0)) for _ in range(threads)]

    def share(i: int) -> None:
        for n, d_in, d_out in linears:
            x, w, y = inputs[n, d_in], inputs[d_in, d_out], inputs[n, d_out]
            np.matmul(x, w, out=results[i][n, d_out])
            np.matmul(y, w.T, out=results[i][n, d_in])
            np.matmul(x.T, y, out=results[i][d_in, d_out])
        heads = (max(1, rows // threads), h, length)
        q, s = inputs[*heads, d // h], inputs[*heads, length]
        for _ in range(config.num_hidden_layers):
            for _ in range(2):  # dq and ds·k look alike: a product with the keys, and one with the scores
                np.matmul(q, q.swapaxes(-1, -2), out=results[i][s.shape])
                np.matmul(s, q, out=results[i][q.shape])
                np.matmul(s.swapaxes(-1, -2), q, out=results[i][q.shape])

    for i in range(threads):  # makes the arrays
        share(i)
    return lambda: workers.map(share, threads)


class _Arrays(dict[tuple[int, ...], Array]):
    """Random numbers in each shape that is asked for, made once."""

    def __init__(self, rng: np.random.Generator):
        super().__init__()
        self._rng = rng

    def __missing__(self, shape: tuple[int, ...]) -> Array:
        self[shape] = self._rng.standard_normal(shape, dtype=np.float32)
        return self[shape]
