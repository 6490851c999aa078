"""One GPU for each process: on stand-ins whose NCCL is MPI, and the names of CuPy's own. No GPU runs anything here."""

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import several_gpus
import several_processes
import stand_in_nccl
from minissl.errors import InputError
from minissl.training.nccl import connect_gpus
from minissl.training.processes import Alone

MPIRUN = shutil.which("mpirun", path=str(Path(sys.executable).parent))
SCRIPT = Path(several_gpus.__file__)
COMMAND = (
    "pretrain", "--data", "hmm", "--steps", "8", "--batch-size", "6", "--seq-len", "12", "--save-every", "3",
    "--device", "cuda",
)  # fmt: skip

needs_mpi = pytest.mark.skipif(MPIRUN is None, reason="no mpirun in this environment (pip install mpi4py mpich)")


def mpirun(count, *arguments, cwd=None, **variables):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PMI_", "OMPI_", "HYDI_"))}
    environment["MINISSL_KERNELS"] = "off"  # the stand-in emulates kernels thread by thread, which is slow
    return subprocess.run(
        [MPIRUN, "-n", str(count), sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True,
        timeout=120, cwd=cwd, env=environment | variables,
    )  # fmt: skip


@needs_mpi
def test_losses_gradients_and_weights_are_those_of_one_process(tmp_path):
    """Whatever reads a gradient before its sum has come, or adds to it after, reads NaN or loses it."""
    done = mpirun(2, "steps", tmp_path / "found.npz")
    assert done.returncode == 0, done.stderr
    several_processes.assert_as_one_process(tmp_path / "found.npz")


@needs_mpi
def test_the_whole_command_speaks_once_ends_in_one_processes_loss_and_resumes(tmp_path):
    whole = mpirun(2, *COMMAND, "--out", "whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    assert whole.stdout.count("held-out masked-LM loss") == 1
    assert "1 thread(s) in each of 2 processes" in whole.stdout
    alone = mpirun(1, *COMMAND, "--out", "alone", cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    found, expected = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("whole", "alone"))
    assert found["processes"] == 2
    assert 0 <= found["waiting_share"] <= 1
    assert found["mlm_loss"] == pytest.approx(expected["mlm_loss"], rel=1e-5)

    dead = mpirun(2, *COMMAND, "--out", "dead", cwd=tmp_path, DIES_IN_STEP="5")
    assert dead.returncode != 0
    assert "minissl: process 1 of 2 died (MemoryError: no room), so the run ends" in dead.stderr
    resumed = mpirun(2, "pretrain", "--resume", "dead", cwd=tmp_path)
    assert "going on after step 3" in resumed.stdout, resumed.stderr
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "dead"))
    assert one == other


@needs_mpi
@pytest.mark.parametrize(
    ("count", "variables", "said"),
    [
        (3, {}, "--device cuda: 3 processes found 2 GPU(s) in all; start one for each GPU"),
        (2, {"STAND_IN_GPUS": "0"}, "--device cuda: CuPy finds no GPU to work on"),
        (2, {"NO_NCCL": "1"}, "CuPy finds no NCCL, which sums their gradients; pip install nvidia-nccl-cu13"),
    ],
)
def test_what_is_missing_is_said_once_before_anything_is_made(tmp_path, count, variables, said):
    wrong = mpirun(count, *COMMAND, "--out", "run", cwd=tmp_path, **variables)
    assert wrong.returncode == 2, wrong.stderr
    assert wrong.stderr.count("minissl: ") == len(wrong.stderr.splitlines()) == 1
    assert said in wrong.stderr
    assert not list(tmp_path.iterdir())


def test_without_cupy_it_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(InputError, match=r"^--device cuda: CuPy is missing; pip install 'minissl\[gpu\]'"):
        connect_gpus(Alone(), 0)


def test_cupy_without_a_gpu_or_nccl_is_one_line():
    """CuPy's own warning, of several lines, would be an error here."""
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed (extra: gpu)")
    try:
        cupy.cuda.runtime.getDeviceCount()
        pytest.skip("there is a GPU")
    except cupy.cuda.runtime.CUDARuntimeError:
        pass
    with pytest.raises(InputError, match=r"^--device cuda.*(finds no NCCL|finds no GPU)[^\n]*$"):
        connect_gpus(Alone(), 0)


@pytest.mark.filterwarnings("ignore:[\\s]*nccl library could not be loaded")
def test_the_stand_ins_signatures_are_cupys():
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed (extra: gpu)")
    from cupyx import distributed
    from cupyx.distributed import _nccl_comm

    def shape(function):
        return [(p.name, p.kind) for p in inspect.signature(function).parameters.values()]

    assert shape(stand_in_nccl.init_process_group) == shape(distributed.init_process_group)
    for name in ("__init__", "all_reduce", "broadcast"):
        assert shape(getattr(stand_in_nccl.NCCLBackend, name)) == shape(getattr(distributed.NCCLBackend, name))
    table = re.findall(r"'(.)': nccl\.NCCL_", inspect.getsource(_nccl_comm))
    assert "".join(table) == stand_in_nccl.DTYPES
    for name in ("Stream", "Event", "Device"):
        ours, theirs = getattr(stand_in_nccl, name), getattr(cupy.cuda, name)
        for method in [method for method in vars(ours) if not method.startswith("_")]:
            assert hasattr(theirs, method)
        described = f"{theirs.__doc__} {theirs.__init__.__doc__}"  # what is compiled has no signature but this
        assert [p for p, _ in shape(ours.__init__) if p != "self" and p not in described] == []
    for name in ("get_current_stream", "nccl", "runtime"):
        assert hasattr(cupy.cuda, name)
