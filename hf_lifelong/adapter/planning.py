"""From a retrieval policy to a plan of which member answers which row, and from member outputs back to one answer."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ..knowledge import (
    KnowledgeBase,
    group_posterior,
    leading_candidates,
    margin_of,
    mean_by_pair,
    normalised_entropy,
    summed_variance,
)
from ..objectives import HEAD_KINDS, head_objective
from .layers import Plan


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
    """What a manifest says, as tensors; lists of members are padded with -1.

    Attributes:
        constants (`Constants`): Those of the manifest.
        groups (`int`): How many there are.
        group_of_task (`Tensor`): `[tasks]`.
        task, kind, width (`Tensor`): `[groups]`: the newest task of each group, which answers for it, the position of
            its kind in `objectives`, and the rows of its head.
        kinds (`list[str]`): The kinds of these tasks.
        objectives (`list[HeadObjective]`): One for each kind of task; none on a language model.
        per_token (`bool`): Whether any of these answers for each token.
        merged (`Tensor`): `[groups, K]`, the members of that task.
        members (`Tensor`): `[groups, M]`, all members of each group.
        even, even_merged (`bool`): Whether nothing in `members` and in `merged` is padding.
        every_member, group_of_member (`Tensor`): `[members]`, all members, one group after another, and their groups.
        head_start, head_width (`Tensor`): `[members]`, first row and number of rows of each member's head.
        class_start, classes (`Tensor`): `[tasks]`, first class mean of each task and their number.
        widest (`int`), widest_of (`list[int]`): Rows of the widest head, of all and of each kind.
    """

    def __init__(self, knowledge: KnowledgeBase, device: torch.device) -> None:
        first, of_task, newest = knowledge.member_offsets, knowledge.group_of_task, knowledge.newest
        members: list[list[int]] = [[] for _ in newest]
        for task, group in enumerate(of_task):
            members[group].extend(range(first[task], first[task + 1]))
        merged = [list(range(first[task], first[task + 1])) for task in newest]
        counts = [len(own) for own in members]
        self.constants = knowledge.constants
        self.groups = len(newest)
        self.kinds = kinds = sorted({task.kind for task in knowledge.tasks})
        self.objectives = [head_objective(kind) for kind in kinds if kind in HEAD_KINDS]
        self.per_token = any(objective.per_token for objective in self.objectives)
        self.even, self.even_merged = (len(set(map(len, lists))) == 1 for lists in (members, merged))
        self.widest_of = [max(task.width for task in knowledge.tasks if task.kind == kind) for kind in kinds]
        self.widest = max(self.widest_of)
        head = knowledge.head_offsets

        def tensor(values: list[Any]) -> Tensor:
            return torch.tensor(values, device=device)

        self.group_of_task = tensor(of_task)
        self.task = tensor(newest)
        self.kind = tensor([kinds.index(knowledge.tasks[task].kind) for task in newest])
        self.width = tensor([knowledge.tasks[task].width for task in newest])
        self.merged = tensor(_padded(merged))
        self.members = tensor(_padded(members))
        self.every_member = tensor([member for own in members for member in own])
        self.group_of_member = tensor([group for group, count in enumerate(counts) for _ in range(count)])
        self.class_start = tensor(knowledge.class_offsets[:-1])
        self.classes = tensor([task.classes for task in knowledge.tasks])
        self.head_start = tensor(head[:-1])
        self.head_width = tensor([end - start for start, end in pairwise(head)])

    def allowed(self, kinds: tuple[str, ...] | None) -> Tensor | None:
        """`[groups]` bool, the groups of these kinds; `None` where they are all."""
        if kinds is None or set(self.kinds) <= set(kinds):
            return None
        return torch.tensor([kind in kinds for kind in self.kinds], device=self.kind.device)[self.kind]


def _padded(lists: list[list[int]]) -> list[list[int]]:
    longest = max(map(len, lists))
    return [row + [-1] * (longest - len(row)) for row in lists]


def make_plan(choice: Choice, tables: Tables, rows: int, likelihood: Tensor | None, group: Tensor | None) -> Plan:
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
        preference = group_posterior(likelihood, tables.group_of_task, tables.groups)
    if preference is None and group is None:
        return _all_members(tables, rows)
    if preference is not None and choice.policy == "cascade":
        by = tables.constants
        candidates = leading_candidates(preference, by.clear, by.least, by.most_candidates)
        pair_row, pair_group = candidates.nonzero(as_tuple=True)
    else:
        pair_row = torch.arange(rows, device=tables.task.device)
        pair_group = preference.argmax(1) if preference is not None else group  # type: ignore[assignment]
    if choice.each_member:
        return _each_member(tables, pair_row, pair_group, preference)
    return _merged(tables, rows, pair_row, pair_group, preference)


def _all_members(tables: Tables, rows: int) -> Plan:
    """Every member of every group answers every input: all inputs by the first member, then all by the next."""
    row = torch.arange(rows, device=tables.task.device)
    group = torch.arange(tables.groups, device=row.device).repeat(rows)
    pair = row * tables.groups + tables.group_of_member[:, None]
    pair_row, members = row.repeat_interleave(tables.groups), tables.every_member[:, None]
    return Plan(row.repeat(len(members)), members, None, pair.flatten(), pair_row, group, tables.task[group])


def _each_member(tables: Tables, pair_row: Tensor, pair_group: Tensor, preference: Tensor | None) -> Plan:
    """The members of the chosen groups answer one by one."""
    members = tables.members[pair_group]
    pair = torch.arange(len(pair_row), device=pair_row.device)[:, None].expand_as(members)
    if tables.even:  # no padding to leave out, so that the number of rows does not depend on what was chosen
        members, pair = members.flatten(), pair.flatten()
    else:
        present = members >= 0
        members, pair = members[present], pair[present]
    task = tables.task[pair_group]
    return Plan(pair_row[pair], members[:, None], None, pair, pair_row, pair_group, task, preference)


def _merged(tables: Tables, rows: int, pair_row: Tensor, pair_group: Tensor, preference: Tensor | None) -> Plan:
    """The mean of the members of each chosen group's newest task answers."""
    members, weights = tables.merged[pair_group], None
    if not tables.even_merged:
        present = members >= 0
        members, weights = members.clamp_min(0), present / present.sum(1, keepdim=True)
    row = pair_row if len(pair_row) != rows else None
    pair = torch.arange(len(pair_row), device=pair_row.device)
    return Plan(row, members, weights, pair, pair_row, pair_group, tables.task[pair_group], preference)


