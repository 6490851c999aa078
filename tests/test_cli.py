"""The commands as a person meets them: what they print, how they end, and what they leave behind."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import minissl
from minissl.cli import main

TINY = ["--steps", "3", "--batch-size", "4", "--seq-len", "12", "--threads", "1"]


@pytest.fixture
def here(quick, tmp_path):
    return tmp_path


def tree(folder):
    """Every file below a folder with its content."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def refused(capsys, *arguments):
    """Run a command that must end with 2 and one line; return the line."""
    try:
        status = main(list(arguments))
    except SystemExit as error:  # argparse's own refusals
        status = error.code
    out, err = capsys.readouterr()
    assert status == 2, (out, err)
    assert out == ""
    assert err.startswith("minissl: ")
    assert err.count("\n") == 1, err
    assert err.endswith("\n")
    return err


def as_process(*arguments, **options):
    root = str(Path(minissl.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root, **options.pop("environment", {})}
    return subprocess.run(
        [sys.executable, "-m", "minissl", *arguments], env=environment, timeout=60, **options
    )  # fmt: skip


# texts


def write(path, content):
    path.write_bytes(content) if isinstance(content, bytes) else path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file or folder"),
        (b"", "the file is empty"),
        (b" \n\t\n", "the file is empty"),
        (bytes(range(256)) * 20, "not a text file"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 500, "not a text file"),
        ("Café noir. ".encode("latin-1") * 200, "not UTF-8"),
        ("Schön. ".encode("utf-16") * 200, "UTF-16"),
        ("A cat. A dog.", "too short to train on"),
        ("The same sentence stands here again and again. " * 200, "too short to train on"),
    ],
    ids=["missing", "empty", "blank", "binary", "png", "latin-1", "utf-16", "short", "repeated"],
)
def test_texts_that_cannot_be_used(here, capsys, content, said):
    if content is not None:
        write(here / "text.txt", content)
    before = tree(here)
    for out in ([], ["--out", "new/deeper/run"]):
        line = refused(capsys, "pretrain", "--data", "text.txt", *TINY, *out)
        assert said in line
        assert "text.txt" in line
    assert tree(here) == before


def test_folders_that_cannot_be_used(here, capsys):
    (here / "folder").mkdir()
    assert "no text file below this folder" in refused(capsys, "pretrain", "--data", "folder", *TINY)
    write(here / "folder" / "image.png", b"\x89PNG\0\0")
    assert "no text file below this folder" in refused(capsys, "pretrain", "--data", "folder", *TINY)
    write(here / "folder" / "latin.txt", b"caf\xe9 " * 500)
    assert "latin.txt: not UTF-8" in refused(capsys, "pretrain", "--data", "folder", *TINY)


def test_one_document_trains_with_no_nsp_alone(here, capsys, small_text):
    one = write(here / "one.txt", " ".join(small_text.read_text().split()))
    before = tree(here)
    line = refused(capsys, "pretrain", "--data", "one.txt", *TINY, "--vocab-size", "120")
    assert "next sentence prediction" in line
    assert "--no-nsp" in line
    assert "blank lines" in line
    assert tree(here) == before
    assert main(["pretrain", "--data", str(one), *TINY, "--vocab-size", "120", "--no-nsp", "--out", "run"]) == 0
    assert "next-sentence" not in capsys.readouterr().out


# options


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("--steps", "0 -3 1.5 nan many"),
        ("--batch-size", "0 -1 inf"),
        ("--accumulate", "0 -1 nan"),
        ("--seq-len", "4 -1 0 10000 nan"),
        ("--learning-rate", "0 -0.5 nan inf -inf fast"),
        ("--warmup", "-0.1 1.1 nan inf"),
        ("--dropout", "-0.1 1 nan inf"),
        ("--threads", "-1 nan"),
        ("--seed", "-1 0.5 nan"),
        ("--save-every", "0 -5 nan"),
        ("--preset", "huge"),
        ("--data", " "),
        ("--out", ""),
    ],
)
def test_options_out_of_range(here, capsys, option, values):
    for value in values.split() or [values]:
        line = refused(capsys, "pretrain", "--data", "hmm", f"{option}={value}")
        assert option in line
        assert repr(value)[1:-1] in line
    assert tree(here) == {}


@pytest.mark.parametrize(("option", "values"), [("--vocab-size", "5 0 -1 99 inf"), ("--short", "-0.1 1.1 nan inf")])
def test_options_of_texts_out_of_range(here, capsys, option, values):
    for value in values.split():
        line = refused(capsys, "pretrain", "--data", "docs", f"{option}={value}")
        assert option in line
        assert value in line
    for choice in (["--vocab-size", "500"], ["--short", "0.5"], ["--whole-word"], ["--no-nsp"]):
        assert choice[0] in refused(capsys, "pretrain", "--data", "hmm", *choice)
    assert tree(here) == {}


def test_commands_and_options_that_do_not_exist(here, capsys):
    assert "invalid choice: 'pretrian'" in refused(capsys, "pretrian")
    assert "required: COMMAND" in refused(capsys)
    assert "unrecognized arguments: --stesp" in refused(capsys, "pretrain", "--stesp", "3")
    assert "expected one argument" in refused(capsys, "pretrain", "--out")
    assert "minissl fill --help tells more" in refused(capsys, "fill")
    assert tree(here) == {}


