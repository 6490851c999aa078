"""What a student types, and what is said and written."""

import json
import os

import pytest

from minissl.errors import InputError
from minissl.exercises import commands
from minissl.exercises.exercise import Verdict
from minissl.exercises.grading import Checked
from minissl.exercises.progress import FILE, Progress


@pytest.fixture
def said():
    return []


@pytest.fixture
def do(shelf, said, tmp_path, monkeypatch):
    """Run a command in an empty directory; return its status and what it said."""
    monkeypatch.chdir(tmp_path)

    def run(command, name=None, **more):
        said.clear()
        status = getattr(commands, command)(name, None, said.append, **more)
        return status, "\n".join(said)

    return run


@pytest.fixture
def quick(monkeypatch):
    """A check without a process: a file that says `right` passes."""

    def check(exercise, source):
        right = "right" in source
        return Checked(Verdict(right, ["✓ value" if right else "✗ value"], float(right)), ["hello"])

    monkeypatch.setattr(commands, "check_source", check)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "minissl-exercises"


def test_start_writes_one_stub_after_the_other(do, folder, shelf):
    status, words = do("start")
    assert status == 0
    assert "Write double(x), twice x." in words
    assert "open minissl-exercises/01_double.py, then: minissl exercise check" in words
    assert sorted(path.name for path in folder.iterdir()) == ["01_double.py", FILE]
    assert (folder / "01_double.py").read_text(encoding="utf-8") == shelf[0].stub
    do("start")
    assert (folder / "02_triple.py").read_text(encoding="utf-8") == shelf[1].stub
    assert Progress.read(folder).current == "triple"
    assert do("start") == (0, "every exercise is started; next: minissl exercise check double")
    do("start", "1")
    assert Progress.read(folder).current == "double"


def test_start_never_touches_a_file(do, folder, shelf):
    folder.mkdir()
    (folder / "01_double.py").write_text("mine")
    status, words = do("start")
    assert status == 0
    assert "was there and is as it was; minissl exercise reset double writes a fresh one" in words
    assert (folder / "01_double.py").read_text() == "mine"
    assert Progress.read(folder).current == "double"
    (folder / FILE).unlink()
    (folder / "01_double.py").unlink()
    (folder / "01_double.py").symlink_to(folder / "elsewhere")
    do("start", "double")
    assert not (folder / "elsewhere").exists()


def test_start_where_a_file_is_in_the_way(do, folder):
    folder.write_text("")
    with pytest.raises(InputError, match=r"cannot be made .*; is a file in its way"):
        do("start")


def test_check_in_a_process(do, folder, shelf):
    do("start")
    assert do("check") == (
        1,
        "01 double: Twice as much\n"
        "  ✗ not done yet: double stops at line 9, `raise NotImplementedError`\n"
        "not passed yet; 2 hints: minissl exercise hint",
    )
    (folder / "01_double.py").write_text(shelf[0].solution + "print('here', 1)\n")
    assert do("check") == (
        0,
        "01 double: Twice as much\n  your file printed:\n  | here 1\n  ✓ value\n"
        "passed; next: minissl exercise start triple",
    )
    assert Progress.read(folder).entry("double").passed


def test_a_file_that_writes_its_own_progress_does_not_pass(do, folder):
    do("start")
    path = folder / FILE
    passed = path.read_text().replace('"passed": ""', '"passed": "2025-01-31"')
    attack = f"def double(x):\n    open({str(path)!r}, 'w').write({passed!r})\n    return x\n"
    (folder / "01_double.py").write_text(attack)
    assert do("check")[0] == 1
    assert Progress.read(folder).entry("double").passed == ""


def test_progress_that_changes_during_a_check_is_not_believed(do, folder, monkeypatch):
    """Were the fence broken, what the file wrote would be lost all the same, or refused."""
    do("start")

    def check(exercise, source):
        Progress(folder, "double").write()
        return Checked(Verdict(True, [], 1.0), [])

    monkeypatch.setattr(commands, "check_source", check)
    assert do("check")[0] == 0
    assert Progress.read(folder).entry("double").passed


def test_two_checks_at_once_lose_no_pass(do, folder, monkeypatch):
    do("start", "triple")
    do("start", "double")

    def check(exercise, source):
        meanwhile = Progress.read(folder)
        meanwhile.entry("triple").passed = "2025-01-31"
        meanwhile.write()
        return Checked(Verdict(True, [], 1.0), [])

    monkeypatch.setattr(commands, "check_source", check)
    assert do("check")[0] == 0
    assert all(Progress.read(folder).entry(name).passed for name in ("double", "triple"))


