"""What each kind of task needs: model inputs from columns, head width, loss, distributions, decoding, metric.

The modules here are pure: they know tokenizers, data sets and tensors, and nothing of adapters or training.
"""

from __future__ import annotations

from importlib import import_module

from .base import Objective
from .head import HeadObjective

HEAD_KINDS: tuple[str, ...] = ("text-classification", "question-answering", "token-classification")
"""Kinds that a head of its own answers, on a base without one (`AutoModel`)."""

TEXT_KINDS: tuple[str, ...] = ("text-generation",)
"""Kinds that a language model answers (`AutoModelForCausalLM`)."""

KINDS: tuple[str, ...] = HEAD_KINDS + TEXT_KINDS

__all__ = [
    "HEAD_KINDS",
    "KINDS",
    "TEXT_KINDS",
    "HeadObjective",
    "Objective",
    "get_objective",
    "head_objective",
]


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


def head_objective(kind: str) -> HeadObjective:
    """Returns the objective of a kind in `HEAD_KINDS`; errors as in `get_objective`."""
    objective = get_objective(kind)
    if not isinstance(objective, HeadObjective):
        raise ValueError(f"kind is {kind!r}, which no head answers; choose one of {', '.join(HEAD_KINDS)}.")
    return objective
