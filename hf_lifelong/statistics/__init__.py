"""Statistics of tasks: measured at commit, stored with the task, summed over tasks, gone with `forget`.

One of the package's own is one line in `REGISTER`; a user gives their own object to `DriftTrainer(statistics=[...])`.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module

from .base import TaskRefused, TaskRows, TaskStatistic, Values, checked

# Name → module and class of a statistic that comes with the package. Imported when it is asked for by name.
REGISTER: dict[str, tuple[str, str]] = {}

__all__ = [
    "REGISTER",
    "TaskRefused",
    "TaskRows",
    "TaskStatistic",
    "Values",
    "checked",
    "get_statistic",
    "get_statistics",
]


def get_statistic(given: TaskStatistic | type[TaskStatistic] | str) -> TaskStatistic:
    """A statistic from its name in `REGISTER`, its class, or an object.

    Raises:
        ValueError: when it is none of these.
    """
    if isinstance(given, str):
        if given not in REGISTER:
            known = f"choose one of {list(REGISTER)}" if REGISTER else "no statistic comes with the package"
            raise ValueError(f"`statistics` names {given!r:.60}, which is not known; {known}, or give an object.")
        module, name = REGISTER[given]
        given = getattr(import_module(module), name)
    found = given() if isinstance(given, type) and issubclass(given, TaskStatistic) else given
    if not isinstance(found, TaskStatistic):
        raise ValueError(f"`statistics` holds {given!r:.60}; give a `TaskStatistic`, its class, or a name.")
    return found


def get_statistics(given: Iterable[TaskStatistic | type[TaskStatistic] | str]) -> tuple[TaskStatistic, ...]:
    """Statistics as in `get_statistic`, no two of one name (`ValueError`)."""
    if isinstance(given, str | TaskStatistic) or not isinstance(given, Iterable):
        raise ValueError(f"`statistics` is {given!r:.60}; give a list.")
    found = tuple(map(get_statistic, given))
    names = [statistic.name for statistic in found]
    if len(set(names)) < len(names):
        raise ValueError(f"`statistics` has two of the name {next(n for n in names if names.count(n) > 1)!r}.")
    return found
