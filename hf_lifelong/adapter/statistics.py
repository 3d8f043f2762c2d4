"""Task statistics in a model: stored with their task, and read again."""

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
    """Stores statistics of a learned task, in the place of those that it has.

    Raises:
        KeyError: when no task has that name.
        ValueError: when a statistic's values are not those that it declares, or say more than can be stored.
    """
    root = lifelong_of(model)
    adapter = root.active_adapters[0]
    knowledge = root.knowledge[adapter]
    t = knowledge.index(task)
    stored = {statistic: checked(statistic, held) for statistic, held in values.items()}
    records = [record_of(one.name, held, one.describe(held)) for one, held in stored.items()]
    # What is written can be read: their limits are those of the reader.
    read_statistics(f"statistics of task `{task}`", [record.to_dict() for record in records])
    tasks = [*knowledge.tasks]
    tasks[t] = replace(tasks[t], statistics=tuple(records))
    new = torch.cat([torch.empty(0, dtype=torch.uint8), *(pack(held) for held in stored.values())])
    put(root, STATISTICS, adapter, part_of_task(STATISTICS, knowledge, t), new)
    set_knowledge(model, replace(knowledge, tasks=tasks))


def statistics_of(model: nn.Module, name: str) -> dict[str, Values]:
    """What a statistic has stored of each task, in the order of the manifest; tasks without it are left out. The
    statistic's `total` of the values is what it says of all tasks.

    Args:
        name (`str`): Name of the statistic; its class need not be known.
    """
    root = lifelong_of(model)
    adapter = root.active_adapters[0]
    packed = root.held(adapter).get(STATISTICS.name)
    if packed is None:
        return {}
    found = stored_statistics(packed, root.knowledge[adapter])
    return {task: values[name] for task, values in found.items() if name in values}
