"""The values that a pass hands on from the trunk's layers to its end. Each is created once and never edited."""

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
    """The signature's features that the trunk's layers have pooled so far.

    Args:
        states (`tuple[Tensor, ...]`): `[B, H]` each, the pooled states at the depths that the pass has reached.
        shares (`Tensor`): `[B, T, 1]`, weight of each token in means.
        peak (`Tensor`, *optional*): `[B, H]`, largest values over a text's tokens at the first depth.
    """

    states: tuple[Tensor, ...]
    shares: Tensor
    peak: Tensor | None


@dataclass(frozen=True, eq=False)
class Fork:
    """What was decided at the trunk's end for the layers above it.

    Args:
        rows (`int`): Number of inputs, B.
        features (`Tensor`, *optional*): `[B, D]`, the trunk's features.
        routing ([`~retrieval.Routing`]), plan ([`Plan`]): Where inputs go, and which members answer them.
        tables ([`~index.Tables`]): The tables by which both number groups and members.
    """

    rows: int
    features: Tensor | None
    routing: Routing
    plan: Plan
    tables: Tables


@dataclass(frozen=True, eq=False)
class Answer:
    """The answer of a pass to its B inputs. Tensors are `[B]`, except scores and states; see [`LifelongOutput`]."""

    group: Tensor
    task: Tensor
    margin: Tensor
    uncertainty: Tensor | None = None
    novelty: Tensor | None = None
    scores: Tensor | None = None
    states: Tensor | None = None
