"""Streams that do not say where a task ends."""

from .cusum import cusum, run_lengths
from .detector import BoundaryDetector, Verdict
from .references import Reference, references

__all__ = ["BoundaryDetector", "Reference", "Verdict", "cusum", "references", "run_lengths"]
