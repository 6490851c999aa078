"""The comparison on a GPU runs whole: minissl on the stand-in for CuPy, PyTorch on the CPU. Its times mean nothing."""

import json

import numpy as np
import pytest

from minissl.bench import gpu as bench
from minissl.errors import InputError
from minissl.models.bert import BertForPreTraining

torch = pytest.importorskip("torch", reason="the parity extra is not installed")
transformers = pytest.importorskip("transformers", reason="the parity extra is not installed")


class NoGpu:
    """A CPU in a GPU's place, whose memory is a count of what was asked of it."""

    torch_device = "cpu"

    def __init__(self):
        self.about = {"chip": "a stand-in", "driver": "none"}
        self.asked = []

    def synchronize(self):
        self.asked.append("synchronize")

    def held(self):
        return 1_000_000 * len(self.asked)

    def release(self):
        self.asked.append("release")


@pytest.fixture
def measured(cupy, monkeypatch):
    """A comparison of two rows and two rounds, where torch.compile finds no compiler."""

    def no_compiler(torch, model, batch):
        raise RuntimeError("no C++ compiler\nlong story")

    monkeypatch.setitem(bench.RIVALS, "compiled", no_compiler)
    monkeypatch.setattr(bench, "compiled_loss", no_compiler)

    def measure(precision):
        gpu = NoGpu()
        with pytest.warns(UserWarning, match=r"^torch.compile does not run here, so it is left out \(no C\+\+"):
            found = bench.measure("tiny", 2, precision, 2, gpu, torch, transformers)
        return found, gpu

    return measure


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_every_side_is_timed_to_an_idle_gpu_and_kept(measured, precision, tmp_path):
    found, gpu = measured(precision)
    assert list(found.times) == list(found.memory) == ["minissl", "Hugging Face", "expert"]
    assert all(len(times) == 2 and min(times) > 0 for times in found.times.values())
    assert gpu.asked.count("synchronize") == 3 * (bench.WARM_UP + 2)
    assert found.loss == pytest.approx(np.log(8192) + np.log(2), rel=0.05)
    assert set(found.memory.values()) == {1_000_000 * (1 + bench.WARM_UP)}

    said = []
    bench.keep([found], tmp_path, said.append)
    kept = json.loads((tmp_path / f"bench-gpu-{precision}.json").read_text())["tiny, 2 × 64"]
    assert kept["times"] == found.times
    assert kept["gpu"]["chip"] == "a stand-in"
    assert kept["conditions"]["versions"]["PyTorch"] == torch.__version__
    assert (tmp_path / f"bench-gpu-{precision}.png").stat().st_size > 10_000
    table = bench.shown(found)
    assert table.count("pair by pair: ") == 2
    assert "peak memory: minissl 4 MB, Hugging Face 4 MB, expert 4 MB" in table


def test_other_losses_are_not_timed(measured, monkeypatch):
    honest = BertForPreTraining.losses_and_backward

    def wrong(self, *args):
        return {name: 1.001 * loss for name, loss in honest(self, *args).items()}

    monkeypatch.setattr(BertForPreTraining, "losses_and_backward", wrong)
    with pytest.raises(InputError, match=r"minissl's loss is .* nothing was compared"):
        bench.measure("tiny", 2, "float32", 1, NoGpu(), torch, transformers)


def test_a_pytorch_without_a_gpu_is_one_line(cupy):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match=r"^--device cuda: PyTorch [^ ]+ finds no GPU; install its build for CUDA$"):
        bench.record(["tiny"], 1, "float32", 1, None, print)