def test_more_memory_than_there_is(here, capsys):
    line = main(["pretrain", "--data", "hmm", "--batch-size", str(10**12), "--out", "run"])
    assert line == 2
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith("minissl: not enough memory")
    assert "Traceback" not in err


# folders


@pytest.mark.parametrize("name", ["taken", "taken/file", "."])
def test_an_existing_out_is_not_touched(here, capsys, name):
    (here / "taken").mkdir()
    write(here / "taken" / "file", "precious")
    before = tree(here)
    assert "exists; nothing in it was touched" in refused(capsys, "pretrain", "--data", "hmm", *TINY, "--out", name)
    assert tree(here) == before


def test_an_out_that_cannot_be_made(here, capsys, monkeypatch):
    write(here / "file", "precious")
    before = tree(here)
    assert "could not be made" in refused(capsys, "pretrain", "--data", "hmm", *TINY, "--out", "file/run")
    assert "File name too long" in refused(capsys, "pretrain", "--data", "hmm", *TINY, "--out", "x" * 300)

    def denied(*arguments, **options):
        raise PermissionError(13, "Permission denied", "locked")

    monkeypatch.setattr(Path, "mkdir", denied)
    assert "Permission denied" in refused(capsys, "pretrain", "--data", "hmm", *TINY, "--out", "locked/run")
    monkeypatch.undo()
    monkeypatch.setattr(Path, "exists", denied)  # a folder that may not even be looked into
    assert "locked: Permission denied" in refused(capsys, "pretrain", "--data", "hmm", *TINY, "--out", "locked/run")
    monkeypatch.undo()
    assert tree(here) == before


def test_parents_are_made(here):
    assert main(["pretrain", "--data", "hmm", *TINY, "--out", "new/deeper/run"]) == 0
    assert (here / "new/deeper/run/metrics.json").exists()


def test_runs_are_numbered_where_no_name_is_given(here, capsys):
    for number in (1, 2):
        assert main(["pretrain", "--data", "hmm", *TINY]) == 0
        assert f"everything is in runs/hmm-{number}" in capsys.readouterr().out


def test_resume_takes_no_other_option(here, capsys):
    assert main(["pretrain", "--data", "hmm", *TINY, "--out", "run"]) == 0
    capsys.readouterr()
    before = tree(here)
    for option in (["--steps", "9"], ["--out", "other"], ["--no-nsp"], ["--data", "hmm"], ["--seed", "0"]):
        assert "give no other option beside it" in refused(capsys, "pretrain", "--resume", "run", *option)
    assert "this run is complete" in refused(capsys, "pretrain", "--resume", "run")
    assert tree(here) == before


# the other commands


