"""Whatever a student's file does, it does it in its own process, and the answer is one sentence."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minissl.exercises import child, process
from minissl.exercises.exercise import StudentError
from minissl.exercises.process import Handle, Process
from minissl.exercises.sandbox import Sandbox
from minissl.gradcheck import check

FILE = "05_softmax.py"
posix = pytest.mark.skipif(sys.platform == "win32", reason="process groups and their limits are POSIX")


@pytest.fixture(scope="module")
def student():
    """One process for all functions that leave their process alive."""
    with Sandbox(FUNCTIONS, FILE) as sandbox:
        yield sandbox


FUNCTIONS = """
import os, signal, socket, subprocess, sys, warnings
from typing import NamedTuple
import numpy as np

class Cache(NamedTuple):
    y: np.ndarray

def softmax_forward(x, axis=-1):
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    y = e / e.sum(axis=axis, keepdims=True)
    return y, Cache(y)

def softmax_backward(dy, cache):
    return cache.y * (dy - (dy * cache.y).sum(axis=-1, keepdims=True))

def same(*values, **named):
    return (*values, named) if named else values

def kinds(x):
    return [1, 2.5, None, True, "ü", (x, np.float32(1.5), np.True_), {"a": x[:1]}], Cache(x), lambda: x, {1: x}, 1j

def draw(rng):
    return rng.standard_normal(3)

def keep():
    return Cache(np.zeros(2))

def spoil(cache):
    cache.y[0] += 1

def slope(f, x):
    return (f(x + 1e-3) - f(x - 1e-3)) / 2e-3

def todo(x):
    raise NotImplementedError

def wrong_shapes(x):
    return x @ np.ones(7)

def changed(x, y):
    y["b"][0][...] = 5
    return x

def restored(x):
    x += 1.0
    x -= 1.0
    return x

def leaves(x):
    sys.exit(0)

def hunts(x):
    import gc
    hook, = (f for f in gc.get_objects() if getattr(f, "__name__", "") == "refuse")
    hook.__code__ = (lambda *arguments: None).__code__

def recodes(x):
    same.__code__ = draw.__code__

def frames(x):
    # what the hook itself lets out, its exception's frame, and from there every function within reach
    import builtins, posixpath
    try:
        open("/etc/hostname")
    except PermissionError as error:
        trace = error.__traceback__
    while trace.tb_next:
        trace = trace.tb_next
    frame = trace.tb_frame
    for value in [*frame.f_locals.values()]:
        for cell in getattr(value, "__closure__", None) or ():
            cell.cell_contents = None
        assert type(value).__name__ not in ("dict", "list", "set", "function", "mappingproxy"), value
    for name, value in frame.f_globals.items():
        if type(value) is dict and name.isupper():
            value.clear()
    kept = builtins.isinstance, posixpath.realpath
    builtins.isinstance, posixpath.realpath = lambda a, b: True, lambda path, **kw: np.__file__
    try:
        return open("/etc/hostname").read()
    finally:
        builtins.isinstance, posixpath.realpath = kept

class Liar(str):
    def startswith(self, *rest):
        return True
    def split(self, *rest):
        return []
    replace = lambda self, *rest: self

def lies(path):
    return os.close(os.open(Liar(path), os.O_RDONLY))

def leaves_upwards(path):
    return open(os.path.dirname(os.__file__) + "/.." * 20 + path).read()

def deep(x):
    return deep(x)

def nested(x):
    a = []
    a.append(a)
    return a

def huge(x):
    return np.zeros(9_000_000)

def memory(x):
    return np.ones((10**9, 10**9))

class Silent(Exception):
    def __str__(self):
        raise ValueError

def silent(x):
    raise Silent

def out(x):
    raise MemoryError

def noisy(x):
    raise ValueError("one\\n✓ passed\\x1b[32m" + "!" * 5000)

def imports(x):
    import torch.nn

def imports_answers(x):
    from minissl.ops import softmax_forward

def imports_helper(x):
    import my_helper

def imports_quietly(x):
    try:
        import cupy as xp
    except ImportError:
        import numpy as xp
    import fractions, dataclasses, numpy.testing
    numpy.testing.assert_allclose(x, x)
    return xp.ones(2)

def reads(path):
    return open(path).read()

def writes(path):
    with open(path, "w") as file:
        file.write("x")

def updates(path):
    open(np.__file__, "r+")

def low_level(path):
    os.open(path, os.O_CREAT)

def removes(path):
    os.remove(path)

