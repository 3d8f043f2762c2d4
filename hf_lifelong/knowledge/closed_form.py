"""The closed-form head of a task: linear discriminants on the trunk's features, in addition to the members' heads.

Members learn in many small steps and need many texts. A few texts are enough to find where a class lies in the frozen
trunk. The logits of both are added: a product of experts (Hinton, 2002), with a weight for the closed-form head. The
weight is fitted on the task's validation part. A head is fitted on its own task's data and never changes, so later
tasks do not affect its answers.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from .sums import ClassSums

# The weights that are tried, and the position of the usual one. All are small because discriminants in many dimensions
# are far too confident. On held-out parts of tasks with 500 to 1,300 texts the usual weight does better than the one
# that fits best. With fewer than FEWEST rows it is always used.
WEIGHTS, USUAL = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0), 4
FEWEST = 10
# Share of the covariances between features that is taken away. On validation parts of the streams of
# `benchmarks/streams.py` and of images, half is better than what Ledoit and Wolf's formula (2004) takes from tasks of
# many texts, and as good with few.
SHRINKAGE = 0.5


def fit_closed_form(features: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor] | None:
    """Linear discriminants of equally likely classes under the mean of their covariances, which is shrunk toward its
    diagonal by `SHRINKAGE`.

    Args:
        features (`Tensor`): `[n, D]`.
        labels (`Tensor`): `[n]`, int64, less than `classes`.

    Returns:
        Weight `[classes, D]` and bias `[classes]`, float32; `None` if the covariance cannot be estimated: a class has
        no text, none has two, or the features do not vary.
    """
    counts = torch.bincount(labels, minlength=classes)
    if not _has_head(counts):
        return None
    x, labels, counts = features.cpu().double(), labels.cpu(), counts.cpu()
    means = x.new_zeros(classes, x.shape[1]).index_add_(0, labels, x) / counts.unsqueeze(1)
    rows = (x - means[labels]) / (counts[labels] * classes).sqrt().unsqueeze(1)
    return _discriminants(rows.T @ rows, means)


def closed_form_of_sums(sums: ClassSums) -> tuple[Tensor, Tensor] | None:
    """The head of rows of which only sums are known: that of [`fit_closed_form`], up to rounding."""
    if not _has_head(sums.counts):
        return None
    weights = 1 / (sums.counts * len(sums.counts)).double()
    return _discriminants(torch.einsum("c,cde->de", weights, sums.scatter), sums.means)


def _has_head(counts: Tensor) -> bool:
    return len(counts) > 1 and int(counts.min()) >= 1 and int(counts.max()) >= 2


def _discriminants(covariance: Tensor, means: Tensor) -> tuple[Tensor, Tensor] | None:
    """Weight and bias of the discriminants of Gaussians with means `[C, D]` and one covariance `[D, D]`."""
    variance = covariance.diagonal().clone()
    covariance = (1 - SHRINKAGE) * covariance
    # Constant features have no variance, and say nothing: their means are the same too.
    covariance.diagonal().copy_(variance + 1e-6 * variance.mean())
    lower, failed = torch.linalg.cholesky_ex(covariance)
    if failed:
        return None
    weight = torch.cholesky_solve((means - means.mean(0)).T, lower).T
    bias = -0.5 * ((means + means.mean(0)) * weight).sum(1)
    return (weight.float(), bias.float()) if bool(torch.isfinite(weight).all()) else None


class LossSums(NamedTuple):
    """Losses with each of `WEIGHTS`, summed over rows; those of a whole are those of its parts added up.

    Args:
        rows (`int`): Number of rows.
        losses (`Tensor`): `[W]`, float64.
        squares (`Tensor`): `[W, W]`, float64, sums of squared differences between the losses with two weights.
    """

    rows: int
    losses: Tensor
    squares: Tensor


def loss_sums(log_probabilities: Tensor, closed: Tensor, labels: Tensor) -> LossSums:
    """What is summed to choose the weight of the closed-form logits.

    Args:
        log_probabilities (`Tensor`): `[n, C]`, of the members, on the validation part.
        closed (`Tensor`): `[n, C]`, the closed-form logits on the same rows.
        labels (`Tensor`): `[n]`, int64.
    """
    logits = log_probabilities + torch.tensor(WEIGHTS)[:, None, None] * closed
    losses = cross_entropy(logits.movedim(0, 2), labels[:, None].expand(-1, len(WEIGHTS)), reduction="none").double()
    return LossSums(len(labels), losses.sum(0), (losses.unsqueeze(2) - losses.unsqueeze(1)).square().sum(0))


def best_weight(sums: LossSums) -> float:
    """The weight of the closed-form logits.

    Of the weights whose loss is within one standard error of the smallest, it is the one nearest to the usual weight
    (the one-standard-error rule; Hastie, Tibshirani, Friedman, *The Elements of Statistical Learning*, 7.10). With
    fewer than `FEWEST` rows it is the usual weight.
    """
    rows = sums.rows
    if rows < FEWEST:
        return WEIGHTS[USUAL]
    least = int(sums.losses.argmin())
    above = (sums.losses - sums.losses[least]) / rows
    variance = (sums.squares[least] - rows * above.square()).clamp_min(0) / (rows - 1)
    good = (above <= (variance / rows).sqrt()).nonzero().flatten().tolist()
    return WEIGHTS[min(good, key=lambda i: abs(i - USUAL))]
