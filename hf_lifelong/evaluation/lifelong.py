"""The metrics of a stream of tasks as a module of the `evaluate` library, for predictions of any model or method.

[`hf_lifelong.evaluation.lifelong_metric`] loads it. `evaluate` runs a copy of this file, so its imports are absolute.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import datasets
import evaluate

from hf_lifelong.evaluation.matrix import AccuracyMatrix

DESCRIPTION = """
How well a model that learned tasks one after another knows them: accuracy of every task after every task, average
accuracy, learning accuracy, backward transfer (BWT), forgetting and forward transfer (FWT).
"""
INPUTS = """
Args:
    predictions (`list[str]`):
        The answers. One is right where it is equal to its reference.
    references (`list[str]`):
        The right answers.
    tasks (`list[str]`):
        The task that each row is of.
    after (`list[str]`):
        The newest task that the model had learned when it answered; `""` before its first task, which is what FWT
        compares with.
    order (`list[str]`, *optional*):
        All tasks as they were learned; by default in the order in which `after` names them first.

Returns:
    `dict`: `average_accuracy`, `learning_accuracy`, `bwt` (negative means forgetting), `forgetting` (positive means
    forgetting) and `fwt`, as far as the rows say, and `accuracy_matrix` (`AccuracyMatrix.to_dict()`).

Raises:
    ValueError: If `tasks` or `after` names a task that is not in `order`, or in no row of `after` where there is no
        `order`; if `order` names one twice; if the inputs are not of the same length.

Examples:
    >>> metric = hf_lifelong.evaluation.lifelong_metric()
    >>> metric.add_batch(predictions=["no", "yes"], references=["no", "no"], tasks=["a", "a"], after=["a", "a"])
    >>> metric.add_batch(predictions=["no", "x"], references=["no", "x"], tasks=["a", "b"], after=["b", "b"])
    >>> metric.compute()["bwt"]
    0.5
"""
CITATION = """
@inproceedings{lopezpaz2017gem,
  title     = {Gradient Episodic Memory for Continual Learning},
  author    = {Lopez-Paz, David and Ranzato, Marc'Aurelio},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2017}
}
"""
UNTRAINED = ""


class Lifelong(evaluate.Metric):
    """See `DESCRIPTION` and `INPUTS`, which `evaluate` shows."""

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": text, "references": text, "tasks": text, "after": text}),
        )

    def _compute(
        self,
        *,
        predictions: list[str],
        references: list[str],
        tasks: list[str],
        after: list[str],
        order: list[str] | None = None,
    ) -> dict[str, Any]:
        order = [name for name in dict.fromkeys(after) if name != UNTRAINED] if order is None else list(order)
        check_order(order, tasks, after)
        rows = list(zip(after, tasks, strict=True))
        asked = Counter(rows)
        right = Counter(row for row, answer, gold in zip(rows, predictions, references, strict=True) if answer == gold)

        def shares(when: str) -> list[float | None]:
            return [right[when, task] / asked[when, task] if asked[when, task] else None for task in order]

        unknown: list[list[float | None]] = [[None] * len(order)] * len(order)
        matrix = AccuracyMatrix(
            tasks=order,
            metrics=["accuracy"] * len(order),
            baseline=shares(UNTRAINED),
            scores=[shares(task) for task in order],
            oracle=unknown,
            retrieval=unknown,
        )
        return {**matrix.summary(), "accuracy_matrix": matrix.to_dict()}


def check_order(order: list[str], tasks: list[str], after: list[str]) -> None:
    """Refuses an order that has a task twice or lacks one that the rows name (`ValueError`)."""
    twice = sorted(name for name, count in Counter(order).items() if count > 1)
    if twice:
        raise ValueError(f"`order` has {', '.join(map(repr, twice))} more than once; a task is learned once.")
    for argument, names, allowed in (("tasks", tasks, order), ("after", after, [*order, UNTRAINED])):
        unknown = [name for name in dict.fromkeys(names) if name not in allowed]
        if unknown:
            raise ValueError(
                f"`{argument}` has {', '.join(map(repr, unknown))}, but nothing says when that was learned: the order "
                f"of tasks is {order}. Give rows that were answered `after` it, or an `order` with all tasks."
            )
