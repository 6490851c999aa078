"""The student's process: it loads one file and calls its functions. Run by `sandbox.py`, never imported by students.

It needs the standard library and NumPy, nothing else. The protocol's coding, which the parent imports from here, is
JSON with the arrays' bytes behind it, so that nothing that arrives can run code. What the student's code may not do is
refused with a sentence; that is a fence. The wall is that the parent decides alone, from values.
"""

from __future__ import annotations

import ast
import faulthandler
import importlib
import itertools
import json
import linecache
import math
import os
import re
import struct
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

LARGEST = 64 << 20  # bytes of one message
LARGEST_HEAD = 4 << 20
MEMORY = 2 << 30  # bytes of address space
LINE_CUT = 97  # the exit status where one of the protocol's pipes is gone
REFUSED_MODULES = {"_ctypes", "_posixsubprocess"}  # NumPy has loaded them; a fresh copy would go round the fence
FRAMEWORKS = ("torch", "tensorflow", "jax", "autograd", "cupy", "scipy", "minissl")
REFUSED = {  # audit events, and families of them by what stands before the dot
    "starts or ends a process": "os.fork os.forkpty os.exec os.posix_spawn os.spawn os.system os.startfile "
    "subprocess.Popen pty.spawn _winapi.CreateProcess os.kill os.killpg signal.pthread_kill",
    "changes files": "os.remove os.rename os.rmdir os.mkdir os.link os.symlink os.truncate os.chmod os.chown os.utime "
    "shutil",
    "changes its limits": "resource.setrlimit resource.prlimit",
    "opens a connection": "socket",
    "calls C functions": "ctypes",
    "looks behind Python's objects": "gc.get_objects gc.get_referrers gc.get_referents sys.settrace sys.setprofile "
    "code.__new__",
}


class RefusedImport(ImportError):
    """The student's file imports what it may not."""


class MissingFunction(AttributeError):
    """The student's file lacks a function."""


class Kept(NamedTuple):
    """What is to stay here although it could travel."""

    value: Any


def pack(value: Any, keep: Callable[[Any], dict[str, Any]]) -> bytes:
    """Return a message: two lengths, JSON, the bytes of all arrays. `keep` says what stands for anything unknown."""
    import numpy as np

    blobs: list[bytes] = []

    def tree(item: Any) -> Any:
        kind = type(item)
        if item is None or kind in (bool, int, float, str):
            return item
        if kind in (tuple, list):
            return {kind.__name__: [tree(part) for part in item]}
        if kind is dict and all(type(key) is str for key in item):
            return {"dict": {key: tree(part) for key, part in item.items()}}
        if isinstance(item, (np.ndarray, np.generic)) and item.dtype.kind in "biufc":
            blobs.append(item.tobytes())
            return {"array" if isinstance(item, np.ndarray) else "scalar": [item.dtype.str, list(item.shape)]}
        if kind is np.random.Generator and type(item.bit_generator) is np.random.PCG64:
            return {"rng": item.bit_generator.state}
        return keep(item)

    head = json.dumps(tree(value)).encode()
    body = b"".join(blobs)
    if len(head) > LARGEST_HEAD or len(body) > LARGEST:
        raise OverflowError(f"more than {LARGEST >> 20} MB of arrays, or {LARGEST_HEAD >> 20} MB of other values")
    return struct.pack(">QQ", len(head), len(body)) + head + body


def unpack(head: bytes, body: bytes, fetch: Callable[[str, Any], Any]) -> Any:
    """Return the value of a message. `fetch` turns back what `keep` said. Raises for anything malformed."""
    import numpy as np

    at = 0

    def array(dtype: str, shape: list[int]) -> Any:
        nonlocal at
        if not re.fullmatch(r"[<>|][biufc]\d{1,2}", dtype) or any(type(size) is not int or size < 0 for size in shape):
            raise ValueError("neither dtype nor shape")
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if size > len(body) - at:
            raise ValueError("too few bytes")
        at += size
        return np.frombuffer(bytearray(body[at - size : at]), dtype).reshape(shape)

    def value(tree: Any) -> Any:
        if not isinstance(tree, dict):
            return tree
        ((kind, item),) = tree.items()
        if kind in ("tuple", "list"):
            parts = [value(part) for part in item]
            return parts if kind == "list" else tuple(parts)
        if kind == "dict":
            return {key: value(part) for key, part in item.items()}
        if kind in ("array", "scalar"):
            return array(*item) if kind == "array" else array(*item)[()]
        if kind == "rng":
            rng = np.random.Generator(np.random.PCG64())
            rng.bit_generator.state = item
            return rng
        return fetch(kind, item)

    return value(json.loads(head))


