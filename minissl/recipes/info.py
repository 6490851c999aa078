"""`minissl info`: what this machine runs minissl with."""

from __future__ import annotations

import os
import platform
import warnings
from importlib.metadata import version

import numpy as np
from threadpoolctl import threadpool_info

import minissl
from minissl import kernels
from minissl.backend import Array
from minissl.kernels import gpu
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
    return "\n".join([*lines, *_gpu()])


def _gpu() -> list[str]:
    """What CuPy finds, and whether the kernels compile there; or why there is no GPU."""
    try:
        import cupy
    except ImportError as error:
        return [f"GPU: none: CuPy is not installed (extra: gpu; {error}), so models run on the CPU"]
    runtime = cupy.cuda.runtime
    try:
        cards = [runtime.getDeviceProperties(i) for i in range(runtime.getDeviceCount())]
        cuda, driver = (_version(number) for number in (runtime.runtimeGetVersion(), runtime.driverGetVersion()))
        compiled = _whether_kernels_compile(cupy.zeros(1, "float32"))
    except Exception as error:  # CuPy raises its driver's and its runtime's own errors
        return [f"GPU: none: CuPy {cupy.__version__} finds no device ({error}), so models run on the CPU"]
    return [
        f"GPU: CuPy {cupy.__version__}, CUDA runtime {cuda}, driver for CUDA {driver}; {compiled}",
        *(
            f"GPU {i}: {card['name'].decode()}, {card['totalGlobalMem'] / 1e9:.1f} GB, "
            f"compute capability {card['major']}.{card['minor']}"
            for i, card in enumerate(cards)
        ),
    ]


def _version(number: int) -> str:
    """CUDA's 13020 is 13.2."""
    return f"{number // 1000}.{number % 1000 // 10}"


def _whether_kernels_compile(x: Array) -> str:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        if gpu.applies(x):
            return "minissl's kernels compile"
    return (str(said[0].message) if said else "minissl's kernels do not compile").splitlines()[0]
