"""Declares every tensor that an adapter stores: its sizes, and which part of it belongs to which task.

Code that creates, appends, forgets, saves, checks or sizes tensors iterates over `TENSORS`. A new tensor is one line.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from ..knowledge import LARGEST_FEATURE, KnowledgeBase, LearnedTask

PREFIX = "base_model.model."  # what PEFT puts before the name of a module in a file
# Where tensors lie: in the module named `lifelong`, or in each injected layer, whose members are of low rank or full.
ROOT, LOW_RANK, FULL = "lifelong", "low-rank layer", "full layer"

# The units that a stack is made of, and how many of them a task has. The first task's units come first.
UNITS: Mapping[str, Callable[[LearnedTask], int]] = {
    "members": lambda task: task.members,
    "rows": lambda task: task.members * task.width,
    "tasks": lambda task: 1,
    "classes": lambda task: task.classes,
    "bytes": lambda task: sum(record.bytes for record in task.statistics),
}


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of an adapter.

    Args:
        name (`str`): Name of its container in a module, and the last part of its name in a file.
        sizes (`tuple[str, ...]`): Symbols of its dimensions, such as `"features"`. A stack's first dimension is `per`
            and is not listed. Equal symbols mean equal sizes, in all tensors, or, for `"in"`, `"out"` and `"columns"`,
            in one layer.
        per (`str`, *optional*): The unit of `UNITS` that it is a stack of. Tensors without one are trained and belong
            to no task.
        where (`str`): `ROOT`, or `LOW_RANK` or `FULL` for each injected layer with such members.
        dtype (`str`): Its dtype in a file and in memory.
        bounds (`tuple[float, float]`, *optional*): Smallest and largest allowed value; by default any finite value.
        keeps (`str`, *optional*): The tensor of the working adapter whose snapshots it stacks.
        flipped (`bool`): Whether snapshots are stacked with their last two dimensions exchanged.
        optional (`bool`): Whether an empty stack is left out, in memory and in a file.
    """

    name: str
    sizes: tuple[str, ...]
    per: str | None = None
    where: str = ROOT
    dtype: str = "float32"
    bounds: tuple[float, float] | None = None
    keeps: str | None = None
    flipped: bool = False
    optional: bool = False

    @property
    def symbols(self) -> tuple[str, ...]:
        """Symbols of all dimensions."""
        return self.sizes if self.per is None else (self.per, *self.sizes)

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Its shape, from the size of each symbol."""
        return tuple(sizes[symbol] for symbol in self.symbols)

    def is_absent(self, sizes: Mapping[str, int]) -> bool:
        """Whether a model or a file with these sizes has no such tensor."""
        return self.optional and not sizes[str(self.per)]

    def laid(self, snapshot: torch.Tensor) -> torch.Tensor:
        """Converts a snapshot of the working tensor to the stack's layout, or back."""
        return snapshot.mT if self.flipped else snapshot

    def stacked(self, value: torch.Tensor) -> torch.Tensor:
        """One or more units in the stack's shape."""
        return value if value.dim() > len(self.sizes) else value.unsqueeze(0)


# Factor and diagonal are parts of a variance, which is at most (twice the largest feature) squared. The limits are ten
# times the largest feature, to allow for rounding.
_MOST = 10 * LARGEST_FEATURE
_SPREAD = (-_MOST, _MOST)
# Task statistics can have any dtype and shape, which the manifest records (`packing`). They are stored as bytes, which
# no cast of a model rounds and every device supports.
STATISTICS = TensorSpec("drift_statistics", (), "bytes", dtype="uint8", optional=True)
TENSORS: tuple[TensorSpec, ...] = (
    TensorSpec("drift_A", ("r", "in"), where=LOW_RANK),
    TensorSpec("drift_B", ("out", "r"), where=LOW_RANK),
    TensorSpec("drift_bank_A", ("r", "in"), "members", LOW_RANK, keeps="drift_A"),
    TensorSpec("drift_bank_B", ("r", "out"), "members", LOW_RANK, keeps="drift_B", flipped=True),
    TensorSpec("drift_full", ("out", "columns"), where=FULL),
    TensorSpec("drift_bank_full", ("out", "columns"), "members", FULL, keeps="drift_full"),
    TensorSpec("drift_head_weight", ("open", "hidden")),
    TensorSpec("drift_head_bias", ("open",)),
    TensorSpec("drift_bank_head_weight", ("hidden",), "rows", keeps="drift_head_weight"),
    TensorSpec("drift_bank_head_bias", (), "rows", keeps="drift_head_bias"),
    TensorSpec("drift_signature_mean", ("features",), "tasks", bounds=_SPREAD),
    TensorSpec("drift_signature_factor", ("rank", "features"), "tasks", bounds=_SPREAD),
    TensorSpec("drift_signature_diagonal", ("features",), "tasks", bounds=(0.0, _MOST**2)),
    TensorSpec("drift_signature_classes", ("features",), "classes", bounds=_SPREAD),
    TensorSpec("drift_closed_weight", ("features",), "classes"),
    TensorSpec("drift_closed_bias", (), "classes"),
    STATISTICS,
)


def specs_at(where: str) -> tuple[TensorSpec, ...]:
    """The tensors of the root, or of an injected layer."""
    return tuple(spec for spec in TENSORS if spec.where == where)


def layer_of(r: int | str) -> str:
    """Where the members of an adapter with this `r` lie."""
    return FULL if r == "full" else LOW_RANK


def rank_sizes(r: int | str) -> dict[str, int]:
    """The size that `r` gives to the symbols of a layer's tensors."""
    return {} if layer_of(r) == FULL else {"r": int(r)}


def spec_of(name: str) -> TensorSpec | None:
    """The spec of the tensor with this name in a file or model; `None` if there is none."""
    module, _, container = name.removeprefix(PREFIX).rpartition(".")
    found = (spec for spec in TENSORS if spec.name == container and (spec.where == ROOT) == (module == ROOT))
    return next(found, None)


def sizes_of(knowledge: KnowledgeBase) -> dict[str, int]:
    """Number of each of `UNITS` over all tasks."""
    return {unit: sum(map(count, knowledge.tasks)) for unit, count in UNITS.items()}


def part_of_task(spec: TensorSpec, knowledge: KnowledgeBase, task: int) -> slice:
    """The slice of a stack that belongs to a task."""
    count = UNITS[str(spec.per)]
    start = sum(map(count, knowledge.tasks[:task]))
    return slice(start, start + count(knowledge.tasks[task]))


def task_bytes(shapes: Mapping[str, tuple[int, ...]], knowledge: KnowledgeBase) -> dict[str, int]:
    """Task → bytes of everything that is stored for it.

    Args:
        shapes (`Mapping[str, tuple[int, ...]]`): Shape of each tensor of an adapter, named as in its file.
    """
    unit: Counter[str] = Counter()
    for name, shape in shapes.items():
        spec = spec_of(name)
        if spec is not None and spec.per is not None:
            unit[spec.per] += spec.torch_dtype.itemsize * math.prod(shape[1:])
    return {task.name: sum(UNITS[per](task) * size for per, size in unit.items()) for task in knowledge.tasks}