def read_message(stream: BinaryIO) -> tuple[bytes, bytes]:
    """Read a message's two parts. Raises EOFError at the end, ValueError where the lengths are not ours."""
    lengths = stream.read(16)
    if len(lengths) < 16:
        raise EOFError
    head, body = struct.unpack(">QQ", lengths)
    if head > LARGEST_HEAD or body > LARGEST:
        raise ValueError("no message of ours")
    parts = stream.read(head), stream.read(body)
    if len(parts[0]) < head or len(parts[1]) < body:
        raise EOFError
    return parts


def fence(site: str) -> None:
    """From here on refuse, in this process, what no exercise needs: other modules, other files, processes.

    The hook is reached by no name, and has all that it uses as its arguments' defaults: nothing that the student's
    code can reach or replace decides for it.
    """
    modules = frozenset((sys.stdlib_module_names | {"numpy"}) - REFUSED_MODULES)
    refused = tuple((what, frozenset(names.split())) for what, names in REFUSED.items())
    library = os.path.dirname(os.__file__)
    places = (library, site, os.path.join(sys.base_prefix, "DLLs"))
    readable = tuple({way(place) + os.sep for place in places for way in (os.path.abspath, os.path.realpath)})
    package = os.path.realpath(Path(__file__).parents[1])  # where the answers are
    found = (os.stat(os.path.join(place, name)) for place, _, names in os.walk(package) for name in names)
    answers = frozenset((file.st_dev, file.st_ino) for file in found)  # for links, and other spellings of a path

    def refuse(
        event: str, arguments: tuple[Any, ...], modules: Any = modules, refused: Any = refused,
        readable: Any = readable, package: str = package + os.sep, answers: Any = answers, frameworks: Any = FRAMEWORKS,
        kind: Any = type, text: Any = str, number: Any = int, stat: Any = os.stat, Import: Any = RefusedImport,
        Permission: Any = PermissionError, writing: int = os.O_WRONLY | os.O_RDWR | os.O_CREAT,
    ) -> None:  # fmt: skip
        if event == "import":
            name = arguments[0].partition(".")[0] if kind(arguments[0]) is text else ""
            if name in frameworks:
                raise Import(f"imports {name}: these exercises use NumPy alone; write the gradient yourself")
            if name not in modules and not name.startswith("_sysconfigdata"):  # which is named after the machine
                raise Import(f"imports {name}: an exercise is one file that uses NumPy and Python's own library")
        elif event == "open" and kind(arguments[0]) is not number:
            if (arguments[2] or 0) & writing:
                raise Permission("the file opens another for writing; no exercise needs that")
            path = arguments[0]
            if kind(path) is not text or ".." in path.replace("\\", "/").split("/"):
                path = ""  # what can say one thing here and another to the system
            try:
                file = stat(path)
                open_to_all = (file.st_dev, file.st_ino) not in answers
            except Exception:
                open_to_all = True  # there is nothing to read
            if not (open_to_all and path.startswith(readable)) or path.startswith(package):
                raise Permission("the file reads another; all that it needs is given to its functions")
        elif event == "object.__setattr__" or event == "object.__delattr__":
            if arguments[1] == "__code__":
                raise Permission("the file changes the code of a function; no exercise needs that")
        else:
            for what, names in refused:
                if event in names or event.partition(".")[0] in names:
                    raise Permission(f"the file {what}; no exercise needs that")

    sys.addaudithook(refuse)
    for module, function in (("subprocess", "_fork_exec"), ("_posixsubprocess", "fork_exec")):
        vars(sys.modules.get(module, types)).pop(function, None)  # it raises no event


