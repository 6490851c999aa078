import sys
import types

import numpy as np

import minissl
from minissl import kernels
from minissl.recipes.info import describe


def line(beginning):
    (found,) = [text for text in describe().splitlines() if text.startswith(beginning)]
    return found


def test_versions_blas_and_gpu_are_told():
    assert minissl.__version__ in line("minissl")
    assert np.__version__ in line("NumPy")
    assert describe().count("\nBLAS: ") >= 1
    assert len(line("GPU: ")) > len("GPU: ")


def test_whether_twins_are_on():
    for device in ("CPU", "GPU"):
        assert "(on): " in line(f"faster twins on the {device}")
        with kernels.reference_ops():
            assert "(off" in line(f"faster twins on the {device}")


def test_a_cupy_that_finds_no_device_says_why(monkeypatch):
    def no_device():
        raise RuntimeError("no CUDA-capable device is detected")

    runtime = types.SimpleNamespace(getDeviceCount=no_device)
    cuda = types.SimpleNamespace(runtime=runtime)
    cupy = types.SimpleNamespace(__version__="14.9", __spec__=object(), cuda=cuda, ndarray=type(None))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    assert line("GPU: ") == "GPU: none: CuPy 14.9 finds no device (no CUDA-capable device is detected)"
    runtime.getDeviceCount = lambda: 2
    runtime.getDeviceProperties = lambda i: {"name": f"Card {i}".encode()}
    assert line("GPU: ") == "GPU: CuPy 14.9, Card 0, Card 1"
