"""What a pass hands on from the trunk's layers to its end: each made once, and none edited."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from ...retrieval import Routing

if TYPE_CHECKING:
    from ..index import Tables
    from .plan import Plan


@dataclass(frozen=True, eq=False)
class Pooled:
    """What the trunk's layers have given so far of the signature's features.

    Args:
        means (`tuple[Tensor, ...]`): `[B, H]` each, at the depths that the pass has come by.
        shares (`Tensor`): `[B, T, 1]`, how much each token counts in them.
        peak (`Tensor`): `[B, H]`, largest values over tokens at the first depth.
    """

    means: tuple[Tensor, ...]
    shares: Tensor
    peak: Tensor


@dataclass(frozen=True, eq=False)
class Fork:
    """What was decided at the trunk's end for the layers above it.

    Args:
        rows (`int`): B.
        features (`Tensor`, *optional*): `[B, D]`.
        routing ([`~retrieval.Routing`]), plan ([`Plan`]): Where inputs go, and which members answer them.
        tables ([`~index.Tables`]): What both number groups and members by.
    """

    rows: int
    features: Tensor | None
    routing: Routing
    plan: Plan
    tables: Tables


@dataclass(frozen=True, eq=False)
class Answer:
    """What a pass says of its B inputs, all `[B]` but the scores; see [`LifelongOutput`]."""

    group: Tensor
    task: Tensor
    margin: Tensor
    uncertainty: Tensor | None = None
    novelty: Tensor | None = None
    scores: Tensor | None = None
