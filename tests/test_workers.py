import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from minissl.workers import SHARE_TOKENS, Workers, available_cores, map_row_shares, slices, split_rows


def blas_threads():
    return [b["num_threads"] for b in threadpool_info() if b["user_api"] == "blas"]


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


def test_an_interrupt_is_raised_only_when_nobody_works_any_more(workers):
    """Who goes on after Ctrl-C, as in a notebook, must not find an old step's threads at work in the next."""
    ended = []
    workers.map(lambda i: time.sleep(0.01), 3)  # the threads are there

    def work(i):
        if i == 0:
            time.sleep(0.02)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.05)
        ended.append(i)

    with pytest.raises(KeyboardInterrupt):
        workers.map(work, 3)
    assert sorted(ended) == [0, 1, 2]


def test_threads_see_the_callers_error_state(workers):
    with np.errstate(over="ignore"):  # elsewhere pytest turns the warning into an error
        assert workers.map(lambda i: float(np.float32(1e30) * np.float32(1e30)), 3) == [np.inf] * 3
    with pytest.raises(RuntimeWarning, match="overflow"):
        workers.map(lambda i: np.float32(1e30) * np.float32(1e30), 3)


def test_blas_has_one_thread_while_workers_exist():
    before = blas_threads()
    workers = Workers(2)
    assert blas_threads() == [1] * len(before)
    workers.close()
    assert blas_threads() == before


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


def test_every_row_is_in_one_share_and_the_results_come_in_order():
    for rows, tokens in [(1, 9), (2, 9), (7, 9), (7, 300), (40, 512), (3, 5000)]:
        shares = map_row_shares(lambda share: share, rows, tokens)
        assert [i for share in shares for i in range(rows)[share]] == list(range(rows))
        assert all((share.stop - share.start - 1) * tokens < SHARE_TOKENS for share in shares)


def test_the_shares_do_not_depend_on_who_else_works():
    def shares():
        return map_row_shares(lambda share: share, 23, 100)

    alone = shares()
    workers = Workers(3)
    try:
        assert [*workers.map(lambda i: shares(), 3), *workers.map(lambda i: shares(), 1)] == [alone] * 4
        assert shares() == alone
    finally:
        workers.close()
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda i: shares(), range(20))) == [alone] * 20


def test_a_share_of_workers_is_not_split_over_threads_again(workers):
    def work(i):
        return set(map_row_shares(lambda share: threading.get_ident(), 8, SHARE_TOKENS)) == {threading.get_ident()}

    assert workers.map(work, 6) == [True] * 6
    assert workers.map(work, 1) == [True]


def test_no_more_threads_than_blas_had_and_it_gets_them_back():
    before = blas_threads()
    with threadpool_limits(1, user_api="blas"):
        assert set(map_row_shares(lambda share: threading.get_ident(), 8, 999)) == {threading.get_ident()}
    assert map_row_shares(lambda share: blas_threads(), 5, 999) == [[1] * len(before)] * 5
    assert blas_threads() == before


def test_evaluations_and_trainers_may_end_in_any_order():
    before = blas_threads()
    first, second = Workers(2), Workers(2)
    map_row_shares(lambda share: None, 4, 999)
    first.close()
    assert blas_threads() == [1] * len(before)
    second.close()
    assert blas_threads() == before


def test_a_block_gives_blas_its_threads_back_whatever_it_comes_to():
    before = blas_threads()

    def work(i):
        assert blas_threads() == [1] * len(before)
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"), Workers(2) as workers:
        workers.map(work, 2)
    assert blas_threads() == before


def test_an_error_in_a_share_is_raised_and_leaves_nothing_behind():
    before = blas_threads()

    def work(share):
        if share.start == 4:
            raise ValueError("row 4")
        return share

    for _ in range(5):
        with pytest.raises(ValueError, match="row 4"):
            map_row_shares(work, 8, SHARE_TOKENS)
    assert blas_threads() == before
    assert len(map_row_shares(lambda share: share, 8, SHARE_TOKENS)) == 8


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_evaluates_too_even_where_the_parent_was_at_it():
    """In a process of its own, so that a hang is a failure and no other test's threads are forked."""
    code = (
        "import multiprocessing, numpy as np\n"
        "from minissl.workers import Workers, map_row_shares\n"
        "a = np.ones((300, 300), np.float32)\n"
        "def work(_=0): return sum(float((a @ a)[0, 0]) for _ in map_row_shares(lambda s: a @ a, 8, 512))\n"
        "work()\n"
        "held = Workers(2)\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool: print(pool.map(work, range(4)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == f"{[8 * 300.0] * 4}\n"
