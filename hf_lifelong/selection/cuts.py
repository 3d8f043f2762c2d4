"""Where the importances of inputs that matter begin."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]
_ROUNDS = 200
_NARROWEST = 1e-3  # variance of a component, as a share of that of all values: equal ones lie in one point
_APART = 2.0  # Ashman's D from which two components are told apart


@dataclass(frozen=True)
class Mixture:
    """Two normal distributions fitted to values, the low one first.

    Args:
        means, variances, shares: `[..., 2]`.
        likelier: `[...]` bool, whether they fit better than one, by the Bayesian information criterion (Schwarz,
            1978): the second one costs three parameters.
    """

    means: Floats
    variances: Floats
    shares: Floats
    likelier: Bools

    @property
    def distance(self) -> Floats:
        """Ashman's D `[...]`: the distance of the means in units of the quadratic mean of the standard deviations
        (Ashman, Bird and Zepf, 1994)."""
        return _distance(self.means[..., 1] - self.means[..., 0], self.variances.mean(-1))

    def high(self, values: Floats) -> Bools:
        """Which values `[..., p]` are likelier of the high component, and above the mean of the low one."""
        log = _log_shares(values, self.means, self.variances, self.shares)
        return (log[..., 1] > log[..., 0]) & (values > self.means[..., :1])


def fit_mixture(values: Floats, counted: Bools | None = None) -> Mixture:
    """Fits two normal distributions to each row of values by expectation and maximisation, from the best split in two
    (2-means, exact in one dimension).

    Args:
        values: `[..., p]`.
        counted: `[..., p]`, bool: which values are meant; default: all. NaN where they are fewer than 2, or the same.
    """
    weights = np.ones(values.shape) if counted is None else counted.astype(float)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        count, mean, variance = _moments(values, weights)
        floor = _NARROWEST * variance[..., None]
        high = _split(values, weights)
        for _ in range(_ROUNDS):
            parts = [_moments(values, part) for part in (weights * (1 - high), weights * high)]
            sizes, means, variances = (np.stack(part, -1) for part in zip(*parts, strict=True))
            shares, variances = sizes / count[..., None], np.maximum(variances, floor)
            log = _log_shares(values, means, variances, shares)
            high = 1 / (1 + np.exp(log[..., 0] - log[..., 1]))
        two = (np.logaddexp(log[..., 0], log[..., 1]) * weights).sum(-1)
        one = (_log_density(values, mean, variance) * weights).sum(-1)
        return Mixture(means, variances, shares, 2 * (two - one) > 3 * np.log(count))


def mixture_cut(importances: Floats) -> tuple[Bools, Bools]:
    """Inputs of the high component of a mixture over the square roots of importances (they spread both components
    evenly; as lengths of weights, importances are skewed).

    Exact zeros are of the low component. Where no two kinds are apart because many of them draw it to a point, the
    mixture is fitted to the other values.

    Args:
        importances: `[..., p]`, at least 0.

    Returns:
        Which inputs are kept `[..., p]`, none where no two kinds separate; and where they do `[...]`.
    """
    values = np.sqrt(importances)
    seen = values > 0
    kept, apart = _high(values, np.ones_like(seen))
    kept_of_seen, apart_of_seen = _high(values, seen)
    return np.where(apart[..., None], kept, kept_of_seen) & seen, apart | apart_of_seen


def _high(values: Floats, counted: Bools) -> tuple[Bools, Bools]:
    """Values `[..., p]` of the high component, none where the two are not apart; and where they are `[...]`."""
    mixture = fit_mixture(values, counted)
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = (counted.sum(-1) > 3) & mixture.likelier & (mixture.distance > _APART)
        return mixture.high(values) & apart[..., None], apart


def top_cut(importances: Floats, count: int) -> Bools:
    """The `count` most important inputs `[..., p]`; fewer where fewer have any importance."""
    ranks = np.argsort(np.argsort(-importances, axis=-1, kind="stable"), axis=-1, kind="stable")
    return (ranks < count) & (importances > 0)


def share_cut(importances: Floats, share: float) -> Bools:
    """Inputs `[..., p]` that have at least a share of the greatest importance."""
    return (importances >= share * importances.max(-1, keepdims=True)) & (importances > 0)


def cut(importances: Floats, rule: str | int | float) -> Bools:
    """Inputs that are kept `[..., p]` by `"mixture"`, a number of inputs, or a share of the greatest importance."""
    if rule == "mixture":
        return mixture_cut(importances)[0]
    return top_cut(importances, int(rule)) if isinstance(rule, Integral) else share_cut(importances, float(rule))


def _split(values: Floats, weights: Floats) -> Floats:
    """1 for the upper part of the split in two, of the values of weight 1, that leaves the least variance."""
    order = values.argsort(-1, kind="stable")
    ordered, weights = np.take_along_axis(values, order, -1), np.take_along_axis(weights, order, -1)
    below, total = weights.cumsum(-1), (weights * ordered).cumsum(-1)
    above = below[..., -1:] - below
    between = below * above * (total / below - (total[..., -1:] - total) / above) ** 2
    place = np.nan_to_num(between, nan=0.0, posinf=0.0).argmax(-1)[..., None]
    return (values > np.take_along_axis(ordered, place, -1)).astype(float)


def _moments(values: Floats, weights: Floats) -> tuple[Floats, Floats, Floats]:
    """Sum of the weights, weighted mean and variance `[...]`; NaN for no weight."""
    count = weights.sum(-1)
    mean = (weights * values).sum(-1) / count
    return count, mean, (weights * (values - mean[..., None]) ** 2).sum(-1) / count


def _log_density(values: Floats, mean: Floats, variance: Floats) -> Floats:
    """Of a normal distribution `[...]`, at values `[..., p]`."""
    mean, variance = mean[..., None], variance[..., None]
    return -0.5 * ((values - mean) ** 2 / variance + np.log(2 * np.pi * variance))


def _log_shares(values: Floats, means: Floats, variances: Floats, shares: Floats) -> Floats:
    """Log-density of each component times its share `[..., p, 2]`."""
    parts = [
        _log_density(values, means[..., k], variances[..., k]) + np.log(shares[..., k])[..., None] for k in (0, 1)
    ]
    return np.stack(parts, -1)


def _distance(apart: Floats, variance: Floats) -> Floats:
    return np.divide(apart, np.sqrt(variance), out=np.full_like(apart, np.inf), where=variance > 0)
