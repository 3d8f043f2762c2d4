"""Checks a model's results once for NaN and infinite numbers, which cannot be compared and would choose at random."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

# The novelty of an input for which the model gives numbers that are not finite: above any limit.
NOWHERE = torch.finfo(torch.float32).max
# All values in the answer to such an input.
UNKNOWN = {"scores": 0.0, "states": 0.0, "score": 0.0, "uncertainty": 1.0, "margin": 0.0, "novelty": NOWHERE}


def broken_rows(values: Iterable[Tensor | None], rows: int) -> Tensor:
    """Whether any number of an input is NaN or infinite, `[rows]` bool.

    Args:
        values (`list[Tensor]`): Tensors `[rows · n, …]`, with n entries for every input; `None` is skipped.
    """
    finite = [t.reshape(rows, t.numel() // max(rows, 1)).isfinite().all(1) for t in values if t is not None]
    return ~torch.stack(finite).all(0)


def without_broken(answer: Any, broken: Tensor) -> Any:
    """An answer in which the inputs that are `broken`, `[B]`, count as unknown.

    Args:
        answer (`LifelongOutput` or `Generated`): The answer to B inputs.

    Raises:
        ValueError: names the broken rows, if the answer has no novelty.
    """
    if not bool(broken.any()):
        return answer
    if answer.novelty is None:
        refuse_broken(broken, "; `novelty=True` (in the pipeline `abstain=True`) calls such inputs unknown instead")
    changed = {}
    for name, value in UNKNOWN.items():
        tensor = getattr(answer, name, None)
        if tensor is not None:
            rows = broken.repeat_interleave(len(tensor) // len(broken))
            changed[name] = tensor.masked_fill(rows.view(-1, *[1] * (tensor.dim() - 1)), value)
    return replace(answer, **changed)


def refuse_broken(broken: Tensor, instead: str = "") -> None:
    """Raises a `ValueError` that names the rows which are `broken`, `[B]`, if any."""
    rows = broken.nonzero().flatten().tolist()
    if rows:
        raise ValueError(
            f"The model gives NaN or infinite numbers for {len(rows)} of the {len(broken)} inputs of `batch` (rows "
            f"{rows[:10]}). Look for such values in the base's weights and embeddings, or run it in a wider dtype"
            f"{instead}."
        )
