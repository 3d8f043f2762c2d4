"""From a retrieval policy to a plan of which member answers which row, and from member outputs back to one answer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..knowledge import (
    KnowledgeBase,
    group_posterior,
    leading_candidates,
    margin_of,
    mean_by_pair,
    normalised_entropy,
    summed_variance,
)
from ..objectives import head_objective
from .layers import Plan

# The signature alone decides where its posterior reaches CLEAR; elsewhere the MOST_CANDIDATES best groups with at
# least LEAST of the posterior are asked for their uncertainty.
CLEAR, LEAST, MOST_CANDIDATES = 0.9, 0.05, 3


@dataclass(frozen=True)
class Choice:
    """A request with nothing left open.

    Args:
        policy (`str`): `"signature"`, `"uncertainty"`, `"cascade"` or `"oracle"`.
        uncertainty (`str`): `"entropy"` or `"variance"`.
        answer (`str`): `"merged"` or `"ensemble"`.
        per_batch (`bool`): One group for the whole batch.
    """

    policy: str
    uncertainty: str
    answer: str
    per_batch: bool

    @property
    def each_member(self) -> bool:
        """Whether members run one by one instead of as their mean."""
        variance_decides = self.policy == "cascade" and self.uncertainty == "variance"
        return self.answer == "ensemble" or self.policy == "uncertainty" or variance_decides

    @property
    def asks_signature(self) -> bool:
        return self.policy in ("signature", "cascade")


class Tables:
    """Per group: its members, the members of its newest task, that task, and their kinds; padded with -1."""

    def __init__(self, knowledge: KnowledgeBase, device: torch.device) -> None:
        groups, of_task, first = knowledge.groups, knowledge.group_of_task, knowledge.member_offsets
        newest = [knowledge.newest(g) for g in range(len(groups))]
        merged = [list(range(first[t], first[t + 1])) for t in newest]
        members = [
            [m for t, group in enumerate(of_task) if group == g for m in range(first[t], first[t + 1])]
            for g in range(len(groups))
        ]
        self.task = torch.tensor(newest, device=device)
        self.merged = _padded(merged, device)
        self.members = _padded(members, device)
        self.kinds = sorted({task.kind for task in knowledge.tasks})
        self.kind = torch.tensor([self.kinds.index(knowledge.tasks[t].kind) for t in newest], device=device)
        self.width = torch.tensor([knowledge.tasks[t].width for t in newest], device=device)


def _padded(lists: list[list[int]], device: torch.device) -> Tensor:
    longest = max(map(len, lists))
    return torch.tensor([row + [-1] * (longest - len(row)) for row in lists], device=device)


def make_plan(
    choice: Choice,
    knowledge: KnowledgeBase,
    tables: Tables,
    rows: int,
    likelihood: Tensor | None,
    group: Tensor | None,
) -> Plan:
    """Decides which groups answer each of `rows` inputs.

    Args:
        likelihood (`Tensor`, *optional*): `[rows, tasks]`, log-likelihoods by signature; needed by `"signature"` and
            `"cascade"`.
        group (`Tensor`, *optional*): `[rows]`, for `"oracle"`.
    """
    preference = None
    if likelihood is not None:
        if choice.per_batch:
            likelihood = likelihood.mean(0, keepdim=True).expand(rows, -1)
        preference = group_posterior(likelihood, knowledge.group_of_task)
    every_row = torch.arange(rows, device=tables.task.device)
    if preference is not None and choice.policy == "cascade":
        candidates = leading_candidates(preference, CLEAR, LEAST, MOST_CANDIDATES)
        pair_row, pair_group = candidates.nonzero(as_tuple=True)
    elif preference is not None:
        pair_row, pair_group = every_row, preference.argmax(1)
    elif group is not None:
        pair_row, pair_group = every_row, group
    else:
        groups = len(tables.task)
        pair_row = every_row.repeat_interleave(groups)
        pair_group = torch.arange(groups, device=tables.task.device).repeat(rows)
    return _with_members(choice, tables, rows, pair_row, pair_group, preference)


def _with_members(
    choice: Choice, tables: Tables, rows: int, pair_row: Tensor, pair_group: Tensor, preference: Tensor | None
) -> Plan:
    pairs = torch.arange(len(pair_row), device=pair_row.device)
    if choice.each_member:
        members = tables.members[pair_group]
        present = members >= 0
        pair = pairs[:, None].expand_as(members)[present]
        members = members[present][:, None]
        weights = torch.ones_like(members, dtype=torch.float32)
        row: Tensor | None = pair_row[pair]
    else:
        members = tables.merged[pair_group]
        present = members >= 0
        weights = present / present.sum(1, keepdim=True)
        members = members.clamp_min(0)
        pair = pairs
        row = pair_row if len(pair_row) != rows else None
    return Plan(row, members, weights, pair, pair_row, pair_group, tables.task[pair_group], preference)


def row_distributions(
    logits: Tensor, mask: Tensor, plan: Plan, tables: Tables, pooled: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The distributions that each row's kind takes its answer from.

    Args:
        logits (`Tensor`): `[N, T, W]`, or `[N, 1, W]` of pooled texts when `pooled`.
        mask (`Tensor`): `[N, T]`.

    Returns:
        `probabilities [N, D, C]`, `weights [N, D]`, `log_classes [N, D]`, zero padded (one padded in the last) to the
        largest D and C among the kinds.
    """
    group = plan.pair_group[plan.pair]
    logits = logits.masked_fill(
        torch.arange(logits.shape[-1], device=logits.device) >= tables.width[group][:, None, None], float("-inf")
    )
    parts = []
    for k, kind in enumerate(tables.kinds):
        objective = head_objective(kind)
        rows = (tables.kind[group] == k).nonzero().squeeze(1) if len(tables.kinds) > 1 else None
        own, own_mask = (logits, mask) if rows is None else (logits[rows], mask[rows])
        if rows is not None and not len(rows):
            continue
        if objective.per_token:
            width = int(tables.width[tables.kind == k].max())
            parts.append((rows, objective.distributions(own[..., :width], own_mask)))
        else:
            pool = own.squeeze(1) if pooled else _masked_mean(own, own_mask)
            parts.append((rows, objective.distributions(pool, own_mask)))
    if parts[0][0] is None:
        return parts[0][1]
    return _scatter(parts, len(logits))


