"""Sums of rows whose groups and classes have names, so that those of different data can be added."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import measures
from .rows import NO_GROUP, arrange
from .state import LARGEST_SUM, ROUNDING, GroupFairness, scored

# The sums of a group and class: scores, rows, scores of positive rows, positive rows.
SCORES, ROWS, HITS, POSITIVE = range(4)
# Those that are a metric's numerator and denominator.
PARTS = {"sp": (SCORES, ROWS), "eop": (HITS, POSITIVE), "cal": (HITS, SCORES)}
MOST_GROUPS = 1000  # a column with more different values tells rows apart, not groups
LONGEST_NAME = 100  # characters of the name of a group


@dataclass(frozen=True, eq=False)
class NamedSums:
    """The sums that every metric needs. Adding two matches groups and classes by name; what one lacks is zero.

    Args:
        groups (`tuple[str, ...]`): Names of the G groups, sorted as [`in_order`] does.
        classes (`tuple[str, ...]`): Names of the C classes that are scored: of two classes the second, of more all.
        sums (`Tensor` of shape `[4, G, C]`): `SCORES`, `ROWS`, `HITS` and `POSITIVE`; float64, on the CPU.
    """

    groups: tuple[str, ...]
    classes: tuple[str, ...]
    sums: Tensor

    @classmethod
    def of_rows(
        cls, scores: Tensor, labels: Tensor, groups: Sequence[str | None], classes: Sequence[str]
    ) -> NamedSums:
        """The sums of N rows.

        Args:
            scores (`Tensor` of shape `[N, classes]`): Probabilities.
            labels (`Tensor` of shape `[N]`): The class of each row, from 0.
            groups (`Sequence[str | None]`): The name of each row's group; `None` is no group.
            classes (`Sequence[str]`): Names of all classes.
        """
        names = in_order(name for name in groups if name is not None)
        members = torch.tensor(positions(groups, names))
        rows = arrange(scores.cpu(), labels.cpu(), members, group_count=len(names), classes=len(classes))
        sums = torch.cat([measures.group_sums(metric, *rows) for metric in ("sp", "eop")])
        return cls(names, scored_names(classes), sums)

    def __add__(self, other: NamedSums) -> NamedSums:
        groups = in_order((*self.groups, *other.groups))
        classes = tuple(dict.fromkeys((*self.classes, *other.classes)))
        return NamedSums(groups, classes, self.placed(groups, classes) + other.placed(groups, classes))

    def scaled(self, factor: float) -> NamedSums:
        """The same rates, of `factor` times as many rows."""
        return NamedSums(self.groups, self.classes, self.sums * factor)

    def placed(self, groups: Sequence[str], classes: Sequence[str]) -> Tensor:
        """The sums of the given groups and classes, each at its position there: `[4, groups, classes]`."""
        placed = self.sums.new_zeros(len(self.sums), len(groups), len(classes))
        rows, columns = shared(self.groups, groups), shared(self.classes, classes)
        placed[:, rows[1][:, None], columns[1]] = self.sums[:, rows[0][:, None], columns[0]]
        return placed

    def fairness(self, metric: str, groups: Sequence[str], classes: Sequence[str]) -> GroupFairness:
        """What a metric knows of these groups and of the classes of a task, each at its position in the lists."""
        sums = self.placed(groups, scored_names(classes))
        empty = GroupFairness(metric, len(groups), classes=len(classes))
        return empty.of(sums[list(PARTS[metric])], float(sums[ROWS].amax(1).sum()))

    def value(self, metric: str) -> float | None:
        """The metric as [`GroupFairness.value`] has it; `None` if fewer than two groups have a row that counts."""
        gaps = measures.gaps(self.sums[list(PARTS[metric])]).tolist() if len(self.groups) > 1 else []
        return max((gap for gap in gaps if not math.isnan(gap)), key=abs, default=None)

    def to_values(self) -> dict[str, Tensor]:
        """As tensors: `sums`; `groups` and `classes` as Unicode code points, int64, filled up with zeros."""
        return {"sums": self.sums, "groups": encoded(self.groups), "classes": encoded(self.classes)}

    @classmethod
    def from_values(cls, values: Mapping[str, Tensor]) -> NamedSums:
        """Reads `to_values`, whoever wrote it.

        Raises:
            ValueError: for what no rows can give.
        """
        sums = values["sums"]
        groups, classes = (decoded(values[name]) for name in ("groups", "classes"))
        if sums.shape != (4, len(groups), len(classes)) or len(groups) > MOST_GROUPS or groups != in_order(groups):
            raise ValueError("its sums do not fit the names of its groups and classes")
        most = sums[[ROWS, POSITIVE]] * (1 + ROUNDING)
        if (sums < 0).any() or (sums > LARGEST_SUM).any() or (sums[[SCORES, HITS]] > most).any():
            raise ValueError("it holds sums that no rows can give")
        return cls(groups, classes, sums)


def staleness(metric: str, whole: NamedSums, moved: NamedSums) -> float:
    """How far a metric can be off when other scores took the place of some rows' own.

    A group's rate then moves by at most ρ, the share of its rows that were moved (of those that the metric counts);
    for `"cal"`, whose denominator moves too, by their number over the sum of the scores that stayed, at least. The
    metric moves by at most the sum of the two largest ρ.

    Args:
        whole ([`NamedSums`]): All rows, with the scores that they had.
        moved ([`NamedSums`]): Those that were moved; their scores do not count.

    Returns:
        `float`: In [0, 1]; of many classes the largest.
    """
    sums, gone = whole.sums, moved.placed(whole.groups, whole.classes)
    if metric == "cal":
        rho = gone[ROWS] / (sums[SCORES] - gone[ROWS]).clamp(min=0)
    else:
        rho = gone[PARTS[metric][1]] / sums[PARTS[metric][1]]
    rho = rho.nan_to_num(nan=0.0, posinf=1.0).clamp(max=1.0)
    return float(rho.topk(min(2, len(rho)), dim=0).values.sum(0).clamp(max=1.0).amax())


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Distinct names of groups: numbers by size, then texts by the alphabet."""

    def key(name: str) -> tuple[bool, int, str]:
        return not name.isdecimal(), int(name) if name.isdecimal() else 0, name

    return tuple(sorted(set(names), key=key))


