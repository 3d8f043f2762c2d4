"""Measuring a stream: all learned tasks are scored, and the accuracy matrix in the manifest is brought up to date."""

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
    """A learned task as it was scored on its test part.

    Args:
        task ([`PreparedTask`]): The task.
        scores ([`Scores`]): Without being told the task.
        oracle (`dict[str, float]`): Metrics when the newest members of its group answer.
    """

    task: PreparedTask
    scores: Scores
    oracle: dict[str, float]

    @property
    def metric(self) -> str:
        """The metric that is kept in the accuracy matrix."""
        return self.task.task_kind.metric

    def details(self) -> dict[str, float]:
        """All numbers of the task, each under its name."""
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
    """Scores learned tasks on their test parts and writes the accuracy matrix into the manifest.

    Args:
        model (`nn.Module`): A model with a lifelong adapter.
        evaluator ([`Evaluator`]): Answers the rows.
        tasks (`list[PreparedTask]`): Those whose data is at hand; the ones that are not learned are passed over.
        newest ([`PreparedTask`], *optional*): The task that was just learned, which adds a row and a column; without
            it the last row is measured again.
        forward (`float`, *optional*): Score on it just before it was learned.

    Returns:
        `dict[str, float]`: Per task its metrics, oracle score and retrieval accuracy, and the matrix's summary.
    """
    knowledge = knowledge_of(model)
    measured = [measure_task(evaluator, knowledge, task) for task in tasks if task.name in knowledge.names]
    row = row_of(measured)
    matrix = matrix_of(knowledge) or AccuracyMatrix()
    # `forget` drops all scores, and the data of some tasks may not be at hand: their rows are empty.
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
    """Scores one learned task on its test part."""
    newest = knowledge.tasks[knowledge.newest[knowledge.group_index(task.name)]].name
    return Measured(task, evaluator.score(task, task.test), evaluator.oracle(task, task.test, newest))


def row_of(measured: list[Measured]) -> dict[str, dict[str, Any]]:
    """A row of the accuracy matrix: what it takes of each task, by the names of its arguments."""
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
    """The score of always giving the most frequent training answer; on the test part R[0] of the accuracy matrix."""
    references = task.task_kind.references
    train = references(task.train_examples, task.columns, task.labels)
    return task.task_kind.majority(train, references(split.examples, task.columns, task.labels))
