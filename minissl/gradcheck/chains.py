"""Runs of calls that together are one step of a derivation: an activation written out, a softmax, a normalisation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from minissl.backend import Array
from minissl.gradcheck.trace import Call

MOST_LINKED = 120  # calls, beyond which finding out what comes from where takes too long

Place = tuple[int, int]  # call, operand


def chains(calls: list[Call]) -> Iterator[tuple[Place, int, str | None, Array | float]]:
    """Yield (where A is read, call whose output B is elementwise in A, formula, what dB/dA might be taken for).

    First dB = dA, without a formula; then simple functions of A, of B and of what lies between.
    """
    sources, readers = _links(calls)
    within: list[set[int]] = []  # for each call, the values that its output is elementwise in
    for n, call in enumerate(calls[: len(sources)]):
        own = [_and_itself(s, within) for i, s in enumerate(sources[n]) if call.moves[i]]
        within.append(set.intersection(*own) if own and _is_elementwise(call) else set())
    pairs = [(a, n) for n, values in enumerate(within) for a in values]
    for a, n in pairs:
        yield readers[a], n, None, 1.0
    for a, n in pairs:
        first, operand = readers[a]
        between = {"what comes out of it": calls[n].output, "what goes in": calls[first].inputs[operand]}
        between |= {
            f"`{calls[m].line}`": calls[m].output for m in range(n) if a in within[m] and m in _and_itself(n, within)
        }
        for name, array in between.items():
            with np.errstate(all="ignore"):
                for formula, factor in _functions(name, array):
                    yield readers[a], n, formula, factor
        for m in range(max(0, n - 4), min(n + 4, len(calls))):  # a sum over the row, a scale beside it
            beside, shape = calls[m].output, calls[n].output.shape
            if beside.shape != shape and _broadcasts_to(beside.shape, shape):
                yield readers[a], n, f"what `{calls[m].line}` gives", beside


def detours(calls: list[Call]) -> Iterator[tuple[Place, int]]:
    """Yield (where A is read, call whose output B has A's shape and depends on A as a whole), the short ones first."""
    sources, readers = _links(calls)
    reached: list[set[int]] = []
    for n in range(len(sources)):
        reached.append(set().union(*(_and_itself(s, reached) for i, s in enumerate(sources[n]) if calls[n].moves[i])))
    pairs = []
    for n, values in enumerate(reached):
        for a in values:
            call, operand = readers[a]
            if calls[call].inputs[operand].shape == calls[n].output.shape and calls[n].output.size > 1:
                pairs.append((n - call, readers[a], n))
    for _, base, n in sorted(pairs):
        yield base, n


def _functions(name: str, a: Array) -> Iterator[tuple[str, Array]]:
    yield name, a
    yield f"(1 - {name})", 1 - a
    yield f"(1 - {name}²)", 1 - a * a
    yield f"{name}²", a * a
    yield f"{name} (1 - {name})", a * (1 - a)
    yield f"1/{name}", 1 / a
    yield f"({name} < 0)", (a < 0).astype(np.float64)
    yield f"({name} > 0)", (a > 0).astype(np.float64)


def _broadcasts_to(shape: tuple[int, ...], wide: tuple[int, ...]) -> bool:
    return len(shape) == len(wide) and all(n in (1, m) for n, m in zip(shape, wide, strict=True))


def _and_itself(value: int, of_calls: list[set[int]]) -> set[int]:
    return {value} | (of_calls[value] if 0 <= value < len(of_calls) else set())


def _is_elementwise(call: Call) -> bool:
    ufunc = isinstance(getattr(np, call.name, None), np.ufunc) and call.name != "matmul"
    shapes = {a.shape for a, moves in zip(call.inputs, call.moves, strict=True) if moves}
    return (ufunc or call.name in ("where", "clip")) and shapes == {call.output.shape}


def _links(calls: list[Call]) -> tuple[list[list[int]], dict[int, Place]]:
    """Say for every operand which call's output it is (below 0: none's), and where each value is read first."""
    known: list[tuple[int, Array]] = []
    sources: list[list[int]] = []
    readers: dict[int, Place] = {}
    for n, call in enumerate(calls[:MOST_LINKED]):
        sources.append([])
        for i, array in enumerate(call.inputs):
            found = (
                value for value, other in reversed(known) if other.shape == array.shape and np.array_equal(other, array)
            )
            value = next(found, -1 - len(readers) - len(known))
            if value < 0 and value not in readers:
                known.append((value, array))
            readers.setdefault(value, (n, i))
            sources[n].append(value)
        known.append((n, call.output))
    return sources, readers
