import threading
import time

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from minissl.training.workers import Workers, available_cores, slices, split_rows


@pytest.fixture
def workers():
    made = Workers(3)
    yield made
    made.close()


def test_results_come_in_order_whoever_finishes_first(workers):
    def work(i):
        time.sleep(0.02 * (3 - i % 3))
        return i, threading.get_ident()

    results = workers.map(work, 7)
    assert [i for i, _ in results] == list(range(7))
    assert len({thread for _, thread in results}) == 3


def test_an_error_is_raised_only_when_nobody_works_any_more(workers):
    ended = []

    def work(i):
        if i == 0:
            raise ValueError("first share")
        time.sleep(0.05)
        ended.append(i)

    with pytest.raises(ValueError, match="first share"):
        workers.map(work, 3)
    assert sorted(ended) == [1, 2]


def test_threads_see_the_callers_error_state(workers):
    with np.errstate(over="ignore"):  # elsewhere pytest turns the warning into an error
        assert workers.map(lambda i: float(np.float32(1e30) * np.float32(1e30)), 3) == [np.inf] * 3
    with pytest.raises(RuntimeWarning, match="overflow"):
        workers.map(lambda i: np.float32(1e30) * np.float32(1e30), 3)


def test_blas_has_one_thread_while_workers_exist():
    def threads():
        return [b["num_threads"] for b in threadpool_info() if b["user_api"] == "blas"]

    before = threads()
    workers = Workers(2)
    assert threads() == [1] * len(before)
    workers.close()
    assert threads() == before


def test_shares_are_neighbouring_rows_of_almost_equal_number():
    batch = {"a": np.arange(22).reshape(11, 2), "b": np.arange(11)}
    for shares in (1, 2, 3, 4, 11, 40):
        parts = split_rows(batch, shares)
        sizes = [len(part["b"]) for part in parts]
        assert len(parts) == min(shares, 11)
        assert max(sizes) - min(sizes) <= 1
        for name, whole in batch.items():
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), whole)


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 5000, 123_457])
@pytest.mark.parametrize("parts", [1, 2, 3, 8])
def test_slices_cover_everything_once(size, parts):
    cut = slices(size, parts)
    assert len(cut) == parts
    assert [i for part in cut for i in range(size)[part]] == list(range(size))
    assert all(part.start % 1024 == 0 or part.start == size for part in cut)


def test_there_is_a_core():
    assert available_cores() >= 1
