"""Fitting the statistics of a task that has just been learned, and what they say of all tasks together."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from datasets import Dataset

from ..adapter import knowledge_of, set_knowledge, set_statistics, statistics_of
from ..evaluation import AccuracyMatrix
from ..objectives import named_values
from ..statistics import Answers, TaskRows, TaskStatistic, Values
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
    if statistic.needs_scores and not has_scores(prepared):
        return f"no scores of classes, because it is a {prepared.kind} task"
    if statistic.asks and not has_scores(prepared):
        return "no members that can be asked for classes"
    return None


def check_statistics(statistics: Sequence[TaskStatistic], prepared: PreparedTask) -> None:
    """Refuses columns on which a statistic could not be fitted (`ValueError`)."""
    for statistic in statistics:
        if lacks(statistic, prepared) is None:
            roles = _roles(statistic, prepared)
            for part in _parts(statistic):
                statistic.check(_Columns(roles, part, prepared))


class _Columns(Mapping[str, Sequence[Any]]):
    """Role → all values of a part. A column is read when it is looked at: images fill the memory."""

    def __init__(self, roles: Sequence[str], part: str, prepared: PreparedTask) -> None:
        self._roles, self._part, self._prepared = roles, part, prepared

    def __getitem__(self, role: str) -> Sequence[Any]:
        if role not in self._roles:
            raise KeyError(role)
        every = range(len(_split(self._part, self._prepared).examples))
        return columns_of([role], self._part, self._prepared, every)[role]

    def __iter__(self) -> Iterator[str]:
        return iter(self._roles)

    def __len__(self) -> int:
        return len(self._roles)


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
    fitted: dict[TaskStatistic, Values] = {}
    found: dict[tuple[str, bool], tuple[list[int], TaskRows]] = {}

    def rows_of(statistic: TaskStatistic, part: str) -> TaskRows:
        key = part, statistic.needs_scores
        if key not in found:
            found[key] = _rows(trainer, prepared, *key, train_features)
        index, rows = found[key]
        return replace(rows, columns=columns_of(_roles(statistic, prepared), part, prepared, index))

    for statistic in trainer.statistics:
        missing = lacks(statistic, prepared)
        if missing is not None:
            logger.info(f"Task `{prepared.name}` has {missing}, so it gets no statistic `{statistic.name}`.")
            continue
        rows, *validation = [rows_of(statistic, part) for part in _parts(statistic)]
        fitted[statistic] = statistic.fit(replace(rows, validation=validation[0]) if validation else rows)
    return fitted


def measure_overall(trainer: TaskTrainer, at_hand: Sequence[PreparedTask]) -> dict[str, float]:
    """What the trainer's statistics say of all learned tasks together. It is kept with the scores in the manifest.

    Args:
        at_hand (`list[PreparedTask]`): The tasks whose data is available.

    Returns:
        `dict[str, float]`: Name → number.
    """
    numbers: dict[str, float] = {}
    for statistic in trainer.statistics:
        values = statistics_of(trainer.model, statistic.name)
        if values:
            tasks = [task for task in at_hand if task.name in values and lacks(statistic, task) is None]
            numbers |= statistic.overall(values, functools.partial(_moved_rows, trainer, statistic, tasks))
    knowledge = knowledge_of(trainer.model)
    if numbers and knowledge.scores is not None:
        matrix = AccuracyMatrix.from_dict(knowledge.scores)
        matrix.note(numbers)
        set_knowledge(trainer.model, replace(knowledge, scores=matrix.to_dict()))
    return numbers


def _moved_rows(trainer: TaskTrainer, statistic: TaskStatistic, tasks: Sequence[PreparedTask]) -> dict[str, TaskRows]:
    """Task → the rows on which a statistic was fitted, and which of them other members answer by now."""
    found = {}
    part = _parts(statistic)[0]
    for task in tasks:
        index, sample = _sample(trainer, task, part)
        names = trainer.evaluator.routed(task, sample)
        moved = torch.tensor([name != task.name for name in names])
        features = trainer.evaluator.features_of(task, sample)
        rows = _described(task, part, index, sample, features)
        found[task.name] = replace(rows, columns=columns_of(_roles(statistic, task), part, task, index), moved=moved)
    return found


def has_scores(prepared: PreparedTask) -> bool:
    """Whether a task's members give each row probabilities of its classes."""
    return prepared.task_kind.one_label and not prepared.generates