def row_distributions(logits: Tensor, mask: Tensor, plan: Plan, tables: Tables) -> tuple[Tensor, Tensor, Tensor]:
    """The distributions that each row's kind takes its answer from.

    All rows go through every kind that the adapter has, and each keeps those of its own: next to the base's layers
    that costs nothing, and no shape depends on what was chosen.

    Args:
        logits (`Tensor`): `[N, T, W]`, or `[N, 1, W]` of pooled texts unless `tables.per_token`.
        mask (`Tensor`): `[N, T]`.

    Returns:
        `probabilities [N, D, C]`, `weights [N, D]`, `log_classes [N, D]`, zero padded (one padded in the last) to the
        largest D and C among the kinds.
    """
    group = plan.pair_group[plan.pair]
    absent = torch.arange(logits.shape[-1], device=logits.device) >= tables.width[group][:, None, None]
    logits = logits.masked_fill(absent, float("-inf"))
    parts = []
    for objective, widest in zip(tables.objectives, tables.widest_of, strict=True):
        if objective.per_token:
            own = logits[..., :widest]
        else:
            own = _masked_mean(logits, mask) if tables.per_token else logits.squeeze(1)
        parts.append(objective.distributions(own, mask))
    if len(parts) == 1:
        return parts[0]
    kind = tables.kind[group]
    probabilities, weights, log_classes = zip(*parts, strict=True)
    return _own(probabilities, kind, 0.0), _own(weights, kind, 0.0), _own(log_classes, kind, 1.0)


