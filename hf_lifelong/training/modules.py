"""Runs a task's own metric when it is a module of the `evaluate` library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import evaluate
from datasets import Features

from ..objectives import get_kind
from .tasks import MODULES, Task


def with_module(
    scores: dict[str, float],
    task: Task,
    labels: Sequence[str],
    answers: Sequence[Any],
    references: Sequence[Any],
) -> dict[str, float]:
    """A task's scores together with those of its module, if it has one. If a name is taken, the module's name is put
    in front, as `evaluate.combine` does.

    Args:
        scores (`dict[str, float]`): Scores from the task's kind.
        task (`Task`): The task.
        labels (`list[str]`): Its label names.
        answers (`list` of length E): Answers in the form that the kind's `score` takes.
        references (`list` of length E): References as the kind's `references` returns them.

    Raises:
        ValueError: when the module fails, or does not return a dict; names the task.
    """
    module = task.compute_metrics
    if not isinstance(module, MODULES):
        return scores
    try:
        kind = get_kind(task.kind)
        predictions, right = kind.module_forms(_options(module), answers, references, labels)
        results = module.compute(predictions=predictions, references=right)
    # A module is third-party code and may raise anything.
    except Exception as error:
        raise ValueError(
            f"`compute_metrics` of task `{task.name}` failed on the answers of a {task.kind} task: {error!r}. "
            "Give a module that takes answers of this form, or a function as for `Trainer`."
        ) from error
    if not isinstance(results, Mapping):
        raise ValueError(
            f"`compute_metrics` of task `{task.name}` returned {results!r:.60} instead of a dict; a module must "
            "return its numbers by name, and in every process (`num_process=1`), because each process has all answers."
        )
    numbers = {str(key): float(value) for key, value in results.items() if _is_number(value)}
    prefix = getattr(module, "name", "combined")
    return {**scores, **{f"{prefix}_{key}" if key in scores else key: value for key, value in numbers.items()}}


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _options(module: Any) -> list[Features]:
    """The input forms that a module takes. Combined modules all get the same inputs, so the first one decides."""
    first = module.evaluation_modules[0] if isinstance(module, evaluate.CombinedEvaluations) else module
    return list(first.features) if isinstance(first.features, list) else [first.features]
