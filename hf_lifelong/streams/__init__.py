"""Streams that do not say where a task ends."""

from .cusum import cusum, run_lengths
