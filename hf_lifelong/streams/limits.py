"""Limits of the detector's statistics for a mean run between false alarms, by simulation."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from scipy.optimize import brentq
from torch import Tensor

# Longest and shortest window of the running statistic, in inputs. A boundary is told from the shortest on, so that the
# inputs since can be compared with the known tasks.
LONGEST, SHORTEST = 128, 16
# Products of two inputs, and steps of the cumulative sums, count up to this many standard deviations.
BOUND = 3.0
# Simulated streams, and blocks of `LONGEST` inputs of each.
STREAMS, BLOCKS, SEED = 128, 8, 0


@lru_cache(maxsize=1)
def window_deviations() -> tuple[Tensor, Tensor]:
    """Standard deviation of the sum of the products of all pairs of a window's inputs, `[LONGEST]`, float64, for
    windows of 1 to `LONGEST` inputs: the first if the reference's mean is known, the second what is added to it,
    times n, if the mean was estimated from n inputs."""
    w = torch.arange(1, LONGEST + 1, dtype=torch.float64)
    pairs = (w * (w - 1) / 2).clamp_min(0.5).sqrt()
    return pairs, pairs * w


def extended(sums: Tensor, products: Tensor) -> Tensor:
    """The sums over all pairs within the windows that end at the present input.

    A window of w inputs is the window of w - 1 inputs that ended before, and the present input with each of these.

    Args:
        sums (`Tensor`): `[..., n]`, for windows of 1 to n inputs that ended at the input before.
        products (`Tensor`): `[..., n]`, of the present input with the one before, the one before that, and so on.
    """
    longer = sums + products.cumsum(-1)
    return torch.cat([torch.zeros_like(longer[..., :1]), longer[..., :-1]], -1)


@lru_cache(maxsize=64)
def window_limits(expected_run: float, dimensions: int) -> Tensor:
    """Limits of the running statistic, `[LONGEST]`, float64: infinite for windows that are too short.

    Simulates streams on a sphere whose reference is known. The largest values of
    the statistic within a stream follow Gumbel's distribution closely, which is fitted, so that runs that are longer
    than what is simulated have a limit too. Every window gets about the same share of the alarms.

    Args:
        expected_run (`float`): Mean number of inputs between false alarms.
        dimensions (`int`): Number of dimensions in which the inputs vary evenly.
    """
    generator = torch.Generator().manual_seed(SEED)

    def inputs(count: int) -> Tensor:
        drawn = torch.randn(STREAMS, count, dimensions, generator=generator)
        return drawn / torch.linalg.vector_norm(drawn, dim=-1, keepdim=True)

    scale = 1 / window_deviations()[0]
    past = inputs(LONGEST)
    sums = torch.zeros(STREAMS, LONGEST, dtype=torch.float64)
    largest = torch.full((STREAMS, LONGEST), -math.inf, dtype=torch.float64)
    # Positions of the inputs 1, 2, … before each of a block, in the block and the one before it.
    before = torch.arange(LONGEST).unsqueeze(1) + LONGEST - 1 - torch.arange(LONGEST)
    for block in range(BLOCKS + 1):
        now = inputs(LONGEST)
        products = (now @ torch.cat([past, now], 1).mT).gather(2, before.expand(STREAMS, -1, -1)).double()
        products = (products * dimensions**0.5).clamp(-BOUND, BOUND)
        for step in range(LONGEST):
            sums = extended(sums, products[:, step])
            if block:  # the first one only fills the windows
                largest = largest.maximum(sums * scale)
        past = now
    centre, spread = _gumbel(largest[:, SHORTEST - 1 :])
    overall = ((largest[:, SHORTEST - 1 :] - centre) / spread).amax(1, keepdim=True)
    centre_of_all, spread_of_all = _gumbel(overall)
    rare = -math.log(LONGEST * BLOCKS / expected_run)
    limits = centre + spread * (centre_of_all + spread_of_all * rare)
    return torch.cat([torch.full((SHORTEST - 1,), math.inf, dtype=torch.float64), limits])


def _gumbel(values: Tensor) -> tuple[Tensor, Tensor]:
    """Location and scale of Gumbel's distribution with the moments of each column, `[n, m]` → `[m]`, `[m]`."""
    scale = values.std(0) * 6**0.5 / math.pi
    return values.mean(0) - 0.5772156649015329 * scale, scale


def cusum_limit(expected_run: float, allowance: float) -> float:
    """The limit of a one-sided CUSUM of standard normal values: Siegmund's approximation of its average run length
    (*Sequential Analysis*, 1985), solved for the limit."""

    def excess(limit: float) -> float:
        b = 2 * allowance * (limit + 1.166)
        return (math.exp(b) - 1 - b) / (2 * allowance**2) - expected_run

    return float(brentq(excess, 0, 100 / allowance))
