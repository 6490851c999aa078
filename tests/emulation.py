"""CuPy's `RawModule` for the stand-in: the GPU's kernel sources, built by g++ and run thread by thread on the CPU.

`emulation.hpp` plays the GPU. What is checked before a launch is what CuPy leaves to the caller, and what a GPU would
answer with a wrong number: every argument's type against the kernel's own, arrays on the device and C-contiguous, and
the sizes of block and grid. What is found while it runs: reads and writes outside an array, races, and barriers that
some threads miss.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

HEADER = Path(__file__).with_name("emulation.hpp")
COMPILER = shutil.which("g++") if sys.platform == "linux" else None
order = 0  # of blocks and threads, one of four; nothing may depend on it
MOST_THREADS, MOST_SHARED, MOST_BLOCKS = 1024, 48 * 1024, (2**31 - 1, 2**16 - 1)
KERNEL = re.compile(r'extern "C" __global__ void (?:__launch_bounds__\(\w+\) )?(\w+)\((.*?)\)', re.DOTALL)
TYPES = {
    "float": np.float32, "double": np.float64, "long long": np.int64, "unsigned long long": np.uint64, "bool": np.bool_,
}  # fmt: skip


class CompileError(Exception):
    """The source does not compile."""


class LaunchRefused(TypeError):
    """Arguments that do not fit the kernel, or a kernel that did what a GPU does not forgive."""


class RawModule:
    """Kernels from one source, compiled when the first of them is asked for, as CuPy does."""

    def __init__(self, *, code: str, options: tuple[str, ...] = ()):
        self.code, self.options = code, options
        _called("function", "RawModule", 0, "code", "options")

    def get_function(self, name: str) -> RawKernel:
        _called("RawModule", "get_function", 1)
        real = next(option.removeprefix("-DREAL=") for option in self.options if option.startswith("-DREAL="))
        parameters = {found: _parameters(text, real) for found, text in KERNEL.findall(self.code)}
        if name not in parameters:
            raise KeyError(f"no kernel named {name!r}")
        return RawKernel(name, parameters[name], _library(self.code, self.options))


class RawKernel:
    """One kernel: call it with the grid, the block and its arguments."""

    def __init__(self, name: str, parameters: list[tuple[str, bool, bool]], library: ctypes.PyDLL):
        self.name, self.parameters = name, parameters
        self.launch = getattr(library, f"launch_{name}")
        self.launch.restype = ctypes.c_char_p

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...]) -> None:
        _called("RawKernel", "__call__", 3)
        grid = (*grid, 1)[:2]
        if len(block) != 1 or not 1 <= block[0] <= MOST_THREADS:
            raise LaunchRefused(f"{self.name}: a block of {block} threads")
        if not all(1 <= blocks <= most for blocks, most in zip(grid, MOST_BLOCKS, strict=True)):
            raise LaunchRefused(f"{self.name}: a grid of {grid} blocks")
        if len(args) != len(self.parameters):
            raise LaunchRefused(f"{self.name}: {len(args)} arguments for {len(self.parameters)} parameters")
        packed = [self._packed(i, arg) for i, arg in enumerate(args)]
        places = (ctypes.c_void_p * len(args))(*(ctypes.addressof(value) for value, _ in packed))
        sizes = (ctypes.c_longlong * len(args))(*(size for _, size in packed))
        written = (ctypes.c_int * len(args))(*(not constant for _, _, constant in self.parameters))
        failure = self.launch((ctypes.c_uint * 4)(*grid, block[0], order), len(args), places, sizes, written)
        if failure:
            raise LaunchRefused(f"{self.name}: {failure.decode()}")

    def _packed(self, i: int, arg: Any) -> tuple[Any, int]:
        """An argument as bytes for the kernel, and the size of its array."""
        from stand_in import ndarray

        kind, pointer, _ = self.parameters[i]
        expected = np.dtype(TYPES[kind])
        if not pointer:
            if not isinstance(arg, np.generic) or arg.dtype != expected:
                raise LaunchRefused(f"{self.name}: argument {i} is {type(arg).__name__}, expected a scalar {expected}")
            return ctypes.create_string_buffer(arg.tobytes(), expected.itemsize), -1
        if not isinstance(arg, ndarray) or arg.dtype != expected:
            given = getattr(arg, "dtype", type(arg).__name__)
            raise LaunchRefused(f"{self.name}: argument {i} is {given}, expected a device array of {expected}")
        if not arg.flags.c_contiguous:
            raise LaunchRefused(f"{self.name}: argument {i}, of shape {arg.shape}, is not C-contiguous")
        return ctypes.c_void_p(arg._host.ctypes.data), arg.nbytes


def _called(*call: Any) -> None:
    from stand_in import CALLS

    kind, name, arguments, *keywords = call
    CALLS.add((kind, name, arguments, tuple(keywords)))


def _parameters(text: str, real: str) -> list[tuple[str, bool, bool]]:
    """(type, whether a pointer, whether constant) of each parameter."""
    found = []
    for parameter in text.split(","):
        words = parameter.replace("*", " * ").replace("__restrict__", "").split()
        kind = " ".join(word for word in words[:-1] if word not in ("const", "*"))
        found.append((real if kind == "real" else kind, "*" in words, "const" in words))
    return found


@cache
def _library(code: str, options: tuple[str, ...]) -> ctypes.PyDLL:
    """Compile, or load what was compiled before. It keeps Python's lock, since fibers are no threads."""
    source = code + "".join(map(_launcher, KERNEL.findall(code)))
    command = [COMPILER, "-x", "c++", "-std=c++17", "-O1", "-w", "-U_FORTIFY_SOURCE", "-fPIC", "-shared", *options]
    command += ["-fsanitize=thread", "-fno-exceptions", "-nodefaultlibs", "-include", str(HEADER), "-", "-lc", "-lgcc"]
    name = hashlib.sha256("\0".join([source, HEADER.read_text(), *command]).encode()).hexdigest()
    folder = Path(tempfile.gettempdir(), f"minissl-emulation-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} is another's: what lies there would be run")
    path = folder / f"{name[:24]}.so"
    if not path.exists():
        made = path.with_suffix(f".{os.getpid()}")
        command += ["-o", str(made)]
        done = subprocess.run(command, input=source, capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise CompileError(done.stderr)
        made.replace(path)
    return ctypes.PyDLL(str(path))


def _launcher(kernel: tuple[str, str]) -> str:
    """A function that Python can call, which runs the kernel on every thread."""
    name, text = kernel
    types = [parameter.replace("__restrict__", "").rsplit(maxsplit=1) for parameter in text.split(",")]
    arguments = [f"*({kind + ('*' if word.startswith('*') else '')}*)args[{i}]" for i, (kind, word) in enumerate(types)]
    return (
        f"\nstatic void run_{name}(void** args) {{ {name}({', '.join(arguments)}); }}"
        f'\nextern "C" const char* launch_{name}(const unsigned* dims, int n, void** args, const long long* bytes, '
        f"const int* written) {{ return emulation::shared_bytes() > {MOST_SHARED} ? "
        f'"more shared memory than a block has" : emulation::launch(run_{name}, dims, n, args, bytes, written); }}\n'
    )
