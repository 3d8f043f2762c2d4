"""Fitting the statistics of a task that has just been learned."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from datasets import Dataset

from ..adapter import set_statistics
from ..objectives import column_values
from ..statistics import TaskRows, TaskStatistic, Values
from .data import PreparedTask, Split
from .evaluator import Evaluator
from .parts import spread_over
from .protocol import TaskTrainer

logger = logging.getLogger(__name__)


def lacks(statistic: TaskStatistic, prepared: PreparedTask) -> str | None:
    """What a statistic needs and the task lacks; `None` if nothing is missing."""
    missing = [role for role in statistic.columns if role not in prepared.roles]
    if missing:
        return f"no column for the role `{missing[0]}`"
    if statistic.needs_scores and not _has_scores(prepared):
        return f"no scores of classes, because it is a {prepared.kind} task"
    return None


def check_statistics(statistics: Sequence[TaskStatistic], prepared: PreparedTask) -> None:
    """Refuses columns on which a statistic could not be fitted (`ValueError`)."""
    for statistic in statistics:
        if lacks(statistic, prepared) is None:
            examples = _split(statistic.part, prepared).examples
            statistic.check(_columns(statistic.columns, statistic.part, prepared, range(len(examples))))


def fit_statistics(trainer: TaskTrainer, prepared: PreparedTask, train_features: torch.Tensor) -> None:
    """Fits the trainer's statistics on a task whose members the model holds, and stores the results.

    Args:
        train_features (`Tensor`): `[n, D]`, the features on which the signature was fitted.
    """
    fitted = fitted_statistics(trainer, prepared, train_features)
    if fitted:
        set_statistics(trainer.model, prepared.name, fitted)


def fitted_statistics(
    trainer: TaskTrainer, prepared: PreparedTask, train_features: torch.Tensor
) -> dict[TaskStatistic, Values]:
    """The trainer's statistics, fitted on a task whose members the model holds; without those that lack something."""
    fitted, rows_of = {}, {}
    for statistic in trainer.statistics:
        missing = lacks(statistic, prepared)
        if missing is not None:
            logger.info(f"Task `{prepared.name}` has {missing}, so it gets no statistic `{statistic.name}`.")
            continue
        key = statistic.part, statistic.needs_scores
        if key not in rows_of:
            rows_of[key] = _rows(trainer, prepared, *key, train_features)
        index, rows = rows_of[key]
        columns = _columns(statistic.columns, statistic.part, prepared, index)
        fitted[statistic] = statistic.fit(replace(rows, columns=columns))
    return fitted


def _has_scores(prepared: PreparedTask) -> bool:
    return prepared.task_kind.one_label and not prepared.generates


def _split(part: str, prepared: PreparedTask) -> Split:
    if part == "train":
        return Split(prepared.train_examples, prepared.asked)
    return prepared.validation


def _rows(
    trainer: TaskTrainer, prepared: PreparedTask, part: str, scored: bool, train_features: torch.Tensor
) -> tuple[list[int], TaskRows]:
    """The rows of a part, without columns, and for each the row of the user's data from which it comes."""
    evaluator, split = trainer.evaluator, _split(part, prepared)
    index = spread_over(len(split.features), trainer.args.signature_samples)
    features = train_features if part == "train" else evaluator.features(prepared, split.features, len(index))
    some = Split(split.examples, split.features.select(index))
    labels = torch.tensor(some.features["labels"]) if prepared.task_kind.one_label else None
    scores = evaluator.probabilities(prepared, some, prepared.name) if scored else None
    example = _examples(prepared, split)
    ask = _asking(trainer.evaluator, prepared) if _has_scores(prepared) else None
    rows = TaskRows(prepared.name, prepared.kind, prepared.labels, features, labels, scores, {}, ask)
    return [example[i] for i in index], rows


def _examples(prepared: PreparedTask, split: Split) -> Sequence[int]:
    """For each tokenised row, the row of the user's data from which it comes; a long text makes several."""
    if "example" in split.features.column_names:
        return split.features["example"]
    if len(split.features) == len(split.examples):
        return range(len(split.examples))
    return prepared.encoded(split.examples)["example"]


def _columns(roles: Sequence[str], part: str, prepared: PreparedTask, rows: Sequence[int]) -> dict[str, list[Any]]:
    """Role → values of some rows of a part, as in the user's data."""
    examples = _split(part, prepared).examples
    columns = {}
    for role in roles:
        column = prepared.roles[role]
        if column not in examples.column_names:
            raise ValueError(
                f"columns[{role!r}]: there is no column {column!r} in `{part}`; it has {examples.column_names}."
            )
        values = column_values(examples, column)
        columns[role] = [values[row] for row in rows]
    return columns


def _asking(
    evaluator: Evaluator, prepared: PreparedTask
) -> Callable[[Mapping[str, Sequence[Any]]], torch.Tensor] | None:
    """A function that asks the members of a task about other inputs; `None` if the task's data came tokenised."""
    if prepared.task_kind.is_tokenised(prepared.train_examples):
        return None
    label = str(prepared.task_kind.label_role)

    def ask(inputs: Mapping[str, Sequence[Any]]) -> torch.Tensor:
        named = {prepared.columns[role]: list(values) for role, values in inputs.items()}
        count = len(next(iter(named.values())))
        # Encoding needs a label, but nothing reads it.
        data = Dataset.from_dict({**named, prepared.columns[label]: [prepared.labels[0]] * count})
        return evaluator.probabilities(prepared, Split(data, prepared.encoded(data)), prepared.name)

    return ask
