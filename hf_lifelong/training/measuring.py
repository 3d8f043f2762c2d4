"""Measures a stream: scores all learned tasks and updates the accuracy matrix in the manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..adapter import knowledge_of, set_knowledge
from ..evaluation import AccuracyMatrix
from ..knowledge import KnowledgeBase
from ..objectives import get_kind
from .data import PreparedTask, Split
from .evaluator import Evaluator, Scores


@dataclass
class Measured:
    """The scores of a learned task on its test data.

    Args:
        task ([`PreparedTask`]): The task.
        scores ([`Scores`]): Scores when the model is not told the task.
        oracle (`dict[str, float]`): Metrics when the newest members of the task's group answer.
    """

    task: PreparedTask
    scores: Scores
    oracle: dict[str, float]

    @property
    def metric(self) -> str:
        """The metric that the accuracy matrix records."""
        return self.task.task_kind.metric

    def details(self) -> dict[str, float]:
        """All scores of the task by name."""
        name = self.task.name
        return {
            **{f"{name}_{key}": value for key, value in self.scores.metrics.items()},
            f"{name}_oracle_{self.metric}": self.oracle[self.metric],
            f"{name}_retrieval": self.scores.retrieval,
        }


def matrix_of(knowledge: KnowledgeBase) -> AccuracyMatrix | None:
    """The accuracy matrix as last measured; `None` before the first task and after forgetting one."""
    return AccuracyMatrix.from_dict(knowledge.scores) if knowledge.scores is not None else None


def measure(
    model: torch.nn.Module,
    evaluator: Evaluator,
    tasks: Iterable[PreparedTask],
    newest: PreparedTask | None = None,
    forward: float | None = None,
) -> dict[str, float]:
    """Scores learned tasks on their test data and writes the accuracy matrix into the manifest.

    Args:
        model (`nn.Module`): A model with a lifelong adapter.
        evaluator ([`Evaluator`]): Answers the rows.
        tasks (`list[PreparedTask]`): Tasks whose data is at hand. Tasks that are not learned are skipped.
        newest ([`PreparedTask`], *optional*): The task that was just learned, which adds a row and a column. Without
            it the last row is measured again.
        forward (`float`, *optional*): Score on `newest` just before it was learned.

    Returns:
        `dict[str, float]`: For each task its metrics, oracle score and retrieval accuracy; and the matrix's summary.
    """
    knowledge = knowledge_of(model)
    measured = [measure_task(evaluator, knowledge, task) for task in tasks if task.name in knowledge.names]
    row = row_of(measured)
    matrix = matrix_of(knowledge) or AccuracyMatrix()
    # Tasks that the matrix lacks get empty rows: `forget` drops all scores, and some data may not be at hand.
    for learned in knowledge.tasks:
        if learned.name not in matrix.tasks and (newest is None or learned.name != newest.name):
            matrix.add(learned.name, get_kind(learned.kind).metric, None, {})
    if newest is not None:
        baseline = majority(newest, newest.test)
        matrix.add(newest.name, newest.task_kind.metric, baseline, forward=forward, **row)
    else:
        matrix.replace_last(**row)
    scored_on = {one.task.name: str(one.task.source.scored_on) for one in measured}
    set_knowledge(model, replace(knowledge.with_scored_on(scored_on), scores=matrix.to_dict()))
    details = {key: value for one in measured for key, value in one.details().items()}
    return details | matrix.summary()


def measure_task(evaluator: Evaluator, knowledge: KnowledgeBase, task: PreparedTask) -> Measured:
    """Scores one learned task on its test data."""
    newest = knowledge.tasks[knowledge.newest[knowledge.group_index(task.name)]].name
    return Measured(task, evaluator.score(task, task.test), evaluator.oracle(task, task.test, newest))


def row_of(measured: list[Measured]) -> dict[str, dict[str, Any]]:
    """A row of the accuracy matrix, as keyword arguments of `AccuracyMatrix.add` and `replace_last`."""
    groups = {one.task.name: Counter(one.scores.groups) for one in measured}
    return {
        "scores": {one.task.name: one.scores.metrics[one.metric] for one in measured},
        "oracle": {one.task.name: one.oracle[one.metric] for one in measured},
        "retrieval": {one.task.name: one.scores.retrieval for one in measured},
        "confusion": {
            name: {group: count / counts.total() for group, count in counts.items()} for name, counts in groups.items()
        },
    }


def majority(task: PreparedTask, split: Split) -> float:
    """The score of always giving the most frequent training answer; on the test data it is R[0] of the accuracy
    matrix."""
    references = task.task_kind.references
    train = references(task.train_examples, task.columns, task.labels)
    return task.task_kind.majority(train, references(split.examples, task.columns, task.labels))
