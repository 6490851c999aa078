"""The bug museum: wrong implementations that people really write, and what a training run shows of each.

    exhibit = find("layer-norm-gain-outside")
    print(exhibit.diff())
    with exhibit.installed():
        ...  # the whole process computes it wrong

An exhibit is one small textual slip in a function of minissl, so it always differs from today's code by just that.
Own exhibits are one entry more in `ops`, `attention`, `modules` or `pipeline`.
"""

import difflib

from minissl.errors import InputError
from minissl.museum import attention, modules, ops, pipeline
from minissl.museum.exhibit import Exhibit, Slip

__all__ = ["EXHIBITS", "Exhibit", "Slip", "find"]

EXHIBITS = (*ops.EXHIBITS, *attention.EXHIBITS, *modules.EXHIBITS, *pipeline.EXHIBITS)


def find(name: str) -> Exhibit:
    """Return the exhibit of that name. Raises InputError, with names that are alike, where there is none."""
    by_name = {exhibit.name: exhibit for exhibit in EXHIBITS}
    if name in by_name:
        return by_name[name]
    alike = [n for n in by_name if name and name in n][:6] or difflib.get_close_matches(name, by_name, 6, 0.5)
    hint = f"did you mean {', '.join(alike)}?" if alike else "`minissl museum list` names them all"
    raise InputError(f"no exhibit named {name!r}; {hint}")
