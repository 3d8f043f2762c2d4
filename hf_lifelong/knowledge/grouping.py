"""Grouping: does a new task belong to a group that is known already? Decided on the new task's data alone."""

from __future__ import annotations

import torch
from torch import Tensor

from .manifest import KnowledgeBase
from .signatures import Router, group_posterior


def candidate_groups(
    knowledge: KnowledgeBase,
    router: Router | None,
    features: Tensor,
    kind: str,
    labels: tuple[str, ...],
    most: int = 3,
) -> list[int]:
    """The groups that a new task may belong to: same kind, same label names, nearest by signature first.

    Args:
        router (`Router`, *optional*): Of the tasks in `knowledge`; `None` when there are none.
        features (`Tensor`): `[n, D]`, pooled hidden states of the new task.
    """
    if router is None:
        return []
    of_task = knowledge.group_of_task
    likelihood = router(features.to(router.weight.device))
    index = torch.tensor(of_task, device=likelihood.device)
    near = group_posterior(likelihood, index, len(knowledge.groups)).mean(0)
    order = torch.argsort(near, descending=True).tolist()
    tasks = zip(knowledge.tasks, of_task, strict=True)
    same = {group for task, group in tasks if task.kind == kind and task.labels == labels}
    return [group for group in order if group in same][:most]


# Where an old task's data has come back, half of the new inputs lie nearer to the new signature than to the old one;
# above this share it has not.
APART = 0.8


def told_apart(likelihood: Tensor, new: int, old: list[int]) -> bool:
    """Whether inputs of a new task lie elsewhere than those of the tasks of an old group.

    Args:
        likelihood (`Tensor`): `[n, tasks]`, by signature, of inputs of the new task that its signature was not fitted
            on.
        new (`int`), old (`list[int]`): Positions of the tasks.
    """
    nearer = likelihood[:, new] > likelihood[:, old].amax(1)
    return float(nearer.float().mean()) > APART


def joins(old_score: float, new_score: float, tolerance: float) -> bool:
    """Whether a group that scores `old_score` on the new task's validation data does as well as the new members, and
    these have learned anything at all."""
    return new_score > 0 and old_score >= new_score - tolerance