def forks(x):
    os.fork()

def spawns(x):
    subprocess.run(["true"])

def spawns_deeper(x):
    sys.modules.pop("_posixsubprocess")
    import _posixsubprocess

def connects(x):
    socket.socket()

def calls_c(x):
    import ctypes
    ctypes.CDLL(None).fork()

def kills(x):
    os.kill(os.getppid(), signal.SIGKILL)
"""


def test_a_pair_is_checked_as_any_other(student):
    forward, backward = student.pair("softmax")
    x = np.random.default_rng(0).standard_normal((2, 3))
    assert check(forward, backward, {"x": x}).ok
    y, cache = forward(x=x)
    np.testing.assert_allclose(y.sum(axis=-1), 1)
    assert repr(cache) == "<Cache in the student's process>"
    with pytest.raises(StudentError, match="softmax_backward raised TypeError"):
        backward(y)


ARRAYS = [
    np.arange(6, dtype=np.int64).reshape(2, 3),
    np.arange(6.0).reshape(2, 3).T,
    np.arange(6, dtype=np.float32)[::-2],
    np.zeros((0, 3)),
    np.array(2.5),
    np.array([True, False]),
    np.array([1 + 2j]),
    np.array([np.nan, np.inf, -0.0]),
    np.arange(3, dtype=">f4"),
]


def test_arrays_travel_as_they_are(student):
    back = student.function("same")(*ARRAYS)
    for got, given in zip(back, ARRAYS, strict=True):
        assert (got.dtype, got.shape) == (given.dtype, given.shape)
        np.testing.assert_array_equal(got, given)
        got[...] = 0  # and they are our own


def test_other_values_travel_as_they_are_or_stay(student):
    x = np.arange(3.0)
    values, *kept = student.function("kinds")(x)
    *plain, (y, a, b), d = values
    assert plain == [1, 2.5, None, True, "ü"]
    assert (type(a), a, type(b)) == (np.float32, 1.5, np.bool_)
    assert y.tolist() == [0, 1, 2]
    assert d["a"].tolist() == [0]
    assert [repr(k).split()[0] for k in kept] == ["<Cache", "<function", "<dict", "<complex"]
    with pytest.raises(TypeError, match="cannot be given object"):
        student.function("same")(object())


def test_a_generator_travels_as_a_copy(student):
    rng = np.random.default_rng(3)
    draw = student.function("draw")
    assert draw(rng).tolist() == draw(rng).tolist() == rng.standard_normal(3).tolist()


def test_a_function_that_is_given_runs_here(student):
    slope = student.function("slope")
    assert slope(lambda x: float((x**2).sum()), np.array([3.0])) == pytest.approx(6)
    with pytest.raises(StudentError, match=r"slope raised TypeError at line .*ValueError: not so"):
        slope(complain, np.array(1.0))


def complain(x):
    raise ValueError("not so")


def test_what_is_dropped_here_is_dropped_there():
    with Sandbox(FUNCTIONS, FILE) as sandbox:
        kept, same = sandbox.function("keep")(), sandbox.function("same")
        assert repr(same(kept)) == "(<Cache in the student's process>,)"
        lost = Handle(kept.key, "Cache", [])
        del kept
        same(1)
        with pytest.raises(StudentError, match="same broke the line"):
            same(lost)


def at(code):
    lines = FUNCTIONS.split("\n")
    return f"line {next(n for n, line in enumerate(lines, start=1) if line.strip() == code)}, `{code}`"


SENTENCES = {
    "todo": f"not done yet: todo stops at {at('raise NotImplementedError')}",
    "wrong_shapes": f"wrong_shapes raised ValueError at {at('return x @ np.ones(7)')}: "
    "x (2, 3) @ np.ones(7) (7,): the inner sizes differ; is a transpose missing?",
    "leaves": f"leaves leaves Python at {at('sys.exit(0)')} (SystemExit); return a value instead",
    "deep": f"deep raised RecursionError at {at('return deep(x)')}: maximum recursion",
    "nested": "nested returned what cannot be sent: maximum recursion",
    "huge": "huge returned what cannot be sent: more than 64 MB",
    "memory": f"memory raised MemoryError at {at('return np.ones((10**9, 10**9))')}",
    "silent": f"silent raised Silent at {at('raise Silent')}",
    "out": f"out raised MemoryError at {at('raise MemoryError')}",
    "imports": f"{at('import torch.nn')}: imports torch: these exercises use NumPy alone; write the gradient yourself",
    "imports_answers": f"{at('from minissl.ops import softmax_forward')}: imports minissl: these exercises use",
    "imports_helper": f"{at('import my_helper')}: imports my_helper: an exercise is one file",
    "forks": f"forks raised PermissionError at {at('os.fork()')}: the file starts or ends a process",
    "spawns": "spawns raised PermissionError at line ",
    "spawns_deeper": f"{at('import _posixsubprocess')}: imports _posixsubprocess",
    "connects": f"connects raised PermissionError at {at('socket.socket()')}: the file opens a connection",
    "calls_c": f"calls_c raised PermissionError at {at('ctypes.CDLL(None).fork()')}: the file calls C functions",
    "kills": "kills raised PermissionError at line ",
    "hunts": "hunts raised PermissionError at line ",
    "recodes": f"recodes raised PermissionError at {at('same.__code__ = draw.__code__')}: the file changes the code",
    "no_such": "there is no function no_such in the file (it has Cache, softmax_forward, softmax_backward, ",
}


@posix
@pytest.mark.parametrize("name", SENTENCES)
def test_one_sentence_for_each_failure(student, name):
    with pytest.raises(StudentError) as caught:
        student.function(name)(np.ones((2, 3)))
    assert str(caught.value).startswith(SENTENCES[name])
    assert not str(caught.value).endswith(":")
    assert "\n" not in str(caught.value)


def test_an_exceptions_own_words_are_one_line_of_plain_text(student):
    with pytest.raises(StudentError) as caught:
        student.function("noisy")(1)
    message = str(caught.value)
    assert "raised ValueError" in message
    assert message.isprintable()
    assert len(message) < 500


def test_changed_inputs(student):
    x = np.zeros(2)
    with pytest.raises(StudentError, match=r"changed changed y, which it was given; .* work on a copy"):
        student.function("changed")(x, y={"b": [x + 1]})
    assert student.function("restored")(x).tolist() == [0, 0]
    with pytest.raises(StudentError, match="spoil changed cache,"):
        student.function("spoil")(student.function("keep")())


def test_a_missing_framework_may_be_replaced_and_the_standard_library_is_there(student):
    assert student.function("imports_quietly")(np.ones(2)).tolist() == [1, 1]


@pytest.mark.parametrize("name", ["writes", "updates", "low_level", "removes"])
def test_no_file_is_changed(student, tmp_path, name):
    path = tmp_path / "minissl-exercises.json"
    if name == "removes":
        path.write_text("{}")
    with pytest.raises(
        StudentError, match=r"PermissionError .* (opens another for writing|changes files); no exercise"
    ):
        student.function(name)(str(path))
    assert path.exists() == (name == "removes")


def test_neither_answers_nor_anyone_elses_files_are_read(student, tmp_path):
    link, anothers = Path(sys.prefix) / "x" / ".." / ".." / "x", tmp_path / FILE
    anothers.write_text("")
    for path in (Path(child.__file__).parents[1] / "ops" / "__init__.py", link, anothers, "/proc/self/environ"):
        with pytest.raises(StudentError, match="the file reads another"):
            student.function("reads")(str(path))


def test_the_fence_has_nothing_to_take_hold_of(tmp_path):
    anothers = tmp_path / FILE
    anothers.write_text("")
    with Sandbox(FUNCTIONS, FILE) as sandbox:
        for name in ("frames", "lies", "leaves_upwards", "reads"):
            with pytest.raises(StudentError, match="the file reads another"):
                sandbox.function(name)(str(anothers))


def test_answers_are_not_read_where_minissl_is_installed_among_pythons_own_packages():
    package = Path(child.__file__).parents[1]
    script = (
        f"import sys; sys.path.append({str(package.parent)!r}); from minissl.exercises import child; "
        f"child.fence({str(package.parent)!r}); print('fenced'); open({str(package / 'ops' / '__init__.py')!r})"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "fenced\n"
    assert done.stderr.strip().split("\n")[-1].startswith("PermissionError: the file reads another")


def call_twice(function):
    function(np.ones(2))
    function(np.ones(2))


def ending(source, **options):
    """The sentence that ends the dealings with a file, and the sandbox."""
    with pytest.raises(StudentError) as caught, Sandbox(source, FILE, **options) as sandbox:
        call_twice(sandbox.function("f"))
    assert "\n" not in str(caught.value)
    return str(caught.value), sandbox


ENDINGS = {
    "def f(x:\n    return x": "Python cannot read line 1, `def f(x:`: '(' was never closed",
    "import numpy as np\nx = np.arange(3) + np.arange(4)": "the file raised ValueError at line 2, ",
    "import sys\nsys.exit()": "the file leaves Python at line 2, ",
    "import torch": "line 1, `import torch`: imports torch: these",
    "import os\ndef f(x):\n    os._exit(3)": "f ended Python itself (exit status 3); ",
    "import json\njson.dumps = lambda *a: 'no'": "the file broke the line",
    "import os\ndef f(x):\n    os.closerange(0, 50)": "f broke the line to the checker; ",
    "import os\ndef f(x):\n    for i in range(3, 20):\n        try:\n            os.write(i, b'x' * 99)\n"
    "        except OSError:\n            pass": "f broke the line to the checker; ",
    "def f(x):\n    print('hello ' * 300_000)\n    return x": "your file printed more than 64 kB; the rest is dropped",
}


@posix
@pytest.mark.parametrize("source", ENDINGS)
def test_what_ends_the_dealings(source):
    assert ending(source)[0].startswith(ENDINGS[source])


@posix
def test_a_crash_names_the_line():
    message, _ = ending("import faulthandler\ndef f(x):\n    faulthandler._sigsegv()")
    assert message.startswith("f ended Python itself (SIGSEGV) at line 3, `faulthandler._sigsegv()`")


def test_a_loop_without_end_that_prints_for_ever_too():
    message, sandbox = ending("def f(x):\n    while True:\n        print('again')", seconds=2)
    assert message.startswith("still running after 2 s: is there a loop that never ends, near line ")
    assert sandbox.printed()[:2] == ["again", "again"]
    assert len(sandbox.printed()) == 21
    assert len(sandbox._output) == process.KEPT_OUTPUT
    with pytest.raises(StudentError, match="still running"):
        sandbox.function("f")


@posix
def test_a_flood_is_told_once():
    _, sandbox = ending("def f(x):\n    print('hello ' * 300_000)\n    return x")
    assert not any("more than" in line for line in sandbox.printed())
    with Sandbox("print('hello ' * 20_000)\ndef f(x):\n    return x", FILE) as sandbox:
        sandbox.function("f")(1)
    assert sandbox.printed()[-1].startswith("your file printed more than 64 kB")


def test_what_arrives_after_the_last_answer_counts_too(monkeypatch):
    with Sandbox("print('x' * 99)\ndef f(x):\n    return x", FILE) as sandbox:
        assert sandbox.function("f")(1) == 1
    monkeypatch.setattr("minissl.exercises.sandbox.FLOOD", 50)
    with pytest.raises(StudentError, match="printed more than"):
        sandbox.__exit__(None)


def test_a_file_that_switches_the_alarm_off(monkeypatch):
    monkeypatch.setattr(process, "GRACE", 0.2)
    source = "import faulthandler, time\nfaulthandler.cancel_dump_traceback_later()\ntime.sleep(99)"
    assert ending(source, seconds=0.4)[0] == "still running after 0.4 s: is there a loop that never ends?"


def test_a_forged_answer_is_a_value_and_no_verdict():
    """A file that finds the pipe can only say what it could have returned; the true answer then comes too late."""
    source = """
