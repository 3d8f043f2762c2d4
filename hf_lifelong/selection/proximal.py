"""Proximal steps on a first layer: they shrink its weights, and make those of needless inputs exactly zero."""

from __future__ import annotations

import torch
from torch import Tensor

PENALTIES = ("l1", "group")


def soft_threshold(weight: Tensor, threshold: Tensor | float) -> Tensor:
    """The proximal step of the l1 norm: every weight moves by `threshold` towards zero, and stays there.

    Args:
        weight (`Tensor`): Any shape.
        threshold (`Tensor` or `float`): Step size times penalty, at least 0; broadcasts to `weight`.
    """
    if isinstance(threshold, Tensor):
        return weight - weight.clamp(-threshold, threshold)
    return weight - weight.clamp(min=-threshold, max=threshold)


def group_soft_threshold(weight: Tensor, threshold: Tensor | float, dim: int = -1) -> Tensor:
    """The proximal step of the sum of the Euclidean norms of all groups (Yuan and Lin, 2006): the norm of each group
    falls by `threshold`, to zero at most.

    Args:
        weight (`Tensor`): Any shape.
        threshold (`Tensor` or `float`): Step size times penalty, at least 0; broadcasts to the norms, of which the
            axis `dim` is kept with length 1.
        dim (`int`): Axis along which a group lies.
    """
    norms = torch.linalg.vector_norm(weight, dim=dim, keepdim=True)
    return weight * (1 - threshold / norms.clamp_min(torch.finfo(weight.dtype).tiny)).clamp_min(0)


def shrunk(weight: Tensor, threshold: Tensor | float, penalty: str, dim: int = -1) -> Tensor:
    """The proximal step of a penalty by name: `"l1"`, or `"group"` with one group along `dim` for each input."""
    if penalty == "l1":
        return soft_threshold(weight, threshold)
    return group_soft_threshold(weight, threshold, dim)


def check_penalty(penalty: object) -> None:
    """Refuses a penalty that there is not (`ValueError`)."""
    if penalty not in PENALTIES:
        raise ValueError(f"`penalty` must be one of {PENALTIES}, not {penalty!r}.")
