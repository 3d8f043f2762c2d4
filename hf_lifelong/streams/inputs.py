"""What a detector needs of a model: trunk features of inputs that arrive without a task, and references of groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..adapter import lifelong_of, modality_of, trunk_features
from ..knowledge import Signature
from ..pipeline import LifelongPipeline
from .references import Reference, references


def pipeline_of(model: nn.Module, processor: Any) -> LifelongPipeline:
    """The pipeline that answers a stream's inputs, on the device where the model is."""
    spread: Any = getattr(model, "hf_device_map", None)  # such a model cannot be moved, and need not be
    device = None if spread is not None else next(model.parameters()).device
    return LifelongPipeline(model=model, device=device, **{modality_of(model).processor: processor})  # type: ignore[arg-type]


def input_features(pipe: LifelongPipeline, inputs: Sequence[Any], start: int = 0) -> Tensor:
    """Trunk features of inputs in the forms that the pipeline takes.

    Args:
        pipe ([`LifelongPipeline`]): The pipeline of the model.
        inputs (`list` of length n): At least one.
        start (`int`): Position of the first input, for error messages.

    Returns:
        `Tensor`: `[n, D]`, float32, on the CPU. Of an input that is cut into windows, the features of the first.

    Raises:
        ValueError: when an input has no known form, or its features are NaN or infinite; names its position.
    """
    features = pipe.preprocess(inputs, start)
    examples = features.get("example", range(len(inputs)))
    first = {example: row for row, example in reversed([*enumerate(examples)])}
    rows = [first[example] for example in range(len(inputs))]
    columns = {name: [features[name][row] for row in rows] for name in pipe.modality.inputs if name in features}
    batch = pipe.modality.batch(columns, pipe.of_base, "left" if pipe.generates else "right")
    try:
        return trunk_features(pipe.model, batch).float().cpu()
    except ValueError as error:
        raise ValueError(f"Of the {len(inputs)} inputs from number {start} on (`batch`): {error}") from error


def group_references(model: nn.Module) -> dict[str, Reference]:
    """What each group of a model is recognised by: the reference of its first task, under the name of the group."""
    index = lifelong_of(model).index
    tasks = index.knowledge.tasks
    parts = (part.detach().cpu() for part in vars(index.signature).values())
    found = references(
        Signature(*parts),
        [task.name for task in tasks],
        [task.examples for task in tasks],
        [task.classes for task in tasks],
    )
    firsts = {task.group: found[task.name] for task in reversed(tasks)}
    return {group: firsts[group] for group in index.knowledge.groups}
