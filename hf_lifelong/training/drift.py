"""Drift: the noise and learning rate that keep training exploring, and the steps at which snapshots are taken.

The noise of a step depends only on the seed, the task and the step. A resumed run therefore repeats it, and
data-parallel ranks, which hold the same reduced gradient, stay equal.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainingArguments

from ..adapter import local


def steps_of(args: TrainingArguments, rows: int) -> int:
    """Number of optimizer steps that `Trainer` takes for `rows` training rows."""
    if args.max_steps > 0:
        return args.max_steps
    size = args.train_batch_size * args.world_size
    batches = rows // size if args.dataloader_drop_last else math.ceil(rows / size)
    return math.ceil(args.num_train_epochs * max(math.ceil(batches / args.gradient_accumulation_steps), 1))


def cycle_ends(steps: int, cycles: int, first: float) -> list[int]:
    """The step at which each cycle ends.

    Args:
        steps (`int`): Number of optimiser steps of the task.
        cycles (`int`): Number of cycles.
        first (`float`): Share of the steps in the first cycle; the others share the rest equally.

    Raises:
        ValueError: when there are fewer steps than cycles.
    """
    if steps < cycles:
        raise ValueError(
            f"The task has {steps} optimiser steps, fewer than `members` ({cycles}), so not every member would be "
            "trained. Raise `num_train_epochs` or `max_steps`, or lower `members` in `DriftAdapterConfig`."
        )
    if cycles == 1:
        return [steps]
    lead = min(max(round(steps * first), 1), steps - cycles + 1)
    return [lead + round((steps - lead) * i / (cycles - 1)) for i in range(cycles)]


def cycle_position(step: int, ends: list[int]) -> float:
    """How far a step is through its cycle, in [0, 1); 1 after the last cycle."""
    cycle = bisect_right(ends, step)
    if cycle == len(ends):
        return 1.0
    start = ends[cycle - 1] if cycle else 0
    return (step - start) / (ends[cycle] - start)


def decay(position: float) -> float:
    """Cosine from 1 at the start of a cycle to 0 at its end."""
    return 0.5 * (1 + math.cos(math.pi * position))


def learning_rate_factor(step: int, ends: list[int], warmup: int) -> float:
    """Factor on the learning rate: the cosine of the cycle times a linear warm-up at the start of the task."""
    return decay(cycle_position(step, ends)) * min(1.0, (step + 1) / (warmup + 1))


def gradient_noise_hook(
    share: Callable[[], float], seed: Callable[[], int], name: Callable[[], str]
) -> Callable[[torch.optim.Optimizer, tuple, dict[str, Any]], None]:
    """A hook for `Optimizer.register_step_pre_hook` that adds Gaussian noise to the gradient and refuses NaN.

    The noise vector over all parameters has an expected norm of `share() * ‖gradient‖`, even if the parameters are
    sharded among processes. The hook runs after reduction, unscaling and clipping.

    Args:
        share (`Callable`): Noise norm as a share of the gradient norm at this step.
        seed (`Callable`): Seed of this step's noise.
        name (`Callable`): Name of the task, for the error message.
    """

    def hook(optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict[str, Any]) -> None:
        gradients = [local(p.grad) for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not gradients:
            return
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        if not torch.isfinite(norm):
            raise FloatingPointError(
                f"The gradient of task `{name()}` is NaN or infinite; nothing of the task was kept. Lower "
                "`learning_rate`, raise `warmup_steps`, or look for empty or damaged texts in its data."
            )
        if not (relative_norm := share()):
            return
        generator = torch.Generator(gradients[0].device).manual_seed(seed())
        size = sum(g.numel() for g in gradients)
        noise = torch.randn(size, generator=generator, device=gradients[0].device, dtype=torch.float32)
        noise *= relative_norm * norm / size**0.5
        noises = noise.split([g.numel() for g in gradients])
        torch._foreach_add_(gradients, [n.view_as(g).to(g.dtype) for n, g in zip(noises, gradients, strict=True)])

    return hook
