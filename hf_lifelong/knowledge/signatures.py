"""Signatures: where a task's inputs lie in the trunk's hidden states. They store statistics, never examples.

A signature is the mean of a task's pooled hidden states, the means of its classes, and the scatter around the class
means as a low-rank factor plus a diagonal. `router` chooses groups by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.linalg import eigh
from torch import Tensor

from .constants import Constants

# A class has directions of its own in the factor if at least so many are left for each.
FEWEST_OWN = 8
# No known base has hidden states near this size. Beyond it, products of statistics overflow float32.
LARGEST_FEATURE = 1e8


@dataclass(frozen=True)
class Signature:
    """Statistics of the pooled hidden states of one task (`[D]`, `[rank, D]`, `[D]`, `[C, D]`) or of several: with a
    leading `[tasks]`, except for the classes `[ΣC, D]`, task after task.

    Args:
        mean (`Tensor`): float32, mean of the task.
        factor (`Tensor`): float32; covariance around the class means = factorᵀ factor + diagonal. Its rows are
            those of the [`own_blocks`], one after another, in each the leading directions first.
        diagonal (`Tensor`): float32, at least 0.
        classes (`Tensor`): float32, mean of each class; the task's mean if its inputs have no class.
    """

    mean: Tensor
    factor: Tensor
    diagonal: Tensor
    classes: Tensor


def own_blocks(classes: int, rank: int, own: str) -> tuple[int, int]:
    """The number of blocks of a task's factor, and the rows of each: a block for each class, or one for the task.

    Args:
        classes (`int`): Number of classes of the task.
        rank (`int`): Rows of the factor.
        own (`str`): `Constants.own`: with `"class"`, classes have blocks if each gets `FEWEST_OWN` rows.
    """
    each = rank // classes
    return (classes, each) if own == "class" and each >= FEWEST_OWN else (1, rank)


def check_features(features: Tensor) -> None:
    """Refuses features that no statistics can be made of (`ValueError`)."""
    if not torch.isfinite(features).all():
        raise ValueError("`features` holds NaN or infinite values; the base model does not give finite hidden states.")
    if features.abs().max() > LARGEST_FEATURE:
        raise ValueError(
            f"`features` holds values up to {float(features.abs().max()):.1e}, more than {LARGEST_FEATURE:.0e}; the "
            "hidden states of the base model are too large to tell inputs apart by."
        )


def fit_signature(
    features: Tensor, rank: int, labels: Tensor | None = None, classes: int = 1, own: str = Constants.own
) -> Signature:
    """Fits the signature of one task.

    Args:
        features (`Tensor`): `[n, D]`, pooled hidden states, n ≥ 2.
        rank (`int`): Rows of the factor. Directions that the rows do not have are zero.
        labels (`Tensor`, *optional*): `[n]`, int64, class of each row, less than `classes`.
        classes (`int`): Number of classes. A class without rows shares those of the most frequent one, as if both were
            drawn alike, so that it attracts no inputs of its own.
        own (`str`): As of [`own_blocks`].

    Raises:
        ValueError: when there are fewer than 2 rows, or values are not finite or beyond `LARGEST_FEATURE`.
    """
    if len(features) < 2:
        raise ValueError(f"`features` must have at least 2 rows to fit a signature, not {len(features)}.")
    check_features(features)
    x = features.double()
    mean = x.mean(0)
    labels = torch.zeros(len(x), dtype=torch.long) if labels is None else labels
    labels = labels.to(x.device)
    count = torch.bincount(labels, minlength=classes)
    places = torch.zeros(classes, x.shape[1], dtype=x.dtype, device=x.device).index_add_(0, labels, x)
    places /= count.clamp_min(1).unsqueeze(1)
    places = torch.where(count.unsqueeze(1) > 0, places, places[count.argmax()])
    x = (x - places[labels]) / (len(x) - 1) ** 0.5
    blocks, each = own_blocks(classes, rank, own)
    parts: Sequence[Tensor] = [x]
    if blocks > 1:
        parts = x[labels.argsort(stable=True)].split(count.tolist())
        shared = _sharing(count)
        part = parts[int(count.argmax())] / shared.sum().sqrt()
        parts = [part if shares else own for own, shares in zip(parts, shared.tolist(), strict=True)]
    return _signature(mean, places, [_factor_of_rows(part, each) for part in parts], x.square().sum(0), rank)


def signature_of_sums(
    counts: Tensor, means: Tensor, scatter: Tensor, rank: int, own: str = Constants.own
) -> Signature:
    """The signature of rows of which only sums are known. It is that of [`fit_signature`] up to rounding; where there
    are fewer rows than features, that function takes a shorter way.

    Args:
        counts (`Tensor`): `[C]`, int64, rows of each class.
        means (`Tensor`): `[C, D]`, float64; of any value for a class without rows.
        scatter (`Tensor`): `[C, D, D]`, float64, scatter around the class means.
        rank (`int`): Rows of the factor.
        own (`str`): As of [`own_blocks`].

    Raises:
        ValueError: when there are fewer than 2 rows.
    """
    rows = int(counts.sum())
    if rows < 2:
        raise ValueError(f"`counts` are of {rows} rows; a signature needs at least 2.")
    blocks, each = own_blocks(len(counts), rank, own)
    shared, most = _sharing(counts), counts.argmax()
    scatter = torch.where(shared[:, None, None], scatter[most] / shared.sum(), scatter)
    covariances = (scatter.sum(0, keepdim=True) if blocks == 1 else scatter) / (rows - 1)
    mean = (counts.unsqueeze(1) * means).sum(0) / rows
    places = torch.where(counts.unsqueeze(1) > 0, means, means[most])
    variance = covariances.diagonal(dim1=1, dim2=2).sum(0)
    return _signature(mean, places, [_factor(covariance, each) for covariance in covariances], variance, rank)


def _sharing(count: Tensor) -> Tensor:
    """Which classes share the rows of the most frequent one: itself and those without rows, `[C]` → `[C]` bool."""
    return (count == 0).index_fill(0, count.argmax(), True)


def _factor_of_rows(rows: Tensor, rank: int) -> Tensor:
    """The leading directions of `rowsᵀ rows`, rows `[n, D]`, scaled by their deviations: `[rank, D]`."""
    if len(rows) > rows.shape[1]:
        return _factor(rows.T @ rows, rank)
    # Eigenvectors of the n × n Gram matrix give the leading directions of the D × D scatter, which is not formed then.
    factor = leading_of(rows @ rows.T, rank)[1] @ rows if len(rows) else rows
    return _filled(factor, rank)


def _factor(scatter: Tensor, rank: int) -> Tensor:
    values, directions = leading_of(scatter, rank)
    return _filled(directions * values.clamp_min(0).sqrt().unsqueeze(1), rank)


def _filled(factor: Tensor, rank: int) -> Tensor:
    return torch.cat([factor, factor.new_zeros(rank - len(factor), factor.shape[1])])


def _signature(mean: Tensor, places: Tensor, blocks: Sequence[Tensor], variance: Tensor, rank: int) -> Signature:
    factor = _filled(torch.cat(list(blocks)), rank)
    diagonal = (variance - factor.square().sum(0)).clamp_min(0)
    return Signature(mean.float(), factor.float(), diagonal.float(), places.float())


def leading_of(scatter: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The k largest eigenvalues of a symmetric matrix `[n, n]`, `[k]`, and their eigenvectors as rows, `[k, n]`,
    largest first; k is `count`, at most n. Torch would compute all of them, which takes much longer."""
    n = len(scatter)
    values, vectors = eigh(scatter.cpu().numpy(), subset_by_index=[max(n - count, 0), n - 1], check_finite=False)
    values, vectors = (torch.from_numpy(array).to(scatter.device) for array in (values, vectors))
    return values.flip(0), vectors.T.flip(0)


def class_spread(signature: Signature, owner: Tensor) -> Tensor:
    """Scaled deviations of the class means from their task's mean, `[ΣC, D]`, float64. With the rows R of one task,
    `Rᵀ R` is the covariance of its class means, which all have the same weight."""
    away = (signature.classes - signature.mean[owner]).double()
    count = torch.zeros(len(signature.mean), dtype=away.dtype, device=away.device)
    return away / count.index_add_(0, owner, torch.ones_like(away[:, 0]))[owner].sqrt().unsqueeze(1)
