"""What server and clients write into Flower's records beside arrays and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..fairness import GroupFairness
from .flower import Message

CLIENT = "client"  # the record of a reply that says whose it is
FAIRNESS = "the sums of fairness"


def partition_of(reply: Message) -> int:
    """The partition of the client that replied; -1 if it says none. Node ids differ from run to run."""
    if reply.has_error():
        return -1
    number = reply.content.config_records.get(CLIENT, {}).get("partition-id")
    return number if isinstance(number, int) else -1


def write_fairness(whole: GroupFairness) -> dict[str, Any]:
    """Sums as entries of a `ConfigRecord`, whose lists are flat."""
    return {
        "fairness-metric": whole.metric,
        "fairness-groups": whole.groups,
        "fairness-classes": whole.classes,
        "fairness-rows": float(whole.rows),
        "fairness-sums": whole.sums.flatten().tolist(),
    }


def read_fairness(record: Mapping[str, Any] | None, metric: str) -> GroupFairness:
    """The sums that [`write_fairness`] wrote, from anybody.

    Raises:
        ValueError: when they lack, are of another metric, or are none that rows can give.
    """
    if record is None or "fairness-sums" not in record:
        raise ValueError("it sent none; its trainer must have `FairTrainerMixin`")
    settings = {name: record.get(f"fairness-{name}") for name in ("metric", "groups", "classes", "rows")}
    if settings["metric"] != metric:
        raise ValueError(f"they are of {settings['metric']!r:.60}, not of {metric!r}")
    flat, groups = record["fairness-sums"], settings["groups"]
    if not isinstance(flat, list) or not isinstance(groups, int) or groups < 2 or len(flat) % (2 * groups):
        raise ValueError(f"`fairness-sums` are no sums of {groups!r:.60} groups")
    sums = torch.tensor(flat, dtype=torch.float64).reshape(2, groups, -1).tolist()
    return GroupFairness.from_dict({**settings, "threshold": None, "sums": sums})
