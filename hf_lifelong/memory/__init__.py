"""Estimates the memory of a model, its adapters and one training step before anything is loaded."""

from .estimate import MemoryEstimate, estimate_memory

__all__ = ["MemoryEstimate", "estimate_memory"]
