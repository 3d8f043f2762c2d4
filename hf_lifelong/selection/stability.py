"""How much sets of inputs agree: over the repeats of one selection, and between tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from .cuts import Bools, Floats


def stability_of(supports: Bools) -> float:
    """Agreement of sets beyond chance: 1 for equal sets, about 0 for sets drawn at random (Nogueira, Sechidis and
    Brown, 2018, equation 4); 0 where every set is empty or all of them hold everything, which says nothing.

    Args:
        supports: `[R, p]` bool, R ≥ 2.
    """
    share = supports.mean(0)
    mean = share.mean()
    if mean in (0, 1):
        return 0.0
    count = len(supports)
    variance = (count / (count - 1) * share * (1 - share)).mean()
    return float(1 - variance / (mean * (1 - mean)))


@dataclass(frozen=True)
class Overlap:
    """What tasks have in common, as symmetric matrices `[T, T]`.

    Args:
        tasks (`list[str]`): In the order of the rows.
        jaccard: Inputs that both use by inputs that either uses; 0 where neither uses any.
        correlation: Pearson's, of the importances of all inputs; NaN with a task whose importances are all the same.
    """

    tasks: list[str]
    jaccard: Floats
    correlation: Floats


def support_overlap(supports: Mapping[str, ArrayLike], importances: Mapping[str, ArrayLike]) -> Overlap:
    """How much tasks use the same inputs.

    Args:
        supports (`Mapping[str, array]`): `[p]` bool by task: the inputs that it uses (`InputSelector.support_`).
        importances (`Mapping[str, array]`): `[p]` by task, of the same tasks (`InputSelector.importances_`).

    Raises:
        ValueError: when there is no task, or the tasks or lengths differ.
    """
    if not supports or supports.keys() != importances.keys():
        raise ValueError(
            f"`supports` and `importances` must be of the same tasks, at least one, not {sorted(supports)} and "
            f"{sorted(importances)}."
        )
    tasks = list(supports)
    used = {task: np.asarray(supports[task]) for task in tasks}
    sizes = {task: np.asarray(importances[task], dtype=float) for task in tasks}
    length = used[tasks[0]].shape
    for task in tasks:
        if used[task].dtype != bool:
            raise ValueError(f"`supports[{task!r}]` must be bool, one value an input, not {used[task].dtype}.")
        for name, value in (("supports", used[task]), ("importances", sizes[task])):
            if value.ndim != 1 or value.shape != length:
                raise ValueError(
                    f"`{name}[{task!r}]` has shape {value.shape}, `supports[{tasks[0]!r}]` has {length}: all tasks "
                    "need one value for each of the same inputs."
                )
    masks = np.stack([used[task] for task in tasks]).astype(float)
    both = masks @ masks.T
    either = masks.sum(1)[:, None] + masks.sum(1) - both
    jaccard = np.divide(both, either, out=np.zeros_like(both), where=either > 0)
    return Overlap(tasks, jaccard, _correlations(np.stack([sizes[task] for task in tasks])))


def _correlations(rows: Floats) -> Floats:
    away = rows - rows.mean(1, keepdims=True)
    products = away @ away.T
    norms = np.sqrt(np.outer(products.diagonal(), products.diagonal()))
    return np.divide(products, norms, out=np.full_like(products, np.nan), where=norms > 0)
