"""Products and roots of symmetric and triangular matrices `[D, D]`, of which only the lower half is computed."""

from __future__ import annotations

import torch
from torch import Tensor

# Columns of a triangular or symmetric product that are computed at a time. Zero and mirrored columns are skipped.
COLUMNS_AT_ONCE = 384


def add_gram(total: Tensor, rows: Tensor) -> None:
    """Adds `rowsᵀ rows`, rows `[n, D]`, to the lower triangle of `total` `[D, D]`. Near the diagonal it also adds to
    the upper triangle."""
    for start in range(0, len(total), COLUMNS_AT_ONCE):
        stop = start + COLUMNS_AT_ONCE
        total[start:, start:stop] += rows[:, start:].T @ rows[:, start:stop]


def through_lower(rows: Tensor, lower: Tensor) -> Tensor:
    """`rows @ lower.T` for rows `[n, D]` and a lower triangular matrix `[D, D]`."""
    product = torch.empty_like(rows)
    for start in range(0, len(lower), COLUMNS_AT_ONCE):
        stop = start + COLUMNS_AT_ONCE
        product[:, start:stop] = rows[:, :stop] @ lower[start:stop, :stop].T
    return product


def times_lower(rows: Tensor, lower: Tensor) -> Tensor:
    """`rows @ lower` for rows `[n, D]` and a lower triangular matrix `[D, D]`."""
    product = torch.empty_like(rows)
    for start in range(0, len(lower), COLUMNS_AT_ONCE):
        stop = start + COLUMNS_AT_ONCE
        product[:, start:stop] = rows[:, start:] @ lower[start:, start:stop]
    return product


def root_of(covariance: Tensor, floor: Tensor, shrinkage: float) -> Tensor:
    """The Cholesky factor of a covariance `[D, D]`, scaled by `1 - shrinkage`, with `floor` added to its diagonal."""
    shrunk = (1 - shrinkage) * covariance
    # Also adds far less than any real variance, to make constant features invertible (a task of one repeated text).
    shrunk.diagonal().add_(floor + 1e-12)
    return torch.linalg.cholesky(shrunk)
