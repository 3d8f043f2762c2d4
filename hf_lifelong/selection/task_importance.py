"""Which of the signature's features each task of a learner uses, as a task statistic."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ..knowledge import fit_closed_form
from ..statistics import TaskRows, TaskStatistic, Values
from ..storage import TensorSpec
from .cuts import Bools, top_cut
from .networks import Networks
from .stability import Overlap, support_overlap
from .training import Problem, descend

NAME = "input_importance"
_KEPT = 5  # one feature in so many is kept
_ROWS, _REPEATS, _HIDDEN, _STEPS, _PENALTY = 512, 4, 8, 60, 0.03  # little, since it may take a few percent of a task
_FEWEST = 10  # rows of which something can be told


class InputImportance(TaskStatistic):
    """How much a task uses each of the signature's features: the length of its weights in small networks under a group
    penalty ([`InputSelector`]), float16.

    It is measured on the frozen trunk, so that it can be compared between tasks ([`task_overlap`]), and depths of the
    trunk ([`depth_shares`]), and says which features a smaller closed-form head needs ([`small_head`]). A task has
    it whose rows have a class or a number (role `"label"`). All are zero for a task of fewer than 10 rows or of which
    all rows say the same.

    Against the selector it is cut to a few percent of the training: few networks, few rows, one penalty, no statement
    on whether it is chance.
    """

    name = NAME
    tensors = (TensorSpec("importances", ("features",), dtype="float16"),)
    columns = ("label",)

    def fit(self, rows: TaskRows) -> Values:
        if rows.labels is None:
            target = torch.tensor(np.asarray(rows.columns["label"], dtype=np.float64))[:, None]
            target = _standardised(target)
        else:
            target = torch.nn.functional.one_hot(rows.labels, len(rows.classes)).double()
        importances = torch.zeros(rows.features.shape[1])
        if len(target) >= _FEWEST and bool((target != target[0]).any()):
            importances = _importances(rows.features, target.float(), rows.labels is not None)
        return {"importances": importances.half()}

    def describe(self, values: Values) -> Mapping[str, int | float]:
        importances = values["importances"].float()
        total = importances.square().sum()
        used = kept_features(importances)
        return {
            "features used": int((importances > 0).sum()),
            f"share of the {int(used.sum())} strongest": float(importances[used].square().sum() / total)
            if total
            else 0.0,
        }


def kept_features(importances: Tensor) -> Tensor:
    """The most important fifth of the features `[D]` bool; fewer if fewer are used."""
    return torch.from_numpy(top_cut(importances.float().numpy(), max(1, len(importances) // _KEPT)))


def task_overlap(values: Mapping[str, Values]) -> Overlap:
    """How much tasks use the same features.

    Args:
        values (`Mapping[str, Values]`): Of each task, as `statistics_of(model, "input_importance")` gives them.

    Raises:
        ValueError: when no task has the statistic, or the tasks' trunks differ.
    """
    importances = {task: of_task["importances"].float() for task, of_task in values.items()}
    supports = {task: kept_features(value).numpy() for task, value in importances.items()}
    return support_overlap(supports, {task: value.numpy() for task, value in importances.items()})


def depth_shares(importances: Tensor, width: int) -> Tensor:
    """How much of what a task uses comes from each part of the signature's features, summing to 1 (0 if it uses none):
    the mean of the hidden states at the first depth, what each further depth adds, and the largest values at the
    first.

    Args:
        importances (`Tensor`): `[D]`.
        width (`int`): Size of a hidden state, of which `D` is a multiple.

    Raises:
        ValueError: when `D` is no multiple of `width`, as where features are projected.
    """
    if width < 1 or len(importances) % width:
        raise ValueError(
            f"`width` = {width} does not divide the {len(importances)} features: give the model's hidden size. Of "
            "projected features, depths cannot be told."
        )
    of_part = importances.double().square().view(-1, width).sum(1)
    return of_part / of_part.sum().clamp_min(torch.finfo(torch.float64).tiny)


def small_head(features: Tensor, labels: Tensor, classes: int, kept: Bools | Tensor) -> tuple[Tensor, Tensor] | None:
    """The closed-form head of a task on the kept features alone.

    Args:
        features (`Tensor`): `[n, D]`.
        labels (`Tensor`): `[n]`, int64.
        classes (`int`): Number of classes.
        kept (`Tensor`): `[D]`, bool, as of `kept_features`.

    Returns:
        Weight `[classes, kept]` and bias `[classes]`; `None` where the head cannot be estimated (`fit_closed_form`).
    """
    return fit_closed_form(features[:, torch.as_tensor(kept)], labels, classes)


def _importances(features: Tensor, target: Tensor, classes: bool) -> Tensor:
    """Length of each feature's weights `[D]`, mean over networks of different first weights."""
    rows = torch.linspace(0, len(features) - 1, min(len(features), _ROWS)).long()
    x, target = _standardised(features[rows].double()).float(), target[rows]
    problem = Problem(x, target, classes, torch.ones(len(x), _REPEATS, dtype=torch.bool))
    generator = torch.Generator().manual_seed(0)
    networks = Networks.random(x.shape[1], _REPEATS, _HIDDEN, target.shape[1], generator)
    inputs = torch.arange(x.shape[1] + 1).expand(_REPEATS, -1)
    penalty = torch.tensor([_PENALTY * problem.largest_penalty])
    with torch.no_grad():
        networks = descend(problem, inputs, networks, penalty, penalty, "group", _STEPS, generator, settle=True)
    return networks.importances.mean((0, 1))


def _standardised(columns: Tensor) -> Tensor:
    """Columns of mean 0 and variance 1; 0 where they do not vary."""
    away = columns - columns.mean(0)
    scale = away.square().mean(0).sqrt()
    return torch.where(scale > 0, away / scale.clamp_min(torch.finfo(columns.dtype).tiny), 0.0)
