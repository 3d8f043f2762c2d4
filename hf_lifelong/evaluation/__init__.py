"""How well a stream of tasks is kept: the accuracy matrix, its summary numbers, tables and plots.

Pure: imports nothing else of this package and no torch; matplotlib is imported when a plot is drawn.
"""

from __future__ import annotations

from .matrix import AccuracyMatrix
from .plots import plot_accuracy, plot_matrix
from .report import to_text

__all__ = ["AccuracyMatrix", "plot_accuracy", "plot_matrix", "to_text"]
