"""What each kind of task needs: model inputs from columns, head width, loss, distributions, decoding, metric.

The modules here are pure: they know tokenizers, data sets and tensors, and nothing of adapters or training.
"""

from __future__ import annotations

from importlib import import_module

from .base import Objective

KINDS: tuple[str, ...] = ("text-classification", "question-answering", "token-classification")

__all__ = ["KINDS", "Objective", "get_objective"]


def get_objective(kind: str) -> Objective:
    """Returns the objective of a kind of task.

    Args:
        kind (`str`): One of `KINDS`.

    Returns:
        `Objective`: The kind's only instance; it holds no state.

    Raises:
        ValueError: If `kind` is not one of `KINDS`.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}, which is not known; choose one of {', '.join(KINDS)}.")
    # The kind modules import torch, which naming the kinds does not need.
    module = import_module(f".{kind.replace('-', '_')}", __name__)
    objective: Objective = module.OBJECTIVE
    return objective
