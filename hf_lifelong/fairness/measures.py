"""Group fairness as functions of a few sums. Pure.

Every metric is the gap between the *rates* of groups, and a rate is a ratio of two sums over the rows of a group:

| | numerator | denominator |
|---|---|---|
| `"sp"`, statistical parity | scores | rows |
| `"eop"`, equal opportunity | scores of positive rows | positive rows |
| `"cal"`, well-calibration | scores of positive rows | scores |

So the sums of a whole are those of its parts added up, whatever the parts are (Wang et al., "Mitigating Group Bias in
Federated Learning: Beyond Local Fairness", TMLR 2024). Of two classes the second is the positive one; more are taken
one against the rest. `C` below counts the classes that are scored, one of two.
"""

from __future__ import annotations

import torch
from torch import Tensor

METRICS = ("sp", "eop", "cal")


def group_sums(metric: str, scores: Tensor, positive: Tensor, members: Tensor) -> Tensor:
    """Numerators and denominators of every group.

    Args:
        metric (`str`): One of `METRICS`.
        scores (`Tensor` of shape `[N, C]`): Probability of each class, or decision (0 or 1); float.
        positive (`Tensor` of shape `[N, C]`): Whether it is the row's class; bool.
        members (`Tensor` of shape `[N, G]`): Whether the row is of the group; bool.

    Returns:
        `Tensor` of shape `[2, G, C]`, in the dtype of `scores`; differentiable in them.
    """
    hits = scores * positive
    counted = {
        "sp": (scores, torch.ones_like(scores)),
        "eop": (hits, positive.to(scores.dtype)),
        "cal": (hits, scores),
    }[metric]
    # A product, because adding by index has no fixed order on a GPU.
    return members.to(scores.dtype).T @ torch.stack(counted)


def rates(sums: Tensor) -> Tensor:
    """The rate of each group: `[G, C]` of sums `[2, G, C]`; NaN where no row counts."""
    return sums[0] / sums[1]


def gaps(sums: Tensor) -> Tensor:
    """The metric of each class: first rate minus second for two groups, highest minus lowest for more.

    Args:
        sums (`Tensor` of shape `[2, G, C]`): As of [`group_sums`].

    Returns:
        `Tensor` of shape `[C]`: In [-1, 1]; NaN where fewer than two groups have a rate.
    """
    rate = rates(sums)
    if len(rate) == 2:
        return rate[0] - rate[1]
    spread = _highest(rate) - _lowest(rate)
    return spread.where((~rate.isnan()).sum(0) > 1, torch.nan)


def slopes(sums: Tensor) -> Tensor:
    """Gradient of `Σ_c F_c² / 2` in the sums, `F_c` the metric of class c.

    With more than two groups it is that of the two whose rates lie furthest apart. Classes in which fewer than two
    groups have a rate have slope 0.

    Args:
        sums (`Tensor` of shape `[2, G, C]`): As of [`group_sums`].

    Returns:
        `Tensor` of shape `[2, G, C]`.
    """
    rate, size = rates(sums), gaps(sums).abs().nan_to_num()
    groups = torch.arange(len(rate), device=rate.device)[:, None]
    top = rate.nan_to_num(nan=-1.0).argmax(0) == groups
    bottom = rate.nan_to_num(nan=2.0).argmin(0) == groups
    by_numerator = (size * (top.to(rate.dtype) - bottom.to(rate.dtype)) / sums[1]).where(sums[1] > 0, 0.0)
    return torch.stack([by_numerator, -by_numerator * rate.nan_to_num()])


def union_bounds(parts: Tensor) -> Tensor:
    """How large the metric of a union can be, by what its parts show.

    Two groups whose shares of the parts are `w` and `v` have in the union the gap
    `Σ_k w_k r_k - Σ_k v_k s_k = Σ_k w_k (r_k - s_k) + Σ_k (w_k - v_k) s_k`. The first sum is at most the largest gap
    within a part, the second the total variation between `w` and `v` times the range of `s`. Either group may be the
    one whose rates are taken for `s`; the smaller result holds.

    Args:
        parts (`Tensor` of shape `[K, 2, G, C]`): The sums of each part.

    Returns:
        `Tensor` of shape `[C]`: The largest bound over pairs of groups; NaN where fewer than two groups have a rate.
    """
    denominators = parts[:, 1]
    rate = parts[:, 0] / denominators
    shares = denominators / denominators.sum(0)
    first, second = rate[:, :, None], rate[:, None]
    within = (first - second).abs().nan_to_num().amax(0)
    variation = (shares[:, :, None] - shares[:, None]).abs().sum(0) / 2
    # A group that a part lacks has no weight there, so any rate may stand for its own: the other's adds no gap.
    stand_in = first.where(second.isnan(), second)
    bounds = within + variation * (_highest(stand_in) - _lowest(stand_in))
    bounds = bounds.minimum(bounds.transpose(0, 1)).flatten(0, 1)
    several = (denominators.sum(0) > 0).sum(0) > 1
    return _highest(bounds).where(several, torch.nan)


def _highest(values: Tensor) -> Tensor:
    return values.nan_to_num(nan=-torch.inf).amax(0)


def _lowest(values: Tensor) -> Tensor:
    return values.nan_to_num(nan=torch.inf).amin(0)
