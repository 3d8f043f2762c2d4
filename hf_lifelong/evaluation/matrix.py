"""The accuracy matrix of a stream of tasks, and its metrics."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from .checks import (
    Row,
    check_known,
    check_length,
    checked_confusion,
    checked_list,
    checked_mapping,
    checked_name,
    checked_names,
    checked_numbers,
    checked_score,
    checked_square,
)


def _mean(values: Iterable[float | None]) -> float | None:
    measured = [value for value in values if value is not None]
    return math.fsum(measured) / len(measured) if measured else None


def _difference(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else left - right


@dataclass
class AccuracyMatrix:
    """The score on every task after every task of a stream.

    Below, `R[i][j]` is the score on task j after learning task i, and T is the number of tasks. All entries are shares
    in [0, 1]. `None` stands for a score that was not measured; means ignore it. Definitions and signs of the metrics
    follow Lopez-Paz and Ranzato, 2017 (average accuracy, BWT, FWT), Chaudhry et al., 2018 (forgetting) and Riemer et
    al., 2019 (learning accuracy).

    Every metric is a method with the argument `after` (`int`, *optional*, defaults to `-1`): the index, possibly
    negative, of the row that counts as the last one. The method returns the metric at that point of the stream, or
    `None` if nothing that it needs was measured. It raises `ValueError` if there is no such row.

    Args:
        tasks (`list[str]`):
            Names of the tasks in learning order, all different.
        metrics (`list[str]`):
            Name of each task's metric, such as `"accuracy"` or `"f1"`. Higher has to be better.
        baseline (`list[float | None]`):
            `R[0][j]`, the score of always answering the majority class (an untrained head has no score of its own).
        scores (`list[list[float | None]]`):
            R, of shape (T, T). Entries above the diagonal are `None`, or scores on tasks that are not learned yet. Row
            i may have only i + 1 entries; it is then filled up with `None`.
        oracle (`list[list[float | None]]`):
            As `scores`, but when the right group is given. All entries above the diagonal are `None`.
        retrieval (`list[list[float | None]]`):
            Share of a task's inputs whose chosen group is the group of their task. Shape as `oracle`.
        confusion (`dict[str, dict[str, float]]`):
            Task → group → share of the task's inputs that the group answered in the last measurement. The shares of a
            task sum to 1. Tasks that were not measured are absent.
        numbers (`dict[str, float]`):
            Name → number: what else was found of all tasks together in the last measurement.

    Raises:
        ValueError: If lengths or types do not fit, a task is named twice, or a score is NaN or outside [0, 1].
    """

    tasks: list[str] = field(default_factory=list)
    metrics: list[str] = field(default_factory=list)
    baseline: list[float | None] = field(default_factory=list)
    scores: list[list[float | None]] = field(default_factory=list)
    oracle: list[list[float | None]] = field(default_factory=list)
    retrieval: list[list[float | None]] = field(default_factory=list)
    confusion: dict[str, dict[str, float]] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tasks = checked_names(self.tasks, "tasks")
        twice = sorted({task for task in self.tasks if self.tasks.count(task) > 1})
        if twice:
            raise ValueError(f"`tasks` has {', '.join(map(repr, twice))} more than once; give each task its own name.")
        count = len(self.tasks)
        self.metrics = checked_names(self.metrics, "metrics")
        check_length(self.metrics, count, "metrics")
        baseline = checked_list(self.baseline, "baseline")
        check_length(baseline, count, "baseline")
        self.baseline = [checked_score(value, f"baseline[{j}]") for j, value in enumerate(baseline)]
        self.scores = checked_square(self.scores, count, "scores", forward=True)
        self.oracle = checked_square(self.oracle, count, "oracle", forward=False)
        self.retrieval = checked_square(self.retrieval, count, "retrieval", forward=False)
        self.confusion = checked_confusion(self.confusion, self.tasks)
        self.numbers = checked_numbers(self.numbers)

    def add(
        self,
        task: str,
        metric: str,
        baseline: float | None,
        scores: Mapping[str, float | None],
        oracle: Mapping[str, float | None] | None = None,
        retrieval: Mapping[str, float | None] | None = None,
        forward: float | None = None,
        confusion: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        """Appends the column and row of a task that has just been learned. An error leaves the matrix unchanged.

        Args:
            task (`str`):
                Name of the new task.
            metric (`str`):
                Name of its metric.
            baseline (`float`, *optional*):
                Score of its majority class.
            scores (`Mapping[str, float | None]`):
                Score of each task learned so far, including the new one. Missing tasks count as not measured.
            oracle (`Mapping[str, float | None]`, *optional*):
                The same scores when the right group is given.
            retrieval (`Mapping[str, float | None]`, *optional*):
                Share of each task's inputs whose chosen group is the group of their task.
            forward (`float`, *optional*):
                Score on the new task just before it was learned, for FWT. It is stored above the diagonal.
            confusion (`Mapping[str, Mapping[str, float]]`, *optional*):
                Task → group → share of the task's inputs that the group answered. Replaces the previous confusion,
                even if it is left out. `numbers` are emptied.

        Raises:
            ValueError: If the matrix already has the task, a mapping names a task that it lacks, or a score is NaN or
                outside [0, 1].
        """
        checked_name(task, "task")
        checked_name(metric, "metric")
        if task in self.tasks:
            raise ValueError(f"`task` is {task!r}, which the matrix has already; use another name or `replace_last`.")
        forward = checked_score(forward, "forward")
        if forward is not None and not self.tasks:
            raise ValueError("`forward` is given for the first task, before which nothing was learned; leave it out.")
        tasks = [*self.tasks, task]
        baseline = checked_score(baseline, "baseline")
        new = self._rows(tasks, scores, oracle, retrieval)
        self.confusion, self.numbers = checked_confusion(confusion or {}, tasks), {}
        for name, row in new.items():
            rows: list[Row] = getattr(self, name)
            for earlier in rows:
                earlier.append(None)
            rows.append(row)
        if forward is not None:
            self.scores[-2][-1] = forward
        self.tasks.append(task)
        self.metrics.append(metric)
        self.baseline.append(baseline)

    def replace_last(
        self,
        scores: Mapping[str, float | None],
        oracle: Mapping[str, float | None] | None = None,
        retrieval: Mapping[str, float | None] | None = None,
        confusion: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        """Replaces the last row by a newer measurement. An error leaves the matrix unchanged.

        Args:
            scores (`Mapping[str, float | None]`), oracle, retrieval, confusion (*optional*):
                As in `add`. Missing tasks and mappings count as not measured; older values are not kept.

        Raises:
            ValueError: If the matrix is empty, a mapping names a task that it lacks, or a score is NaN or outside
                [0, 1].
        """
        if not self.tasks:
            raise ValueError("`replace_last` needs a row, and the matrix is empty; call `add` first.")
        new = self._rows(self.tasks, scores, oracle, retrieval)
        self.confusion, self.numbers = checked_confusion(confusion or {}, self.tasks), {}
        for name, row in new.items():
            getattr(self, name)[-1] = row

    def note(self, numbers: Mapping[str, float]) -> None:
        """Keeps numbers about all tasks until the next `add` or `replace_last`.

        Raises:
            ValueError: If one is not finite, or a name is not printable.
        """
        self.numbers = checked_numbers(numbers)

    @staticmethod
    def _rows(
        tasks: list[str],
        scores: Mapping[str, float | None],
        oracle: Mapping[str, float | None] | None,
        retrieval: Mapping[str, float | None] | None,
    ) -> dict[str, Row]:
        rows: dict[str, Row] = {}
        for name, values in (("scores", scores), ("oracle", oracle or {}), ("retrieval", retrieval or {})):
            by_task = checked_mapping(values, name, "task name to score")
            check_known(by_task, tasks, name)
            rows[name] = [checked_score(by_task.get(task), f"{name}[{task!r}]") for task in tasks]
        return rows

    def _last(self, after: int) -> int:
        count = len(self.tasks)
        if not count and after == -1:
            return -1
        if not -count <= after < count:
            raise ValueError(f"`after` is {after}, but the matrix has {count} rows; give the index of one of them.")
        return after % count

    def _row_mean(self, rows: list[Row], after: int) -> float | None:
        last = self._last(after)
        return _mean(rows[last][: last + 1]) if rows else None

    def average_accuracy(self, after: int = -1) -> float | None:
        """Returns the mean of `R[T][j]` over the tasks learned so far."""
        return self._row_mean(self.scores, after)

    def oracle_accuracy(self, after: int = -1) -> float | None:
        """Returns the average accuracy when the right group is given."""
        return self._row_mean(self.oracle, after)

    def retrieval_accuracy(self, after: int = -1) -> float | None:
        """Returns the mean over tasks of the share of inputs whose chosen group is the group of their task.

        Every task has the same weight, whatever its number of inputs.
        """
        return self._row_mean(self.retrieval, after)

    def learning_accuracy(self, after: int = -1) -> float | None:
        """Returns the mean of `R[j][j]`: how well each task was known when it had just been learned."""
        return _mean(self.scores[j][j] for j in range(self._last(after) + 1))

    def bwt(self, after: int = -1) -> float | None:
        """Returns backward transfer, the mean over j < T of `R[T][j]` − `R[j][j]`. Negative means forgetting.

        0.0 for one task.
        """
        last = self._last(after)
        if last == 0:
            return 0.0
        return _mean(_difference(self.scores[last][j], self.scores[j][j]) for j in range(last))

    def forgetting(self, after: int = -1) -> float | None:
        """Returns the mean over j < T of max `R[i][j]` − `R[T][j]`, the maximum over j ≤ i < T.

        Positive means forgetting. Scores on a task before it was learned do not enter the maximum. 0.0 for one task.
        """
        last = self._last(after)
        if last == 0:
            return 0.0
        drops: list[float | None] = []
        for j in range(last):
            earlier = [score for row in self.scores[j:last] if (score := row[j]) is not None]
            drops.append(_difference(max(earlier, default=None), self.scores[last][j]))
        return _mean(drops)

    def fwt(self, after: int = -1) -> float | None:
        """Returns forward transfer, the mean over j > 1 of `R[j−1][j]` − `R[0][j]`.

        Positive means that earlier tasks helped. The mean is over the tasks that were scored just before they were
        learned and have a baseline; `None` when there is no such task.
        """
        return _mean(_difference(self.scores[j - 1][j], self.baseline[j]) for j in range(1, self._last(after) + 1))

    def summary(self) -> dict[str, float]:
        """Returns all metrics of the whole stream by name; those that were not measured are left out."""
        metrics = {
            "average_accuracy": self.average_accuracy(),
            "learning_accuracy": self.learning_accuracy(),
            "bwt": self.bwt(),
            "forgetting": self.forgetting(),
            "fwt": self.fwt(),
            "retrieval_accuracy": self.retrieval_accuracy(),
            "oracle_accuracy": self.oracle_accuracy(),
        }
        return {name: value for name, value in metrics.items() if value is not None}

    def answering_groups(self) -> list[str]:
        """Returns the groups in `confusion`: first those named after a task, in the order of the tasks, then
        others."""
        groups = {group for shares in self.confusion.values() for group in shares}
        return list(dict.fromkeys(name for name in (*self.tasks, *sorted(groups)) if name in groups))

    def beside(self, rows: Sequence[Sequence[float | None]], name: str) -> AccuracyMatrix:
        """Returns the matrix of another method on the same stream, for comparison.

        Args:
            rows (`Sequence[Sequence[float | None]]`):
                The other method's R; shape as `scores`.
            name (`str`):
                Name of `rows` in error messages.

        Raises:
            ValueError: If `rows` does not fit the tasks of this matrix, or a score is NaN or outside [0, 1].
        """
        count = len(self.tasks)
        return AccuracyMatrix(
            tasks=self.tasks,
            metrics=self.metrics,
            baseline=self.baseline,
            scores=checked_square(rows, count, name, forward=True),
            oracle=[[None] * count] * count,
            retrieval=[[None] * count] * count,
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as lists and dicts of strings, floats and `None`, safe for JSON. Square tables of shape
        (T, T). `numbers` is left out where there are none."""
        tables = (item.name for item in fields(self) if item.name not in ("confusion", "numbers"))
        copies: dict[str, Any] = {
            name: [list(value) if isinstance(value, list) else value for value in getattr(self, name)]
            for name in tables
        }
        numbers = {"numbers": dict(self.numbers)} if self.numbers else {}
        return {**copies, "confusion": {task: dict(shares) for task, shares in self.confusion.items()}, **numbers}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> AccuracyMatrix:
        """Reads what `to_dict` wrote.

        Raises:
            ValueError: If `data` is not a mapping with exactly the fields of the matrix (only `confusion` and
                `numbers` may be missing), or a field is invalid; names the field and the reason.
        """
        if not isinstance(data, Mapping):
            raise ValueError(f"`data` is of type {type(data).__name__}; give the dict that `to_dict` returned.")
        data = {"confusion": {}, "numbers": {}, **data}
        expected = [item.name for item in fields(cls)]
        missing = [name for name in expected if name not in data]
        unknown = sorted(str(name) for name in data if name not in expected)
        if missing or unknown:
            raise ValueError(
                f"`data` lacks {missing or 'nothing'} and has the unknown keys {unknown or 'none'}; give the dict "
                "that `to_dict` returned."
            )
        return cls(**{name: data[name] for name in expected})
