"""Trains each task fair over the union of it and all tasks before, of which only sums are left."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

from ..adapter import knowledge_of, statistics_of
from ..fairness import (
    GROUP,
    FairnessSums,
    FairSteps,
    GroupFairness,
    NamedSums,
    group_names,
    in_order,
    positions,
)
from .arguments import DriftTrainingArguments
from .data import PreparedTask, Split
from .statistics import columns_of, examples_of, has_scores
from .tasks import Task

WINDOW = 100  # optimizer steps over which fairness is summed, at most; an epoch, where it has fewer


class FairOverTasks(FairSteps):
    """Fairness for [`DriftTrainer`], turned on by the argument `fairness`.

    What is to become fair is the union of the rows at hand and those of all learned tasks with the same classes. Their
    own members answer for these, and never change, so their stored sums stay what they are.
    """

    args: DriftTrainingArguments  # type: ignore[assignment]
    model: Any
    tasks: list[Task]
    prepared: Callable[[Task], PreparedTask]
    group_column = "fairness_group"
    _earlier: GroupFairness

    def check_fairness(self, task: PreparedTask) -> None:
        """Refuses a task that cannot be learned fair: without a column of groups, or with rows of one group only when
        no task before it has another (`ValueError`)."""
        if not self._is_fair(task):
            return
        if GROUP not in task.roles:
            raise ValueError(
                f"`fairness` is {self.args.fairness!r}, but the task names no column of groups; give "
                f"`columns={{{GROUP!r}: ...}}`."
            )
        names = {*groups_of(task)} - {None}
        if len(names) < 2:
            learned = knowledge_of(self.model).names
            before = itertools.takewhile(lambda other: other.name != task.name, self.tasks)
            new = (self.prepared(other) for other in before if other.name not in learned)
            names |= {name for other in new if self._is_fair(other) for name in groups_of(other) if name}
            names |= {name for sums in self._stored() for name in sums.groups}
        if len(names) < 2:
            raise ValueError(
                f"columns[{GROUP!r}]: all rows are of the group {names.pop()!r}, and so are those of every task "
                "before; fairness is between two groups or more. Give data of another group, or leave `fairness` out."
            )

    def start_fairness(self, task: PreparedTask) -> None:
        """Turns fairness on for a task that is to be learned fair: its training rows get their groups."""
        if not self._is_fair(task):
            return
        names, earlier = groups_of(task), self._stored()
        known = {name for sums in earlier for name in sums.groups}
        groups = in_order(known | {name for name in names if name is not None})
        fairness = GroupFairness(str(self.args.fairness), len(groups), classes=len(task.labels))
        self._earlier = sum((sums.fairness(fairness.metric, groups, task.labels) for sums in earlier), start=fairness)
        self.fairness_weight = self.args.fairness_weight
        self.train_dataset = task.train.add_column(self.group_column, positions(names, groups))
        step = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        self.watch_fairness(fairness, min(WINDOW, math.ceil(len(names) / step)))

    def whole_fairness(self, running: GroupFairness) -> tuple[GroupFairness, float]:
        rows = len(self.train_dataset)  # type: ignore[arg-type]
        if not running.rows:
            return running, rows  # nothing is known of the task at hand
        return self._earlier + running.scaled(rows / running.rows), rows

    def _is_fair(self, task: PreparedTask) -> bool:
        return self.args.fairness is not None and has_scores(task)

    def _stored(self) -> list[NamedSums]:
        """The sums of each learned task that has them, in the order of the manifest."""
        statistic = FairnessSums()
        return [statistic.read(values) for values in statistics_of(self.model, statistic.name).values()]


def groups_of(task: PreparedTask) -> list[str | None]:
    """The name of the group of each training row."""
    split = Split(task.train_examples, task.asked)
    return group_names(columns_of([GROUP], "train", task, examples_of(task, split))[GROUP])
