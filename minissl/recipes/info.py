"""`minissl info`: what this machine runs minissl with."""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
from importlib.metadata import version

import numpy as np
from threadpoolctl import threadpool_info

import minissl
from minissl import kernels
from minissl.workers import available_cores


def describe() -> str:
    """Versions, BLAS and its threads, which twins are on, and the GPU or why there is none."""
    packages = ("matplotlib", "safetensors", "tqdm", "threadpoolctl")
    lines = [
        f"minissl {minissl.__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}",
        f"NumPy {np.__version__}, " + ", ".join(f"{name} {version(name)}" for name in packages),
        f"cores that this process may use: {available_cores()} of {os.cpu_count()}",
    ]
    libraries = [b for b in threadpool_info() if b["user_api"] == "blas"]
    lines += [
        f"BLAS: {b['internal_api']} {b['version']} ({b.get('architecture', 'architecture not told')}), "
        f"{b['num_threads']} thread(s); training gives each of its own threads one BLAS thread"
        for b in libraries
    ] or ["BLAS: none that threadpoolctl knows; matrix products may be slow"]
    switched = "on" if kernels.enabled() else "off, MINISSL_KERNELS=off"
    for device, library in (("CPU", "numpy"), ("GPU", "cupy")):
        twins = sorted(name for name, of in kernels.twins() if of == library)
        lines.append(f"faster twins on the {device} ({switched}): {', '.join(twins)}")
    lines.append(f"GPU: {_gpu()}")
    return "\n".join(lines)


def _gpu() -> str:
    if importlib.util.find_spec("cupy") is None:
        return "none: CuPy is not installed (extra: gpu), so models run on the CPU"
    try:
        import cupy

        count = cupy.cuda.runtime.getDeviceCount()
        names = [cupy.cuda.runtime.getDeviceProperties(i)["name"].decode() for i in range(count)]
        return f"CuPy {cupy.__version__}, {', '.join(names)}"
    except Exception as error:  # CuPy raises its driver's and its linker's own errors
        return (
            f"none: CuPy {sys.modules['cupy'].__version__ if 'cupy' in sys.modules else ''} finds no device ({error})"
        )
