"""`minissl museum list | show | race | check`: each returns an exit status."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from minissl.museum import EXHIBITS, Exhibit, find
from minissl.museum.inspect import Inspection, inspect, inspect_right

Say = Callable[[str], None]
LEAST_NAMED = 0.9  # of the gradient bugs
SHOWN = 4  # findings of an exhibit: what comes after the first ones is their consequence


def list_exhibits(say: Say) -> int:
    """Name every exhibit in a line, by the module it is wrong in."""
    by_module: dict[str, list[Exhibit]] = {}
    for exhibit in EXHIBITS:
        by_module.setdefault(exhibit.module, []).append(exhibit)
    for module, exhibits in by_module.items():
        say(f"\n{module}")
        for exhibit in exhibits:
            say(f"  {exhibit.name:<{_width()}}  {exhibit.story}")
    say(f"\n{len(EXHIBITS)} exhibits; minissl museum show NAME shows one, race NAME trains it beside the right one")
    return 0


def show(name: str, say: Say) -> int:
    """Print an exhibit: story, diff, what training shows, what the checker says. InputError: no such name."""
    exhibit = find(name)
    source = f" ({exhibit.source})" if exhibit.source else ""
    say(f"{exhibit.name}: {exhibit.story}{source}\n\n{exhibit.diff()}\n\ntraining: {exhibit.training}\n")
    found = inspect(exhibit)
    say(f"{found.by} says:")
    messages = list(dict.fromkeys(f"  {finding.kind}: {finding.message}" for finding in found.findings))
    for message in messages[:SHOWN]:
        say(message)
    if len(messages) > SHOWN:
        say(f"  and {len(messages) - SHOWN} more, which follow from these")
    return 0


def race(name: str, out: Path, say: Say, steps: int | None = None, seed: int = 0) -> int:
    """Train an exhibit beside the right one, draw both and say what was seen. InputError: no such name."""
    from minissl.museum.race import race as run_race

    run_race(find(name), out, say, steps, seed)
    return 0


def check(say: Say) -> int:
    """Inspect every exhibit and everything that is right.

    1 where an exhibit gets through, something right is flagged, or too few gradient bugs are named with their kind.
    """
    say(f"{'exhibit':<{_width()}}  {'kind':<19} {'caught by':<38} found")
    missed: list[str] = []
    named: list[bool] = []
    for exhibit in EXHIBITS:
        found = inspect(exhibit)
        if found.ok:
            missed.append(exhibit.name)
        if exhibit.is_gradient_bug:
            named.append(exhibit.kind in found.kinds)
        say(_row(exhibit, found))
    alarms = [found for found in inspect_right() if not found.ok]
    rate = f"{sum(named)} of {len(named)} ({sum(named) / max(1, len(named)):.0%})"
    say(
        f"caught: {len(EXHIBITS) - len(missed)} of {len(EXHIBITS)}; gradient bugs named with their kind: {rate}; "
        f"false alarms on what is right: {len(alarms)}"
    )
    for found in alarms:
        say(f"FALSE ALARM: {found.by}: {found.findings[0].kind}: {found.findings[0].message}")
    for name in missed:
        say(f"NOT CAUGHT: {name}")
    return 1 if missed or alarms or sum(named) < LEAST_NAMED * len(named) else 0


def _row(exhibit: Exhibit, found: Inspection) -> str:
    mark = "✗" if found.ok or exhibit.kind not in found.kinds else "✓"
    kinds = ", ".join(found.kinds[:3]) or "nothing"
    return f"{exhibit.name:<{_width()}}  {exhibit.kind:<19} {found.by:<38} {mark} {kinds}"


def _width() -> int:
    return max(len(exhibit.name) for exhibit in EXHIBITS)
