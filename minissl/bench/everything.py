"""`minissl bench --all`: every comparison with PyTorch on a CPU, as one table, one JSON file and one picture."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from minissl.bench import growth, inference, mae, memory, scaling, step
from minissl.bench.conditions import Conditions, cautions, conditions
from minissl.bench.turns import WARM_UP, as_json, check_rounds, import_torch
from minissl.errors import InputError
from minissl.files import read_json, write_json
from minissl.models.bert import PRESETS
from minissl.plots.bench import Overview, Share

NUMBERS, PICTURE = "bench-all.json", "bench-all.png"
SCALED = "small"  # the preset that is timed at each number of threads, where it is among those chosen


TIMES = ("step", "evaluation", "MAE step", "import")
MEMORY = ("memory", "MAE memory")
THREADS = ("threads, step", "threads, evaluation")
KINDS = (*TIMES[:-1], *MEMORY, "import", *THREADS, "growth")
TITLES = {
    "step": "BERT training step", "evaluation": "BERT evaluation", "MAE step": "MAE training step",
    "memory": "peak memory, BERT", "MAE memory": "peak memory, MAE", "import": "start and import",
}  # fmt: skip


class Part(NamedTuple):
    """A comparison, which has a section of its own in the file."""

    kind: str
    preset: str
    measure: Callable[[], Any]

    @property
    def name(self) -> str:
        """The section's key."""
        return f"{self.kind} {self.preset}".strip()


# Roughly, on two cores of an AMD EPYC that others used too: seconds of a part once, and for each round
SECONDS: dict[str, tuple[float, float]] = {
    "import": (23, 0),
    "step tiny": (50, 0.4), "step mini": (54, 2.1), "step small": (48, 3), "step base": (35, 7.7),
    "evaluation tiny": (1, 0.4), "evaluation mini": (1, 0.4), "evaluation small": (3, 1.8), "evaluation base": (4, 7.9),
    "MAE step fashion": (6, 0.3), "MAE step small": (25, 5), "MAE step base": (30, 6.9),
    "memory tiny": (33, 0), "memory mini": (17, 0), "memory small": (36, 0), "memory base": (47, 0),
    "MAE memory fashion": (13, 0), "MAE memory small": (17, 0), "MAE memory base": (36, 0),
    "threads, step tiny": (2, 0.5), "threads, step mini": (8, 2), "threads, step small": (18, 5.6),
    "threads, step base": (20, 7.6), "threads, evaluation tiny": (1, 0.2), "threads, evaluation mini": (1, 0.4),
    "threads, evaluation small": (6, 0.7), "threads, evaluation base": (10, 4.1),
    "growth": (5, 1.4),
}  # fmt: skip


def parts(presets: Sequence[str], rounds: int, threads: int, counts: Sequence[int]) -> list[Part]:
    """What is to be measured, the briefest kinds first."""
    found = [Part("import", "", memory.measure_imports)]
    bert, images = ([p for p in known if p in presets] for known in (PRESETS, mae.PRESETS))
    for kind, measure, chosen in (
        ("step", step.measure, bert), ("evaluation", inference.measure, bert), ("MAE step", mae.measure, images),
    ):  # fmt: skip
        found += [Part(kind, p, partial(measure, p, rounds, threads)) for p in chosen]
    for kind, model, chosen in (("memory", "BERT", bert), ("MAE memory", "MAE", images)):
        found += [Part(kind, p, partial(memory.measure, model, p, threads)) for p in chosen]
    for p in [SCALED] if SCALED in bert else bert[:1]:
        found += [
            Part("threads, step", p, partial(scaling.measure_step, p, counts, rounds)),
            Part("threads, evaluation", p, partial(scaling.measure_evaluation, p, counts, rounds)),
        ]
    return [*found, Part("growth", "", partial(growth.measure, rounds, threads))]


