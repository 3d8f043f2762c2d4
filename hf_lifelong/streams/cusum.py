"""Cumulative sums (Page, *Continuous inspection schemes*, Biometrika 1954)."""

from __future__ import annotations

from torch import Tensor


def cusum(values: Tensor, allowance: float = 0.5, two_sided: bool = False) -> Tensor:
    """The statistic `S_t = max(0, S_{t-1} + x_t - k)`, from `S_0 = 0`.

    For values of standard deviation 1, the allowance `k = δ / 2` makes it the sequential likelihood ratio of a normal
    mean of δ against one of 0, divided by δ.

    Args:
        values (`Tensor`): `[..., n]`, one or more sequences, in standard deviations from their usual mean.
        allowance (`float`): k, subtracted from every value.
        two_sided (`bool`): Also sums `-x`, and returns the larger of both.

    Returns:
        `Tensor`: `[..., n]`, float64.
    """
    if two_sided:
        return cusum(values, allowance).maximum(cusum(-values, allowance))
    walk = (values.double() - allowance).cumsum(-1)
    return walk - walk.cummin(-1).values.clamp_max(0)


def run_lengths(statistic: Tensor, limit: float) -> Tensor:
    """Values until each sequence first exceeds `limit`, `[..., n]` → `[...]`, int64; n + 1 for one that never does."""
    above = statistic > limit
    first = above.int().argmax(-1) + 1
    return first.where(above.any(-1), statistic.shape[-1] + 1)
