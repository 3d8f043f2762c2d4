"""Small array functions that the kinds share."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor
from torch.nn import functional

from .labels import IGNORED

LOG_2 = math.log(2)
"""Entropy of a fair coin in nats: the floor of `log_classes`, so that dividing by it is always safe."""


def mean_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy over the targets that count, 0 if none does (where torch's own mean is NaN).

    Args:
        logits (`Tensor` of shape `[N, C]`): Any float dtype; computed in float32.
        targets (`Tensor` of shape `[N]`): int64; `IGNORED` does not count.

    Returns:
        `Tensor`: float32 scalar, in nats.
    """
    total = functional.cross_entropy(logits.float(), targets, ignore_index=IGNORED, reduction="sum")
    return total / (targets != IGNORED).sum().clamp(min=1)


def mask_padding(logits: Tensor, mask: Tensor) -> Tensor:
    """Gives padding the lowest logit, hence probability 0.

    Args:
        logits (`Tensor` of shape `[N, T]` or `[N, D, T]`): Any float dtype.
        mask (`Tensor` of shape `[N, T]`): 1 for tokens, 0 for padding.

    Returns:
        `Tensor`: float32, same shape as `logits`.
    """
    padding = mask == 0
    padding = padding if logits.dim() == 2 else padding[:, None, :]
    # Not -inf: a row of nothing but padding would become NaN and spoil the whole batch.
    return logits.float().masked_fill(padding, torch.finfo(torch.float32).min)


def fit(scores: np.ndarray, features: int, size: int, classes: int) -> np.ndarray:
    """Cuts or zero-pads scores `[F, D, C]` to `[F, size, classes]`.

    Raises:
        ValueError: If `scores` does not have three dimensions or not `features` rows.
    """
    if scores.ndim != 3 or scores.shape[0] != features:
        raise ValueError(
            f"scores has the shape {list(scores.shape)}, but there are {features} features; give an array of shape "
            f"[{features}, D, C] with one row per feature."
        )
    fitted = np.zeros((features, size, classes), dtype=scores.dtype)
    overlap = scores[:, :size, :classes]
    fitted[:, : overlap.shape[1], : overlap.shape[2]] = overlap
    return fitted


def padded(column: Any, entry: tuple[int, ...] = ()) -> np.ndarray:
    """Turns a ragged column into one array, padded with -1.

    Args:
        column (`pa.ChunkedArray` or `list`): F lists of integers, or of integer lists of shape `entry`.
        entry (`tuple[int, ...]`): Shape of one token's value, `()` for an integer.

    Returns:
        `np.ndarray` of shape `[F, T, *entry]`: int64, T is the longest list.
    """
    lists = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else pa.array(column)
    if len(lists) == 0:
        return np.full((0, 0, *entry), -1, dtype=np.int64)
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    array = np.full((len(lists), int(lengths.max()), *entry), -1, dtype=np.int64)
    if lengths.any():
        values = pc.list_flatten(lists)
        for _ in entry:
            values = pc.list_flatten(values)
        array[np.arange(array.shape[1]) < lengths[:, None]] = values.to_numpy(zero_copy_only=False).reshape(-1, *entry)
    return array
