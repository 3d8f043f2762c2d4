"""Streams that do not say where a task ends."""

from .callback import BoundaryCallback
from .cusum import cusum, run_lengths
from .detector import BoundaryDetector, Verdict
from .inputs import group_references, input_features, pipeline_of
from .references import Reference, coordinates_of_rows, references
from .watching import watch

__all__ = [
    "BoundaryCallback",
    "BoundaryDetector",
    "Reference",
    "Verdict",
    "coordinates_of_rows",
    "cusum",
    "group_references",
    "input_features",
    "pipeline_of",
    "references",
    "run_lengths",
    "watch",
]
