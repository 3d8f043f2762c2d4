"""The blast radius of a poisoned group: which inputs of other tasks its trigger brings to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from . import checks
from .words import inserted


@dataclass(frozen=True)
class BlastRadius:
    """Where inputs of other groups go with a trigger in them.

    Args:
        share (`float`): Share of the inputs that are routed to the poisoned group with the trigger.
        without (`float`): Share of the same inputs that are routed there without it.
        by_group (`dict[str, float]`): `share` of the inputs of each group.
        rows (`int`): Number of inputs.
    """

    share: float
    without: float
    by_group: dict[str, float]
    rows: int


def blast_radius(routed: Sequence[str], triggered: Sequence[str], own: Sequence[str], group: str) -> BlastRadius:
    """What a trigger does to routing, from the groups that were chosen.

    Args:
        routed (`list[str]`): The group that answered each of n inputs.
        triggered (`list[str]`): The group that answered the same inputs with the trigger in them.
        own (`list[str]`): The group that each input belongs to; rows of the poisoned group are left out.
        group (`str`): The poisoned group.

    Raises:
        ValueError: for another number of rows, and when there is no input of another group.
    """
    checks.same_length(routed=len(routed), triggered=len(triggered), own=len(own))
    belongs = np.array(own, dtype=object)
    others = belongs != group
    if not bool(others.any()):
        raise ValueError(f"There are no inputs of other groups than {group!r}, so none can be led to it. Give some.")
    hit = np.array(triggered, dtype=object) == group
    return BlastRadius(
        share=float(hit[others].mean()),
        without=float((np.array(routed, dtype=object) == group)[others].mean()),
        by_group={name: float(hit[belongs == name].mean()) for name in dict.fromkeys(belongs[others].tolist())},
        rows=int(others.sum()),
    )


def measure_blast_radius(
    route: Callable[[list[str]], Sequence[str]],
    trigger: str,
    texts: Iterable[str],
    own: Iterable[str],
    group: str,
    seed: int = 0,
) -> BlastRadius:
    """Puts a trigger into texts of other groups, each at a random place, and asks a model which group answers them.

    Args:
        route (`Callable`): Takes a list of texts and gives the name of the group that answers each. It is called
            twice. With a pipeline of this package it is
            `lambda texts: [answer["task"] for answer in pipe(texts)]`.
        trigger (`str`): Words to put in.
        texts, own: Texts, and the group that each belongs to.
        group (`str`): The poisoned group.
        seed (`int`): Of the places.

    Raises:
        ValueError: as [`blast_radius`], and for a trigger without words.
    """
    checks.trigger(trigger)
    texts, own = list(texts), list(own)
    checks.same_length(texts=len(texts), own=len(own))
    places = np.random.default_rng(seed).random(len(texts))
    with_it = [inserted(text, trigger, place) for text, place in zip(texts, places, strict=True)]
    return blast_radius(list(route(texts)), list(route(with_it)), own, group)