def positions(names: Sequence[str | None], known: Sequence[str]) -> list[int]:
    """The position of each name among those that are known; `NO_GROUP` for `None`."""
    index: dict[str | None, int] = {None: NO_GROUP, **{name: i for i, name in enumerate(known)}}
    return [index[name] for name in names]


def shared(mine: Sequence[str], others: Sequence[str]) -> Tensor:
    """The names that two lists share, each as its position in the one and in the other: `[2, names]`, int64."""
    both = [name for name in mine if name in others]
    return torch.tensor([positions(both, mine), positions(both, others)], dtype=torch.int64)


def scored_names(classes: Sequence[str]) -> tuple[str, ...]:
    """The classes that have sums of their own."""
    return tuple(classes[-scored(len(classes)) :])


def group_names(values: Sequence[Any]) -> list[str | None]:
    """The names of groups in a user's column: texts, integers or truth values. `None`, and the integer `NO_GROUP`, are
    of no group.

    Raises:
        ValueError: for other values, more than `MOST_GROUPS` different ones, or none at all.
    """
    for value in values:
        if not isinstance(value, str | int | None) or value == "":
            raise ValueError(
                f"it holds {value!r:.60}, but groups are named by texts or integers; rows of no group have None."
            )
    names = [None if value in (None, NO_GROUP) else str(value) for value in values]
    distinct = {name for name in names if name is not None}
    if not distinct:
        raise ValueError("it names no group in any row; give the group of the rows that have one.")
    if len(distinct) > MOST_GROUPS:
        raise ValueError(f"it has {len(distinct):,} different values; give groups, at most {MOST_GROUPS:,}.")
    for name in distinct:
        if len(name) > LONGEST_NAME or "\0" in name:
            raise ValueError(f"it holds {name!r:.60}; give names of at most {LONGEST_NAME} characters.")
    return names


def encoded(names: Sequence[str]) -> Tensor:
    """Names as code points `[names, letters]`, int64, filled up with zeros."""
    longest = max(map(len, names))
    return torch.tensor([[*map(ord, name), *[0] * (longest - len(name))] for name in names], dtype=torch.int64)


def decoded(points: Tensor) -> tuple[str, ...]:
    """Reads `encoded` (`ValueError` for what are no code points)."""
    try:
        return tuple("".join(map(chr, row)).rstrip("\0") for row in points.tolist())
    except (ValueError, OverflowError) as error:
        raise ValueError("the names of its groups or classes are no code points") from error