def record(
    presets: Sequence[str] | None, rounds: int, threads: Sequence[int], out: Path | None, say: Callable[[str], None]
) -> dict[str, Any]:
    """Measure all parts of the presets (BERT's and MAE's; None for all) and return their sections.

    With `out`, each part is kept there as it ends, beside what earlier runs kept of other parts; what was measured is
    drawn and listed even where the run is interrupted. A part that fails is left out, and named in the InputError at
    the end.
    """
    known = list(dict.fromkeys([*PRESETS, *mae.PRESETS]))
    for preset in presets or ():
        if preset not in known:
            raise InputError(f"--preset {preset}: expected one of {', '.join(known)}")
    most = check_rounds(rounds, max(threads))
    counts = list(threads) if len(threads) > 1 else sorted({*(2**i for i in range(most.bit_length())), most})
    scaling.check_threads("tiny", counts, rounds)
    import_torch(most)
    chosen = parts(presets or known, rounds, most, counts)
    sections: dict[str, Any] = {}
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        sections = _kept(out / NUMBERS)
    expected = {part.name: _expected(part, rounds) for part in chosen}
    kept = f"; each is kept in {out / NUMBERS} as it ends" if out is not None else ""
    say(f"{len(chosen)} parts, about {_minutes(sum(expected.values()))} on two cores{kept}")
    for line in cautions(conditions(), most):
        say(line)
    failed: list[str] = []
    began = time.perf_counter()
    done = 0.0
    try:
        for number, part in enumerate(chosen, start=1):
            start = time.perf_counter()
            try:
                found = as_json(part.measure())
                section = {"kind": part.kind, **found, "seconds": round(time.perf_counter() - start, 1)}
                sections[part.name], about = section, lines(section)
            except InputError as error:
                failed.append(part.name)
                sections.pop(part.name, None)  # what an earlier run found is not this one's
                about = [f"{part.name}: {error}"]
            if out is not None:
                write_json(out / NUMBERS, sections)
            done += expected[part.name]
            left = (sum(expected.values()) - done) * (time.perf_counter() - began) / done
            say("\n".join([f"[{number} of {len(chosen)} parts; about {_minutes(left)} left]", *about]))
    finally:
        if sections:
            say("\n" + table(sections))
            if out is not None:
                from minissl.plots.bench import plot_overview

                plot_overview(overview(sections), out / PICTURE)
                say(f"{out / NUMBERS}, {out / PICTURE}")
    if failed:
        raise InputError(
            f"{len(failed)} of {len(chosen)} parts are left out, for the reasons above: {', '.join(failed)}"
        )
    return sections


class Row(NamedTuple):
    """A line of the table: minissl beside one rival, in seconds or bytes; their ratio in every round, in order."""

    kind: str
    label: str
    rival: str
    mine: float
    theirs: float
    ratios: list[float]


def rows(section: dict[str, Any]) -> list[Row]:
    """The lines of a part that has rivals."""
    kind, label = section["kind"], section.get("preset", "")
    found = []
    if kind in TIMES:
        (_, mine), *others = section["times"].items()
        for rival, theirs in others:
            pairs = sorted(a / b for a, b in zip(mine, theirs, strict=True))
            found.append(Row(kind, label, rival, statistics.median(mine), statistics.median(theirs), pairs))
    elif kind in MEMORY:
        (_, mine), *others = section["peaks"].items()
        for rival, theirs in others:
            for about, a, b in zip(("beyond imports", "in all"), mine, theirs, strict=True):
                found.append(Row(kind, label, f"{rival}, {about}", a, b, [a / b]))
    return found


def in_order(sections: dict[str, Any]) -> list[dict[str, Any]]:
    """The sections by kind, and in each by size."""
    sizes = list(dict.fromkeys(["", "fashion", *PRESETS]))
    return sorted(sections.values(), key=lambda s: (KINDS.index(s["kind"]), sizes.index(s.get("preset", ""))))


def table(sections: dict[str, Any]) -> str:
    """All parts: minissl beside each rival, what further threads bring, how the time grows, and the conditions."""
    head = f"{'':<28}{'minissl':>10}   {'beside':<30}{'':>10}   minissl's share (all rounds)"
    of_parts = [line for section in in_order(sections) for line in lines(section)]
    return "\n".join([head, *of_parts, *_conditions(sections)])


