"""Monitoring: says of each input of a stream whether it shows the same task as before, without learning."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from torch import nn

from .detector import BoundaryDetector, Verdict
from .inputs import group_references, input_features, pipeline_of


def watch(
    model: nn.Module, processor: Any, inputs: Iterable[Any], *, expected_run: int = 2000, batch_size: int = 32
) -> Iterator[Verdict]:
    """Watches a stream of inputs for boundaries between tasks. The model is read only.

    Args:
        model (`PeftModel`): A model with a lifelong adapter. Groups that it has learned are recognised.
        processor: The base's tokenizer or image processor.
        inputs (`Iterable`): Inputs in the forms that [`LifelongPipeline`] takes.
        expected_run (`int`): Inputs between two false alarms, on average.
        batch_size (`int`): Inputs that are read, and pass the trunk, at once. With 1, each verdict comes as soon as
            its input does. Verdicts are about single inputs, whatever the batch.

    Yields:
        [`Verdict`]: One for each input, in order.

    Raises:
        ValueError: for an input of no known form; names its position.
    """
    pipe, source, start = pipeline_of(model, processor), iter(inputs), 0
    detector = BoundaryDetector(group_references(model), expected_run=expected_run)
    while batch := list(islice(source, batch_size)):
        for features in input_features(pipe, batch, start):
            verdict = detector.update(features)
            if verdict.outcome != "same":
                detector.begin(verdict.group)
            yield verdict
        start += len(batch)
