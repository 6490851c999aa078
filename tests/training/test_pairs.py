"""Two threads' gradients in one buffer: their sum, to the same bits whoever comes first."""

import threading
import time

import numpy as np
import pytest

from minissl.bench.step import bert_batch
from minissl.errors import InputError
from minissl.kernels.rows import RowGradient
from minissl.models.bert import BertConfig, BertForPreTraining
from minissl.nn import Grads, Module, Param
from minissl.training import Trainer, TrainingOptions
from minissl.training.pairs import AHEAD, PairedGrads


class Bias(Module):
    """One of many."""

    def __init__(self):
        self.bias = Param(np.zeros(3, np.float32), decay=False)


class Several(Module):
    """A matrix, a table and a bias, and so many more that one thread can be far ahead."""

    def __init__(self):
        self.more = [Bias() for _ in range(2 * AHEAD)]
        self.weight = Param(np.zeros((5, 7), np.float32), decay=True)
        self.table = Param(np.zeros((9, 4), np.float32), decay=True)
        self.bias = Param(np.zeros(7, np.float32), decay=False)


def additions(model, seed):
    """What a thread adds: everything once, the matrix three times, the table as a whole and by rows too."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    return [
        (model.table, normal(9, 4)),
        (model.weight, normal(5, 7)),
        *((one.bias, normal(3)) for one in model.more),
        (model.bias, normal(7)),
        (model.weight, normal(5, 7)),
        (model.weight, normal(5, 7)),
        (model.table, RowGradient(np.array([7, 2]), normal(2, 4), (9, 4))),
        (model.table, RowGradient(np.array([2, 0]), normal(2, 4), (9, 4))),
    ]


def expected(model, *threads):
    grads = Grads(model)
    for thread in threads:
        for param, gradient in thread:
            grads.add(param, gradient)
    return grads.collect()


def collected(model, order, *threads):
    """The pair's sum, where thread order[i] makes the i-th addition."""
    pair = PairedGrads(model)
    left = [list(thread) for thread in threads]
    for i in order:
        pair.halves[i].add(*left[i].pop(0))
    assert not any(left)
    return pair.collect().copy()


def orders(n):
    yield [0] * n + [1] * n
    yield [1] * n + [0] * n
    yield [0, 1] * n
    yield [1, 0] * n
    for seed in range(20):
        yield np.random.default_rng(seed).permutation([0] * n + [1] * n).tolist()


def test_the_sum_has_the_same_bits_whoever_comes_first():
    model = Several()
    threads = additions(model, 0), additions(model, 1)
    results = {collected(model, order, *threads).tobytes() for order in orders(len(threads[0]))}
    assert len(results) == 1
    np.testing.assert_allclose(
        np.frombuffer(results.pop(), np.float32), expected(model, *threads), rtol=1e-5, atol=1e-6
    )


def test_threads_at_once():
    model = Several()
    threads = additions(model, 0) * 30, additions(model, 1) * 30
    results = set()
    for attempt in range(8):
        pair = PairedGrads(model)

        def work(i, pair=pair, attempt=attempt):
            pause = np.random.default_rng([attempt, i])
            for param, gradient in threads[i]:
                if pause.random() < 0.1:
                    time.sleep(1e-4)
                pair.halves[i].add(param, gradient)

        running = [threading.Thread(target=work, args=(i,)) for i in (0, 1)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        results.add(pair.collect().tobytes())
    assert len(results) == 1
    np.testing.assert_allclose(
        np.frombuffer(results.pop(), np.float32), expected(model, *threads), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("alone", [0, 1])
def test_a_thread_that_adds_nothing(alone):
    model = Several()
    thread = additions(model, 3)
    got = collected(model, [alone] * len(thread), *([thread, []] if alone == 0 else [[], thread]))
    np.testing.assert_allclose(got, expected(model, thread), rtol=1e-5)


def test_micro_batches_are_added_and_the_next_step_begins_at_zero():
    model = Several()
    pair = PairedGrads(model)
    micro = [(additions(model, 2 * i), additions(model, 2 * i + 1)) for i in range(3)]
    for threads in micro:
        for half, thread in zip(pair.halves, threads, strict=True):
            for addition in thread:
                half.add(*addition)
        pair.settle()
    np.testing.assert_allclose(
        pair.collect(), expected(model, *(thread for threads in micro for thread in threads)), rtol=1e-4, atol=1e-5
    )
    assert not pair.collect().any()


def test_later_micro_batches_have_the_same_bits_whoever_is_far_ahead():
    model = Several()
    micro = [(additions(model, 2 * i), additions(model, 2 * i + 1)) for i in range(2)]
    results = set()
    for order in ([0, 1], [1, 0]):
        pair = PairedGrads(model)
        for threads in micro:
            for i in order:
                for addition in threads[i]:
                    pair.halves[i].add(*addition)
            pair.settle()
        results.add(pair.collect().tobytes())
    assert len(results) == 1


def test_half_a_gradient_does_not_reach_the_next_step():
    """Where a thread dies, the trainer collects what there is."""
    model = Several()
    pair = PairedGrads(model)
    for half, seed, count in zip(pair.halves, (0, 1), (AHEAD + 9, 3), strict=True):
        for addition in additions(model, seed)[:count]:
            half.add(*addition)
    pair.collect()
    threads = additions(model, 2), additions(model, 3)
    for half, thread in zip(pair.halves, threads, strict=True):
        for addition in thread:
            half.add(*addition)
    np.testing.assert_allclose(pair.collect(), expected(model, *threads), rtol=1e-5, atol=1e-6)


def test_what_was_added_is_left_alone_and_a_wrong_shape_is_refused():
    model = Several()
    threads = additions(model, 0), additions(model, 1)
    before = [np.asarray(gradient).copy() for thread in threads for _, gradient in thread]
    collected(model, [0, 1] * len(threads[0]), *threads)
    after = [np.asarray(gradient) for thread in threads for _, gradient in thread]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    with pytest.raises(InputError, match=r"shape \(7, 5\) was added to a parameter of shape \(5, 7\)"):
        PairedGrads(model).halves[1].add(model.weight, np.zeros((7, 5), np.float32))


@pytest.mark.parametrize(("threads", "buffers"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3)])
def test_two_threads_to_a_buffer(threads, buffers):
    config = BertConfig(vocab_size=31, hidden_size=12, num_hidden_layers=1, num_attention_heads=3, intermediate_size=17)
    trainer = Trainer(BertForPreTraining(config), TrainingOptions(2, 1e-2, threads=threads))
    trainer.train_step([bert_batch(config, 7, 9)])
    trainer.close()
    assert len(trainer._grads) == threads
    assert len({id(grads.flat) for grads in trainer._grads}) == len(trainer._sums) == buffers


def test_gradients_of_another_dtype_have_the_same_bits_whoever_comes_first():
    """A pair of one's own may give float64, as NumPy makes of np.sqrt(d)."""
    model = Several()
    threads = [
        [
            (one.bias, np.random.default_rng([i, number]).standard_normal(3).astype(dtype))
            for number, one in enumerate(model.more)
        ]
        for i, dtype in enumerate((np.float64, np.float32))
    ]
    assert len({collected(model, order, *threads).tobytes() for order in orders(len(model.more))}) == 1
