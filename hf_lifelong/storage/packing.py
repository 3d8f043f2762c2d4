"""What task statistics store, as the bytes of one tensor, task by task, in the order of the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..knowledge import KnowledgeBase, StatisticRecord, StoredTensor
from .checks import LayoutError


def record_of(name: str, values: Mapping[str, Tensor], shown: Mapping[str, Any]) -> StatisticRecord:
    """What the manifest records of the values of a statistic.

    Args:
        shown (`Mapping[str, str | int | float | bool]`): What the statistic says of the task.
    """
    tensors = [
        StoredTensor(part, str(value.dtype).removeprefix("torch."), tuple(value.shape))
        for part, value in values.items()
    ]
    return StatisticRecord(name, tuple(tensors), tuple(shown.items()))


def pack(values: Mapping[str, Tensor]) -> Tensor:
    """The bytes of the tensors of a statistic, one after another: uint8, `[bytes]`."""
    parts = [value.detach().cpu().contiguous().view(-1).view(torch.uint8) for value in values.values()]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.uint8)


def unpack(packed: Tensor, record: StatisticRecord) -> dict[str, Tensor]:
    """The tensors of a statistic, on the CPU, from its bytes."""
    found, start = {}, 0
    for tensor in record.tensors:
        part = packed[start : start + tensor.bytes].detach().cpu().clone()  # a view needs bytes that begin anew
        found[tensor.name] = part.view(getattr(torch, tensor.dtype)).view(tensor.shape)
        start += tensor.bytes
    return found


def stored_statistics(packed: Tensor, knowledge: KnowledgeBase) -> dict[str, dict[str, dict[str, Tensor]]]:
    """Task → name of a statistic → its tensors, from the bytes of all of them."""
    found: dict[str, dict[str, dict[str, Tensor]]] = {}
    start = 0
    for task in knowledge.tasks:
        found[task.name] = {}
        for record in task.statistics:
            found[task.name][record.name] = unpack(packed[start : start + record.bytes], record)
            start += record.bytes
    return found


def check_statistics(packed: Tensor, knowledge: KnowledgeBase) -> None:
    """Refuses statistics that hold NaN or infinite values (`LayoutError`)."""
    for task, statistics in stored_statistics(packed, knowledge).items():
        for name, values in statistics.items():
            for part, value in values.items():
                if not bool(value.isfinite().all()):
                    raise LayoutError(
                        f"`{part}` of the statistic `{name}` of task `{task}` holds NaN or infinite values"
                    )
