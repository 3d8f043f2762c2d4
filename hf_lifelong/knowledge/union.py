"""Joins the manifests of two adapters that learned apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from .manifest import KnowledgeBase


def named_in(knowledge: KnowledgeBase) -> list[str]:
    """The names of a manifest's tasks, and of forgotten tasks that others started from."""
    started_from = (task.started_from for task in knowledge.tasks if task.started_from is not None)
    return list(dict.fromkeys([*knowledge.names, *started_from]))


def renamed(knowledge: KnowledgeBase, names: Mapping[str, str]) -> KnowledgeBase:
    """A manifest with other names for some tasks, also where groups and lineage name them.

    Args:
        names (`Mapping[str, str]`): Old name → new name.

    Raises:
        ValueError: when a name is of no task.
    """
    for name in names:
        if name not in named_in(knowledge):
            raise ValueError(f"`rename` names the task {name!r:.100}, which is none of {knowledge.names}.")
    tasks = [
        replace(
            task,
            name=names.get(task.name, task.name),
            group=names.get(task.group, task.group),
            started_from=task.started_from and names.get(task.started_from, task.started_from),
            extends=task.extends and names.get(task.extends, task.extends),
        )
        for task in knowledge.tasks
    ]
    return replace(knowledge, tasks=tasks)


def joined(first: KnowledgeBase, second: KnowledgeBase) -> KnowledgeBase:
    """The manifest of all tasks of two: those of `first`, then those of `second`. Scores are dropped, because they
    were measured on one half of the tasks.

    Raises:
        ValueError: when a name is that of two tasks, or they answer by different constants.
    """
    if len(set(second.names)) < len(second.names):
        raise ValueError(f"`rename` gives two tasks one name: {second.names}.")
    clashes = [name for name in named_in(second) if name in named_in(first)]
    if clashes:
        raise ValueError(
            f"Both adapters have a task `{clashes[0]}`, or tasks that started from it. Give the second one's another "
            f"name: `rename={{{clashes[0]!r}: ...}}`."
        )
    for name, value in first.constants.to_dict().items():
        other = second.constants.to_dict()[name]
        if other != value:
            raise ValueError(
                f"The adapters choose groups by different constants: `{name}` is {value!r} in the first and {other!r} "
                "in the second, so one of them would answer otherwise than before. Learn the tasks of one again."
            )
    return replace(first, tasks=[*first.tasks, *second.tasks], scores=None)
