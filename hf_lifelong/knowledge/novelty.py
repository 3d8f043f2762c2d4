"""How unlike its task an input is: by its distance from the task as a whole, and by how its classes explain it.

Each finds inputs that the other misses: of other domains the first, of classes that nobody asked for the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .constants import Constants
from .familiarity import Familiarity, familiarity
from .likelihood_ratio import LikelihoodRatio, Tail, likelihood_ratio
from .signatures import Router, Signature


@dataclass(frozen=True)
class Novelty:
    """The mean of two measures, each a share of its own limit.

    Args:
        measures (`tuple`): [`Familiarity`], [`LikelihoodRatio`], or both.
        limit (`float`): The mean above which an input counts as unknown.
    """

    measures: tuple[Familiarity | LikelihoodRatio, ...]
    limit: float

    def __call__(self, features: Tensor, task: Tensor) -> Tensor:
        """Novelty of each row as a share of the limit, `[rows]`; above 1 the input counts as unknown.

        Args:
            features (`Tensor`): `[rows, D]`.
            task (`Tensor`): `[rows]`, the task of each row.
        """
        return torch.stack([measure(features, task) for measure in self.measures]).mean(0) / self.limit


def novelty_rule(
    signature: Signature,
    router: Router,
    counts: Tensor,
    classes: Sequence[int],
    tails: Sequence[Tail | None],
    constants: Constants,
) -> Novelty | None:
    """What novelty is measured by; `None` if the tasks present cannot tell: one task of one class.

    Args:
        signature (`Signature`): `[tasks, …]`.
        router ([`Router`]): The discriminants of these tasks.
        counts (`Tensor`): `[tasks]`, number of inputs that each signature was fitted on.
        classes (`list[int]`): Number of classes of each task.
        tails (`list[Tail | None]`): Where each task's held-out inputs lay, if it was measured.
        constants ([`Constants`]): The adapter's constants.
    """
    distance = familiarity(signature, router, constants)
    ratio = None
    if constants.novelty != "distance":
        ratio = likelihood_ratio(signature, counts, classes, tails, constants)
    measures = tuple(measure for measure in (distance, ratio) if measure is not None)
    if not measures:
        return None
    return Novelty(measures, constants.joint_limit if len(measures) == 2 else 1.0)
