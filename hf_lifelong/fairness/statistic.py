"""The task statistic of group fairness: what every task keeps, so that the fairness of all of them is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any

import torch

from ..statistics import TaskRows, TaskStatistic, Values, checked
from ..storage import TensorSpec
from .measures import METRICS
from .named import NamedSums, group_names, staleness

GROUP = "group"
"""The role of the column that names each row's group: `Task(columns={"group": "sex"})`."""
SHOWN = 100  # characters of the groups' names in a summary


class FairnessSums(TaskStatistic):
    """How fair the answers to a task's training rows are, by the groups that its column of the role `"group"` names.

    A task stores four sums for each group and class, from which every metric of [`GroupFairness`] is known, of the
    task and of all tasks together. Groups and classes are matched by name: a group that only some tasks have counts
    where it occurs, and so does a class. The sums are those of at most `signature_samples` rows, scaled to all.

    Groups are texts or integers (`1` and `"1"` are the same), sorted by number or alphabet; rows with `None` are of no
    group.
    """

    name = "fairness"
    columns = (GROUP,)
    needs_scores = True
    tensors = (
        TensorSpec("sums", ("kinds of sums", "groups", "classes"), dtype="float64"),
        TensorSpec("groups", ("groups", "letters of a group"), dtype="int64"),
        TensorSpec("classes", ("classes", "letters of a class"), dtype="int64"),
    )

    def check(self, columns: Mapping[str, Sequence[Any]]) -> None:
        try:
            group_names(columns[GROUP])
        except ValueError as error:
            raise ValueError(f"columns[{GROUP!r}]: {error}") from error

    def fit(self, rows: TaskRows) -> Values:
        assert rows.scores is not None and rows.labels is not None  # it asks for them
        groups = group_names(rows.columns[GROUP])
        sums = NamedSums.of_rows(rows.scores, rows.labels, groups, rows.classes)
        return sums.scaled(_represented(rows)).to_values()

    def read(self, values: Values) -> NamedSums:
        """The sums of stored values.

        Raises:
            ValueError: when they are none that `fit` can give.
        """
        try:
            return NamedSums.from_values(checked(self, values))
        except ValueError as error:
            raise ValueError(f"The statistic `{self.name}` cannot be used: {error}.") from error

    def merge(self, a: Values, b: Values) -> Values:
        return (self.read(a) + self.read(b)).to_values()

    def describe(self, values: Values) -> dict[str, str | int | float | bool]:
        """Each metric: of two groups the first one's rate minus the second's, of more the highest minus the lowest."""
        sums = self.read(values)
        found = {metric: sums.value(metric) for metric in METRICS}
        listed = ", ".join(sums.groups)
        short = listed if len(listed) <= SHOWN else f"{len(sums.groups)} groups"
        return {"groups": short, **{metric: value for metric, value in found.items() if value is not None}}

    def overall(self, values: Mapping[str, Values], rows: Callable[[], Mapping[str, TaskRows]]) -> dict[str, float]:
        """Of each metric its value over all tasks (`fairness_sp`). Where the data of all of them is at hand, also how
        far it can be off because members of other tasks answer some rows by now (`fairness_sp_stale`)."""
        whole = self.read(self.total(values.values()))
        found = {metric: value for metric in METRICS if (value := whole.value(metric)) is not None}
        at_hand = rows()
        stale = {}
        if values.keys() <= at_hand.keys():
            moved = reduce(add, (_moved(at_hand[task]) for task in values))
            stale = {f"{self.name}_{metric}_stale": staleness(metric, whole, moved) for metric in found}
        return {f"{self.name}_{metric}": value for metric, value in found.items()} | stale


def _moved(rows: TaskRows) -> NamedSums:
    """The rows of a task that other members answer, counted; their scores are left out."""
    assert rows.moved is not None and rows.labels is not None
    groups = group_names(rows.columns[GROUP])
    which = rows.moved.nonzero().flatten().tolist()
    nothing = torch.zeros(len(which), len(rows.classes))
    counts = NamedSums.of_rows(nothing, rows.labels[which], [groups[row] for row in which], rows.classes)
    return counts.scaled(_represented(rows))


def _represented(rows: TaskRows) -> float:
    """How many rows of the part each row stands for."""
    return 1.0 if rows.part_rows is None else rows.part_rows / len(rows.features)
