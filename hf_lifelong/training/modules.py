"""A task's own metric as a module of the `evaluate` library: what it is given, and what of its result is kept."""

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
    """A task's scores, and beside them those of its module, if it has one. Where a name is taken, the module's own
    name comes in front, as `evaluate.combine` does it.

    Args:
        scores (`dict[str, float]`): What the task's kind gave.
        task (`Task`): The task.
        labels (`list[str]`): Its label names.
        answers (`list` of length E): As its kind's `score` takes them.
        references (`list` of length E): As its kind's `references` gives them.

    Raises:
        ValueError: when the module fails, or gives no dict; names the task.
    """
    module = task.compute_metrics
    if not isinstance(module, MODULES):
        return scores
    try:
        kind = get_kind(task.kind)
        predictions, right = kind.module_forms(_options(module), answers, references, labels)
        results = module.compute(predictions=predictions, references=right)
    # A module is code of anybody, and may fail in any way.
    except Exception as error:
        raise ValueError(
            f"`compute_metrics` of task `{task.name}` failed on the answers of a {task.kind} task: {error!r}. "
            "Give a module that takes their form, or a function as `Trainer` takes it."
        ) from error
    if not isinstance(results, Mapping):
        raise ValueError(
            f"`compute_metrics` of task `{task.name}` gave {results!r:.60} and no dict; a module must give its "
            "numbers by name, and in every process (`num_process=1`), because each has all answers."
        )
    numbers = {str(key): float(value) for key, value in results.items() if _is_number(value)}
    prefix = getattr(module, "name", "combined")
    return {**scores, **{f"{prefix}_{key}" if key in scores else key: value for key, value in numbers.items()}}


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _options(module: Any) -> list[Features]:
    """The forms of inputs that a module takes; of several, those of the first: all are given the same."""
    first = module.evaluation_modules[0] if isinstance(module, evaluate.CombinedEvaluations) else module
    return list(first.features) if isinstance(first.features, list) else [first.features]