import os, sys
def f(x):
    forged = sys.modules["__main__"].pack({"id": 2, "value": "passed"}, None)
    for i in range(3, 20):
        try:
            os.write(i, forged)
        except OSError:
            pass
    return 0
"""
    with Sandbox(source, FILE) as sandbox:
        f = sandbox.function("f")
        assert f(1) in ("passed", 0)
        with pytest.raises(StudentError, match="broke the line"):
            f(1)


def test_the_process_its_threads_and_its_folder_are_gone_afterwards():
    source = """
import atexit, os, threading, time
atexit.register(time.sleep, 99)
threading.Thread(target=time.sleep, args=(99,)).start() if os.getuid() == 0 else None
def f(x):
    return os.getcwd(), dict(os.environ)
"""
    with Sandbox(source, FILE) as sandbox:
        folder, environment = sandbox.function("f")(1)
        assert Path(folder).is_dir()
        assert os.listdir(folder) == []
    assert not Path(folder).exists()
    assert sandbox._main._popen.returncode is not None
    assert not any(thread.is_alive() for thread in sandbox._main._threads)
    assert environment["OPENBLAS_NUM_THREADS"] == "1"
    assert not {"HOME", "PATH", "USER", "PWD"} & environment.keys()


@posix
def test_its_children_are_killed_with_it(monkeypatch, tmp_path):
    """They hold its pipes open: as long as one lives, the pipe that prints does not end."""
    script = tmp_path / "child.py"
    script.write_text("import os, time\nos.fork()\nos.write(2, b'x')\ntime.sleep(99)\n")
    monkeypatch.setattr(child, "__file__", str(script))
    started = Process(FILE, 20)
    while started.output != b"xx":
        started._threads[2].join(timeout=0.01)
    started.end()
    assert not any(thread.is_alive() for thread in started._threads)
    started.end()


TESTED = "def double(x):\n    return 2 * x\n"
TEST = """
count = 0
def test_double(double):
    global count
    count += 1
    assert count == 1, "not a fresh process"
    print("hello")
    assert double(3) == 6
    assert double(-3) == -6, "negative\\nnumbers"
