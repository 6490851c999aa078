"""A run that was killed, interrupted or ran out of disk ends with the bits of one that was never stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import minissl
from minissl.cli import main
from minissl.files import read_arrays
from minissl.recipes.tasks import HmmTask, TextTask

STEPS = 60
OPTIONS = f"--data hmm --steps {STEPS} --save-every 7 --batch-size 4 --seq-len 12 --threads 2".split()


FEW_HELDOUT_ROWS = """
import sys, minissl.cli, minissl.recipes.pretrain as recipe
recipe.HELDOUT_ROWS, recipe.CURVE_BATCHES = 64, 1
sys.exit(minissl.cli.main(sys.argv[1:]))
"""


def command(*arguments):
    """`minissl pretrain` in a process of its own, with as few held-out rows as in the fixture `quick`."""
    return [sys.executable, "-c", FEW_HELDOUT_ROWS, "pretrain", *arguments]


def environment():
    root = str(Path(minissl.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}


def start(*arguments):
    return subprocess.Popen(
        command(*arguments), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def wait_for_lines(process, run, lines):
    """Wait until the log holds that many lines: a moment in the run, on a machine of any speed."""
    log, deadline = Path(run) / "log.jsonl", time.monotonic() + 60
    while not log.exists() or log.read_bytes().count(b"\n") < lines:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def kill(process):
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def checkpoint_step(run):
    return int(read_arrays(Path(run) / "checkpoint.safetensors")[1]["step"])


def logged(run):
    return [json.loads(line) for line in (Path(run) / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory):
    """The model's bytes and the log of the run that everything is compared with."""
    run = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("minissl.recipes.pretrain.HELDOUT_ROWS", 64)
        patch.setattr("minissl.recipes.pretrain.CURVE_BATCHES", 1)
        patch.setattr("minissl.plots.loss.plot_losses", lambda *_: None)
        patch.setattr("minissl.plots.attention.plot_attention", lambda *_: None)
        assert main(["pretrain", *OPTIONS, "--out", str(run)]) == 0
    return (run / "model.safetensors").read_bytes(), logged(run)


def assert_ends_as(never_stopped, run="run"):
    assert main(["pretrain", "--resume", run]) == 0
    model, log = never_stopped
    assert [record["step"] for record in logged(run)] == list(range(1, STEPS + 1))
    assert logged(run) == log
    assert (Path(run) / "model.safetensors").read_bytes() == model
    assert json.loads((Path(run) / "metrics.json").read_text())["steps"] == STEPS
    assert not list(Path(run).glob(".*"))
    assert not (Path(run) / "checkpoint.safetensors").exists()


@pytest.mark.parametrize("lines", [1, 23], ids=["before the first checkpoint", "between checkpoints"])
def test_kill(quick, never_stopped, lines):
    process = start(*OPTIONS, "--out", "run")
    wait_for_lines(process, "run", lines)
    kill(process)
    assert_ends_as(never_stopped)


def test_kill_while_preparing(quick, never_stopped):
    process = start(*OPTIONS, "--out", "run")
    while not Path("run").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.001)
    kill(process)
    assert not Path("run/checkpoint.safetensors").exists()
    assert_ends_as(never_stopped)


def test_killed_twice_and_while_checkpoints_are_written(quick, never_stopped):
    """Every step writes one, so that a kill is likely to fall into the writing."""
    every = [option if option != "7" else "1" for option in OPTIONS]
    process = start(*every, "--out", "run")
    wait_for_lines(process, "run", 9)
    kill(process)
    process = start("--resume", "run")
    wait_for_lines(process, "run", 31)
    kill(process)
    assert_ends_as(never_stopped)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_interruption_saves_and_says_how_to_go_on(quick, never_stopped, number):
    process = start(*OPTIONS, "--out", "my run")
    wait_for_lines(process, "my run", 10)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2, said
    step = len(logged("my run"))
    last_line = said.splitlines()[-1]
    assert last_line == (
        f"minissl: stopped at step {step} of {STEPS}; everything is saved; "
        "go on with: minissl pretrain --resume 'my run'"
    )
    assert "Traceback" not in said
    assert checkpoint_step("my run") == step
    assert_ends_as(never_stopped, "my run")


def stop_at(monkeypatch, task_class, step):
    """Let step `step` fail, as at a second Ctrl-C; call what is returned to take that back."""
    batch = task_class.batch

    def until(task, number):
        if number == step:
            raise KeyboardInterrupt
        return batch(task, number)

    monkeypatch.setattr(task_class, "batch", until)
    return lambda: monkeypatch.setattr(task_class, "batch", batch)


