"""Fairness of a classifier towards groups of people, over everything that it has seen: measured with a few sums per
batch, process, client or task."""

from .state import GroupFairness

__all__ = ["GroupFairness"]
