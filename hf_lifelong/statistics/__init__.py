"""Statistics of tasks: measured at commit, stored with the task, summed over tasks, removed by `forget`.

A statistic of this package is one line in `REGISTER`. Users pass their own objects: `DriftTrainer(statistics=[...])`.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module

from .base import Answers, TaskRefused, TaskRows, TaskStatistic, Values, checked

# Name → module and class of each statistic in this package. A module is imported when its name is first requested.
REGISTER: dict[str, tuple[str, str]] = {
    "audit": ("hf_lifelong.safety", "TaskAudit"),
    "weak-directions": ("hf_lifelong.safety", "TaskWeakDirections"),
    "fairness": ("hf_lifelong.fairness", "FairnessSums"),
    "input_importance": ("hf_lifelong.selection", "InputImportance"),
}

__all__ = [
    "REGISTER",
    "Answers",
    "TaskRefused",
    "TaskRows",
    "TaskStatistic",
    "Values",
    "checked",
    "get_statistic",
    "get_statistics",
]


def get_statistic(statistic: TaskStatistic | type[TaskStatistic] | str) -> TaskStatistic:
    """A statistic, given as an object, a class, or a name in `REGISTER`.

    Raises:
        ValueError: when it is none of these.
    """
    if isinstance(statistic, str):
        if statistic not in REGISTER:
            choices = f"choose one of {list(REGISTER)}, or give" if REGISTER else "give"
            raise ValueError(
                f"`statistics` names {statistic!r:.60}, which is not known; {choices} a `TaskStatistic` or its class."
            )
        module, name = REGISTER[statistic]
        statistic = getattr(import_module(module), name)
    instance = statistic() if isinstance(statistic, type) and issubclass(statistic, TaskStatistic) else statistic
    if not isinstance(instance, TaskStatistic):
        raise ValueError(f"`statistics` holds {statistic!r:.60}; give a `TaskStatistic`, its class, or a name.")
    return instance


def get_statistics(statistics: Iterable[TaskStatistic | type[TaskStatistic] | str]) -> tuple[TaskStatistic, ...]:
    """Statistics as in `get_statistic`. Two of the same name are refused (`ValueError`)."""
    if isinstance(statistics, str | TaskStatistic) or not isinstance(statistics, Iterable):
        raise ValueError(f"`statistics` is {statistics!r:.60}; give a list.")
    instances = tuple(map(get_statistic, statistics))
    names = [instance.name for instance in instances]
    if len(set(names)) < len(names):
        duplicate = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"`statistics` has two of the name {duplicate!r}; give each statistic once.")
    return instances
