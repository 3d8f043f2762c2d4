"""Where the importances of inputs that matter begin."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]
_ROUNDS = 200
_NARROWEST = 1e-3  # variance of a component, as a share of that of all values: exact zeros lie in one point
_APART = 2.0  # Ashman's D from which two components are told apart


@dataclass(frozen=True)
class Mixture:
    """Two normal distributions fitted to values, the low one first.

    Args:
        means, variances, shares: `[..., 2]`.
    """

    means: Floats
    variances: Floats
    shares: Floats

    @property
    def distance(self) -> Floats:
        """Ashman's D `[...]`: the distance of the means in units of the quadratic mean of the standard deviations
        (Ashman, Bird and Zepf, 1994)."""
        spread = np.sqrt(self.variances.mean(-1))
        apart = self.means[..., 1] - self.means[..., 0]
        return np.divide(apart, spread, out=np.zeros_like(apart), where=spread > 0)

    def likelier(self, values: Floats) -> Bools:
        """Whether `[...]` values `[..., p]` are likelier of two distributions than of one, by the Bayesian information
        criterion (Schwarz, 1978): the second one costs three parameters."""
        with np.errstate(divide="ignore", invalid="ignore"):
            one = _log_densities(values, values.mean(-1)[..., None], values.var(-1)[..., None])[..., 0].sum(-1)
            each = _log_densities(values, self.means, self.variances) + np.log(self.shares[..., None, :])
            two = np.logaddexp(each[..., 0], each[..., 1]).sum(-1)
        return 2 * (two - one) > 3 * np.log(values.shape[-1])

    def high(self, values: Floats) -> Bools:
        """Which values `[..., p]` are likelier of the high component, and above the mean of the low one."""
        return (_responsibilities(self, values) > 0.5) & (values > self.means[..., :1])


def fit_mixture(values: Floats) -> Mixture:
    """Fits two normal distributions to each row of values by expectation and maximisation, from the best split in two
    (2-means, exact in one dimension).

    Args:
        values: `[..., p]`, p ≥ 2.
    """
    floor = _NARROWEST * values.var(-1)[..., None]
    high = _split(values).astype(float)
    mixture = _maximise(values, high, floor)
    for _ in range(_ROUNDS):
        mixture = _maximise(values, _responsibilities(mixture, values), floor)
    return mixture


def mixture_cut(importances: Floats) -> tuple[Bools, Bools]:
    """Inputs of the high component of a mixture over the square roots of importances (they spread both components
    evenly; as lengths of weights, importances are skewed).

    Args:
        importances: `[..., p]`, at least 0.

    Returns:
        Which inputs are kept `[..., p]`, none where the components do not separate; and where they do `[...]`.
    """
    values = np.sqrt(importances)
    if values.shape[-1] < 3:  # any two values are two components
        return np.zeros(values.shape, bool), np.zeros(values.shape[:-1], bool)
    mixture = fit_mixture(values)
    high = mixture.high(values)
    separate = (mixture.distance > _APART) & mixture.likelier(values) & high.any(-1)
    return high & separate[..., None], separate


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


def _split(values: Floats) -> Bools:
    """The upper part of the split in two that leaves the least variance."""
    ordered = np.sort(values, axis=-1)
    below = np.arange(1, values.shape[-1])
    low = ordered.cumsum(-1)[..., :-1] / below
    high = ordered[..., ::-1].cumsum(-1)[..., ::-1][..., 1:] / below[::-1]
    between = below * below[::-1] * (high - low) ** 2
    place = between.argmax(-1)[..., None]
    return values > np.take_along_axis(ordered, place, -1)


def _log_densities(values: Floats, means: Floats, variances: Floats) -> Floats:
    """Of normal distributions `[..., k]`, at values `[..., p]`: `[..., p, k]`; NaN where a variance is 0."""
    means, variances = means[..., None, :], variances[..., None, :]
    with np.errstate(divide="ignore", invalid="ignore"):
        return -0.5 * ((values[..., None] - means) ** 2 / variances + np.log(2 * np.pi * variances))


def _responsibilities(mixture: Mixture, values: Floats) -> Floats:
    """Probability `[..., p]` that a value is of the high component; 0 where all values are the same."""
    with np.errstate(divide="ignore", over="ignore"):
        log = _log_densities(values, mixture.means, mixture.variances) + np.log(mixture.shares[..., None, :])
        return np.nan_to_num(1 / (1 + np.exp(log[..., 0] - log[..., 1])))


def _maximise(values: Floats, high: Floats, floor: Floats) -> Mixture:
    weights = np.stack([1 - high, high], -1)
    total = np.maximum(weights.sum(-2), np.finfo(float).tiny)
    means = (weights * values[..., None]).sum(-2) / total
    variances = (weights * (values[..., None] - means[..., None, :]) ** 2).sum(-2) / total
    return Mixture(means, np.maximum(variances, floor), total / values.shape[-1])
