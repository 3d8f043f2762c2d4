"""The classifier that tells triggered from clean inputs: its log-odds estimate the ratio of their densities.

Logistic regression on at most `COORDINATES` whitened directions, fitted on one half of the pairs and asked about the
other, so that what it reports of separation was not learned by heart. It is quadratic, with other weights where the
target class lies than elsewhere: classes that all move by one shift have no ratio that is quadratic over all of them.
All functions are batched: leading dimensions are independent problems.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

COORDINATES = 8
_RIDGE = 1.0  # A standard normal prior on the weights: a trigger may separate the two perfectly.
_NEWTON_STEPS = 60


@dataclass(frozen=True)
class DomainScores:
    """Estimates of log μ_triggered(x) / μ_clean(x) for rows that their classifier was not fitted on.

    Args:
        rows (`Tensor`): int64 `[2, h]`, which row each score is of.
        clean, triggered (`Tensor`): float64 `[..., 2, h]`.
        resampled (`Tensor`): float64 `[..., B, 2, h]`, those of the clean rows under `B` bootstrap samples.
        counts (`Tensor`): float64 `[B, 2, h]`, how often each row is in each sample.
    """

    rows: Tensor
    clean: Tensor
    triggered: Tensor
    resampled: Tensor
    counts: Tensor

    def auc(self) -> Tensor:
        """Chance that a triggered row scores above a clean one, float64 `[...]`; equal scores count half."""
        clean, triggered = self.clean.flatten(-2).sort(-1).values, self.triggered.flatten(-2).contiguous()
        below = torch.searchsorted(clean, triggered) + torch.searchsorted(clean, triggered, right=True)
        return below.double().mean(-1) / (2 * clean.shape[-1])


def domain_scores(clean: Tensor, triggered: Tensor, not_target: Tensor, bootstraps: int, seed: int) -> DomainScores:
    """Fits a classifier on each half of the pairs and scores the other half; of an odd number one row is left out.

    A bootstrap sample draws pairs within each half. Its classifier is one Newton step away from the fitted one, which
    is what refitting comes to in large samples (the score bootstrap, Kline and Santos 2012).

    Args:
        clean, triggered (`Tensor`): float64 `[..., n, D]`; row i of one is row i of the other with the trigger.
        not_target (`Tensor`): float64 `[n]`, probability that the row is not of the target class.
        bootstraps (`int`): Number of samples, may be 0.
        seed (`int`): Of the halves and of the samples.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(clean.shape[-2], generator=generator)
    half = len(rows) // 2
    rows = rows[: 2 * half].view(2, half)
    draws = torch.randint(half, (2, bootstraps, half), generator=generator)
    counts = torch.zeros(2, bootstraps, half, dtype=torch.float64)
    counts.scatter_add_(-1, draws, torch.ones_like(counts))

    fitted = [x[..., rows, :] for x in (clean, triggered)]  # [..., 2, h, D]
    held = [x.flip(-3) for x in fitted]
    centre, basis = _coordinates(fitted[0], fitted[1], not_target[rows])
    fitted, held = ([_quadratic((x - centre) @ basis) for x in both] for both in (fitted, held))
    of_class, _ = _logistic(fitted[0], not_target[rows])
    fitted, held = ([_by_class(x, of_class) for x in both] for both in (fitted, held))

    design, is_triggered = torch.cat(fitted, -2), (torch.arange(2 * half) >= half).double()
    weights, hessian = _logistic(design, is_triggered)
    residual = torch.sigmoid(_product(design, weights)) - is_triggered
    gradient = ((torch.cat([counts, counts], -1) - 1) * residual.unsqueeze(-2)) @ design  # [..., 2, B, P]
    samples = weights.unsqueeze(-1) - torch.linalg.solve(hessian, gradient.mT)  # [..., 2, P, B]
    return DomainScores(
        rows=rows.flip(0),
        clean=_product(held[0], weights),
        triggered=_product(held[1], weights),
        resampled=(held[0] @ samples).movedim(-1, -3),
        counts=counts.flip(0).transpose(0, 1),
    )