def limit(seconds: float) -> None:
    """Bound memory, processor time, files and processes, where the system has such limits."""
    with suppress(ImportError):
        import resource

        cpu = math.ceil(seconds) + 2
        for name, most in (("AS", MEMORY), ("CPU", cpu), ("FSIZE", 1 << 16), ("CORE", 0), ("NPROC", 0)):
            with suppress(AttributeError, ValueError, OSError):
                resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most))


def bits(value: Any, seen: set[int]) -> Iterator[bytes]:
    """Yield the bits of every array in a container or an object."""
    import numpy as np

    if isinstance(value, np.ndarray):
        yield f"{value.shape} {value.dtype}".encode() + value.tobytes()
    elif not isinstance(value, (type, types.ModuleType)) and id(value) not in seen:
        seen.add(id(value))
        if not isinstance(value, (tuple, list)):
            value = list((value if isinstance(value, dict) else getattr(value, "__dict__", {})).values())
        for part in value:
            yield from bits(part, seen)


class Worker:
    """Answers the parent's requests, one after the other."""

    def __init__(self, requests: BinaryIO, answers: BinaryIO) -> None:
        self.requests, self.answers = requests, answers
        self.kept: dict[int, Any] = {}
        self.numbers = itertools.count()
        self.file = self.source = ""
        self.module = types.ModuleType("student")

    def serve(self) -> None:
        """Answer until the parent has gone, which raises EOFError. The first request brings the student's file."""
        while True:
            request = self.receive()
            for key in request["drop"]:
                self.kept.pop(key, None)
            try:
                answer = getattr(self, request["do"])(**request["with"])
            except BaseException as error:  # whatever a student's code raises, sys.exit among it, has an answer
                answer = {"error": self.describe(error)}
            for stream in (sys.stdout, sys.stderr):
                with suppress(BaseException):
                    stream.flush()
            self.send(answer | {"id": request["id"]})

    def send(self, answer: dict[str, Any]) -> None:
        """Send a message; a value that cannot travel becomes an error."""
        try:
            message = pack(answer, self.keep)
        except BaseException as error:
            problem = {"kind": "result", "type": type(error).__name__, "message": str(error), "line": None}
            message = pack({"id": answer["id"], "error": problem}, self.keep)
        self.answers.write(message)
        self.answers.flush()

    def keep(self, value: Any) -> dict[str, Any]:
        """Keep what cannot travel, and send its number and its type's name."""
        if type(value) is Kept:
            value = value.value
        key = next(self.numbers)
        self.kept[key] = value
        name = type(value).__name__
        return {"handle": [key, f"array of dtype {value.dtype}" if name == "ndarray" else name]}

    def receive(self) -> Any:
        """Return the parent's next message."""
        return unpack(*read_message(self.requests), self.fetch)

    def fetch(self, kind: str, key: int) -> Any:
        """Return what was kept, or a function that asks the parent to call its own."""
        if kind == "handle":
            return self.kept[key]

        def ask(*args: Any, **kwargs: Any) -> Any:
            self.answers.write(pack({"ask": key, "args": args, "kwargs": kwargs}, self.keep))
            self.answers.flush()
            reply = self.receive()
            if "error" in reply:
                raise TypeError(reply["error"])
            return reply["value"]

        return ask

    def load(self, source: str, file: str) -> dict[str, Any]:
        """Run the student's file."""
        self.file, self.source = file, source
        linecache.cache[file] = len(source), None, source.splitlines(keepends=True), file  # for warnings
        sys.modules["student"] = self.module
        exec(compile(source, file, "exec", dont_inherit=True), self.module.__dict__)
        return {"value": None}

    def look(self, name: str) -> dict[str, Any]:
        """Make sure that there is such a function."""
        self.find(name)
        return {"value": None}

    def call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], keeps_second: bool) -> dict[str, Any]:
        """Call a function; say which of its arguments it changed. With `keeps_second`, the cache of a pair stays."""
        function = self.find(name)
        code = getattr(function, "__code__", None)
        names = code.co_varnames[: code.co_argcount] if code else ()
        labels = [*names, *(f"argument {i + 1}" for i in range(len(names), len(args)))]
        given = dict(zip(labels, args, strict=False)) | kwargs
        before = {label: list(bits(value, set())) for label, value in given.items()}
        result = function(*args, **kwargs)
        changed = [label for label, value in given.items() if list(bits(value, set())) != before[label]]
        if changed:
            return {"error": {"kind": "changed", "message": ", ".join(changed)}}
        if keeps_second and type(result) is tuple and len(result) == 2:
            return {"value": result[0], "cache": Kept(result[1])}
        return {"value": result}

    def test(self, name: str, implementation: str, names: tuple[str, ...]) -> dict[str, Any]:
        """Call the student's test on functions that we trust; any exception of it means that they failed."""
        test = self.find(name)
        namespace: dict[str, Any] = {"__name__": "implementation"}
        exec(compile(implementation, "<implementation>", "exec", dont_inherit=True), namespace)
        import numpy as np

        try:
            with np.errstate(all="ignore"):  # wrong functions may warn, and it is not the student's doing
                returned = test(*[namespace[name] for name in names])
        except NotImplementedError:
            raise
        except Exception as error:
            return {"failed": self.describe(error)}
        if returned is not None:
            return {"error": {"kind": "returned", "message": repr(returned)[:80]}}
        return {"value": None}

    def find(self, name: str) -> Callable[..., Any]:
        """Return the student's function. Raises MissingFunction where there is none."""
        function = self.module.__dict__.get(name)
        if not callable(function):
            there = [n for n, f in self.module.__dict__.items() if getattr(f, "__module__", "") == "student"]
            raise MissingFunction(f"there is no function {name} in the file (it has {', '.join(there) or 'none'})")
        return function  # type: ignore[no-any-return]

    def describe(self, error: BaseException) -> dict[str, Any]:
        """Say what was raised, and in which line of the student's file."""
        kind, line, inside = "raised", None, None
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == self.file:
                line, inside = trace.tb_lineno, trace
            trace = trace.tb_next
        if isinstance(error, (RefusedImport, MissingFunction)):
            kind = "said"
        elif isinstance(error, NotImplementedError):
            kind = "todo"
        elif not isinstance(error, Exception):
            kind = "exit"
        elif isinstance(error, SyntaxError) and error.filename == self.file:
            kind, line = "syntax", error.lineno
        message = ""
        with suppress(BaseException):  # the student's own exception may be unable to say itself
            message = str(error.msg if isinstance(error, SyntaxError) else error)[:2000]
            if inside is not None and ("in its core dimension" in message or "not aligned" in message):
                message = self.product(inside) or "the inner sizes of a product differ; is a transpose missing?"
        return {"kind": kind, "type": type(error).__name__, "message": message, "line": line}

    def product(self, trace: types.TracebackType) -> str:
        """Say the shapes of the first a @ b that cannot be, in the line that raised; empty where there is none."""
        import numpy as np

        def value(side: ast.expr) -> Any:
            code = compile(ast.Expression(side), self.file, "eval")
            return eval(code, trace.tb_frame.f_globals, trace.tb_frame.f_locals)

        for node in reversed(list(ast.walk(ast.parse(self.source)))):  # inner products first
            if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult)):
                continue
            if node.lineno <= trace.tb_lineno <= (node.end_lineno or 0):
                a, b = value(node.left), value(node.right)
                try:
                    a @ b
                except ValueError:
                    names = ast.unparse(node.left), ast.unparse(node.right)
                    shapes = f"{names[0]} {np.shape(a)} @ {names[1]} {np.shape(b)}"
                    return f"{shapes}: the inner sizes differ; is a transpose missing?"
        return ""


def main(trace: str, seconds: float, site: str) -> None:
    """Keep the protocol's pipes out of the way of `print`, fence this process in, and serve."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    with open(trace, "w") as file:
        faulthandler.enable(file)
        faulthandler.dump_traceback_later(seconds, exit=True, file=file)
        sys.path.append(site)
        for name in ("numpy.random", "subprocess"):  # before the fence
            importlib.import_module(name)
        limit(seconds)
        fence(site)
        Worker(requests, answers).serve()


if __name__ == "__main__":
    with suppress(BaseException):
        main(sys.argv.pop(1), float(sys.argv.pop(1)), sys.argv.pop(1))
    os._exit(LINE_CUT)  # nothing that the student left behind, such as atexit, runs