def test_pretrain_then_fill(here, capsys):
    assert main(["pretrain", "--data", "hmm", *TINY, "--out", "run"]) == 0
    out = capsys.readouterr().out
    assert "unigram" in out
    assert "chance" in out
    assert "exact floor" in out
    assert main(["fill", "run", "bada [MASK] dedi [MASK].", "--best", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["[MASK] 1", "[MASK] 2"]
    assert all(line.count("%") == 3 for line in lines)
    assert "no [MASK]" in refused(capsys, "fill", "run", "bada")
    assert "too long: 602 word pieces" in refused(capsys, "fill", "run", "[MASK] " * 600)
    assert "--best 0: expected 1 or more" in refused(capsys, "fill", "run", "[MASK]", "--best", "0")
    (here / "run" / "model.safetensors").write_bytes(b"\x80\x04 pickle")
    assert "never opened" in refused(capsys, "fill", "run", "[MASK]")
    assert "nowhere" in refused(capsys, "fill", "nowhere", "[MASK]")


@pytest.mark.filterwarnings("default")
def test_a_warning_is_one_line(capsys, monkeypatch):
    def describe():
        warnings.warn("the disk is slow", stacklevel=2)
        return "all is well"

    monkeypatch.setattr("minissl.recipes.info.describe", describe)
    assert main(["info"]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("all is well\n", "minissl: the disk is slow\n")


def test_gradcheck_ends_with_one_where_a_gradient_is_wrong(capsys, monkeypatch):
    for right, status in ((True, 0), (False, 1)):
        monkeypatch.setattr("minissl.recipes.gradcheck.check_all", lambda say, right=right: right)
        assert main(["gradcheck"]) == status


def test_info(capsys):
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    for beginning in ("minissl ", "NumPy ", "BLAS: ", "GPU: "):
        assert any(line.startswith(beginning) for line in out.splitlines()), beginning


def test_bench_without_pytorch_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "pip install 'minissl[parity]'" in refused(capsys, "bench")
    assert "pip install 'minissl[parity]'" in refused(capsys, "bench", "--inference")
    assert "--preset huge" in refused(capsys, "bench", "--inference", "--preset", "huge")
    assert "pip install 'minissl[parity]'" in refused(capsys, "bench", "--mae")
    assert "--preset huge" in refused(capsys, "bench", "--preset", "huge")
    assert "--preset tiny: expected one of fashion" in refused(capsys, "bench", "--mae", "--preset", "tiny")
    assert "--rounds 0" in refused(capsys, "bench", "--rounds", "0")
    assert "pip install 'minissl[parity]'" in refused(capsys, "bench", "--threads", "1,2")
    assert "pip install 'minissl[parity]'" in refused(capsys, "bench", "--all")
    assert "--preset huge" in refused(capsys, "bench", "--all", "--preset", "huge")
    assert "--threads 99999: expected " in refused(capsys, "bench", "--threads", "1,99999")
    assert "--threads 99999: expected " in refused(capsys, "bench", "--all", "--threads", "99999")
    assert "--threads 2,2: expected different numbers" in refused(capsys, "bench", "--threads", "2,2")
    assert "'1,x': expected a number" in refused(capsys, "bench", "--threads", "1,x")
    assert "leave the rest out" in refused(capsys, "bench", "--threads", "1,2", "--mae")


@pytest.mark.parametrize("command", ["pretrain", "fill", "gradcheck", "info", "bench"])
def test_help_shows_an_example(capsys, command):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"example: minissl {command}" in capsys.readouterr().out


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert all(f"\n    {command}" in out for command in ("pretrain", "fill", "gradcheck", "info", "bench"))


def test_ctrl_c_is_one_line(capsys, monkeypatch):
    def interrupted(say):
        raise KeyboardInterrupt

    monkeypatch.setattr("minissl.recipes.gradcheck.check_all", interrupted)
    assert refused(capsys, "gradcheck") == "minissl: interrupted\n"


# as a process


def test_output_in_letters_that_the_terminal_lacks():
    ended = as_process("pretrain", "--help", capture_output=True, environment={"PYTHONIOENCODING": "ascii"})
    assert ended.returncode == 0, ended.stderr
    assert b"?)" in ended.stdout  # where UTF-8 has "…"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_gone_is_no_traceback(unbuffered):
    read, write_end = os.pipe()
    os.close(read)
    environment = {"PYTHONUNBUFFERED": unbuffered}
    ended = as_process("info", stdout=write_end, stderr=subprocess.PIPE, environment=environment)
    os.close(write_end)
    assert ended.stderr == b""
    assert ended.returncode == 2


def test_a_mistake_as_a_process(tmp_path):
    ended = as_process("pretrain", "--data", "missing.txt", capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.startswith("minissl: ")
    assert ended.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == []


# exercises, figures, random cases


def test_exercises_from_start_to_grade(here, capsys):
    assert main(["exercise", "start", "softmax"]) == 0
    assert main(["exercise", "check"]) == 1
    assert "not done yet" in capsys.readouterr().out
    assert main(["exercise", "hint"]) == 0
    assert main(["exercise", "solution"]) == 1
    assert main(["exercise", "reset"]) == 0
    capsys.readouterr()
    assert main(["exercise", "list"]) == 0
    assert "0 of 22 passed" in capsys.readouterr().out
    assert main(["exercise", "grade", "minissl-exercises"]) == 0
    capsys.readouterr()
    assert "did you mean softmax?" in refused(capsys, "exercise", "start", "sotfmax")
    assert "no such folder" in refused(capsys, "exercise", "grade", "nowhere")
    assert refused(capsys, "exercise", "polish")


def test_notebooks_for_nbgrader(here, capsys):
    assert main(["exercise", "notebooks", "course"]) == 0
    assert len(list((here / "course").rglob("*.ipynb"))) == 22
    assert capsys.readouterr().out.count(".ipynb") == 22


def test_figures_by_name(here, capsys):
    assert main(["figures", "--list"]) == 0
    assert "lesson-3-projection" in capsys.readouterr().out
    assert main(["figures", "lesson-2-gradient", "--out", "pictures"]) == 0
    assert [path.name for path in (here / "pictures").iterdir()] == ["lesson-2-gradient.png"]
    capsys.readouterr()
    assert "there are: lesson-1" in refused(capsys, "figures", "lesson-9")


def test_random_cases(capsys):
    assert main(["gradcheck", "--random", "16"]) == 0
    assert "16 random cases, 0 false alarms" in capsys.readouterr().out
    assert "expected 1 or more" in refused(capsys, "gradcheck", "--random", "-1")


# the museum


def test_the_museum(here, capsys):
    assert main(["museum", "list"]) == 0
    assert "layer-norm-gain-outside" in capsys.readouterr().out
    assert main(["museum", "show", "layer-norm-gain-outside"]) == 0
    shown = capsys.readouterr().out
    assert "+    dx = gain * inv_std" in shown
    assert "missing_factor" in shown
    assert main(["museum", "race", "linear-bias-mean", "--steps", "2", "--out", "race"]) == 0
    assert (here / "race" / "linear-bias-mean.png").exists()
    capsys.readouterr()
    assert "did you mean" in refused(capsys, "museum", "show", "layer-norm-gain-outsid")
    assert "--steps 0" in refused(capsys, "museum", "race", "linear-bias-mean", "--steps", "0")