def _own(parts: tuple[Tensor, ...], kind: Tensor, fill: float) -> Tensor:
    """Of tensors `[N, …]`, one for each kind, the row of each row's kind, padded to the largest shape."""
    shape = [max(part.shape[axis] for part in parts) for axis in range(1, parts[0].dim())]
    padded = []
    for part in parts:
        room = [size for most, known in zip(shape, part.shape[1:], strict=True) for size in (most - known, 0)]
        padded.append(nn.functional.pad(part, room[::-1], value=fill))
    return torch.stack(padded)[kind, torch.arange(len(kind), device=kind.device)]


def without_padding(scores: Tensor, group: Tensor, tables: Tables, tokens: int) -> Tensor:
    """Scores `[B, D, C]` cut to what the groups that answered need: those of other kinds may be far larger."""
    answered = group.unique()
    kinds, widths = tables.kind[answered].tolist(), tables.width[answered].tolist()
    sizes = [tables.objectives[kind].sizes(tokens, width) for kind, width in zip(kinds, widths, strict=True)]
    return scores[:, : max(d for d, _ in sizes), : max(c for _, c in sizes)]


def _masked_mean(logits: Tensor, mask: Tensor) -> Tensor:
    weight = (mask / mask.sum(1, keepdim=True).clamp_min(1)).to(logits.dtype)
    # A masked sum by product would turn the -inf of absent labels into NaN.
    mean = torch.einsum("nt,ntw->nw", weight, logits.masked_fill(logits.isneginf(), 0.0))
    return torch.where(logits[:, 0].isneginf(), logits[:, 0], mean)


def settle(
    choice: Choice,
    plan: Plan,
    distributions: tuple[Tensor, Tensor, Tensor],
    rows: int,
    groups: int,
    allowed: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Takes one answer per input from the outputs of all members that ran.

    Args:
        allowed (`Tensor`, *optional*): `[groups]` bool, the groups that may answer; all by default.

    Returns:
        `scores [rows, D, C]`, `group [rows]`, `uncertainty [rows]`, `margin [rows]`.
    """
    probabilities, weights, log_classes = distributions
    pairs, mean = len(plan.pair_row), probabilities
    if choice.each_member:  # several rows are one pair's
        mean = mean_by_pair(probabilities, plan.pair, pairs)
        first = torch.zeros(pairs, dtype=torch.long, device=plan.pair.device).scatter_reduce(
            0, plan.pair, torch.arange(len(plan.pair), device=plan.pair.device), "amin", include_self=False
        )
        weights, log_classes = weights[first], log_classes[first]
    if choice.uncertainty == "variance" and choice.each_member:
        uncertainty = summed_variance(probabilities, weights, plan.pair, pairs)
    else:
        uncertainty = normalised_entropy(mean, weights, log_classes)
    if choice.policy in ("signature", "oracle"):
        margin = margin_of(plan.preference) if plan.preference is not None else torch.ones_like(uncertainty)
        return mean, plan.pair_group, uncertainty, margin
    certainty = uncertainty.new_full((rows, groups), float("-inf"))
    certainty[plan.pair_row, plan.pair_group] = -uncertainty
    if allowed is not None:
        certainty = certainty.masked_fill(~allowed, float("-inf"))
    if choice.per_batch:
        certainty = certainty.mean(0, keepdim=True).expand(rows, -1)
    group = certainty.argmax(1)
    pair_of = torch.zeros(rows, groups, dtype=torch.long, device=group.device)
    pair_of[plan.pair_row, plan.pair_group] = torch.arange(pairs, device=group.device)
    pair = pair_of.gather(1, group[:, None]).squeeze(1)
    margin = margin_of(certainty)
    # Where there was one candidate only.
    alone = margin_of(plan.preference) if plan.preference is not None else torch.ones_like(margin)
    margin = torch.where(margin.isinf(), alone, margin)
    return mean[pair], group, uncertainty[pair], margin