"""


def test_the_students_test_runs_in_a_fresh_process_each_time():
    with Sandbox(TEST, FILE) as sandbox:
        assert sandbox.test("test_double", TESTED, ("double",)) is None
        assert sandbox.test("test_double", TESTED.replace("2 *", "3 *"), ("double",)) == (
            "line 8, `assert double(3) == 6` does not hold"
        )
        assert sandbox.test("test_double", TESTED.replace("2 * x", "abs(2 * x)"), ("double",)) == "negative numbers"
        message = sandbox.test("test_double", TESTED.replace("2 * x", "2 / 0"), ("double",))
        assert message == "ZeroDivisionError at line 8, `assert double(3) == 6`: division by zero"
    assert sandbox.printed() == ["hello"]


def test_a_test_that_is_not_done_or_returns_something():
    source = "def test_a(f):\n    raise NotImplementedError\ndef test_b(f):\n    return f(1) == 2\n"
    with Sandbox(source, FILE) as sandbox:
        with pytest.raises(StudentError, match="not done yet: test_a stops at line 2"):
            sandbox.test("test_a", TESTED, ("double",))
        with pytest.raises(StudentError, match="test_b returned True; a test returns nothing"):
            sandbox.test("test_b", TESTED, ("double",))


MALFORMED = [
    (b"", b""), (b"{", b""), (b"[" * 90_000, b""), (b"9" * 5000, b""), (b"\xff", b""), (b'{"x":1,"y":2}', b""),
    (b'{"array":["O",[1]]}', bytes(8)), (b'{"array":["<f7",[1]]}', bytes(8)), (b'{"array":["<f8",[1]]}', bytes(7)),
    (b'{"array":["<f8",[-1]]}', bytes(8)), (b'{"array":["<f8",[true]]}', bytes(8)), (b'{"tuple":3}', b""),
    (b'{"array":["<f8",[1099511627776,1099511627776]]}', bytes(8)),
    (b'{"array":["<f8",' + str([1] * 99).encode() + b"]}", bytes(8)),
    (b'{"handle":["x","y"]}', b""), (b'{"handle":[0,1]}', b""), (b'{"rng":{}}', b""), (b'{"function":0}', b""),
]  # fmt: skip


@pytest.mark.parametrize(("head", "body"), MALFORMED, ids=lambda part: repr(part[:30]))
def test_malformed_messages_are_refused(head, body):
    fetch = Process._fetch.__get__(type("Parent", (), {"_dropped": []})())
    with pytest.raises((ValueError, TypeError, KeyError, RecursionError, AttributeError)):
        child.unpack(head, body, fetch)


def test_lengths_are_bounded_before_anything_is_read(tmp_path):
    path = tmp_path / "message"
    for lengths in ((1, child.LARGEST + 1), (child.LARGEST_HEAD + 1, 0), (2**64 - 1, 2**64 - 1)):
        path.write_bytes(struct.pack(">QQ", *lengths) + bytes(99))
        with path.open("rb") as stream, pytest.raises(ValueError, match="no message of ours"):
            child.read_message(stream)
    path.write_bytes(struct.pack(">QQ", 10, 10) + bytes(15))
    with path.open("rb") as stream, pytest.raises(EOFError):
        child.read_message(stream)
    message = child.pack({"a": [np.arange(3.0)]}, repr)
    path.write_bytes(message)
    with path.open("rb") as stream:
        head, body = child.read_message(stream)
    assert json.loads(head) == {"dict": {"a": {"list": [{"array": ["<f8", [3]]}]}}}
    assert len(body) == 24
