"""What a table says of the machine it was made on, and when it says that its numbers are worth less."""

import os
from functools import partial

import numpy as np
import pytest

from minissl import bench, kernels
from minissl.bench import conditions as conditions_module
from minissl.bench.conditions import Watch, cautions, conditions, load_before
from minissl.bench.turns import times_in_turn
from minissl.models.bert import BertConfig, BertForPreTraining


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    load_before.cache_clear()
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    monkeypatch.setattr(conditions_module, "available_cores", lambda: 2)
    yield
    load_before.cache_clear()


def at_load(monkeypatch, *loads):
    loads = iter(loads)
    monkeypatch.setattr(os, "getloadavg", lambda: (next(loads), 9.0, 9.0))


def test_the_load_is_that_before_the_command_s_own_work(monkeypatch):
    at_load(monkeypatch, 0.3, 0.3, 1.9)
    assert (conditions().load, conditions().load_now) == (0.3, 1.9)


@pytest.mark.parametrize(("load", "busy"), [(0.49, False), (0.51, True)])
def test_a_busy_machine_is_named(monkeypatch, load, busy):
    at_load(monkeypatch, load, load)
    said = cautions(conditions(), 2)
    assert [line.partition(", on 2 core(s)")[0] for line in said] == [
        f"caution: a busy machine: its load was {load:.2f} before anything ran"
    ] * busy


def test_a_system_that_tells_no_load(monkeypatch):
    monkeypatch.delattr(os, "getloadavg")
    assert conditions().load == -1
    assert cautions(conditions(), 2) == []
    assert "load" not in conditions().lines()[1]


def test_what_slows_one_side_alone_is_named(monkeypatch):
    at_load(monkeypatch, *[0.0] * 9)
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    found = conditions()
    assert found.settings["OPENBLAS_CORETYPE"] == "Haswell"
    (one,) = cautions(found, 2)
    assert "OPENBLAS_CORETYPE=Haswell is set" in one
    monkeypatch.delenv("OPENBLAS_CORETYPE")
    monkeypatch.setattr(kernels, "enabled", lambda: False)
    assert cautions(conditions(), 2) == [
        "caution: MINISSL_KERNELS=off: minissl runs its reference ops, without their faster twins"
    ]


def test_more_threads_than_cores_are_named_once(monkeypatch):
    at_load(monkeypatch, *[0.0] * 9)
    assert cautions(conditions(), 2) == []
    (one,) = cautions(conditions(), 3)
    assert one.startswith("caution: 3 threads on 2 core(s)")


def test_what_others_take_meanwhile_is_named(monkeypatch):
    """Two seconds of two cores, in which the cores worked three seconds and this process one: others took half."""
    at_load(monkeypatch, *[0.0] * 9)
    busy, clock = iter([10.0, 13.0, 20.0, 20.1]), iter([5.0, 7.0, 9.0, 10.0])
    own = iter([(1.0, 1.0), (1.5, 1.5), (2.0, 2.0), (2.0, 2.0)])
    monkeypatch.setattr(conditions_module, "_busy_seconds", lambda: next(busy))
    monkeypatch.setattr(conditions_module.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(os, "times", lambda: (*next(own), 0, 0, 0))
    watch = Watch()
    assert watch.conditions.others == -1
    assert cautions(watch.conditions, 2) == []
    for _ in range(2):  # a quiet time afterwards does not excuse it
        watch.begin()
        watch.end()
    assert watch.conditions.others == 0.5
    (one,) = cautions(watch.conditions, 2)
    assert one.startswith("caution: other processes took 50% of the cores while this was timed")


def test_where_nothing_tells_what_others_take(monkeypatch):
    monkeypatch.setattr(conditions_module, "_busy_seconds", lambda: None)
    watch = Watch()
    watch.begin()
    watch.end()
    assert watch.conditions.others == -1


def test_times_in_turn_watches_the_rounds_and_not_the_warm_up():
    seen = []

    class Spy:
        def begin(self):
            seen.append("begin")

        def end(self):
            seen.append("end")

    runs = {name: partial(seen.append, name) for name in "ab"}
    times_in_turn(runs, 2, warm_up=1, watch=Spy(), prepare={"b": partial(seen.append, "for b")})
    both = ["a", "for b", "b"]
    assert seen == [*both, "begin", *both, *both, "end"]


def test_a_step_is_called_by_its_public_name_and_gives_blas_back():
    from minissl.workers import _shared

    model = BertForPreTraining(BertConfig(9, 4, 1, 2, 5, max_position_embeddings=6))
    batch = {"input_ids": np.array([[1, 2]]), "labels": np.array([[1, -100]])}
    before = _shared.blas._holders
    step = bench.training_step(model, batch, 1)
    losses = [step() for _ in range(3)]
    assert losses[2] < losses[0]
    assert _shared.blas._holders == before + 1
    step.close()
    assert _shared.blas._holders == before
