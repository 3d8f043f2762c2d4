"""Stores task statistics in a model with their task, and reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from ..knowledge import read_statistics
from ..statistics import TaskStatistic, Values, checked
from ..storage import STATISTICS, pack, part_of_task, record_of, stored_statistics
from .bank import put, set_knowledge
from .heads import lifelong_of


def set_statistics(model: nn.Module, task: str, values: Mapping[TaskStatistic, Values]) -> None:
    """Stores the statistics of a learned task and replaces those that it has.

    Raises:
        KeyError: when no task has that name.
        ValueError: when a statistic's values do not match its declaration, or exceed the limits of a manifest.
    """
    root = lifelong_of(model)
    adapter = root.active_adapters[0]
    knowledge = root.knowledge[adapter]
    t = knowledge.index(task)
    stored = {statistic: checked(statistic, tensors) for statistic, tensors in values.items()}
    records = [record_of(one.name, tensors, one.describe(tensors)) for one, tensors in stored.items()]
    # Checks the reader's limits, so that whatever is written can be read.
    read_statistics(f"statistics of task `{task}`", [record.to_dict() for record in records])
    tasks = [*knowledge.tasks]
    tasks[t] = replace(tasks[t], statistics=tuple(records))
    new = torch.cat([torch.empty(0, dtype=torch.uint8), *(pack(tensors) for tensors in stored.values())])
    put(root, STATISTICS, adapter, part_of_task(STATISTICS, knowledge, t), new)
    set_knowledge(model, replace(knowledge, tasks=tasks))


def statistics_of(model: nn.Module, name: str) -> dict[str, Values]:
    """A statistic's stored values for each task that has it, in the order of the manifest. The statistic's `total`
    combines them.

    Args:
        name (`str`): Name of the statistic. Its class is not needed.
    """
    root = lifelong_of(model)
    adapter = root.active_adapters[0]
    packed = root.held(adapter).get(STATISTICS.name)
    if packed is None:
        return {}
    by_task = stored_statistics(packed, root.knowledge[adapter])
    return {task: values[name] for task, values in by_task.items() if name in values}