def test_a_check_of_another_than_the_current_one_says_whose_hint_it_means(do, quick):
    do("start", "double")
    do("start", "triple")
    assert do("check", "double")[1].endswith("not passed yet; 2 hints: minissl exercise hint double")
    do("hint", "double")
    assert do("check", "double")[1].endswith("not passed yet; 1 hint: minissl exercise hint double")
    assert do("check")[1].endswith("not passed yet; 2 hints: minissl exercise hint")


def test_an_output_without_the_marks_gets_words(do, quick, folder, shelf, monkeypatch):
    class Ascii:
        encoding = "ascii"

    do("start")
    (folder / "01_double.py").write_text("right")
    do("start")
    monkeypatch.setattr(commands.sys, "stdout", Ascii())
    assert "\n  ok value\n" in do("check", "1")[1]
    assert "\n  no value\n" in do("check")[1]
    assert [line[4:].split()[0] for line in do_list(do)[1][:2]] == ["ok", "started"]
    assert all(line.isascii() for line in do_list(do)[1])
    monkeypatch.setattr("minissl.exercises.grading.check_source", commands.check_source)
    lines = []
    commands.grade(folder, lines.append)
    assert lines[1].split()[-2:] == ["ok", "no"]
    assert all(line.isascii() for line in lines)


def test_a_folder_that_is_not_there_is_not_listed(shelf, tmp_path):
    with pytest.raises(InputError, match="nowhere: no such folder; minissl exercise start makes it"):
        commands.list_exercises(tmp_path / "nowhere", print)


def test_passing_is_remembered_and_a_later_slip_is_told(do, quick, folder):
    do("start")
    assert "your file printed:\n  | hello" in do("check")[1]
    (folder / "01_double.py").write_text("right")
    assert do("check")[0] == 0
    day = Progress.read(folder).entry("double").passed
    (folder / "01_double.py").write_text("broken")
    status, words = do("check", "double")
    assert status == 1
    assert f"although it passed on {day}: what has changed since?" in words
    status, words = do("solution")
    assert status == 0
    assert "return 2 * x" in words


def test_after_the_last_one(do, quick, folder):
    for name in ("double", "triple"):
        do("start", name)
        next(folder.glob(f"*{name}.py")).write_text("right")
        _, words = do("check")
    assert words.endswith("passed; that was the last one")


def test_list(do, quick, folder):
    status, words = do_list(do)
    assert status == 0
    assert words[-1] == "0 of 2 passed; next: minissl exercise start double"
    do("start")
    (folder / "01_double.py").write_text("right")
    do("check")
    do("start")
    _, words = do_list(do)
    assert [line.split()[:3] for line in words[:2]] == [["01", "✓", "double"], ["02", "started", "triple"]]
    assert words[1].endswith("← current")
    assert words[-1] == "1 of 2 passed; next: minissl exercise check triple"


def do_list(do):
    lines = []
    return commands.list_exercises(None, lines.append), lines


def test_hints_come_one_by_one(do, folder):
    do("start")
    assert do("hint") == (0, "1. What is twice a number?\n1 more for double")
    assert do("hint") == (0, "2. x + x\nthis was the last one for double")
    assert do("hint") == (0, "1. What is twice a number?\n2. x + x\nthese are all hints for double")
    assert Progress.read(folder).entry("double").hints == 2
    assert do("hint", "triple")[1].startswith("1. What is thrice")


def test_reset_keeps_every_older_file(do, folder, shelf):
    do("start")
    for n, content in enumerate((b"first", b"\xff second"), start=1):
        (folder / "01_double.py").write_bytes(content)
        status, words = do("reset")
        assert status == 0
        assert f"is now 01_double.py.{n}.bak" in words
        assert (folder / f"01_double.py.{n}.bak").read_bytes() == content
        assert (folder / "01_double.py").read_text(encoding="utf-8") == shelf[0].stub
    (folder / "01_double.py").unlink()
    assert "is now" not in do("reset")[1]
    assert (folder / "01_double.py").exists()
    assert (folder / "01_double.py.1.bak").read_bytes() == b"first"


def test_the_solution_only_after_passing(do):
    do("start")
    status, words = do("solution")
    assert status == 1
    assert "return" not in words
    assert "double is not passed yet" in words


@pytest.mark.parametrize("command", ["check", "hint", "reset", "solution", "watch"])
def test_before_anything_is_started(do, folder, command):
    with pytest.raises(InputError, match="minissl-exercises: no such folder; minissl exercise start makes it"):
        do(command)
    folder.mkdir()
    with pytest.raises(InputError, match="no exercise is started in minissl-exercises: minissl exercise start"):
        do(command)
    with pytest.raises(InputError, match="there is no exercise 'quadruple'"):
        do(command, "quadruple")


