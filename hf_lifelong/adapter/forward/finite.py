"""What leaves a model is looked at once: a number that is none compares with nothing, so it chooses at random."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

# The novelty of an input of which the model gives no finite number: above any limit.
NOWHERE = torch.finfo(torch.float32).max
# What else is said of such an input.
UNKNOWN = {"scores": 0.0, "score": 0.0, "uncertainty": 1.0, "margin": 0.0, "novelty": NOWHERE}


def broken_rows(parts: Iterable[Tensor | None], rows: int) -> Tensor:
    """Which inputs have a number that is NaN or infinite, `[rows]` bool.

    Args:
        parts (`list[Tensor]`): Each `[rows · n, …]`, n entries for every input; `None` is left out.
    """
    known = [part.reshape(rows, part.numel() // max(rows, 1)).isfinite().all(1) for part in parts if part is not None]
    return ~torch.stack(known).all(0)


def without_broken(answer: Any, broken: Tensor) -> Any:
    """An answer of whose inputs some are `broken`, `[B]`: these are unknown where it measures novelty.

    Args:
        answer (`LifelongOutput` or `Generated`): Of B inputs.

    Raises:
        ValueError: names the rows, where novelty was not asked for.
    """
    if not bool(broken.any()):
        return answer
    if answer.novelty is None:
        refuse_broken(broken, "; `novelty=True` (in the pipeline `abstain=True`) calls such inputs unknown instead")
    changed = {}
    for name, value in UNKNOWN.items():
        part = getattr(answer, name, None)
        if part is not None:
            rows = broken.repeat_interleave(len(part) // len(broken))
            changed[name] = part.masked_fill(rows.view(-1, *[1] * (part.dim() - 1)), value)
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
