"""`uncertainty`: every member answers, and the least uncertain group is taken."""

from __future__ import annotations

from typing import ClassVar

from .policy import RetrievalPolicy


class LeastUncertain(RetrievalPolicy):
    """The group whose members are least uncertain: the rule of DriftNet as we read it ("Drift to Remember", Du et al.,
    arXiv 2409.13997).

    Uncertainty is the entropy of the members' mean probabilities as a share of the largest possible entropy, or the
    variance of the probabilities between members (`objectives.uncertainty`). Only members count: signatures and
    closed-form heads are not used. Every member of every group reads every input.
    """

    name: ClassVar[str] = "uncertainty"
    needs_likelihood: ClassVar[bool] = False
    asks_members: ClassVar[bool] = True
    every_member: ClassVar[bool] = True
