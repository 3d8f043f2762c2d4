"""Plans of a pass: which members answer which rows above the trunk, made of where the inputs go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..index import Tables

if TYPE_CHECKING:
    from ..layers import DriftLayer


@dataclass(frozen=True, eq=False)
class Seats:
    """Where the members of a plan lie that do not answer from the bank, for as long as somebody holds this.

    Args:
        residence (`object`): Whose seats these are.
        taken (`tuple[int, ...]`): The members that have one.
        place (`Tensor`): As `Plan.members`, the seat of each.
        stacks (`dict`): By layer, the factors in all seats.
    """

    residence: object
    taken: tuple[int, ...]
    place: Tensor
    stacks: Mapping[DriftLayer, tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class Plan:
    """Which member answers which row above the trunk.

    Args:
        row (`Tensor`, *optional*): `[N]`, input row of each row above the trunk; `None` when rows stay as they are
            (N = B).
        members (`Tensor`): `[N, K]`, members whose updates are averaged for a row. With `key` one entry for each
            group that answers, `[G, K]`; otherwise fewer entries than rows are those of blocks of rows of one size.
        weights (`Tensor`, *optional*): As `members`; their weights, summing to 1 (0 where there are fewer than K
            members). Without it each counts 1 / K.
        pair (`Tensor`): `[N]`, the (input, group) pair that a row belongs to.
        pair_row (`Tensor`): `[pairs]`, input row of each pair.
        pair_group (`Tensor`): `[pairs]`, group of each pair.
        pair_task (`Tensor`): `[pairs]`, the task whose head and members answer for the pair.
        key (`tuple`, *optional*): The members as numbers: what each layer keeps their merged factors under.
        index (`Tensor`, *optional*): `[N]`, the entry of `members` of each row; `None` where one answers all rows.
        seats ([`Seats`], *optional*): Where the members lie, if not in the bank.
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
    """Every member of every group answers every input: all inputs by the first member, then all by the next."""
    row = torch.arange(rows, device=tables.task.device)
    group = torch.arange(tables.groups, device=row.device).repeat(rows)
    pair = row * tables.groups + tables.group_of_member[:, None]
    pair_row, members = row.repeat_interleave(tables.groups), tables.every_member[:, None]
    return Plan(row.repeat(len(members)), members, None, pair.flatten(), pair_row, group, tables.task[group])


def each_member(tables: Tables, pair_row: Tensor, pair_group: Tensor) -> Plan:
    """The members of the groups of these (input, group) pairs answer one by one."""
    members = tables.members[pair_group]
    pair = torch.arange(len(pair_row), device=pair_row.device)[:, None].expand_as(members)
    if tables.even:  # no padding to leave out, so that the number of rows does not depend on what was chosen
        members, pair = members.flatten(), pair.flatten()
    else:
        present = members >= 0
        members, pair = members[present], pair[present]
    return Plan(pair_row[pair], members[:, None], None, pair, pair_row, pair_group, tables.task[pair_group])


def merged(tables: Tables, pair_row: Tensor, pair_group: Tensor, expand: bool) -> Plan:
    """The mean of the members of each group's newest task answers; `expand` where an input is in several pairs, or
    in none."""
    members, weights = merged_members(tables, pair_group)
    pair = torch.arange(len(pair_row), device=pair_row.device)
    row = pair_row if expand else None
    return Plan(row, members, weights, pair, pair_row, pair_group, tables.task[pair_group])


def merged_of_one(tables: Tables, row: Tensor, group: Tensor) -> Plan:
    """One group answers all rows with the mean of its newest task's members, which each layer keeps."""
    members, weights = merged_members(tables, group[:1])
    return Plan(None, members, weights, row, row, group, tables.task[group], key=tuple(members[0].tolist()))


def merged_by_group(tables: Tables, row: Tensor, group: Tensor) -> Plan:
    """The mean of the members of each row's group answers, computed once for all rows of a group and for the passes
    that follow."""
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


def merged_members(tables: Tables, group: Tensor) -> tuple[Tensor, Tensor | None]:
    """The members of the newest task of each group `[n]`, `[n, K]`, and their weights, or `None` where all count
    alike."""
    members = tables.merged[group]
    if tables.even_merged:
        return members, None
    present = members >= 0
    return members.clamp_min(0), present / present.sum(1, keepdim=True)
