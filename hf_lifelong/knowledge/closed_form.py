"""The closed-form head of a task: linear discriminants on the trunk's features, in addition to the members' heads.

Members learn in many small steps and need many texts. A few texts are enough to find where a class lies in the frozen
trunk. The logits of both are added: a product of experts (Hinton, 2002), with a weight for the closed-form head. The
weight is fitted on the task's validation part. A head is fitted on its own task's data and never changes, so later
tasks do not affect its answers.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

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
    counts = torch.bincount(labels, minlength=classes)
    if classes < 2 or counts.min() < 1 or counts.max() < 3:
        return None
    of_class = [features[labels == c].cpu() for c in range(classes)]
    covariance = sum(_shrunk_covariance(rows.double()) for rows in of_class) / classes
    lower, failed = torch.linalg.cholesky_ex(covariance)
    if failed:
        return None
    means = torch.stack([rows.double().mean(0) for rows in of_class])
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


def best_weight(log_probabilities: Tensor, closed: Tensor, labels: Tensor) -> float:
    """The weight of the closed-form logits.

    Of the weights whose loss is within one standard error of the smallest, it is the one nearest to the usual weight
    (the one-standard-error rule; Hastie, Tibshirani, Friedman, *The Elements of Statistical Learning*, 7.10). With
    fewer than `FEWEST` rows it is the usual weight.

    Args:
        log_probabilities (`Tensor`): `[n, C]`, of the members, on the validation part.
        closed (`Tensor`): `[n, C]`, the closed-form logits on the same rows.
        labels (`Tensor`): `[n]`, int64.
    """
    if len(labels) < FEWEST:
        return WEIGHTS[USUAL]
    losses = torch.stack(
        [cross_entropy(log_probabilities + weight * closed, labels, reduction="none") for weight in WEIGHTS]
    )
    above = losses - losses[losses.mean(1).argmin()]
    error = above.std(1) / len(labels) ** 0.5
    good = (above.mean(1) <= error).nonzero().flatten().tolist()
    return WEIGHTS[min(good, key=lambda i: abs(i - USUAL))]
