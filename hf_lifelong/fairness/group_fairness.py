"""Group fairness of a classifier as a module of the `evaluate` library, for predictions of any model.

[`hf_lifelong.fairness.fairness_metric`] loads it. `evaluate` runs a copy of this file, so it imports by full name.
"""

from __future__ import annotations

import math
from typing import Any

import datasets
import evaluate
import numpy as np

from hf_lifelong.fairness import state

DESCRIPTION = """
How differently a classifier treats groups: the gap between their rates, as statistical parity (mean score), equal
opportunity (mean score of positive rows) or well-calibration (share of the scores that lies on positive rows). With
parts (clients, tasks, ranks, …) also within each, and how unfair a whole of parts so fair can be at most.
"""
INPUTS = """
Args:
    predictions (`list[float]`, or `list[list[float]]` for many classes):
        The probability of class 1, or of each class; or decisions, 0 or 1. For decisions among many classes give 1 for
        the class decided for and 0 for all others.
    references (`list[int]`):
        The right classes, from 0.
    groups (`list[str]` or `list[int]`):
        The group of each row.
    metric (`str`, *optional*, defaults to `"sp"`):
        `"sp"`, `"eop"` or `"cal"`.
    threshold (`float`, *optional*):
        Scores of at least this count as 1, others as 0. By default they are summed as they are.
    parts (`list[str]`, *optional*):
        The part that each row is of.

Returns:
    `dict`: `group_fairness` (of two groups, ordered by name or number, the first one's rate minus the second's; of
    more, the highest minus the lowest; of many classes, the one with the largest value) and `rates` (group: its rate,
    one for each of many classes, `None` where no row counts). With `parts` also `parts` (part: its `group_fairness`,
    `None` where it has rows of one group only) and `bound` (of the size of `group_fairness`, by what the parts show).

Raises:
    ValueError: If there are rows of one group only, if a score is no probability, if the metric is unknown, or if the
        inputs are not of the same length.

Examples:
    >>> metric = hf_lifelong.fairness.fairness_metric()
    >>> metric.add_batch(predictions=[1, 0, 1, 1], references=[1, 1, 1, 0], groups=["a", "a", "b", "b"])
    >>> metric.compute(metric="eop")
    {'group_fairness': -0.5, 'rates': {'a': 0.5, 'b': 1.0}}
"""
CITATION = """
@article{wang2024fedgft,
  title   = {Mitigating Group Bias in Federated Learning: Beyond Local Fairness},
  author  = {Wang, Ganghua and Payani, Ali and Lee, Myungjin and Kompella, Ramana},
  journal = {Transactions on Machine Learning Research},
  year    = {2024}
}
"""


class GroupFairness(evaluate.Metric):
    """See `DESCRIPTION` and `INPUTS`, which `evaluate` shows."""

    def _info(self) -> evaluate.MetricInfo:
        score = datasets.Value("float64")
        forms = [
            {"predictions": scores, "references": datasets.Value("int64"), "groups": datasets.Value(group)}
            for scores in (score, datasets.Sequence(score))
            for group in ("string", "int64")
        ]
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=[datasets.Features(form) for form in forms],
        )

    def _compute(
        self,
        *,
        predictions: list[Any],
        references: list[int],
        groups: list[Any],
        metric: str = "sp",
        threshold: float | None = None,
        parts: list[str] | None = None,
    ) -> dict[str, Any]:
        scores, labels = np.asarray(predictions, dtype=np.float64), np.asarray(references)
        found, members = np.unique(np.asarray(groups), return_inverse=True)
        names = [str(name) for name in found]
        if len(names) < 2:
            raise ValueError(f"`groups` has only {names}; fairness is between two groups or more.")
        classes = scores.shape[1] if scores.ndim == 2 else 2

        def measured(rows: np.ndarray) -> state.GroupFairness:
            fairness = state.GroupFairness(metric, len(names), classes=classes, threshold=threshold)
            fairness.update(scores[rows], labels[rows], members[rows])
            return fairness

        if parts is None:
            return result(measured(np.arange(len(labels))), names)
        if len(parts) != len(labels):
            raise ValueError(f"`parts` names {len(parts)} parts for {len(labels)} rows; give that of each row.")
        labelled = np.asarray(parts, dtype=str)
        by_part = {str(part): measured(np.flatnonzero(labelled == part)) for part in np.unique(labelled)}
        within = {part: fairness.value() if fairness.is_known else None for part, fairness in by_part.items()}
        whole = result(sum(by_part.values(), start=measured(np.arange(0))), names)
        return {**whole, "parts": within, "bound": state.GroupFairness.bound(by_part.values())}


def result(fairness: state.GroupFairness, names: list[str]) -> dict[str, Any]:
    """What is told of all rows."""

    def told(rate: Any) -> Any:
        return [told(value) for value in rate] if isinstance(rate, list) else None if math.isnan(rate) else rate

    return {
        "group_fairness": fairness.value(),
        "rates": {name: told(rate) for name, rate in zip(names, fairness.rates().tolist(), strict=True)},
    }
