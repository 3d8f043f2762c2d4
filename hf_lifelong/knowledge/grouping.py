"""Grouping: does a new task belong to an existing group? Decided on the new task's data alone."""

from __future__ import annotations

import torch
from torch import Tensor

from .manifest import KnowledgeBase
from .router import Router, group_posterior


def nearness(knowledge: KnowledgeBase, router: Router, features: Tensor) -> Tensor:
    """Probabilities of the groups by signature, `[groups]`, summed over inputs.

    Args:
        router (`Router`): The router of the tasks in `knowledge`.
        features (`Tensor`): `[n, D]`, pooled hidden states.
    """
    likelihood = router(features.to(router.weight.device))
    index = torch.tensor(knowledge.group_of_task, device=likelihood.device)
    return group_posterior(likelihood, index, len(knowledge.groups)).sum(0)


def candidate_groups(
    knowledge: KnowledgeBase, near: Tensor, kind: str, labels: tuple[str, ...], most: int = 3
) -> list[int]:
    """The groups that a new task may belong to: those of the same kind and label names, nearest by signature first.

    Args:
        near (`Tensor`): `[groups]`, how near the new task's inputs are, as of [`nearness`].
    """
    order = torch.argsort(near, descending=True).tolist()
    tasks = zip(knowledge.tasks, knowledge.group_of_task, strict=True)
    same = {group for task, group in tasks if task.kind == kind and task.labels == labels}
    return [group for group in order if group in same][:most]


# If the data of an old task returns, about half of its inputs lie nearer to the new signature than to the old one.
# Above this share, the new task's inputs count as different.
APART = 0.8


def nearer_count(likelihood: Tensor, new: int, old: list[int]) -> int:
    """How many inputs of a new task are nearer to it than to an old group's tasks.

    Args:
        likelihood (`Tensor`): `[n, tasks]`, log-likelihoods by signature of inputs of the new task on which its
            signature was not fitted.
        new (`int`), old (`list[int]`): Positions of the new task and of the old group's tasks.
    """
    return int((likelihood[:, new] > likelihood[:, old].amax(1)).sum())


def told_apart(nearer: int, rows: int) -> bool:
    """Whether the signatures tell inputs of a new task apart from those of an old group's tasks, by how many of its
    inputs are nearer to it ([`nearer_count`])."""
    return nearer / rows > APART


def joins(old_score: float, new_score: float, tolerance: float) -> bool:
    """Whether a new task joins a group: the group's score on the task's validation data, `old_score`, is at most
    `tolerance` below that of the new members, `new_score`, and the new members have learned something."""
    return new_score > 0 and old_score >= new_score - tolerance
