"""What is added to a loss so that training makes a model fair over all rows, of which a batch holds few."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from . import measures
from .rows import arrange
from .state import GroupFairness


def fairness_term(
    scores: Tensor, labels: Tensor, groups: Tensor, whole: GroupFairness, weight: float, rows: float | None = None
) -> Tensor:
    """The part of a batch in `weight · F² / 2`, linear in the scores; add it to the batch's mean loss.

    `F` is the metric of the whole as it was measured last. It stays as it is, and so do the sums that it comes from:
    that is all a batch needs to know of other rows. Over all batches the gradients of the term average to that of
    `weight · F² / 2`, at the model that `whole` was measured with; also for `"cal"`, whose denominators move with the
    model. Of more than two groups the two furthest apart are drawn together; of many classes `F²` is summed.
    The gradient is what counts: the term's own value is near 0, whatever `F` is.

    From Wang et al., "Mitigating Group Bias in Federated Learning: Beyond Local Fairness" (TMLR 2024).

    Args:
        scores (`Tensor` of shape `[N]` or `[N, classes]`): Probabilities, with a gradient, on any device.
        labels (`Tensor` of shape `[N]`): The class of each row, from 0.
        groups (`Tensor` of shape `[N]`): The group of each row, from 0; rows of no group are -100.
        whole ([`GroupFairness`]): What is to become fair. While it has rows of fewer than two groups the term is 0.
        weight (`float`): λ, how much fairness counts.
        rows (`float`, *optional*): The number of rows that batches are drawn from. By default those of `whole`; give
            fewer when it also holds others, such as those of earlier tasks.

    Returns:
        `Tensor`: Scalar, float64 (float32 on MPS).

    Raises:
        ValueError: for shapes that do not fit, decisions instead of probabilities, or a weight out of range.
    """
    check_trainable(whole, weight)
    if not scores.is_floating_point():
        raise ValueError("`scores` are decisions, which have no gradient; give probabilities (`logits.softmax(-1)`).")
    batch = arrange(scores, labels, groups, group_count=whole.groups, classes=whole.classes)
    sums = measures.group_sums(whole.metric, *batch)
    drawn_from = whole.rows if rows is None else rows
    slopes = measures.slopes(whole.sums) * (weight * drawn_from / max(len(labels), 1))
    return (slopes.to(sums.device, sums.dtype) * sums).sum()


def check_trainable(whole: GroupFairness, weight: Any) -> None:
    """Refuses what no training can follow (`ValueError`)."""
    if whole.threshold is not None:
        raise ValueError(
            f"`threshold` is {whole.threshold}, and decisions have no gradient; train with soft scores (None)."
        )
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
        raise ValueError(f"The weight of fairness is {weight!r}; give a finite number of at least 0.")