def lines(section: dict[str, Any]) -> list[str]:
    """The lines of one part."""
    kind = section["kind"]
    if kind in THREADS:
        numbers = ", ".join(map(str, section["threads"]))
        gains = "; ".join(f"{side} " + ", ".join(f"{g:.2f} ×" for g in of) for side, of in _gains(section).items())
        return [f"{section['what']}, {section['preset']}, on {numbers} thread(s): {gains}"]
    if kind == "growth":
        found = [growth.Growth(**one) for one in section["found"]]
        about = [f"{growth.WHAT[g.letter]}, {g.values[0]} … {g.values[-1]}" for g in found]
        return [
            f"minissl's step by {what}: × {g.doubling:.2f} a doubling" for what, g in zip(about, found, strict=True)
        ]
    said = []
    for row in rows(section):
        mine, theirs = (
            f"{x / 1e6:,.0f} MB" if kind in MEMORY else f"{x * 1e3:,.1f} ms" for x in (row.mine, row.theirs)
        )
        spread = f" ({row.ratios[0]:.2f} … {row.ratios[-1]:.2f})" if len(row.ratios) > 1 else ""
        what = f"{TITLES[kind]} {row.label}"
        said.append(f"{what:<28}{mine:>10}   {row.rival:<30}{theirs:>10}   {statistics.median(row.ratios):.2f}{spread}")
    return said


def overview(sections: dict[str, Any]) -> Overview:
    """What the picture shows. Of several attentions of PyTorch, it is the fastest that minissl stands beside."""
    shares: dict[str, list[Share]] = {kind: [] for kind in (*TIMES[:-1], *MEMORY)}
    for row in [row for section in in_order(sections) for row in rows(section)]:
        rival, _, about = row.rival.partition(", ")
        if row.kind == "import" or rival == "products alone" or (row.kind == "memory" and rival != "expert"):
            continue
        share = Share(row.label, rival, row.ratios[0], statistics.median(row.ratios), row.ratios[-1])
        of_kind = shares[row.kind]
        if row.kind in MEMORY:
            share = share._replace(rival=about)
        elif rival == "PyTorch" and of_kind and of_kind[-1].label == row.label:
            share = max(of_kind.pop(), share, key=lambda one: one.median)
        of_kind.append(share)
    by_kind = {section["kind"]: section for section in in_order(sections)}
    imports = by_kind.get("import", {"times": {}})["times"]
    speed_up = {
        kind: (by_kind[kind]["preset"], by_kind[kind]["threads"], _gains(by_kind[kind]))
        for kind in THREADS
        if kind in by_kind
    }
    grown = {
        growth.WHAT[one["letter"]]: (one["values"], one["milliseconds"])
        for one in by_kind.get("growth", {"found": []})["found"]
    }
    seconds = {side: statistics.median(times) for side, times in imports.items()}
    return Overview(shares, seconds, speed_up, grown, "\n".join(_conditions(sections)))


def _kept(path: Path) -> dict[str, Any]:
    """The sections of earlier runs. Raises InputError where the file holds anything else."""
    sections = read_json(path) if path.exists() else {}
    try:
        if sections:
            table(sections)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: is no record of minissl bench --all ({error!r}); name another folder") from None
    return sections


def _gains(section: dict[str, Any]) -> dict[str, list[float]]:
    """The speed-up of each side over the first number of threads."""
    found = scaling.Scaling(**{name: section[name] for name in scaling.Scaling._fields})
    return {side: found.speed_up(side) for side in scaling.SIDES}


def _conditions(sections: dict[str, Any]) -> list[str]:
    """On which days, with which libraries and on which machine; several where the parts are of several runs."""
    every = [(Conditions(**section["conditions"]), _threads(section)) for section in sections.values()]
    threads = {str(number) for _, number in every}
    machines = {f"{one.processor}, {one.cores} core(s)" for one, _ in every}
    days = sorted({one.date[:10] for one, _ in every})
    about = [" / ".join(sorted(machines)), f"{' / '.join(sorted(threads))} thread(s)", "float32"]
    load, others = (max(values) for values in zip(*((one.load, one.others) for one, _ in every), strict=True))
    said = {line for one, number in every for line in cautions(one._replace(load=load, others=others), number)}
    return [
        ", ".join([*about, " … ".join(dict.fromkeys((days[0], days[-1])))]),
        *sorted({one.lines()[0] for one, _ in every}),
        *sorted(said),
    ]


def _threads(section: dict[str, Any]) -> int:
    """Of the part, at most."""
    return int(max(section["threads"]) if section["kind"] in THREADS else section.get("threads", 1))


def _expected(part: Part, rounds: int) -> float:
    once, each = SECONDS[part.name]
    return once + (WARM_UP + rounds) * each


def _minutes(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return f"{minutes} minute{'s' if minutes > 1 else ''}"
