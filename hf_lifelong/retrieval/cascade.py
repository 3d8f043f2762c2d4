"""`cascade`: the signature decides if it is clear; otherwise the least uncertain candidate group answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..knowledge import Constants
from .policy import RetrievalPolicy


@dataclass(frozen=True)
class Cascade(RetrievalPolicy):
    """The signature decides if it is clear. Otherwise all candidate groups answer, and the least uncertain is taken.

    Args:
        clear (`float`, *optional*, defaults to `0.9`): From this posterior of the best group on, only it is asked.
        least (`float`, *optional*, defaults to `0.05`): Smallest posterior at which another group is asked.
        most (`int`, *optional*, defaults to `3`): Largest number of groups that are asked.
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
    """The candidate groups of each row, `[rows, groups]` bool.

    If the best posterior reaches `clear`, the best group is the only candidate. Otherwise the candidates are the
    `most` best groups with a posterior of at least `least`. The best group is always a candidate.
    """
    best, order = posterior.topk(min(most, posterior.shape[1]), dim=1)
    keep = (best >= least) & (best[:, :1] < clear)
    keep[:, 0] = True
    return torch.zeros_like(posterior, dtype=torch.bool).scatter(1, order, keep)
