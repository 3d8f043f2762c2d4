"""`cascade`: the signature where it is clear, elsewhere the least uncertain of the groups in question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..knowledge import Constants
from .policy import RetrievalPolicy


@dataclass(frozen=True)
class Cascade(RetrievalPolicy):
    """The signature decides where it is clear; elsewhere the groups in question answer, and the least uncertain is
    taken.

    Args:
        clear (`float`, *optional*, defaults to `0.9`): Posterior of the best group from which on it alone is asked.
        least (`float`, *optional*, defaults to `0.05`): Posterior that another group needs to be asked.
        most (`int`, *optional*, defaults to `3`): Groups that are asked at most.
    """

    name: ClassVar[str] = "cascade"
    asks_members: ClassVar[bool] = True

    clear: float = 0.9
    least: float = 0.05
    most: int = 3

    def under(self, constants: Constants) -> Cascade:
        return Cascade(constants.clear, constants.least, constants.most_candidates)

    def candidates(self, posterior: Tensor) -> Tensor:
        return leading_candidates(posterior, self.clear, self.least, self.most)


def leading_candidates(posterior: Tensor, clear: float, least: float, most: int) -> Tensor:
    """The groups that are still in question for each row, `[rows, groups]` bool.

    Where the best posterior reaches `clear`, it is the only candidate; elsewhere the `most` best groups with a
    posterior of at least `least`. The best group is always a candidate.
    """
    best, order = posterior.topk(min(most, posterior.shape[1]), dim=1)
    keep = (best >= least) & (best[:, :1] < clear)
    keep[:, 0] = True
    return torch.zeros_like(posterior, dtype=torch.bool).scatter(1, order, keep)
