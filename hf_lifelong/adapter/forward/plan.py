"""Plans of a pass: which members answer which rows above the trunk, computed from the routing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..index import Tables

if TYPE_CHECKING:
    from ..layers import MemberKind


@dataclass(frozen=True, eq=False)
class Seats:
    """The seats of a plan's members on the device. They stay reserved while this object exists.

    Args:
        residence (`object`): The `Residence` that the seats belong to.
        taken (`tuple[int, ...]`): The members that have a seat.
        place (`Tensor`): The seat of each member, of the shape of `Plan.members`.
        stacks (`dict`): The factors in all seats, by layer.
    """

    residence: object
    taken: tuple[int, ...]
    place: Tensor
    stacks: Mapping[MemberKind, tuple[Tensor, ...]]


@dataclass(frozen=True, eq=False)
class Plan:
    """Which member answers which row above the trunk.

    Args:
        row (`Tensor`, *optional*): `[N]`, input row of each row above the trunk; `None` if the rows do not change
            (N = B).
        members (`Tensor`): `[N, K]`, members whose updates are averaged for a row. With `key`, one entry for each
            group that answers, `[G, K]`. Without it, there may be fewer entries than rows, one for each block of
            rows; all blocks have the same size.
        weights (`Tensor`, *optional*): Weights of `members`, of the same shape, with sum 1 (0 for padding where there
            are fewer than K members). By default each member has the weight 1 / K.
        pair (`Tensor`): `[N]`, the (input, group) pair that a row belongs to.
        pair_row (`Tensor`): `[pairs]`, input row of each pair.
        pair_group (`Tensor`): `[pairs]`, group of each pair.
        pair_task (`Tensor`): `[pairs]`, the task whose head and members answer for the pair.
        key (`tuple`, *optional*): The members as numbers, by which each layer caches their merged factors.
        index (`Tensor`, *optional*): `[N]`, the entry of `members` of each row; `None` if one entry answers all rows.
        seats ([`Seats`], *optional*): The members' seats, if they are not read from the bank.
    """

    row: Tensor | None
    members: Tensor
    weights: Tensor | None
    pair: Tensor
    pair_row: Tensor
    pair_group: Tensor
    pair_task: Tensor
    key: tuple[int, ...] | None = None
    index: Tensor | None = None
    seats: Seats | None = None


def all_members(tables: Tables, rows: int) -> Plan:
    """Every member of every group answers every input: first all inputs by the first member, then by the next."""
    row = torch.arange(rows, device=tables.task.device)
    group = torch.arange(tables.groups, device=row.device).repeat(rows)
    pair = row * tables.groups + tables.group_of_member[:, None]
    pair_row, members = row.repeat_interleave(tables.groups), tables.every_member[:, None]
    return Plan(row.repeat(len(members)), members, None, pair.flatten(), pair_row, group, tables.task[group])


def each_member(tables: Tables, pair_row: Tensor, pair_group: Tensor) -> Plan:
    """The members of the groups of these (input, group) pairs answer one by one."""
    members = tables.members[pair_group]
    pair = torch.arange(len(pair_row), device=pair_row.device)[:, None].expand_as(members)
    if tables.even:  # without padding, the number of rows does not depend on the chosen groups
        members, pair = members.flatten(), pair.flatten()
    else:
        present = members >= 0
        members, pair = members[present], pair[present]
    return Plan(pair_row[pair], members[:, None], None, pair, pair_row, pair_group, tables.task[pair_group])


def merged(tables: Tables, pair_row: Tensor, pair_group: Tensor, expand: bool) -> Plan:
    """The mean of the members of each group's newest task answers. `expand` is for inputs in several pairs or in
    none."""
    members, weights = merged_members(tables, pair_group)
    pair = torch.arange(len(pair_row), device=pair_row.device)
    row = pair_row if expand else None
    return Plan(row, members, weights, pair, pair_row, pair_group, tables.task[pair_group])


def merged_of_one(tables: Tables, row: Tensor, group: Tensor) -> Plan:
    """One group answers all rows with the mean of its newest task's members, which each layer caches."""
    members, weights = merged_members(tables, group[:1])
    return Plan(None, members, weights, row, row, group, tables.task[group], key=tuple(members[0].tolist()))


def merged_by_group(tables: Tables, row: Tensor, group: Tensor) -> Plan:
    """The mean of the members of each row's group answers. It is computed once for all rows of a group and for the
    following passes."""
    groups, index = torch.unique(group, return_inverse=True)
    members, weights = merged_members(tables, groups)
    return Plan(
        None,
        members,
        weights,
        row,
        row,
        group,
        tables.task[group],
        key=tuple(members.flatten().tolist()),
        index=index if len(groups) > 1 else None,
    )


def left_to_base(plan: Plan, rows: Tensor) -> Plan:
    """A merged plan in which the base alone answers `rows`, `[N]` bool: an entry of weight 0 is added for them."""
    members = torch.cat([plan.members, plan.members[:1]])
    weights = torch.full_like(plan.members, 1 / plan.members.shape[1], dtype=torch.float32)
    weights = weights if plan.weights is None else plan.weights
    weights = torch.cat([weights, torch.zeros_like(weights[:1])])
    index = torch.zeros_like(plan.pair) if plan.index is None else plan.index
    index = index.masked_fill(rows, len(plan.members))
    key = None if plan.key is None else (*plan.key, *plan.key[: members.shape[1]])
    return replace(plan, members=members, weights=weights, key=key, index=index)


def merged_members(tables: Tables, group: Tensor) -> tuple[Tensor, Tensor | None]:
    """The members of the newest task of each of n groups, `[n, K]`, and their weights, or `None` if all weights are
    equal."""
    members = tables.merged[group]
    if tables.even_merged:
        return members, None
    present = members >= 0
    return members.clamp_min(0), present / present.sum(1, keepdim=True)
