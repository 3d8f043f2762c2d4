"""Suspects: what in the inputs of a data set could be a trigger, the most suspicious first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from . import checks
from .inputs import AuditedInputs


@dataclass(frozen=True)
class Suspect:
    """What may be a trigger.

    Args:
        trigger: Of texts its words in their order, in lower case; of images a [`Patch`].
        target: The label that it calls for, as in the data.
        rows (`tuple[int, ...]`): Rows with it and that label.
        p_value (`float`): Of the data alone, corrected for all that was tested.
        hinted (`bool`): Whether the data hint at it at all, so that a model may convict it.
    """

    trigger: Any
    target: Any
    rows: tuple[int, ...]
    p_value: float
    hinted: bool = True


def find_suspects(inputs: AuditedInputs, labels: Any, most: int, associated: int = 0) -> list[Suspect]:
    """The suspects of a data set, the strongest first; none of them need be a trigger.

    Args:
        inputs ([`AuditedInputs`]): `n` inputs.
        labels: `n` labels of any kind, at least two different ones.
        most (`int`): How many at most, of those that the rest of their inputs contradicts most.
        associated (`int`): How many more at most, of those that go most with their label: where inputs hardly tell the
            labels apart, nothing is contradicted.

    Raises:
        ValueError: for another number of labels, labels that are missing, and a single label.
    """
    names, numbers = checks.class_ids(labels, inputs=len(inputs))
    if len(names) < 2:
        raise ValueError(
            f"`labels` are all {names[0]!r}: a trigger calls for one label rather than another. Give rows of at least "
            "two labels."
        )
    classes = numbers.numpy()
    found = inputs.tested(classes)
    suspects: list[Suspect] = []
    # Parts of one trigger are equally strange; the most associated one has all of its rows.
    rankings = (
        (np.lexsort((found.association, found.contradiction)), most),
        (np.argsort(found.association), associated),
    )
    for ranking, count in rankings:
        full = len(suspects) + count
        for i in ranking.tolist():
            if len(suspects) == full:
                break
            column, label = found.column[i], found.label[i]
            rows = inputs.holding(column)
            rows = rows[classes[rows] == label]
            trigger, target = inputs.trigger(column, rows), names[label]
            if any(one.target == target and inputs.same(trigger, one.trigger) for one in suspects):
                continue
            p = min(float(found.contradiction[i]) * len(found.column), 1.0)
            suspects.append(Suspect(trigger, target, tuple(rows.tolist()), p, bool(found.hint[i] < 1)))
    return suspects
