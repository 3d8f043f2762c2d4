"""Signatures: where a task's inputs lie in the trunk's hidden states, as statistics, never as examples.

A task is remembered by the mean and the scatter of its pooled hidden states; the scatter is kept as a low-rank factor
plus a diagonal. An input goes to the task under whose Gaussian it is most likely, all Gaussians sharing one covariance
(linear discriminant analysis; Hastie, Tibshirani, Friedman, *The Elements of Statistical Learning*, 4.3). The shared
covariance is computed from the tasks present, in their order, so that leaving a task out leaves no trace of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Signature:
    """Statistics of pooled hidden states, of one task (`[D]`, `[rank, D]`, `[D]`) or of several (leading `[tasks]`).

    Args:
        mean (`Tensor`): float32.
        factor (`Tensor`): float32; covariance = factorᵀ factor + diagonal.
        diagonal (`Tensor`): float32, at least 0.
    """

    mean: Tensor
    factor: Tensor
    diagonal: Tensor


@dataclass(frozen=True)
class Router:
    """Linear discriminants `features @ weight.T + bias`, one per task: log-likelihoods up to a shared constant.

    Args:
        weight (`Tensor`): `[tasks, D]`, float32.
        bias (`Tensor`): `[tasks]`, float32.
    """

    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Features `[rows, D]` → log-likelihoods `[rows, tasks]` up to a constant per row."""
        return features @ self.weight.T + self.bias


def fit_signature(features: Tensor, rank: int) -> Signature:
    """Fits the signature of one task.

    Args:
        features (`Tensor`): `[n, D]`, pooled hidden states, n ≥ 2.
        rank (`int`): Rows of the factor; missing directions (n - 1 < rank) are zero.

    Raises:
        ValueError: with fewer than 2 rows or values that are not finite.
    """
    if len(features) < 2:
        raise ValueError(f"`features` must have at least 2 rows to fit a signature, not {len(features)}.")
    if not torch.isfinite(features).all():
        raise ValueError("`features` holds NaN or infinite values; the base model does not give finite hidden states.")
    x = features.double()
    mean = x.mean(0)
    x = (x - mean) / (len(x) - 1) ** 0.5
    # Eigenvectors of the n × n Gram matrix give the leading directions of the D × D scatter without forming it.
    leading = torch.linalg.eigh(x @ x.T).eigenvectors[:, -rank:].flip(1)
    factor = leading.T @ x
    if len(factor) < rank:
        factor = torch.cat([factor, factor.new_zeros(rank - len(factor), x.shape[1])])
    diagonal = (x.square().sum(0) - factor.square().sum(0)).clamp_min(0)
    return Signature(mean.float(), factor.float(), diagonal.float())


def stack_signatures(signatures: list[Signature]) -> Signature:
    """One signature with a leading `[tasks]` dimension."""
    return Signature(*(torch.stack([getattr(s, k) for s in signatures]) for k in ("mean", "factor", "diagonal")))


def shared_router(signature: Signature, counts: Tensor, shrinkage: float) -> Router:
    """Linear discriminants under the covariance that the present tasks share.

    Args:
        signature (`Signature`): `[tasks, …]`.
        counts (`Tensor`): `[tasks]`, texts that each signature was fitted on.
        shrinkage (`float`): Share of the covariance that is replaced by its mean variance on the diagonal; keeps the
            inverse stable when there are fewer texts than dimensions.
    """
    mean, factor, diagonal = (getattr(signature, k).double() for k in ("mean", "factor", "diagonal"))
    share = (counts.double() - 1).clamp_min(1)
    share = (share / share.sum()).to(mean.device)
    rows = (factor * share.sqrt()[:, None, None]).flatten(0, 1)
    covariance = rows.T @ rows + torch.diag(share @ diagonal)
    variance = covariance.diagonal().mean()
    covariance = (1 - shrinkage) * covariance
    # A floor far below any real variance, so that constant features (a task of one repeated text) can be inverted.
    covariance.diagonal().add_(shrinkage * variance + 1e-12)
    centre = mean.mean(0)
    weight = torch.cholesky_solve((mean - centre).T, torch.linalg.cholesky(covariance)).T
    bias = -0.5 * ((mean + centre) * weight).sum(1)
    return Router(weight.float(), bias.float())


def novelty(features: Tensor, signature: Signature, shrinkage: float) -> Tensor:
    """How far inputs lie from one task, in its own Gaussian: squared Mahalanobis distance per dimension.

    It depends on no other task, so a threshold that was fitted when the task was learned stays right.

    Args:
        features (`Tensor`): `[rows, D]`.
        signature (`Signature`): One per row, `[rows, …]`, or one for all, without a leading dimension.
        shrinkage (`float`): As in `shared_router`.

    Returns:
        `[rows]`, float32; about 1 for inputs of the task.
    """
    x = features - signature.mean
    factor, diagonal = signature.factor, signature.diagonal
    total = diagonal.sum(-1, keepdim=True) + factor.square().sum((-2, -1), keepdim=True).squeeze(-1)
    floor = shrinkage * total / x.shape[-1] + 1e-12
    inverse = 1 / ((1 - shrinkage) * diagonal + floor)
    # Woodbury: (D + FᵀF)⁻¹ = D⁻¹ - D⁻¹Fᵀ (I + F D⁻¹ Fᵀ)⁻¹ F D⁻¹
    factor = factor * (1 - shrinkage) ** 0.5
    scaled = factor * inverse.unsqueeze(-2)
    core = scaled @ factor.mT + torch.eye(factor.shape[-2], device=x.device, dtype=x.dtype)
    along = (scaled @ x.unsqueeze(-1)).squeeze(-1)
    solved = torch.linalg.solve(core, along.unsqueeze(-1)).squeeze(-1)
    return ((x.square() * inverse).sum(-1) - (along * solved).sum(-1)).clamp_min(0) / x.shape[-1]
