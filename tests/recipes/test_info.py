import sys
from types import SimpleNamespace

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


class Card:
    """A CuPy with two GPUs, as far as `minissl info` looks."""

    class ndarray:
        dtype, ndim = np.dtype("float32"), 1

    def __init__(self, compiles=True):
        self.__version__ = "14.9"
        self.cuda = SimpleNamespace(runtime=self)
        self.compiles = compiles

    def getDeviceCount(self):
        return 2

    def getDeviceProperties(self, i):
        return {"name": f"Card {i}".encode(), "totalGlobalMem": 85_017_755_648, "major": 9, "minor": i}

    def runtimeGetVersion(self):
        return 13020

    def driverGetVersion(self):
        return 12080

    def zeros(self, shape, dtype):
        return self.ndarray()

    def RawModule(self, *, code, options):
        if not self.compiles:
            raise RuntimeError("nvrtc: no such option\nand more lines")
        return SimpleNamespace(get_function=lambda name: name)


def gpu_lines(monkeypatch, cupy):
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    return [text for text in describe().splitlines() if text.startswith("GPU")]


def test_gpus_their_versions_and_whether_kernels_compile(monkeypatch):
    assert gpu_lines(monkeypatch, Card()) == [
        "GPU: CuPy 14.9, CUDA runtime 13.2, driver for CUDA 12.8; minissl's kernels compile",
        "GPU 0: Card 0, 85.0 GB, compute capability 9.0",
        "GPU 1: Card 1, 85.0 GB, compute capability 9.1",
    ]
    first, *_ = gpu_lines(monkeypatch, Card(compiles=False))
    assert first.endswith("; the GPU's kernels do not compile; slower ops run instead: nvrtc: no such option")


def test_no_gpu_and_no_cupy_say_why(monkeypatch):
    card = Card()
    monkeypatch.setattr(card, "getDeviceCount", lambda: 1 // 0)
    none = "GPU: none: CuPy 14.9 finds no device (integer division or modulo by zero), so models run on the CPU"
    assert gpu_lines(monkeypatch, card) == [none]
    (line,) = gpu_lines(monkeypatch, None)
    assert line.startswith("GPU: none: CuPy is not installed (extra: gpu; ")
