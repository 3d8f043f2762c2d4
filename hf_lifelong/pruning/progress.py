"""The course of a pruning: what is measured after each step, when to stop, which step to keep, and a picture."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import Trainer
from transformers.utils import logging

from ..utils.figures import drawn
from .masks import Masks
from .measures import joined, power_sums

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class Step:
    """A trained model at one level of pruning.

    Args:
        step (`int`): Round, or optimizer step in one run.
        remaining (`float`): Share of the prunable weights that are left.
        pq_index (`float`): Of the surviving weights, all as one group.
        score (`float`): On validation data.
    """

    step: int
    remaining: float
    pq_index: float
    score: float


def model_index(masks: Masks, p: float = 0.5, q: float = 1.0) -> float:
    """PQ Index of all surviving weights as one group, summed tensor by tensor."""
    targets = masks.targets.items()
    return float(joined(power_sums(t.rows(t.parameter), p, q, t.rows(masks.pruned[n])) for n, t in targets).index())


def orders_of(rule: Any) -> tuple[float, float]:
    """Orders of the PQ Index by which a run with this rule is judged."""
    return getattr(rule, "p", 0.5), getattr(rule, "q", 1.0)


def stop_reason(
    indices: Sequence[float], scores: Sequence[float], greater: bool, tolerance: float, rise: float
) -> str | None:
    """Why pruning should go no further; `None` when it may.

    Args:
        indices (`Sequence[float]`): PQ Index of the trained model, oldest first.
        scores (`Sequence[float]`): Validation scores, oldest first.
        greater (`bool`): Whether a greater score is better.
        tolerance (`float`): How far the score may fall below the best so far, in its own unit.
        rise (`float`): How far the index may rise above its lowest so far. Diao et al. read a rise as the end of what
            can be compressed.
    """
    if indices and indices[-1] - min(indices) > rise:
        return f"the PQ Index rose from {min(indices):.3f} to {indices[-1]:.3f}, by more than `rise` = {rise}"
    if scores:
        best = max(scores) if greater else min(scores)
        if abs(scores[-1] - best) > tolerance:
            return f"the validation score went from {best:.4f} to {scores[-1]:.4f}, by more than {tolerance}"
    return None


def kept_step(steps: Sequence[Step], greater: bool, tolerance: float) -> int:
    """Position of the step with the fewest weights whose score is within a tolerance of the best."""
    best = max(s.score for s in steps) if greater else min(s.score for s in steps)
    within = [i for i, step in enumerate(steps) if abs(step.score - best) <= tolerance]
    return min(within, key=lambda i: (steps[i].remaining, -steps[i].score if greater else steps[i].score))


def check_limits(tolerance: Any, rise: Any) -> None:
    """Refuses limits that are no numbers of at least 0 (`ValueError`); infinity switches one off."""
    for name, value in (("tolerance", tolerance), ("rise", rise)):
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or value < 0:
            raise ValueError(f"`{name}` must be a number of at least 0 (`float('inf')`: no limit), not {value!r}.")


def check_trainer(trainer: Any) -> None:
    """Refuses anything but a trainer under which masks hold (`ValueError`); the message says what to do instead."""
    if not isinstance(trainer, Trainer):
        raise ValueError(f"`trainer` must be a `Trainer` that is ready to train, not {trainer!r:.60}.")
    for used, name in ((trainer.is_fsdp_enabled, "FSDP"), (trainer.is_deepspeed_enabled, "DeepSpeed")):
        if used:
            raise ValueError(
                f"Pruning under {name} is not supported: each process holds only a part of the weights, so none can "
                "rank a weight among all of them. Prune in one process or under DDP, save, then train the "
                f"pruned model with {name}."
            )


def metric_of(args: Any, tolerance: float) -> tuple[str, bool]:
    """Key of the validation metric in `Trainer.evaluate`'s result, and whether a greater one is better.

    Raises:
        ValueError: when there is a limit on its fall, and `metric_for_best_model` names no metric.
    """
    name = args.metric_for_best_model
    if name is None:
        if math.isfinite(tolerance):
            raise ValueError(
                "`tolerance` limits how far a validation metric may fall, but `metric_for_best_model` in the training "
                "arguments names none. Set it (and `greater_is_better`), or give `tolerance=float('inf')`."
            )
        return "eval_loss", False
    key = name if name.startswith("eval_") else f"eval_{name}"
    return key, args.greater_is_better if args.greater_is_better is not None else not key.endswith("loss")


def draw_steps(steps: Sequence[Step], folder: Path, metric: str, kept: int | None = None) -> None:
    """Writes `pruning.png` into a folder. Without matplotlib it only warns, so that no training fails for it."""
    try:
        plot_steps(steps, folder / "pruning.png", metric, kept)
    except ImportError as error:
        logger.warning(f"The picture of the pruning was not drawn. {error}")


def plot_steps(
    steps: Sequence[Step], path: str | os.PathLike[str], metric: str = "score", kept: int | None = None
) -> None:
    """Draws PQ Index, remaining weights and score, one below the other; the kept step is marked.

    Args:
        steps (`Sequence[Step]`): At least one.
        path: PNG file to write.
        metric (`str`): Name of the score.
        kept (`int`, *optional*): Position of the round that is kept; without it, the steps are those of one run.
    """
    curves = (
        ("PQ Index of the survivors", [s.pq_index for s in steps]),
        ("remaining weights", [s.remaining for s in steps]),
        (metric, [s.score for s in steps]),
    )
    with drawn(path, (6.0, 6.4)) as figure:
        axes = figure.subplots(3, 1, sharex=True)
        for panel, (label, values) in zip(axes, curves, strict=True):
            panel.plot([s.step for s in steps], values, marker="o", color="#31688e")
            panel.set_ylabel(label)
            panel.grid(alpha=0.3)
            if kept is not None:
                panel.plot(steps[kept].step, values[kept], "o", ms=11, mfc="none", mec="black", mew=1.6, label="kept")
        axes[1].set_ylim(0, 1.05)
        axes[2].set_xlabel("round" if kept is not None else "step")
        axes[2].xaxis.get_major_locator().set_params(integer=True)
        if kept is not None:
            axes[0].legend(frameon=False)
