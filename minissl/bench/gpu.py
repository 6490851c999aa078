"""BERT's training step of minissl on a GPU beside PyTorch's on the same one, in the same precision.

A run ends when the GPU has done all that it was asked: every run is timed from an idle GPU to an idle GPU.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from minissl.backend import PRECISIONS, Array, product_precision, require_device
from minissl.bench.conditions import Conditions, cautions, conditions
from minissl.bench.step import (
    SHAPES,
    bert_batch,
    check_loss,
    compiled_loss,
    expert_loss,
    left_out,
    plain_loss,
    theirs_with_weights,
    training_step,
)
from minissl.bench.turns import WARM_UP, as_json, check_options, import_torch, table, times_in_turn, torch_step
from minissl.errors import InputError
from minissl.files import write_json
from minissl.models.bert import PRESETS, BertConfig, BertForPreTraining
from minissl.nn import Grads

SETTINGS = (("small", 8), ("base", 4), ("base", 64))  # preset and rows
BARS = {("small", 8): {"expert": 1.5}, ("base", 64): {"expert": 1.0, "compiled": 1.2}}  # minissl's time over theirs
TOLERANCES = {"float32": 1e-4, "tf32": 1e-3, "float16": 1e-2, "bfloat16": 1e-2}  # of the loss: each one's rounding
RIVALS = {"Hugging Face": plain_loss, "expert": expert_loss, "compiled": compiled_loss}


class Gpu(Protocol):
    """The GPU on which both libraries work."""

    torch_device: str
    about: dict[str, str]

    def synchronize(self) -> None:
        """Return once it has nothing left to do."""

    def held(self) -> int:
        """Bytes of its memory that are taken, by whomever."""

    def release(self) -> None:
        """Give back to it what the libraries keep for later."""


class Cuda:
    """The current GPU of CuPy, which is PyTorch's too. Raises InputError where one of them finds none."""

    torch_device = "cuda"

    def __init__(self, torch: Any):
        require_device("cuda")
        if not torch.cuda.is_available():
            raise InputError(f"--device cuda: PyTorch {torch.__version__} finds no GPU; install its build for CUDA")
        import cupy

        self._cupy, self._torch = cupy, torch
        torch.zeros(1, device="cuda")  # what PyTorch takes to begin with is no side's
        chip = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode()
        self.about = {
            "chip": chip,
            "driver": _driver(),
            "CuPy": cupy.__version__,
            "CUDA of CuPy": str(cupy.cuda.runtime.runtimeGetVersion()),
            "CUDA of PyTorch": str(torch.version.cuda),
        }

    def synchronize(self) -> None:
        """All streams of the GPU, whoever made them."""
        self._cupy.cuda.runtime.deviceSynchronize()

    def held(self) -> int:
        """By the GPU's own account: both libraries by one measure, with what their products need beside."""
        free, total = self._cupy.cuda.runtime.memGetInfo()
        return int(total - free)

    def release(self) -> None:
        """Empty both memory pools."""
        self._cupy.get_default_memory_pool().free_all_blocks()
        self._torch.cuda.empty_cache()


class GpuComparison(NamedTuple):
    """Seconds of every side in every round, minissl's first; the memory that each took in steps alone, in bytes."""

    preset: str
    rows: int
    length: int
    precision: str
    loss: float
    times: dict[str, list[float]]
    memory: dict[str, int]
    gpu: dict[str, str]
    conditions: Conditions

    @property
    def name(self) -> str:
        """What was compared."""
        return f"{self.preset}, {self.rows} × {self.length}"


def record(
    presets: Iterable[str], rows: int | None, precision: str, rounds: int, out: Path | None, say: Callable[[str], None]
) -> None:
    """Compare at each preset, or at SETTINGS where none is named; say what was found, and keep it in the folder `out`.

    Raises InputError where PyTorch, transformers or a GPU is missing, or the sides do not compute the same losses.
    """
    settings = [(preset, rows or SHAPES.get(preset, (0, 0))[0]) for preset in presets]
    if not settings:
        settings = [(preset, rows or usual) for preset, usual in SETTINGS]
    settings = list(dict.fromkeys(settings))
    for preset, _ in settings:
        check_options(preset, PRESETS, rounds, 0)
    if rows is not None and rows < 1:
        raise InputError(f"--rows {rows}: expected 1 or more")
    if precision not in PRECISIONS:
        raise InputError(f"--precision {precision}: expected one of {', '.join(PRECISIONS)}")
    require_device("cuda")
    torch, transformers = import_torch(1)
    gpu = Cuda(torch)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    found = []
    for preset, count in settings:
        found.append(measure(preset, count, precision, rounds, gpu, torch, transformers))
        say(shown(found[-1]))
    if out is not None:
        keep(found, out, say)


