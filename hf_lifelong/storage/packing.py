"""Packs the tensors of all task statistics into the bytes of one tensor, task by task, in the manifest's order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..knowledge import KnowledgeBase, StatisticRecord, StoredTensor
from .checks import LayoutError


def record_of(name: str, values: Mapping[str, Tensor], shown: Mapping[str, Any]) -> StatisticRecord:
    """The manifest's record of a statistic's values.

    Args:
        shown (`Mapping[str, str | int | float | bool]`): The statistic's summary of the task.
    """
    tensors = [
        StoredTensor(tensor_name, str(value.dtype).removeprefix("torch."), tuple(value.shape))
        for tensor_name, value in values.items()
    ]
    return StatisticRecord(name, tuple(tensors), tuple(shown.items()))


def pack(values: Mapping[str, Tensor]) -> Tensor:
    """The bytes of the tensors of a statistic, one after another: uint8, `[bytes]`."""
    byte_views = [value.detach().cpu().contiguous().view(-1).view(torch.uint8) for value in values.values()]
    return torch.cat(byte_views) if byte_views else torch.empty(0, dtype=torch.uint8)


def unpack(packed: Tensor, record: StatisticRecord) -> dict[str, Tensor]:
    """The tensors of a statistic, on the CPU, from its bytes."""
    tensors, start = {}, 0
    for tensor in record.tensors:
        # Cloned, because reading bytes as another dtype needs an aligned start.
        tensor_bytes = packed[start : start + tensor.bytes].detach().cpu().clone()
        tensors[tensor.name] = tensor_bytes.view(getattr(torch, tensor.dtype)).view(tensor.shape)
        start += tensor.bytes
    return tensors


def stored_statistics(packed: Tensor, knowledge: KnowledgeBase) -> dict[str, dict[str, dict[str, Tensor]]]:
    """Unpacks the bytes of all statistics: task → name of the statistic → its tensors."""
    by_task: dict[str, dict[str, dict[str, Tensor]]] = {}
    start = 0
    for task in knowledge.tasks:
        by_task[task.name] = {}
        for record in task.statistics:
            by_task[task.name][record.name] = unpack(packed[start : start + record.bytes], record)
            start += record.bytes
    return by_task


def check_statistics(packed: Tensor, knowledge: KnowledgeBase) -> None:
    """Refuses statistics that hold NaN or infinite values (`LayoutError`)."""
    for task, statistics in stored_statistics(packed, knowledge).items():
        for name, values in statistics.items():
            for tensor_name, value in values.items():
                if not bool(value.isfinite().all()):
                    raise LayoutError(
                        f"`{tensor_name}` of the statistic `{name}` of task `{task}` holds NaN or infinite values"
                    )
