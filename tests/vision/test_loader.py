"""Batches made ahead: the right ones in any order, errors carried over, and an end that comes."""

import threading
import time

import numpy as np
import pytest

from minissl.errors import InputError
from minissl.vision import Loader, rows_of


def test_each_pass_has_every_row_once_in_a_new_order():
    rows = np.concatenate([rows_of(step, 10, 4, seed=3) for step in range(1, 16)])  # 60 rows, six passes
    passes = rows.reshape(6, 10)
    np.testing.assert_array_equal(np.sort(passes), np.tile(np.arange(10), (6, 1)))
    assert len({tuple(one) for one in passes.tolist()}) == 6
    np.testing.assert_array_equal(rows_of(7, 10, 4, seed=3), rows[24:28])  # without the steps before
    assert not np.array_equal(rows_of(7, 10, 4, seed=4), rows[24:28])


def test_a_batch_larger_than_the_set():
    rows = np.concatenate([rows_of(step, 3, 8, seed=0) for step in (1, 2, 3)])
    np.testing.assert_array_equal(np.sort(rows.reshape(8, 3)), np.tile(np.arange(3), (8, 1)))


@pytest.mark.parametrize("wrong", [(0, 5, 2), (1, 0, 2), (1, 5, 0)])
def test_no_step_no_rows_no_batch(wrong):
    with pytest.raises(InputError, match="expected 1 or more of each"):
        rows_of(*wrong, seed=0)


def numbered(step):
    return {"step": np.array(step)}


def test_steps_in_order_out_of_order_and_twice():
    with Loader(numbered, 1, 20) as loader:
        for step in (1, 2, 3, 3, 7, 5, 20, 21, 19):
            assert loader(step)["step"] == step


def test_batches_are_made_ahead_by_another_thread_and_no_further_than_asked():
    made, threads = [], set()
    full = threading.Event()

    def make(step):
        made.append(step)
        threads.add(threading.get_ident())
        if len(made) == 3:
            full.set()
        return numbered(step)

    with Loader(make, 5, 100, ahead=2) as loader:
        assert loader(5)["step"] == 5
        assert full.wait(10)
        time.sleep(0.05)
        assert made == [5, 6, 7]
    assert threading.get_ident() not in threads
    with Loader(make, 99, 100, ahead=5) as loader:
        loader(99)
        loader(100)
        time.sleep(0.05)
    assert not set(made) & {101, 102}


def test_waited_is_the_time_that_the_step_lost():
    release = threading.Event()

    def make(step):
        assert release.wait(10)
        return numbered(step)

    with Loader(make, 1, 2) as loader:
        threading.Timer(0.1, release.set).start()
        loader(1)
        assert 0.02 < loader.waited < 10


def test_an_error_comes_out_at_its_own_step_and_the_others_live():
    def make(step):
        if step == 2:
            raise InputError("batch 2 is wrong")
        return numbered(step)

    with Loader(make, 1, 5) as loader:
        assert loader(1)["step"] == 1
        for _ in range(2):
            with pytest.raises(InputError, match="batch 2 is wrong"):
                loader(2)
        assert loader(3)["step"] == 3


def test_the_caller_s_errstate_is_the_thread_s():
    with np.errstate(divide="raise"):
        loader = Loader(lambda step: {"x": np.ones(1) / np.zeros(1)}, 1, 1)
    with loader, pytest.raises(FloatingPointError):
        loader(1)


def test_closing_ends_the_thread_and_drops_what_waits():
    made, release = [], threading.Event()

    def make(step):
        made.append(step)
        assert release.wait(10)
        return numbered(step)

    before = threading.active_count()
    loader = Loader(make, 1, 50, ahead=40)
    while not made:
        time.sleep(0.001)
    release.set()
    loader.close()
    loader.close()
    assert len(made) < 40
    assert threading.active_count() == before
    with pytest.raises(RuntimeError), Loader(numbered, 1, 50):  # an error of the step ends it too
        raise RuntimeError
    assert threading.active_count() == before