def _can_be_asked(prepared: PreparedTask) -> bool:
    return has_scores(prepared) and not prepared.task_kind.is_tokenised(prepared.train_examples)


def _parts(statistic: TaskStatistic) -> tuple[str, ...]:
    return ("train", "validation") if statistic.part == "both" else (statistic.part,)


def _roles(statistic: TaskStatistic, prepared: PreparedTask) -> list[str]:
    """The roles of the columns that a statistic reads and the task has. If it asks, the optional ones are what it asks
    about, which members that were trained on ids cannot be."""
    unasked = statistic.asks and not _can_be_asked(prepared)
    optional = () if unasked else statistic.optional_columns
    return [*statistic.columns, *(role for role in optional if role in prepared.roles)]


def _split(part: str, prepared: PreparedTask) -> Split:
    if part == "train":
        return Split(prepared.train_examples, prepared.asked)
    return prepared.validation


def _rows(
    trainer: TaskTrainer, prepared: PreparedTask, part: str, scored: bool, train_features: torch.Tensor
) -> tuple[list[int], TaskRows]:
    """The rows of a part, without columns, and for each the row of the user's data from which it comes."""
    evaluator = trainer.evaluator
    index, sample = _sample(trainer, prepared, part)
    if part == "train":
        evaluator.keep_features(sample, train_features)
    rows = _described(prepared, part, index, sample, evaluator.features_of(prepared, sample))
    scores = evaluator.probabilities(prepared, sample, prepared.name) if scored else None
    ask = _asking(evaluator, prepared) if _can_be_asked(prepared) else None
    return index, replace(rows, scores=scores, ask=ask)


def _sample(trainer: TaskTrainer, prepared: PreparedTask, part: str) -> tuple[list[int], Split]:
    """At most `signature_samples` rows of a part, and for each the row of the user's data from which it comes."""
    limit = trainer.args.signature_samples
    if (part, limit) not in prepared.samples:
        split = _split(part, prepared)
        index, example = spread_over(len(split.features), limit), examples_of(prepared, split)
        some = Split(split.examples, split.features.select(index))
        prepared.samples[part, limit] = [example[i] for i in index], some
    return prepared.samples[part, limit]


def _described(
    prepared: PreparedTask, part: str, index: Sequence[int], sample: Split, features: torch.Tensor
) -> TaskRows:
    """The rows of a sample, without scores and columns; `index` has the place of each in the part."""
    return TaskRows(
        task=prepared.name,
        kind=prepared.kind,
        classes=prepared.labels,
        features=features,
        labels=torch.tensor(sample.features["labels"]) if prepared.task_kind.one_label else None,
        scores=None,
        columns={},
        ask=None,
        row_numbers=[prepared.row_numbers[part][i] for i in index],
        part_rows=len(_split(part, prepared).features),
    )


def examples_of(prepared: PreparedTask, split: Split) -> Sequence[int]:
    """For each tokenised row, the row of the user's data from which it comes; a long text makes several."""
    if "example" in split.features.column_names:
        return split.features["example"]
    if len(split.features) == len(split.examples):
        return range(len(split.examples))
    return prepared.encoded(split.examples)["example"]


def columns_of(roles: Sequence[str], part: str, prepared: PreparedTask, rows: Sequence[int]) -> dict[str, list[Any]]:
    """Role → values of some rows of a part, as in the user's data; of a `ClassLabel` its names."""
    examples = _split(part, prepared).examples
    columns = {}
    for role in roles:
        column = prepared.roles[role]
        if column not in examples.column_names:
            raise ValueError(
                f"columns[{role!r}]: there is no column {column!r} in `{part}`; it has {examples.column_names}."
            )
        columns[role] = named_values(examples.select(rows), column)
    return columns


def _asking(evaluator: Evaluator, prepared: PreparedTask) -> Callable[[Mapping[str, Sequence[Any]]], Answers]:
    """A function that asks the members of a task about any inputs."""
    label = str(prepared.task_kind.label_role)

    def ask(inputs: Mapping[str, Sequence[Any]]) -> Answers:
        named = {prepared.columns[role]: list(values) for role, values in inputs.items()}
        count = len(next(iter(named.values())))
        # Encoding needs a label, but nothing reads it.
        data = Dataset.from_dict({**named, prepared.columns[label]: [prepared.labels[0]] * count})
        return Answers(*evaluator.states(prepared, prepared.encoded(data), prepared.name))

    return ask
