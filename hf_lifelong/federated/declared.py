"""All tensors that a client of federated lifelong learning may send, by step: sums, whose sizes do not grow with rows.

Both sides check replies against it. The trained working adapter travels beside these, in training.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ..statistics import TaskStatistic

Form = tuple[str, tuple[str, ...]]  # dtype, symbols of the sizes

# Sizes: the classes of the task, the features of a signature, the half of a symmetric matrix of them, the tasks and
# groups that are learned (with the new task, and before it), the weights of a closed-form head that are tried, and the
# parts of the data: training, validation and test.
REPLIES: Mapping[str, Mapping[str, Form]] = {
    "hello": {"digest": ("int64", ()), "tasks": ("int64", ())},
    "survey": {
        "labels": ("int64", ("parts", "classes")),  # rows of each class
        "has_test": ("int64", ()),
        "counts": ("int64", ("classes",)),  # of the rows that the signature is fitted on
        "means": ("float64", ("classes", "features")),
        "scatter": ("float64", ("classes", "triangle")),
        "near_training": ("float64", ("old_groups",)),
        "near_validation": ("float64", ("old_groups",)),
        "forward": ("int64", ("right_and_rows",)),
    },
    "weigh": {"rows": ("int64", ()), "losses": ("float64", ("weights",)), "squares": ("float64", ("weights",) * 2)},
    "group": {
        "new": ("int64", ("right_and_rows",)),
        "compared": ("int64", ()),
        "old_right": ("int64", ("old_groups",)),
        "nearer": ("int64", ("old_groups",)),
    },
    "measure": {
        "rows": ("int64", ("tasks",)),
        "right": ("int64", ("tasks",)),
        "oracle": ("int64", ("tasks",)),
        "routed": ("int64", ("tasks", "groups")),
    },
    "commit": {"digest": ("int64", ())},
}


def forms_of(step: str, statistics: Iterable[TaskStatistic] = ()) -> dict[str, Form]:
    """The tensors of a reply. Those of the step `"statistics"` are what the statistics declare."""
    if step != "statistics":
        return dict(REPLIES[step])
    return {
        f"{statistic.name}/{spec.name}": (spec.dtype, spec.symbols)
        for statistic in statistics
        for spec in statistic.tensors
    }


def what_is_wrong(tensors: Mapping[str, Tensor], forms: Mapping[str, Form], sizes: Mapping[str, int]) -> str:
    """Why tensors are not what a step declares; empty if they are. Sizes that are not known must agree."""
    if tensors.keys() != forms.keys():
        return f"it has the tensors {sorted(tensors)}, not {sorted(forms)}"
    known = dict(sizes)
    for name, (dtype, symbols) in forms.items():
        tensor = tensors[name]
        shape = [known.setdefault(symbol, size) for symbol, size in zip(symbols, tensor.shape, strict=False)]
        if tensor.dtype != getattr(torch, dtype) or tensor.dim() != len(symbols) or shape != list(tensor.shape):
            return f"`{name}` is {tensor.dtype} {list(tensor.shape)}, not {dtype} {list(symbols)}"
        if not bool(tensor.isfinite().all()):
            return f"`{name}` is not finite"
    return ""


def triangle(matrices: Tensor) -> Tensor:
    """The lower triangles of symmetric matrices, `[C, D, D]` → `[C, D (D + 1) / 2]`."""
    rows, columns = torch.tril_indices(matrices.shape[1], matrices.shape[1]).unbind()
    return matrices[:, rows, columns]


def square(triangles: Tensor, size: int) -> Tensor:
    """Symmetric matrices of their lower triangles, `[C, D (D + 1) / 2]` → `[C, D, D]`."""
    rows, columns = torch.tril_indices(size, size).unbind()
    matrices = triangles.new_zeros(len(triangles), size, size)
    matrices[:, rows, columns] = triangles
    matrices[:, columns, rows] = triangles
    return matrices
