"""Is an input better explained by a class of its task, or by all inputs as one Gaussian?

Distances to classes alone mistake inputs that are unusual in ways that no task cares about, such as long texts, for
unknown ones. Subtracting the distance to one Gaussian of all inputs removes what the two have in common (the relative
Mahalanobis distance; Ren et al., *A simple fix to Mahalanobis distance for improving near-OOD detection*, 2021). Our
variant gives each task a covariance that is half its own. All of it is computed from the signatures of the tasks
present; of held-out inputs, each task stores where its limit lies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from .constants import Constants
from .own_scatter import TASKS_AT_ONCE
from .signatures import Signature, leading_of
from .triangular import add_gram, root_of

# Inputs that are compared at a time, each with the precision of its task (64 KB at 128 directions).
ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Tail:
    """How far out the held-out inputs of a task lay among its own classes when it was learned.

    Args:
        excess (`float`): Number of standard deviations above the mean, both as the signature predicts them, beyond
            which the share `Constants.false_alarms` of them lay; at least 1.
        directions (`int`): Number of directions along which this was measured.
    """

    excess: float
    directions: int


@dataclass(frozen=True)
class LikelihoodRatio:
    """Minus twice the log-likelihood ratio between the nearest class of a task and the Gaussian of all inputs, in
    standard deviations above its mean over the task's inputs, as a share of the task's limit.

    Coordinates are such that classes have the identity as their shared covariance, and differ along the axes only.

    Args:
        basis (`Tensor`): `[q, D]`, maps features to coordinates.
        centre (`Tensor`): `[q]`, coordinates of the mean of all inputs.
        places (`Tensor`): `[ΣC, q]`, coordinates of the class means, relative to `centre`.
        background (`Tensor`): `[q]`, inverse variance of all inputs.
        precision (`Tensor`): `[tasks, q, q]`, inverse covariance of each task's classes: half of it the task's own.
        offset (`Tensor`): `[tasks]`, difference of the two log-determinants.
        mean, deviation (`Tensor`): `[tasks]`, of the ratio over the task's inputs, as the signatures predict them.
        limit (`Tensor`): `[tasks]`, standard deviations above which an input counts as unknown.
        classes (`Tensor`): `[tasks, C]`, int64, the classes of each task, padded with -1.
    """

    basis: Tensor
    centre: Tensor
    places: Tensor
    background: Tensor
    precision: Tensor
    offset: Tensor
    mean: Tensor
    deviation: Tensor
    limit: Tensor
    classes: Tensor

    def __call__(self, features: Tensor, task: Tensor) -> Tensor:
        """Novelty of each row, `[rows]`: 0 for a usual input of the task; above 1 the input counts as unknown.

        Args:
            features (`Tensor`): `[rows, D]`.
            task (`Tensor`): `[rows]`, the task of each row.
        """
        return self.excess(features, task) / self.limit[task]

    def excess(self, features: Tensor, task: Tensor) -> Tensor:
        """The same in standard deviations, `[rows]`."""
        starts = range(0, max(len(features), 1), ROWS_AT_ONCE)
        ratio = [self._ratio(features[i : i + ROWS_AT_ONCE], task[i : i + ROWS_AT_ONCE]) for i in starts]
        return (torch.cat(ratio) - self.mean[task]) / self.deviation[task]

    def _ratio(self, features: Tensor, task: Tensor) -> Tensor:
        at = features @ self.basis.T - self.centre
        classes = self.classes[task]
        away = at.unsqueeze(1) - self.places[classes.clamp_min(0)]
        distance = ((away @ self.precision[task]) * away).sum(2).masked_fill(classes < 0, float("inf")).amin(1)
        return distance + self.offset[task] - (at.square() * self.background).sum(1)


def likelihood_ratio(
    signature: Signature,
    counts: Tensor,
    classes: Sequence[int],
    tails: Sequence[Tail | None],
    constants: Constants,
) -> LikelihoodRatio | None:
    """The rule for the tasks present; `None` if there is one class in all, because nothing differs then.

    Args:
        signature (`Signature`): `[tasks, …]`.
        counts (`Tensor`): `[tasks]`, number of inputs that each signature was fitted on.
        classes (`list[int]`): Number of classes of each task.
        tails (`list[Tail | None]`): Where each task's held-out inputs lay, if it was measured.
        constants ([`Constants`]): The adapter's constants.
    """
    share = shares_of(counts).to(signature.mean.device)
    owner = torch.tensor([t for t, count in enumerate(classes) for _ in range(count)], device=share.device)
    covariance, shrinkage = within_classes(signature, share), constants.ratio_shrinkage
    root = root_of(covariance, shrinkage * covariance.diagonal().mean(), shrinkage)
    weight = share[owner] / torch.tensor(classes, device=share.device)[owner]
    mean = (weight.unsqueeze(1) * signature.classes.double()).sum(0)
    white = torch.linalg.solve_triangular(root, (signature.classes.double() - mean).T, upper=False).T
    spread = white * weight.sqrt().unsqueeze(1)
    # The directions in which the class means lie, in whitened coordinates, and the variance of the means along them.
    small = len(spread) < spread.shape[1]
    variance, axes = leading_of(spread @ spread.T if small else spread.T @ spread, constants.ratio_directions)
    keep = variance > variance[0] * 1e-6
    if not bool(keep.any()) or not variance[0] > 0:
        return None
    variance, axes = variance[keep], axes[keep]
    axes = axes @ spread / variance.sqrt().unsqueeze(1) if small else axes
    basis = torch.linalg.solve_triangular(root.T, axes.T, upper=True).T
    places, background = white @ axes.T, 1 / (1 + variance)
    offsets = [0, *accumulate(classes)]
    table = torch.tensor(
        [
            [start + c if c < count else -1 for c in range(max(classes))]
            for start, count in zip(offsets, classes, strict=False)
        ],
        device=share.device,
    )
    parts = []
    for some, factor, diagonal in zip(
        table.split(TASKS_AT_ONCE),
        signature.factor.split(TASKS_AT_ONCE),
        signature.diagonal.split(TASKS_AT_ONCE),
        strict=True,
    ):
        along = factor.double() @ basis.T
        own = along.mT @ along + (basis * diagonal.double().unsqueeze(1)) @ basis.T
        parts.append(_moments(own, places[some.clamp_min(0)], some >= 0, background))
    precision, volume, usual, deviation = (torch.cat(part) for part in zip(*parts, strict=True))
    return LikelihoodRatio(
        basis.float(),
        (basis @ mean).float(),
        places.float(),
        background.float(),
        precision.float(),
        volume.float(),
        usual.float(),
        deviation.float(),
        torch.tensor([limit_of(tail, len(basis), constants) for tail in tails], device=share.device),
        table,
    )


def within_classes(signature: Signature, share: Tensor) -> Tensor:
    """The covariance around the class means, `[D, D]`, lower triangle, of tasks that have these shares of the rows."""
    covariance = torch.diag(share @ signature.diagonal.double())
    for factor, weights in zip(signature.factor.split(TASKS_AT_ONCE), share.split(TASKS_AT_ONCE), strict=True):
        add_gram(covariance, (factor * weights.sqrt().float()[:, None, None]).flatten(0, 1))
    return covariance


def shares_of(counts: Tensor) -> Tensor:
    """Share of each task in the covariance, `[tasks]`, float64, by the rows that their signatures were fitted on."""
    share = (counts.double() - 1).clamp_min(1)
    return share / share.sum()


def _moments(own: Tensor, places: Tensor, real: Tensor, background: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Precision and offset of some tasks, and mean and deviation of the ratio over their inputs.

    Args:
        own (`Tensor`): `[tasks, q, q]`, covariance around the class means.
        places (`Tensor`): `[tasks, C, q]`, class means; those that are not `real` `[tasks, C]` are padding.
        background (`Tensor`): `[q]`, inverse variance of all inputs.
    """
    mixed = own / 2
    mixed.diagonal(dim1=1, dim2=2).add_(0.5)
    lower = torch.linalg.cholesky(mixed)
    precision = torch.cholesky_inverse(lower)
    offset = 2 * lower.diagonal(dim1=1, dim2=2).log().sum(1) + background.log().sum()
    # For an input m + e, e ~ N(0, S), the ratio is eᵀ(P - B)e - 2 mᵀBe - mᵀBm + offset. Classes are equally likely.
    inner = (precision - torch.diag(background)) @ own
    pulled = places * background
    of_class = -(pulled * places).sum(2)
    count = real.sum(1)
    mean_of_class = (of_class * real).sum(1) / count
    between = ((of_class - mean_of_class.unsqueeze(1)).square() * real).sum(1) / count
    linear = ((((pulled @ own) * pulled).sum(2)) * real).sum(1) / count
    mean = inner.diagonal(dim1=1, dim2=2).sum(1) + offset + mean_of_class
    variance = 2 * (inner * inner.mT).sum((1, 2)) + 4 * linear + between
    return precision, offset, mean, variance.clamp_min(1e-12).sqrt()