def keep(found: list[GpuComparison], out: Path, say: Callable[[str], None]) -> None:
    """Write the numbers and their picture; each precision has files of its own."""
    from minissl.plots.bench import plot_bench

    out.mkdir(parents=True, exist_ok=True)
    numbers, picture = (out / f"bench-gpu-{found[0].precision}.{ending}" for ending in ("json", "png"))
    write_json(numbers, {one.name: as_json(one) for one in found})
    title = f"A BERT training step on {found[0].gpu['chip']}, {found[0].precision}"
    plot_bench({one.name: one.times for one in found}, title, picture)
    say(f"{numbers}, {picture}")


def shown(found: GpuComparison) -> str:
    """The table of a comparison, with the bars that it has to meet."""
    lines = [
        f"BERT training step, dropout on, preset {found.name}, {found.precision}; every side's loss {found.loss:.4f}",
        *table(found.times),
        "peak memory: " + ", ".join(f"{name} {held / 1e6:,.0f} MB" for name, held in found.memory.items()),
    ]
    mine = found.times["minissl"]
    for name, bar in BARS.get((found.preset, found.rows), {}).items():
        if name in found.times:
            ratio = statistics.median(a / b for a, b in zip(mine, found.times[name], strict=True))
            lines.append(f"bar, at most {bar} × {name}: {ratio:.2f}, {'met' if ratio <= bar else 'missed'}")
    lines.append(", ".join(f"{name} {value}" for name, value in found.gpu.items()))
    return "\n".join([*lines, *found.conditions.lines(), *cautions(found.conditions, 1)])


def measure(
    preset: str, rows: int, precision: str, rounds: int, gpu: Gpu, torch: Any, transformers: Any
) -> GpuComparison:
    """Time a step of every side in turn, having found the same losses. A rival that cannot run here is left out."""
    before = conditions()
    config = BertConfig(**PRESETS[preset])
    host = BertForPreTraining(config)
    length = SHAPES[preset][1]
    batch = bert_batch(config, rows, length)
    memory: dict[str, int] = {}
    steps: dict[str, Callable[[], Any]] = {}

    def add(name: str, make: Callable[[], tuple[float, Callable[[], Any]]]) -> float:
        gpu.release()
        others = gpu.held()
        loss, step = make()
        if steps:
            check_loss(ours, loss, name, TOLERANCES[precision])
        gpu.release()  # what the loss alone needed

        def run() -> None:
            step()
            gpu.synchronize()

        for _ in range(WARM_UP):
            run()
        memory[name], steps[name] = gpu.held() - others, run
        return loss

    ours = add("minissl", lambda: _ours(config, batch, precision))
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    for name, kind in RIVALS.items():

        def theirs(kind: Any = kind) -> tuple[float, Callable[[], Any]]:
            return _theirs(torch, transformers, host, batch, kind, gpu.torch_device, precision)

        try:
            add(name, theirs)
        except InputError:
            raise
        except Exception as error:
            if kind is not compiled_loss:
                raise
            left_out(error)
    times = times_in_turn(steps, rounds, warm_up=0)
    return GpuComparison(preset, rows, length, precision, ours, times, memory, gpu.about, before)


def _ours(config: BertConfig, batch: dict[str, Array], precision: str) -> tuple[float, Callable[[], Any]]:
    """The loss without dropout, by the very functions that train, and a step."""
    model = BertForPreTraining(config).to("cuda")
    with product_precision(precision, model.decoder):
        loss = sum(model.losses_and_backward(batch, model.counts(batch), Grads(model), None).values())
    return loss, training_step(model, batch, 1, precision)


def _theirs(
    torch: Any, transformers: Any, host: BertForPreTraining, batch: dict[str, Array], kind: Any, device: str,
    precision: str,
) -> tuple[float, Callable[[], Any]]:  # fmt: skip
    """The same of Hugging Face's model, as PyTorch's users train it in this precision."""
    model = theirs_with_weights(torch, transformers, host).to(device)
    loss_of = kind(torch, model, batch)
    half = getattr(torch, precision) if precision in ("float16", "bfloat16") else None

    def in_precision() -> Any:
        context: AbstractContextManager[Any] = nullcontext() if half is None else torch.autocast(device, dtype=half)
        with context:
            return loss_of()

    model.eval()
    with torch.no_grad():
        loss = float(in_precision().item())
    scaler = torch.amp.GradScaler(device, enabled=half is torch.float16)
    return loss, torch_step(torch, model.train(), in_precision, scaler, fused=True)


def _driver() -> str:
    if shutil.which("nvidia-smi") is None:
        return "of a version that nothing tells"
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    told = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split()
    return told[0] if told else "of a version that nvidia-smi does not tell"