def write(path, content):
    path.unlink()
    if content is not None:
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.unlink(), "no such file; minissl exercise start double writes it"),
        (lambda p: p.rename(p.with_name("1_double.py")), "no such file; is it 1_double.py now"),
        (lambda p: p.rename(p.with_name("02_triple.py")), "no such file; minissl exercise start double writes it"),
        (lambda p: (p.unlink(), p.symlink_to("gone")), "is a link to gone, which is not there; expected the file"),
        (lambda p: (p.unlink(), os.mkfifo(p)), "is a pipe, a socket or a device, expected the file of exercise double"),
        (lambda p: (p.unlink(), p.symlink_to("/dev/zero")), "is a pipe, a socket or a device"),
        (lambda p: (p.unlink(), p.mkdir()), "is a folder, expected the file of exercise double"),
        (lambda p: p.write_bytes(b""), "is empty; minissl exercise reset double writes a fresh one"),
        (lambda p: p.write_bytes(b" \n\n"), "is empty"),
        (lambda p: p.write_bytes(b"x = 1\ny = '\xff'\n"), "line 2 is not UTF-8 text; save the file as UTF-8"),
        (lambda p: p.write_bytes(b"#" * (1 << 20) + b"#"), "larger than 1 MB"),
    ],
)
def test_files_that_cannot_be_checked(do, quick, folder, change, message):
    do("start")
    change(folder / "01_double.py")
    with pytest.raises(InputError) as caught:
        do("check")
    assert str(caught.value).startswith(f"minissl-exercises/01_double.py: {message}")


def test_a_byte_order_mark_and_windows_line_ends(do, quick, folder, monkeypatch):
    do("start")
    sources = []
    monkeypatch.setattr(commands, "check_source", lambda e, s: sources.append(s) or Checked(Verdict(True, [], 1.0), []))
    (folder / "01_double.py").write_bytes(b"\xef\xbb\xbfx = 1\r\ny = 2\r\n")
    do("check")
    assert sources == ["x = 1\ny = 2\n"]


def test_watch_checks_each_save_once(do, quick, folder, said):
    do("start")
    path = folder / "01_double.py"

    def half():
        path.write_text("ri")

    def whole():
        path.write_text("right")

    def gone():
        path.unlink()

    def another():
        commands.start("triple", None, [].append)

    def nothing():
        pass

    def stop():
        raise KeyboardInterrupt

    steps = iter(
        [nothing, half, whole, nothing, nothing, gone, nothing, nothing, whole, nothing, another, nothing, stop]
    )
    status, _ = do("watch", wait=lambda: next(steps)())
    assert status == 0
    found = [line for line in said if line.startswith(("0", "passed", "not", "minissl"))]
    assert found == [
        "01 double: Twice as much",
        "not passed yet; 2 hints: minissl exercise hint",
        "01 double: Twice as much",
        "passed; next: minissl exercise start triple",
        "minissl-exercises/01_double.py: no such file; minissl exercise start double writes it",
        "01 double: Twice as much",
        "passed; next: minissl exercise start triple",
        "02 triple: Thrice as much",
        "not passed yet; 2 hints: minissl exercise hint",
    ]


def test_grade_says_a_table_or_json_or_gradescopes_file(shelf, tmp_path, said):
    for student, factor in (("ada", 2), ("bob", 5)):
        (tmp_path / "class" / student).mkdir(parents=True)
        (tmp_path / "class" / student / "01_double.py").write_text(f"def double(x):\n    return {factor} * x\n")
    assert commands.grade(tmp_path / "class", said.append) == 0
    assert said == [
        "     score     01 02",
        "ada   1.00/2    ✓  –",
        "bob   0.25/2    ✗  –",
        "     01 double: ✗ value: [0.0, 5.0, 10.0]",
    ]
    said.clear()
    results = tmp_path / "results.json"
    assert commands.grade(tmp_path / "class" / "bob", said.append, json_wanted=True, gradescope_file=results) == 0
    assert json.loads("\n".join(said))["students"][0]["score"] == 0.25
    assert json.loads(results.read_text(encoding="utf-8"))["score"] == 0.25
    with pytest.raises(InputError, match=r"--gradescope is for one student's folder; .* has 2: ada, bob"):
        commands.grade(tmp_path / "class", said.append, gradescope_file=results)