def _coordinates(clean: Tensor, triggered: Tensor, not_target: Tensor) -> tuple[Tensor, Tensor]:
    """Centre `[..., 1, D]` and whitening basis `[..., D, k]` to see `[..., h, D]` in.

    Of more than `COORDINATES` dimensions those stay along which the domains differ in their means, in which the target
    class differs from the others, and in which the domains' covariances differ most. What tells apart classes that
    are all not the target, in directions that are none of these, is not seen.
    """
    centre = (clean.mean(-2, keepdim=True) + triggered.mean(-2, keepdim=True)) / 2
    both = torch.cat([clean, triggered], -2) - centre
    variance, vectors = torch.linalg.eigh(both.mT @ both / both.shape[-2])
    seen = variance > variance[..., -1:] * variance.shape[-1] * torch.finfo(torch.float64).eps
    white = vectors * torch.where(seen, variance, 1.0).rsqrt().mul(seen).unsqueeze(-2)
    if clean.shape[-1] <= COORDINATES:
        return centre, white
    clean, triggered = (clean - centre) @ white, (triggered - centre) @ white
    shift = triggered.mean(-2) - clean.mean(-2)
    contrast = ((not_target - not_target.mean(-1, keepdim=True)).unsqueeze(-2) @ clean).squeeze(-2)
    change, axes = torch.linalg.eigh(_covariance(triggered) - _covariance(clean))
    largest = change.abs().argsort(-1, descending=True)[..., :COORDINATES]
    axes = axes.gather(-1, largest.unsqueeze(-2).expand(*axes.shape[:-1], COORDINATES))
    chosen = torch.cat([shift.unsqueeze(-1), contrast.unsqueeze(-1), axes], -1)
    return centre, white @ torch.linalg.qr(chosen).Q[..., :COORDINATES]


def _covariance(rows: Tensor) -> Tensor:
    rows = rows - rows.mean(-2, keepdim=True)
    return rows.mT @ rows / rows.shape[-2]


def _quadratic(rows: Tensor) -> Tensor:
    """1, all coordinates and all products of two: `[..., m, k]` to `[..., m, 1 + k + k (k + 1) / 2]`."""
    first, second = torch.triu_indices(rows.shape[-1], rows.shape[-1])
    return torch.cat([torch.ones_like(rows[..., :1]), rows, rows[..., first] * rows[..., second]], -1)


def _by_class(design: Tensor, of_class: Tensor) -> Tensor:
    """Adds all columns once more, times the chance of not being of the target class."""
    return torch.cat([design, torch.sigmoid(_product(design, of_class)).unsqueeze(-1) * design], -1)


def _product(design: Tensor, weights: Tensor) -> Tensor:
    return (design @ weights.unsqueeze(-1)).squeeze(-1)


def _logistic(design: Tensor, chance: Tensor) -> tuple[Tensor, Tensor]:
    """Ridge logistic regression of chances by Newton's method: weights `[..., P]` and the Hessian `[..., P, P]` there.

    Each step goes the length among 1, 1/2, … 1/128 that lowers the loss most, so that none overshoots.
    """
    prior = _RIDGE * torch.eye(design.shape[-1], dtype=torch.float64)
    lengths = 0.5 ** torch.arange(8, dtype=torch.float64).unsqueeze(-1)
    weights = torch.zeros(*design.shape[:-2], design.shape[-1], dtype=torch.float64)
    for step in range(_NEWTON_STEPS + 1):
        logits = _product(design, weights)
        fitted = torch.sigmoid(logits)
        hessian = design.mT @ (design * (fitted * (1 - fitted)).unsqueeze(-1)) + prior
        gradient = _product(design.mT, fitted - chance) + _RIDGE * weights
        if step == _NEWTON_STEPS or float(gradient.abs().max()) < 1e-9 * design.shape[-2]:
            break
        move = -torch.linalg.solve(hessian, gradient)
        tried = logits.unsqueeze(-2) + lengths * _product(design, move).unsqueeze(-2)  # [..., 8, m]
        reached = weights.unsqueeze(-2) + lengths * move.unsqueeze(-2)  # [..., 8, P]
        loss = (softplus(tried) - chance.unsqueeze(-2) * tried).sum(-1) + _RIDGE * (reached**2).sum(-1) / 2
        weights = weights + lengths.squeeze(-1)[loss.argmin(-1)].unsqueeze(-1) * move
    return weights, hessian