def limit_of(tail: Tail | None, directions: int, constants: Constants) -> float:
    """Standard deviations above which an input of a task counts as unknown.

    Real inputs lie further out than a Gaussian's, the more so the more directions are summed. Of few rows a signature
    promises too much, which held-out inputs show; with more tasks and directions that fades.
    """
    usual = constants.ratio_added + constants.ratio_stretch * math.sqrt(directions)
    return usual if tail is None else max(usual, tail.excess * math.sqrt(tail.directions / directions))


def measure_tail(signature: Signature, count: int, held_out: Tensor, constants: Constants) -> Tail | None:
    """Where the held-out inputs of a task lie, among its own classes alone, so that it does not depend on other tasks.

    The share `false_alarms` of n inputs lies beyond the limit. If that is less than one of them, the limit is beyond
    the furthest by what an exponential tail has from n to that share.

    Args:
        signature (`Signature`): Of the task.
        count (`int`): Number of inputs that it was fitted on.
        held_out (`Tensor`): `[n, D]`, features of other inputs of the task.

    Returns:
        [`Tail`]; `None` if the task has one class, or `n` is 0.
    """
    mean, factor, diagonal = (part.unsqueeze(0) for part in (signature.mean, signature.factor, signature.diagonal))
    alone, classes = Signature(mean, factor, diagonal, signature.classes), [len(signature.classes)]
    rule = likelihood_ratio(alone, torch.tensor([count]), classes, [None], constants)
    if rule is None or not len(held_out):
        return None
    own = torch.zeros(len(held_out), dtype=torch.long, device=held_out.device)
    excess = float(rule.excess(held_out, own).quantile(1 - constants.false_alarms, interpolation="higher"))
    beyond = math.log(1 / constants.false_alarms) / math.log(len(held_out) + 1)
    return Tail(max(excess, 1.0) * max(beyond, 1.0), len(rule.basis))