def _masked_mean(logits: Tensor, mask: Tensor) -> Tensor:
    weight = (mask / mask.sum(1, keepdim=True).clamp_min(1)).to(logits.dtype)
    # A masked sum by product would turn the -inf of absent labels into NaN.
    return torch.where(
        logits[:, 0].isinf(), logits[:, 0], torch.einsum("nt,ntw->nw", weight, logits.nan_to_num(neginf=0))
    )


def _scatter(parts: list, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    d = max(p.shape[1] for _, (p, _, _) in parts)
    c = max(p.shape[2] for _, (p, _, _) in parts)
    first = parts[0][1][0]
    probabilities, weights = first.new_zeros(rows, d, c), first.new_zeros(rows, d)
    log_classes = first.new_ones(rows, d)
    for index, (p, w, log_c) in parts:
        probabilities[index, : p.shape[1], : p.shape[2]] = p
        weights[index, : p.shape[1]] = w
        log_classes[index, : p.shape[1]] = log_c
    return probabilities, weights, log_classes


def settle(
    choice: Choice, plan: Plan, distributions: tuple[Tensor, Tensor, Tensor], rows: int, groups: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Takes one answer per input from the outputs of all members that ran.

    Returns:
        `scores [rows, D, C]`, `group [rows]`, `uncertainty [rows]`, `margin [rows]`.
    """
    probabilities, weights, log_classes = distributions
    pairs = len(plan.pair_row)
    first = torch.zeros(pairs, dtype=torch.long, device=plan.pair.device).scatter_reduce(
        0, plan.pair, torch.arange(len(plan.pair), device=plan.pair.device), "amin", include_self=False
    )
    weights, log_classes = weights[first], log_classes[first]
    mean = mean_by_pair(probabilities, plan.pair, pairs) if choice.each_member else probabilities
    if choice.uncertainty == "variance" and choice.each_member:
        uncertainty = summed_variance(probabilities, weights, plan.pair, pairs)
    else:
        uncertainty = normalised_entropy(mean, weights, log_classes)
    if choice.policy in ("signature", "oracle"):
        margin = margin_of(plan.preference) if plan.preference is not None else torch.ones_like(uncertainty)
        return mean, plan.pair_group, uncertainty, margin
    certainty = uncertainty.new_full((rows, groups), float("-inf"))
    certainty[plan.pair_row, plan.pair_group] = -uncertainty
    if choice.per_batch:
        certainty = certainty.mean(0, keepdim=True).expand(rows, -1)
    group = certainty.argmax(1)
    pair_of = torch.zeros(rows, groups, dtype=torch.long, device=group.device)
    pair_of[plan.pair_row, plan.pair_group] = torch.arange(pairs, device=group.device)
    pair = pair_of.gather(1, group[:, None]).squeeze(1)
    margin = margin_of(certainty)
    if plan.preference is not None:
        margin = torch.where(margin.isinf(), margin_of(plan.preference), margin)
    return mean[pair], group, uncertainty[pair], margin
