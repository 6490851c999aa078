"""Several processes, as mpirun starts them: the gradients of one, one voice, and an end for all where one ends."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import several_processes
from minissl.errors import InputError
from minissl.training.processes import Alone, all_or_none, find_processes
from minissl.workers import launched, rank

MPIRUN = shutil.which("mpirun", path=str(Path(sys.executable).parent))  # the environment's own, of the package mpich
HERE = Path(several_processes.__file__)
OPTIONS = [
    "--data",
    "hmm",
    "--steps",
    "8",
    "--batch-size",
    "6",
    "--seq-len",
    "12",
    "--save-every",
    "3",
    "--threads",
    "1",
]

needs_mpi = pytest.mark.skipif(MPIRUN is None, reason="no mpirun in this environment (pip install mpi4py mpich)")


def environment():
    return {name: value for name, value in os.environ.items() if not name.startswith(("PMI_", "OMPI_", "HYDI_"))}


def mpirun(count, *command, **options):
    return subprocess.run(
        [MPIRUN, "-n", str(count), sys.executable, *map(str, command)], capture_output=True, text=True, timeout=120,
        env=environment(), **options,
    )  # fmt: skip


@needs_mpi
@pytest.mark.parametrize(("count", "threads"), [(2, 1), (2, 2), (3, 1)])
def test_losses_gradients_and_weights_are_those_of_one_process(tmp_path, count, threads):
    """Steps with micro-batches, without masked words, and with fewer rows than there are threads."""
    done = mpirun(count, HERE, tmp_path / "found.npz", threads)
    assert done.returncode == 0, done.stderr
    several_processes.assert_as_one_process(tmp_path / "found.npz")


@needs_mpi
def test_a_run_of_two_processes_speaks_once_and_resumes(tmp_path):
    whole = mpirun(2, "-m", "minissl", "pretrain", *OPTIONS, "--out", "whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    assert whole.stdout.count("held-out masked-LM loss") == 1
    assert "in each of 2 processes" in whole.stdout
    metrics = json.loads((tmp_path / "whole" / "metrics.json").read_text())
    assert metrics["processes"] == 2
    assert 0 <= metrics["waiting_share"] <= 1
    assert len((tmp_path / "whole" / "log.jsonl").read_text().splitlines()) == 8
    alone = subprocess.run(
        [sys.executable, "-m", "minissl", "pretrain", *OPTIONS[:-1], "2", "--out", "alone"], cwd=tmp_path,
        capture_output=True, text=True, timeout=120, env=environment(),
    )  # fmt: skip
    assert alone.returncode == 0, alone.stderr
    other = json.loads((tmp_path / "alone" / "metrics.json").read_text())
    assert metrics["mlm_loss"] == pytest.approx(other["mlm_loss"], rel=1e-5)  # two threads draw the same dropout

    script = tmp_path / "stopped.py"
    script.write_text(
        "import os, signal, sys\nfrom minissl.cli import main\nfrom minissl.training import loop\n"
        "from minissl.workers import rank\nstep = loop.Trainer.train_step\n"
        "def stop(self, batches):\n"
        "    if self.step == 4 and rank() == 1:\n        os.kill(os.getpid(), signal.SIGINT)\n"
        "    return step(self, batches)\n"
        "loop.Trainer.train_step = stop\nsys.exit(main(sys.argv[1:]))\n"
    )
    stopped = mpirun(2, script, "pretrain", *OPTIONS, "--out", "run", cwd=tmp_path)
    assert stopped.stderr.count("minissl: stopped at step 5 of 8; everything is saved") == 1, stopped.stderr
    resumed = mpirun(2, "-m", "minissl", "pretrain", "--resume", "run", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    for name in ("model.safetensors", "vocab.txt"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@needs_mpi
def test_images_are_shared_too(tmp_path):
    options = ["--data", "gaussian-field", "--steps", "6", "--batch-size", "6", "--save-every", "3"]
    shared = mpirun(2, "-m", "minissl", "pretrain", "mae", *options, "--threads", 1, "--out", "shared", cwd=tmp_path)
    assert shared.returncode == 0, shared.stderr
    alone = mpirun(1, "-m", "minissl", "pretrain", "mae", *options, "--threads", 2, "--out", "alone", cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    found, expected = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("shared", "alone"))
    assert found["processes"] == 2
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-4)


@needs_mpi
@pytest.mark.parametrize("kind", ["dies", "is killed"])
def test_a_dead_process_ends_the_run_and_the_last_checkpoint_is_whole(tmp_path, kind):
    do = 'raise MemoryError("no room")' if kind == "dies" else "os.kill(os.getpid(), signal.SIGKILL)"
    script = tmp_path / "dying.py"
    script.write_text(
        "import os, signal, sys\nfrom minissl.cli import main\nfrom minissl.training import loop\n"
        "from minissl.workers import rank\nstep = loop.Trainer.train_step\n"
        f"def die(self, batches):\n    if self.step == 4 and rank() == 1:\n        {do}\n"
        "    return step(self, batches)\n"
        "loop.Trainer.train_step = die\nsys.exit(main(sys.argv[1:]))\n"
    )
    began = time.monotonic()
    dead = mpirun(2, script, "pretrain", *OPTIONS, "--out", "run", cwd=tmp_path)
    assert time.monotonic() - began < 60
    assert dead.returncode != 0
    said = dead.stdout + dead.stderr
    expected = "minissl: process 1 of 2 died (MemoryError: no room), so the run ends" if kind == "dies" else "Killed"
    assert expected in said
    resumed = mpirun(2, "-m", "minissl", "pretrain", "--resume", "run", cwd=tmp_path)
    assert "going on after step 3" in resumed.stdout, resumed.stderr
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["steps"] == 8


@needs_mpi
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["info"], "minissl: started as 2 processes; only minissl pretrain shares its work among several"),
        (["pretrain", "--data", "nosuch.txt"], "nosuch.txt: no such file or folder"),
        (["pretrain", *OPTIONS, "--batch-size", "1"], "minissl: --batch-size 1: of 2 processes some have no row"),
    ],
)
def test_a_persons_mistake_is_said_once(tmp_path, arguments, said):
    wrong = mpirun(2, "-m", "minissl", *arguments, cwd=tmp_path)
    assert wrong.returncode == 2
    assert wrong.stderr.count("minissl: ") == 1
    assert said in wrong.stderr
    assert not list(tmp_path.iterdir())


def test_alone_there_is_nobody_to_wait_for(monkeypatch):
    processes = find_processes()
    assert isinstance(processes, Alone)
    assert (launched(), rank(), processes.size, processes.rank) == (1, 0, 1, 0)
    values = np.arange(3.0)
    assert processes.begin_sum(values)()
    assert processes.sum(values) is values
    with pytest.raises(InputError, match=r"^mine$"), all_or_none(processes):
        raise InputError("mine")


def test_mpirun_without_mpi4py_is_one_line(monkeypatch):
    """Four processes that know nothing of each other would write one folder."""
    monkeypatch.setenv("PMI_SIZE", "4")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(InputError, match=r"one of 4 processes, which need mpi4py .* pip install 'minissl\[mpi\]'"):
        find_processes.__wrapped__()
