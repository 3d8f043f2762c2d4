"""How well a stream of tasks is kept: the accuracy matrix, its summary numbers, tables and plots.

Pure: imports no other part of this package and no torch; matplotlib is imported when a plot is drawn, and `evaluate`
when its module is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .checks import is_name
from .costs import plot_costs
from .matrix import AccuracyMatrix
from .plots import plot_accuracy, plot_confusion, plot_matrix
from .report import format_score, summary_line, to_text

__all__ = [
    "AccuracyMatrix",
    "format_score",
    "is_name",
    "lifelong_metric",
    "plot_accuracy",
    "plot_confusion",
    "plot_costs",
    "plot_matrix",
    "summary_line",
    "to_text",
]


def lifelong_metric(**options: Any) -> Any:
    """Loads the metrics of a stream of tasks as a module of the `evaluate` library; no network is asked.

    Its inputs are `predictions`, `references`, `tasks` and `after`; `print(lifelong_metric().inputs_description)` says
    more.

    Args:
        options: For `evaluate.load`, such as `keep_in_memory` and `experiment_id`.

    Returns:
        `evaluate.Metric`
    """
    import evaluate

    return evaluate.load(str(Path(__file__).with_name("lifelong.py")), **options)
