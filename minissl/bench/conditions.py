"""What a measured time depends on beside the code: when, on which machine, with what, and who else was at work."""

from __future__ import annotations

import os
import platform
import sys
import time
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_info

import minissl
from minissl import kernels
from minissl.workers import available_cores

BUSY = 0.25  # of the cores, at work for others before anything is timed
DISTURBED = 0.1  # of the cores, taken by others while it was timed
SETTINGS = ("OPENBLAS_", "OMP_", "MKL_", "GOTO_", "GOMP_", "KMP_", "MINISSL_")  # of the environment: they change speed


class Conditions(NamedTuple):
    """As they were before a part of a benchmark began."""

    date: str
    processor: str
    cores: int
    load: float  # of the last minute, before the command began; -1 where the system does not tell
    load_now: float  # before this part: the parts before it count
    versions: dict[str, str]
    blas: str
    settings: dict[str, str]
    others: float = -1  # share of the cores that other processes took while it was timed; -1 where nothing tells

    def lines(self) -> list[str]:
        """For the foot of a table."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        load = "" if self.load < 0 else f", load {self.load:.2f}"
        return [f"{versions}; NumPy on {self.blas}", f"{self.date}, {self.processor}, {self.cores} core(s){load}"]


def conditions() -> Conditions:
    """The conditions now, with the versions of what has been imported."""
    versions = {
        title: str(sys.modules[name].__version__)
        for title, name in {"PyTorch": "torch", "transformers": "transformers"}.items()
        if name in sys.modules
    }
    return Conditions(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        processor=_processor(),
        cores=available_cores(),
        load=load_before(),
        load_now=_load(),
        versions={
            "minissl": minissl.__version__,
            "Python": platform.python_version(),
            "NumPy": np.__version__,
            **versions,
        },
        blas=_blas(),
        settings={name: value for name, value in sorted(os.environ.items()) if name.startswith(SETTINGS)},
    )


def cautions(found: Conditions, threads: int) -> list[str]:
    """A line for each thing that makes the numbers say less than they seem to."""
    lines = []
    if found.load > BUSY * found.cores:
        lines.append(
            f"a busy machine: its load was {found.load:.2f} before anything ran, on {found.cores} core(s); stop what "
            "else runs, and measure again"
        )
    if found.others > DISTURBED:
        lines.append(
            f"other processes took {found.others:.0%} of the cores while this was timed, which slows PyTorch's threads "
            "most; stop them, and measure again"
        )
    if threads > found.cores:
        lines.append(
            f"{threads} threads on {found.cores} core(s): they take turns, so expect no more speed; minissl evaluates "
            f"on {found.cores}"
        )
    if "OPENBLAS_CORETYPE" in found.settings:
        lines.append(
            f"OPENBLAS_CORETYPE={found.settings['OPENBLAS_CORETYPE']} is set: NumPy's products run as that "
            "processor's, maybe at half their speed, and PyTorch's do not; unset it to measure"
        )
    if not kernels.enabled():
        lines.append("MINISSL_KERNELS=off: minissl runs its reference ops, without their faster twins")
    return [f"caution: {line}" for line in lines]


class Watch:
    """The conditions before a part, and how much of the cores others take between `begin` and `end`, at most."""

    def __init__(self) -> None:
        self.conditions = conditions()

    def begin(self) -> None:
        """Now."""
        self._then = _busy_seconds(), sum(os.times()[:2]), time.perf_counter()

    def end(self) -> None:
        """Now."""
        busy, own, clock = self._then
        now = _busy_seconds()
        if busy is None or now is None:
            return
        took = now - busy - (sum(os.times()[:2]) - own)
        share = took / ((time.perf_counter() - clock) * available_cores())
        others = max(self.conditions.others, round(min(1.0, max(0.0, share)), 3))
        self.conditions = self.conditions._replace(others=others)


def _busy_seconds() -> float | None:
    """What the cores of this process have worked, for whomever, since they started; None where nothing tells."""
    try:
        mine = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        rows = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
        user, nice, system, irq, softirq, steal = 1, 2, 3, 6, 7, 8  # idle and waiting for a disk are left out
        ticks = sum(int(row[i]) for row in rows if row[0] in mine for i in (user, nice, system, irq, softirq, steal))
        return ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, IndexError, ValueError):  # not Linux
        return None


@cache
def load_before() -> float:
    """The load when this was first asked for: later, one's own work is in it."""
    return _load()


def _load() -> float:
    try:
        return round(os.getloadavg()[0], 2)
    except (OSError, AttributeError):  # Windows has none
        return -1.0


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _blas() -> str:
    """NumPy's BLAS and the kind of processor that it was built or told to run for: PyTorch brings its own."""
    found = [b for b in threadpool_info() if b["user_api"] == "blas"]
    return ", ".join(f"{b['internal_api']} {b['version']} ({b.get('architecture', '?')})" for b in found) or "its BLAS"
