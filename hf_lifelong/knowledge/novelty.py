"""How unlike its task an input is: by its distance from the task as a whole, and by how its classes explain it.

Each finds inputs that the other misses: of other domains the first, of classes that nobody asked for the second.
Neither decides alone.
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
    """The mean of two measures, each a share of its own limit.

    Args:
        distance ([`Familiarity`], *optional*): Distance from the task as a whole.
        ratio ([`LikelihoodRatio`], *optional*): How its classes explain the input; at least one of both is there.
        optimism (`float`): Factor of squared distances of inputs that the signatures were not fitted on.
        most (`float`): Share at which each measure counts at most, if there are two.
        limit (`float`): The mean above which an input counts as unknown.
    """

    distance: Familiarity | None
    ratio: LikelihoodRatio | None
    optimism: float = 1.0
    most: float = float("inf")
    limit: float = 1.0

    def __call__(self, features: Tensor, task: Tensor) -> Tensor:
        """Novelty of each row as a share of the limit, `[rows]`; above 1 the input counts as unknown.

        Args:
            features (`Tensor`): `[rows, D]`.
            task (`Tensor`): `[rows]`, the task of each row.
        """
        shares = [measure(features, task) for measure in (self.distance, self.ratio) if measure is not None]
        if self.distance is not None:
            shares[0] = shares[0] / self.optimism
        return torch.stack(shares).clamp_max(self.most).mean(0) / self.limit


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
    return Novelty(distance, ratio, factor, constants.most_share, constants.joint_limit)
