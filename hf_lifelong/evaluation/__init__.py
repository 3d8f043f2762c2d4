"""Measures how well a model keeps a stream of tasks: the accuracy matrix, its metrics, tables and plots.

Pure: imports neither other parts of this package (except `utils`) nor torch. Matplotlib is imported only when a plot
is drawn, and `evaluate` only when its module is loaded.
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
    """Loads the metrics of a stream of tasks as a module of the `evaluate` library, without using the network.

    Its inputs are `predictions`, `references`, `tasks` and `after`; `print(lifelong_metric().inputs_description)`
    describes them.

    Args:
        options: Passed on to `evaluate.load`, such as `keep_in_memory` and `experiment_id`.

    Returns:
        `evaluate.Metric`
    """
    import evaluate

    return evaluate.load(str(Path(__file__).with_name("lifelong.py")), **options)
