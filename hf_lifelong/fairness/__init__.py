"""Fairness of a classifier towards groups of people, over everything that it has seen: measured and trained with a few
sums per batch, process, client or task, for any model and any `Trainer`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .measures import METRICS
from .named import NamedSums, group_names, in_order, positions, staleness
from .state import GroupFairness
from .statistic import GROUP, FairnessSums
from .steps import FairSteps
from .term import check_trainable, fairness_term
from .trainer import FairTrainerMixin

__all__ = [
    "GROUP",
    "METRICS",
    "FairSteps",
    "FairTrainerMixin",
    "FairnessSums",
    "GroupFairness",
    "NamedSums",
    "check_trainable",
    "fairness_metric",
    "fairness_term",
    "group_names",
    "in_order",
    "positions",
    "staleness",
]


def fairness_metric(**options: Any) -> Any:
    """Loads group fairness as a module of the `evaluate` library; no network is asked.

    Its inputs are `predictions`, `references` and `groups`; `print(fairness_metric().inputs_description)` says more.

    Args:
        options: For `evaluate.load`, such as `keep_in_memory` and `experiment_id`.

    Returns:
        `evaluate.Metric`
    """
    import evaluate

    return evaluate.load(str(Path(__file__).with_name("group_fairness.py")), **options)
