"""Every tensor that an adapter stores, declared once: of which sizes it is, and what of it belongs to which task.

Whoever creates, appends, forgets, saves, checks or sizes tensors goes through `TENSORS`; a new one is one line of it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from ..knowledge import LARGEST_FEATURE, KnowledgeBase, LearnedTask

PREFIX = "base_model.model."  # what PEFT puts before the name of a module in a file
ROOT, LAYER = "lifelong", "layer"  # where tensors lie: in the module of that name, or in each injected layer

# What a stack grows by: how many of it a task has. The first task's come first.
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
        name (`str`): Its container in a module, and the end of its name in a file.
        sizes (`tuple[str, ...]`): Symbols of its dimensions, such as `"features"`; without the first one of a stack,
            which is `per`. Equal symbols are equal numbers: of all tensors, or, for `"in"` and `"out"`, of a layer's.
        per (`str`, *optional*): Which of `UNITS` it is a stack of; what is none is trained, and no task's own.
        where (`str`): `ROOT`, or `LAYER` for each injected layer.
        dtype (`str`): Its dtype in a file and in memory.
        bounds (`tuple[float, float]`, *optional*): Least and largest value; without it any finite one.
        keeps (`str`, *optional*): The tensor of the working adapter that it stacks snapshots of.
        flipped (`bool`): Whether snapshots are stacked with their last two dimensions exchanged.
        optional (`bool`): Whether a stack is absent, in memory and in a file, while there is nothing in it.
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
        """Its shape, from the number for each symbol."""
        return tuple(sizes[symbol] for symbol in self.symbols)

    def is_absent(self, sizes: Mapping[str, int]) -> bool:
        """Whether a model or a file with these sizes has no such tensor."""
        return self.optional and not sizes[str(self.per)]

    def laid(self, snapshot: torch.Tensor) -> torch.Tensor:
        """A snapshot of the working tensor as it lies in the stack, and the other way round."""
        return snapshot.mT if self.flipped else snapshot

    def stacked(self, value: torch.Tensor) -> torch.Tensor:
        """One unit, or several, as a part of the stack."""
        return value if value.dim() > len(self.sizes) else value.unsqueeze(0)


# A factor and a diagonal are parts of a variance, which is at most twice the largest feature, squared; ten times as
# much is let pass, for rounding.
_MOST = 10 * LARGEST_FEATURE
_SPREAD = (-_MOST, _MOST)
# What task statistics store is of any dtype and shape, which the manifest records (`packing`): here it is bytes, which
# no cast of a model rounds and every device holds.
STATISTICS = TensorSpec("drift_statistics", (), "bytes", dtype="uint8", optional=True)
TENSORS: tuple[TensorSpec, ...] = (
    TensorSpec("drift_A", ("r", "in"), where=LAYER),
    TensorSpec("drift_B", ("out", "r"), where=LAYER),
    TensorSpec("drift_bank_A", ("r", "in"), "members", LAYER, keeps="drift_A"),
    TensorSpec("drift_bank_B", ("r", "out"), "members", LAYER, keeps="drift_B", flipped=True),
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


def spec_of(name: str) -> TensorSpec | None:
    """The tensor that a name in a file, or in a model, is of; `None` where it is of none."""
    module, _, part = name.removeprefix(PREFIX).rpartition(".")
    where = ROOT if module == ROOT else LAYER
    return next((spec for spec in TENSORS if spec.name == part and spec.where == where), None)


def sizes_of(knowledge: KnowledgeBase) -> dict[str, int]:
    """How many of each of `UNITS` the tasks have together."""
    return {unit: sum(map(count, knowledge.tasks)) for unit, count in UNITS.items()}


def part_of_task(spec: TensorSpec, knowledge: KnowledgeBase, task: int) -> slice:
    """The part of a stack that is a task's own."""
    count = UNITS[str(spec.per)]
    start = sum(map(count, knowledge.tasks[:task]))
    return slice(start, start + count(knowledge.tasks[task]))


def task_bytes(shapes: Mapping[str, tuple[int, ...]], knowledge: KnowledgeBase) -> dict[str, int]:
    """Task → bytes that all that is its own takes.

    Args:
        shapes (`Mapping[str, tuple[int, ...]]`): Shape of each tensor of an adapter, named as in its file.
    """
    unit: Counter[str] = Counter()
    for name, shape in shapes.items():
        spec = spec_of(name)
        if spec is not None and spec.per is not None:
            unit[spec.per] += spec.torch_dtype.itemsize * math.prod(shape[1:])
    return {task.name: sum(UNITS[per](task) * size for per, size in unit.items()) for task in knowledge.tasks}
