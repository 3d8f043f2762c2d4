"""The weakest directions of a task's trunk features, stored with it: where a trigger against it would be cheapest."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..statistics import TaskRows, TaskStatistic, Values
from ..storage import TensorSpec
from . import checks
from .directions import weakest, within_covariance

_KEPT = 16


class TaskWeakDirections(TaskStatistic):
    """At most 16 directions in which the trunk's features of a task's classes vary least, and how much.

    [`~safety.weak_directions`] says what they mean. A task with too few rows to vary within a class has none.
    """

    name = "weak-directions"
    tensors = (
        TensorSpec("directions", ("directions", "features"), dtype="float16"),
        TensorSpec("std", ("directions",), dtype="float32"),
    )

    def fit(self, rows: TaskRows) -> Values:
        x = checks.numbers("features", rows.features, 2)
        classes = torch.zeros(len(x), dtype=torch.int64) if rows.labels is None else rows.labels
        classes = classes.unique(return_inverse=True)[1]
        free = len(x) - int(classes.max()) - 1
        covariance = within_covariance(x, classes) if free else x.new_zeros(x.shape[1], x.shape[1])
        found = weakest(covariance, _KEPT)
        return {"directions": found.directions.half(), "std": found.std.float()}

    def describe(self, values: Values) -> Mapping[str, str | int | float | bool]:
        std = values["std"]
        if not bool(std.any()):
            return {"directions": "not measured, its rows are too few to vary in every direction of the features"}
        return {
            "directions": len(std),
            "in which its rows do not vary": int((std == 0).sum()),
            "largest std": float(f"{float(std.max()):.4g}"),
        }
