"""How unlike its task an input is: by its distance from the task as a whole, and by how its classes explain it.

Each finds inputs that the other misses: of other domains the first, of classes that nobody asked for the second. The
second says the more, the more classes a task has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .constants import Constants
from .familiarity import Familiarity, familiarity
from .likelihood_ratio import LikelihoodRatio, Tail, likelihood_ratio, shares_of, within_classes
from .router import Router
from .signatures import Signature
from .triangular import root_of

# Of fewer rows than directions, the covariance says nothing about how far others lie; the factor stays finite.
LARGEST_LEVERAGE = 0.95


@dataclass(frozen=True)
class Novelty:
    """The weighted mean of two measures, each a share of its own limit; or one of them, where the other is `None`.

    Args:
        distance ([`Familiarity`], *optional*): Distance from the task as a whole.
        ratio ([`LikelihoodRatio`], *optional*): How its classes explain the input; at least one of both is there.
        optimism (`float`): Factor of squared distances of inputs that the signatures were not fitted on.
        most (`float`): Share at which each of both measures counts at most.
        weight (`Tensor`, *optional*): `[tasks]`, weight of the ratio where both are there.
        limit (`Tensor`, *optional*): `[tasks]`, the mean above which an input then counts as unknown.
    """

    distance: Familiarity | None
    ratio: LikelihoodRatio | None
    optimism: float = 1.0
    most: float = float("inf")
    weight: Tensor | None = None
    limit: Tensor | None = None

    def __call__(self, features: Tensor, task: Tensor) -> Tensor:
        """Novelty of each row as a share of the limit, `[rows]`; above 1 the input counts as unknown.

        Args:
            features (`Tensor`): `[rows, D]`.
            task (`Tensor`): `[rows]`, the task of each row.
        """
        shares = [measure(features, task) for measure in (self.distance, self.ratio) if measure is not None]
        if self.weight is None or self.limit is None:
            return shares[0]
        far, unlike = (shares[0] / self.optimism).clamp_max(self.most), shares[1].clamp_max(self.most)
        return torch.lerp(far, unlike, self.weight[task]) / self.limit[task]


def optimism(signature: Signature, counts: Tensor, shrinkage: float) -> float:
    """How much further out, in squared distance, inputs lie that the covariance was not fitted on.

    Leaving one of N rows out changes its coordinates by the factor 1 / (1 - h), with its leverage h (Sherman and
    Morrison's formula). The mean leverage is the number of directions that the shrunk covariance takes from the rows,
    over N: those of the factors, not of the diagonals.

    Args:
        counts (`Tensor`): `[tasks]`, number of inputs that each signature was fitted on.
        shrinkage (`float`): Share of the covariance that is replaced by its mean variance.
    """
    share = shares_of(counts).to(signature.mean.device)
    covariance = within_classes(signature, share)
    floor = shrinkage * covariance.diagonal().mean()
    root = root_of(covariance, floor, shrinkage)
    given = floor + (1 - shrinkage) * (share @ signature.diagonal.double())
    inverse = torch.linalg.solve_triangular(
        root, torch.eye(len(root), dtype=root.dtype, device=root.device), upper=False
    )
    directions = float(len(root) - (inverse.square().sum(0) * given).sum())
    return (1 - min(directions / int(counts.sum()), LARGEST_LEVERAGE)) ** -2


def novelty_rule(
    signature: Signature,
    router: Router,
    counts: Tensor,
    classes: Sequence[int],
    tails: Sequence[Tail | None],
    shrinkage: float,
    constants: Constants,
) -> Novelty | None:
    """What novelty is measured by; `None` if the tasks present cannot tell: one task of one class.

    Args:
        signature (`Signature`): `[tasks, …]`.
        router ([`Router`]): The discriminants of these tasks.
        counts (`Tensor`): `[tasks]`, number of inputs that each signature was fitted on.
        classes (`list[int]`): Number of classes of each task.
        tails (`list[Tail | None]`): Where each task's held-out inputs lay, if it was measured.
        shrinkage (`float`): As of [`shared_router`].
        constants ([`Constants`]): The adapter's constants.
    """
    distance = familiarity(signature, router, constants)
    if constants.novelty == "distance":
        return None if distance is None else Novelty(distance, None)
    ratio = likelihood_ratio(signature, counts, classes, tails, constants)
    if distance is None or ratio is None:
        return None if ratio is None else Novelty(None, ratio)
    # The stretch of distances was measured on tasks of many rows, and holds what little optimism there is of those.
    factor = max(optimism(signature, counts, shrinkage) / constants.stretch, 1.0)
    weight, limit = weights(torch.tensor(classes, device=signature.mean.device), constants)
    return Novelty(distance, ratio, factor, constants.most_share, weight, limit)


def weights(classes: Tensor, constants: Constants) -> tuple[Tensor, Tensor]:
    """Weight of the ratio and limit of the mean, `[tasks]` each, of tasks with so many classes (`[tasks]`).

    Means of two measures vary less than each, the most where both weigh half: as measures of one variance and one
    correlation do.
    """
    weight = 1 - 0.5 / (1 + constants.ratio_gain * (classes - 2).clamp_min(0))
    return weight, (1 - 4 * (1 - constants.joint_limit**2) * weight * (1 - weight)).sqrt()
