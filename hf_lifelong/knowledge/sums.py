"""Sums of features by class, from which signature and closed-form head follow: those of a whole are merged from those
of its parts, so that the parts' rows need not come together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .signatures import check_features


class ClassSums(NamedTuple):
    """Sums over the rows of C classes with D features.

    Args:
        counts (`Tensor`): `[C]`, int64, number of rows.
        means (`Tensor`): `[C, D]`, float64; 0 for a class without rows.
        scatter (`Tensor`): `[C, D, D]`, float64, sum over rows of `(x - mean) (x - mean)ᵀ`.
    """

    counts: Tensor
    means: Tensor
    scatter: Tensor


def class_sums(features: Tensor, labels: Tensor, classes: int) -> ClassSums:
    """The sums of rows.

    Args:
        features (`Tensor`): `[n, D]`, pooled hidden states.
        labels (`Tensor`): `[n]`, int64, less than `classes`.

    Raises:
        ValueError: when values are not finite or beyond `LARGEST_FEATURE`.
    """
    check_features(features)
    x = features.double()
    counts = torch.bincount(labels, minlength=classes)
    totals = x.new_zeros(classes, x.shape[1]).index_add_(0, labels, x)
    means = totals / counts.clamp_min(1).unsqueeze(1)
    order = labels.argsort(stable=True)
    away = (x - means[labels])[order]
    # Class by class, because one batched product would hold n · D² numbers.
    scatter = torch.stack([rows.T @ rows for rows in away.split(counts.tolist())])
    return ClassSums(counts, means, scatter)


def merge_sums(parts: Sequence[ClassSums]) -> ClassSums:
    """The sums of all rows of some parts, at least one (Chan, Golub, LeVeque, 1979)."""
    counts = torch.stack([part.counts for part in parts])
    means, scatter = torch.stack([part.means for part in parts]), torch.stack([part.scatter for part in parts])
    total = counts.sum(0)
    mean = (counts.unsqueeze(2) * means).sum(0) / total.clamp_min(1).unsqueeze(1)
    away = counts.double().sqrt().unsqueeze(2) * (means - mean)
    return ClassSums(total, mean, scatter.sum(0) + torch.einsum("kcd,kce->cde", away, away))
