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


def fit_closed_form(features: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor] | None:
    """Linear discriminants of equally likely classes under the mean of their covariances.

    Each covariance is shrunk by the amount that Ledoit and Wolf (2004) estimate from its texts. The result is that of
    scikit-learn's `LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=[1 / classes] * classes)`, but
    solved by Cholesky decomposition, which is faster.

    Args:
        features (`Tensor`): `[n, D]`.
        labels (`Tensor`): `[n]`, int64, less than `classes`.

    Returns:
        Weight `[classes, D]` and bias `[classes]`, float32; `None` if the covariance cannot be estimated: a class has
        no text, no class has more than two (two texts lie on a line, and their covariance would not be shrunk), or the
        features do not vary.
    """
    if not _has_head(torch.bincount(labels, minlength=classes)):
        return None
    of_class = [features[labels == c].cpu().double() for c in range(classes)]
    covariances = map(_shrunk_covariance, of_class)
    return _discriminants(
        sum(covariances, start=torch.tensor(0.0)) / classes, torch.stack([rows.mean(0) for rows in of_class])
    )


def closed_form_of_sums(sums: ClassSums, fourth: Tensor) -> tuple[Tensor, Tensor] | None:
    """The head of rows of which only sums are known: that of [`fit_closed_form`], up to rounding.

    Args:
        sums ([`ClassSums`]): Of all rows.
        fourth (`Tensor`): `[C]`, float64, as [`fourth_sums`] gives it for all rows.

    Returns:
        As [`fit_closed_form`].
    """
    if not _has_head(sums.counts):
        return None
    counts, features = sums.counts.double(), sums.means.shape[1]
    scales = sums.scales
    units = scales.unsqueeze(2) * scales.unsqueeze(1)
    scatter = sums.scatter / units
    # As `ledoit_wolf` of scikit-learn: in units of the scales, where `mean` is the mean variance.
    trace = scatter.diagonal(dim1=1, dim2=2).sum(1) / counts
    mean, size = trace / features, scatter.square().sum((1, 2)) / counts.square()
    away = (size - 2 * mean * trace + features * mean.square()) / features
    noise = ((fourth / counts - size) / (features * counts)).minimum(away)
    share = torch.where(noise == 0, 0.0, noise / away)
    covariance = (1 - share)[:, None, None] * scatter / counts[:, None, None]
    covariance.diagonal(dim1=1, dim2=2).add_((share * mean).unsqueeze(1))
    covariance *= units
    covariance[sums.counts < 2] = 0
    return _discriminants(covariance.sum(0) / len(counts), sums.means)


def _has_head(counts: Tensor) -> bool:
    return len(counts) > 1 and int(counts.min()) >= 1 and int(counts.max()) >= 3


def _discriminants(covariance: Tensor, means: Tensor) -> tuple[Tensor, Tensor] | None:
    """Weight and bias of the discriminants of Gaussians with means `[C, D]` and one covariance `[D, D]`."""
    lower, failed = torch.linalg.cholesky_ex(covariance)
    if failed:
        return None
    weight = torch.cholesky_solve((means - means.mean(0)).T, lower).T
    bias = -0.5 * ((means + means.mean(0)) * weight).sum(1)
    # Constant features have zero variance, and a division by it gives NaN or infinite weights.
    return (weight.float(), bias.float()) if bool(torch.isfinite(weight).all()) else None


def _shrunk_covariance(features: Tensor) -> Tensor:
    """Covariance `[D, D]` of one class, shrunk in units in which all features have the same variance."""
    from sklearn.covariance import ledoit_wolf  # takes a second to import

    if len(features) < 2:
        return features.new_zeros(features.shape[1], features.shape[1])
    scale = features.std(0, correction=0)
    scale = torch.where(scale > 0, scale, 1.0)
    away = (features - features.mean(0)) / scale
    shrunk = torch.from_numpy(ledoit_wolf(away.numpy(), assume_centered=True)[0])
    return shrunk.mul_(scale).mul_(scale.unsqueeze(1))


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