def test_a_full_disk_keeps_the_last_good_checkpoint(quick, never_stopped, monkeypatch, capfd):
    go_on = stop_at(monkeypatch, HmmTask, 10)
    assert main(["pretrain", *OPTIONS, "--out", "run"]) == 2
    assert capfd.readouterr().err.splitlines()[-1] == "minissl: interrupted; go on with: minissl pretrain --resume run"
    go_on()
    before = Path("run/checkpoint.safetensors").read_bytes()
    assert checkpoint_step("run") == 7
    full_disk = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))"
    assert len(before) > 2_000_000
    python, c, code, *arguments = command("--resume", "run")
    limited = [python, c, full_disk + code, *arguments]
    ended = subprocess.run(limited, env=environment(), capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    last_line = ended.stderr.splitlines()[-1]
    assert last_line.startswith("minissl: run/checkpoint.safetensors: could not be written (File too large)")
    assert last_line.endswith("go on with: minissl pretrain --resume run")
    assert "Traceback" not in ended.stderr
    assert Path("run/checkpoint.safetensors").read_bytes() == before
    assert not list(Path("run").glob(".*"))
    assert_ends_as(never_stopped)


@pytest.mark.parametrize("where", ["evaluate", "_finish"])
def test_an_interruption_after_the_last_step(quick, never_stopped, monkeypatch, capsys, where):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("minissl.recipes.session.CURVE_POINTS", 0.5)  # no held-out loss along the way
        patch.setattr(f"minissl.recipes.pretrain.{where}", interrupted)
        assert main(["pretrain", *OPTIONS, "--out", "run"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("interrupted; go on with: minissl pretrain --resume run")
    assert checkpoint_step("run") == STEPS
    assert main(["pretrain", "--resume", "run"]) == 0
    assert Path("run/model.safetensors").read_bytes() == never_stopped[0]


def test_an_interruption_before_the_first_step_leaves_nothing(quick, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(HmmTask, "heldout", interrupted)
    assert main(["pretrain", *OPTIONS, "--out", "a/b/run"]) == 2
    assert capsys.readouterr().err == "minissl: interrupted\n"
    assert not list(Path().iterdir())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_resuming_what_cannot_be_resumed(quick, small_text, monkeypatch, capsys):
    def refused(*arguments):
        assert main(["pretrain", "--resume", *arguments]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("minissl: ")
        assert err.count("\n") == 1
        return err

    assert "not the folder of a run" in refused("nowhere")
    Path("empty").mkdir()
    assert "not the folder of a run" in refused("empty")

    text = ["--data", str(small_text), "--vocab-size", "120", "--batch-size", "4", "--seq-len", "16", "--threads", "1"]
    assert main(["pretrain", *text, "--steps", "4", "--save-every", "2", "--out", "whole"]) == 0
    capsys.readouterr()
    assert "this run is complete" in refused("whole")
    assert "give no other option beside it" in refused("whole", "--steps", "9")

    go_on = stop_at(monkeypatch, TextTask, 4)
    assert main(["pretrain", *text, "--steps", "4", "--save-every", "2", "--out", "cut"]) == 2
    go_on()
    capsys.readouterr()
    files = {path.name: path.read_bytes() for path in Path("cut").iterdir()}
    original = small_text.read_text()
    small_text.write_text(original.replace("cat", "dog"))
    assert "the data has changed since this run began" in refused("cut")
    small_text.unlink()
    assert "no such file" in refused("cut")
    assert {path.name: path.read_bytes() for path in Path("cut").iterdir()} == files

    small_text.write_text(original)
    settings = json.loads(Path("cut/run.json").read_text())
    for wrong in ({"colour": "red"}, {"steps": "many"}, {"steps": -1}, {"seed": 2.5}, {"nsp": 1}):
        Path("cut/run.json").write_text(json.dumps(settings | {"options": settings["options"] | wrong}))
        refused("cut")
    Path("cut/run.json").write_text(json.dumps(settings))
    assert main(["pretrain", "--resume", "cut"]) == 0
    assert Path("cut/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()


def test_a_diverging_run_keeps_its_last_checkpoint(quick, monkeypatch, capsys):
    """The weights are blown up after the second checkpoint, as a far too high learning rate would."""
    batch = HmmTask.batch
    trainers = []

    def blow_up(task, step):
        if step == 5:
            trainers[0].weights *= 1e30
        return batch(task, step)

    import minissl.recipes.session as recipe

    new = recipe.Trainer
    monkeypatch.setattr(recipe, "Trainer", lambda *a, **k: trainers.append(new(*a, **k)) or trainers[-1])
    monkeypatch.setattr(HmmTask, "batch", blow_up)
    options = ["--data", "hmm", "--steps", "9", "--save-every", "2", "--batch-size", "4", "--seq-len", "12"]
    for threads in ("1", "2"):
        trainers.clear()
        assert main(["pretrain", *options, "--threads", threads, "--out", f"run{threads}"]) == 2
        said = capsys.readouterr().err.splitlines()
        assert said[-1].startswith("minissl: step 5: the loss or the gradient is no longer finite (mlm nan")
        assert "first in the output of the layer bert." in said[-1]
        assert f"the last checkpoint is kept in run{threads};" in said[-1]
        assert not any("Warning" in line or "Traceback" in line for line in said)
        assert checkpoint_step(f"run{threads}") == 4
    monkeypatch.setattr(HmmTask, "batch", batch)
    assert main(["pretrain", "--resume", "run1"]) == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--learning-rate 1e30", "step 2: the loss or the gradient is no longer finite"),
        ("--learning-rate 1e39", "step 1: after the update the weights are no longer finite; first in the weight"),
        ("--learning-rate 1e30 --steps 1", "after the last step, the held-out loss is not finite (nan); first in the"),
    ],
)
def test_a_learning_rate_that_is_far_too_high(quick, capsys, options, said):
    base = "pretrain --data hmm --steps 9 --save-every 1 --batch-size 4 --seq-len 12 --out run --threads 2"
    assert main([*base.split(), *options.split()]) == 2
    err = capsys.readouterr().err
    last_line = err.splitlines()[-1]
    assert said in last_line
    assert last_line.endswith("in run; the usual slip is a learning rate that is too high")
    assert "Warning" not in err
    assert not Path("run/metrics.json").exists()
    assert not Path("run/model.safetensors").exists()
