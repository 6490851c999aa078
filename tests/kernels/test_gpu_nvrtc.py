"""CUDA's own compiler takes every kernel, for an H100 (compute_90) and through CuPy's binding; it needs no driver."""

import re

import numpy as np
import pytest

import emulation
from minissl.kernels import gpu

nvrtc = pytest.importorskip("cupy_backends.cuda.libs.nvrtc", reason="CuPy is not installed (extra: gpu)")

try:
    nvrtc.getVersion()
except Exception as error:  # CuPy's own, where it finds no library to load
    pytest.skip(f"no NVRTC (pip install nvidia-cuda-nvrtc==13.0.*): {error}", allow_module_level=True)

every_type = pytest.mark.parametrize("real", gpu.C_TYPES.values())


def compiled(source, real):
    """The assembly and what the compiler said."""
    program = nvrtc.createProgram(source, "kernels.cu", (), ())
    try:
        options = (f"-DREAL={real}", "--std=c++17", "--device-as-default-execution-space", "-arch=compute_90")  # CuPy's
        nvrtc.compileProgram(program, options)
        return nvrtc.getPTX(program).decode(), nvrtc.getProgramLog(program)
    except nvrtc.NVRTCError:
        return None, nvrtc.getProgramLog(program)
    finally:
        nvrtc.destroyProgram(program)


@every_type
def test_every_kernel_compiles_without_a_word_and_takes_what_the_emulation_gives(real):
    assert gpu.source().isascii()  # CuPy writes it to a file in the locale's encoding
    assembly, said = compiled(gpu.source(), real)
    assert said.strip("\0\n ") == ""
    entries = dict(re.findall(r"\.entry (\w+)\(\s*(.*?)\)", assembly, re.DOTALL))
    kernels = emulation.KERNEL.findall(gpu.source())
    assert set(entries) == {name for name, _ in kernels}
    for name, text in kernels:
        taken = [int(bits) // 8 for bits in re.findall(r"\.param \.[a-z](\d+)", entries[name])]
        given = [8 if pointer else np.dtype(emulation.TYPES[kind]).itemsize
                 for kind, pointer, _ in emulation._parameters(text, real)]  # fmt: skip
        assert taken == given, name
    assert ".local" not in assembly  # nothing that belongs in registers is kept in memory


def test_a_slip_is_found():
    assembly, said = compiled(gpu.source().replace("warp_sum(dot)", "warp_some(dot)"), "float")
    assert assembly is None
    assert 'identifier "warp_some" is undefined' in said
