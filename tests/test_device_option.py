"""`pytest --device cuda`: the tests of a device run with CuPy on a GPU, and nothing runs where there is none."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
NO_CUPY = "raise ImportError('no cupy here')"
NO_GPU = "def asarray(x):\n    raise RuntimeError('cudaErrorNoDevice')\n"
STAND_IN = """
import pathlib
import stand_in

pathlib.Path(__file__).with_name("imported").touch()
stand_in.kept = stand_in.in_place_of_cupy()  # this module's own names are gone once the stand-in is in its place
stand_in.kept.__enter__()
"""


def run(folder, cupy, *arguments):
    """pytest in a process of its own, in which `import cupy` finds this source."""
    (folder / "cupy.py").write_text(cupy)
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "--device", "cuda", *arguments]
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        command, cwd=TESTS.parent, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize(
    ("cupy", "said"),
    [(NO_CUPY, "CuPy is missing; pip install 'minissl[gpu]' (no cupy here)"), (NO_GPU, "CuPy finds no GPU to work on")],
)
def test_without_cupy_or_a_gpu_nothing_runs(tmp_path, cupy, said):
    ended = run(tmp_path, cupy)
    assert ended.returncode == pytest.ExitCode.USAGE_ERROR
    (line,) = (ended.stdout + ended.stderr).strip().splitlines()
    assert line.startswith(f"ERROR: device 'cuda': {said}")


def test_the_same_tests_run_with_what_is_installed_as_cupy(tmp_path):
    chosen = ["tests/ops/test_op_device.py", "tests/nn", "tests/recipes/test_commands_device.py"]
    ended = run(tmp_path, STAND_IN, *chosen, "-k", "keeps_to_the_device or on_the_device or guessed")
    assert ended.returncode == 0, ended.stdout
    assert int(re.search(r"(\d+) passed", ended.stdout).group(1)) > 200
    assert (tmp_path / "imported").exists()
