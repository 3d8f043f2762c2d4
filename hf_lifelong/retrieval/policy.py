"""The interface of retrieval policies: what they see, what they decide, and when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..knowledge import Constants, Signature, group_posterior


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known about B inputs after the trunk has read them and before any member has.

    Args:
        rows (`int`): B.
        groups (`int`): How many groups there are.
        group_of_task (`Tensor`): `[tasks]`, int64.
        features (`Tensor`, *optional*): `[B, D]`, float32, the trunk's pooled hidden states.
        likelihood (`Tensor`, *optional*): `[B, tasks]`, float32, log-likelihoods by signature up to a constant per
            row, -inf for tasks that may not answer; `None` unless the policy `needs_likelihood`.
        signature ([`~knowledge.Signature`], *optional*): The signatures of all tasks.
        allowed (`Tensor`, *optional*): `[groups]`, bool, the groups that may answer; `None` means all.
        group (`Tensor`, *optional*): `[B]`, int64, the group of each row, if the caller gives it.
        per_batch (`bool`): Whether one group answers all rows.
    """

    rows: int
    groups: int
    group_of_task: Tensor
    features: Tensor | None = None
    likelihood: Tensor | None = None
    signature: Signature | None = None
    allowed: Tensor | None = None
    group: Tensor | None = None
    per_batch: bool = False

    def posterior(self, likelihood: Tensor) -> Tensor:
        """Probabilities of the groups, `[B, groups]`, from log-likelihoods of the tasks, `[B, tasks]`. Groups that may
        not answer get 0; with `per_batch`, all rows get the same probabilities."""
        if self.allowed is not None:
            likelihood = likelihood.masked_fill(~self.allowed[self.group_of_task], float("-inf"))
        if self.per_batch:
            likelihood = likelihood.mean(0, keepdim=True).expand(self.rows, -1)
        return group_posterior(likelihood, self.group_of_task, self.groups)


@dataclass(frozen=True, eq=False)
class Routing:
    """Where B inputs go.

    Args:
        group (`Tensor`, *optional*): `[B]`, int64, the group that answers; `None` if every group is asked.
        margin (`Tensor`, *optional*): `[B]`, float32, by how much it is preferred to the next group.
        posterior (`Tensor`, *optional*): `[B, groups]`, float32, the probabilities that both come from.
        candidates (`Tensor`, *optional*): `[B, groups]`, bool, the groups that are asked before one is chosen; `None`
            means only `group`.
    """

    group: Tensor | None = None
    margin: Tensor | None = None
    posterior: Tensor | None = None
    candidates: Tensor | None = None

    @property
    def settled(self) -> tuple[Tensor, Tensor] | None:
        """Group and margin of each row; `None` if members are asked before a group is chosen."""
        if self.group is None or self.margin is None or self.candidates is not None:
            return None
        return self.group, self.margin


class RetrievalPolicy:
    """How the group that answers an input is chosen.

    From the trunk's hidden states, `likelihood` computes how likely each task is. By default the likeliest group
    answers. A policy that sets `asks_members` first asks the members of the `candidates`, and `choose` picks a group
    from their answers. A policy overrides the steps that it does differently. Its methods take and return tensors. It
    must hold no state that a pass changes, because threads share it.

    Attributes:
        name (`str`): Its name in a saved adapter; by default the name of its class.
        needs_likelihood (`bool`): Whether it uses the likelihoods by signature (`Evidence.likelihood`).
        asks_members (`bool`): Whether members are asked before a group is chosen. Each additional group costs one pass
            through the layers above the trunk.
        every_member (`bool`): Whether every member of every group is asked separately, without signatures.
    """

    name: ClassVar[str] = "RetrievalPolicy"
    needs_likelihood: ClassVar[bool] = True
    asks_members: ClassVar[bool] = False
    every_member: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            cls.name = cls.__name__

    def under(self, constants: Constants) -> RetrievalPolicy:
        """The policy with an adapter's constants, for a built-in policy that is given by name."""
        return self

    def likelihood(self, evidence: Evidence) -> Tensor:
        """Log-likelihoods of the tasks up to a constant per row, `[B, tasks]`, float32.

        A group's likelihood is that of its likeliest task. The margin is the difference of the two largest
        probabilities.
        """
        if evidence.likelihood is None:
            raise ValueError(f"`{self.name}` must override `likelihood`, or leave `needs_likelihood` on.")
        return evidence.likelihood

    def candidates(self, posterior: Tensor) -> Tensor:
        """The groups that are asked, `[B, groups]` bool, at least one per row; only called if `asks_members`.

        Args:
            posterior (`Tensor`): `[B, groups]`, float32, probabilities of the groups.
        """
        return posterior > 0

    def choose(self, routing: Routing, certainty: Tensor) -> tuple[Tensor, Tensor]:
        """Chooses the group of each row, `[B]`, among those asked, and its margin, `[B]`; only called if
        `asks_members`.

        Args:
            routing ([`Routing`]): The routing before members were asked.
            certainty (`Tensor`): `[B, groups]`, float32, minus the uncertainty of each group's answer; -inf for a
                group that was not asked or may not answer.
        """
        margin = margin_of(certainty)
        # The margin of rows for which only one group was asked.
        alone = routing.margin if routing.margin is not None else torch.ones_like(margin)
        return certainty.argmax(1), torch.where(margin.isinf(), alone, margin)

    def route(self, evidence: Evidence) -> Routing:
        """Routes the inputs by what the trunk knows."""
        if self.every_member:
            return Routing()
        likelihood, shape = self.likelihood(evidence), (evidence.rows, len(evidence.group_of_task))
        if likelihood.shape != shape:
            raise ValueError(
                f"`likelihood` of the retrieval policy `{self.name}` gave the shape {tuple(likelihood.shape)}; return "
                f"one number for each input and task, {shape}."
            )
        posterior = evidence.posterior(likelihood)
        candidates = self.candidates(posterior) if self.asks_members else None
        return Routing(posterior.argmax(1), margin_of(posterior), posterior, candidates)


PolicyLike = str | type[RetrievalPolicy] | RetrievalPolicy
"""How a policy is given: the name of a built-in policy, or any class or instance."""


def margin_of(preference: Tensor) -> Tensor:
    """Best minus second-best preference per row, `[rows, groups]` → `[rows]`; 1 if there is only one group."""
    if preference.shape[1] < 2:
        return preference.new_ones(len(preference))
    best = preference.topk(2, dim=1).values
    return best[:, 0] - best[:, 1]
