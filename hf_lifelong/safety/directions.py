"""The directions in which a constant trigger is cheapest: those in which the clean data of a class hardly vary."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from scipy.special import ndtri
from torch import Tensor

from . import checks


class WeakDirections(NamedTuple):
    """Directions in feature space, the weakest first.

    Args:
        directions (`Tensor`): float64 `[k, D]`, of length 1; the largest entry of each is positive.
        std (`Tensor`): float64 `[k]`, standard deviation within the classes along each, in the unit of the features,
            or in standard deviations of the reference where there is one. 0 where the data are degenerate.
    """

    directions: Tensor
    std: Tensor


def within_covariance(features: Tensor, classes: Tensor) -> Tensor:
    """Covariance around the means of the classes, pooled over them: float64 `[D, D]`, divided by n - classes.

    Args:
        features (`Tensor`): float64 `[n, D]`.
        classes (`Tensor`): int64 `[n]`, numbers of the classes from 0 without gaps; fewer of them than rows.
    """
    centred = within_residuals(features, classes)
    return centred.T @ centred / (len(features) - int(classes.max()) - 1)


def within_residuals(features: Tensor, classes: Tensor) -> Tensor:
    """Features `[n, D]` around the means of their classes, int64 `[n]`."""
    counts = torch.bincount(classes)
    sums = features.new_zeros(len(counts), features.shape[1]).index_add_(0, classes, features)
    return features - (sums / counts.clamp_min(1).unsqueeze(1))[classes]


def weakest(covariance: Tensor, k: int, reference: Tensor | None = None) -> WeakDirections:
    """The at most k directions v with the least vᵀ S v, or vᵀ S v / vᵀ R v with a reference R.

    Args:
        covariance (`Tensor`): float64 `[D, D]`, S.
        k (`int`): How many; all D where there are fewer.
        reference (`Tensor`, *optional*): float64 `[D, D]`, R, positive definite.

    Raises:
        ValueError: for a reference that is not positive definite.
    """
    if reference is not None:
        white = whitening(reference)
        covariance = white.T @ covariance @ white
    variance, vectors = torch.linalg.eigh(covariance)
    # What eigh leaves of an exact 0 is a rounding error of the largest.
    nothing = variance <= variance[-1] * len(variance) * torch.finfo(variance.dtype).eps
    std = variance.masked_fill(nothing, 0.0)[:k].sqrt()
    found = vectors[:, :k] if reference is None else white @ vectors[:, :k]
    found = (found / found.norm(dim=0)).T
    sign = found.gather(1, found.abs().argmax(1, keepdim=True)).sign()
    return WeakDirections(found * sign, std)


def whitening(reference: Tensor) -> Tensor:
    """W `[D, D]` with Wᵀ R W = 1 for a covariance R.

    Raises:
        ValueError: for a reference that is not positive definite.
    """
    variance, vectors = torch.linalg.eigh(reference)
    if float(variance[0]) <= float(variance[-1]) * len(variance) * torch.finfo(variance.dtype).eps:
        raise ValueError(
            "`reference` is no positive definite covariance: it has directions without variance, and nothing can be "
            "measured in them. Take it from more rows, or add a small multiple of the identity."
        )
    return vectors * variance.rsqrt()


def reference_of(reference: Any, size: int) -> Tensor:
    """A user's covariance as float64 `[size, size]` (`ValueError` for what is none)."""
    found = checks.numbers("reference", reference, 2)
    if found.shape != (size, size) or not torch.allclose(found, found.T):
        raise ValueError(
            f"`reference` must be a covariance, symmetric and of the shape [{size}, {size}] for {size} features, not "
            f"{list(found.shape)}."
        )
    return found


def weak_directions(features: Any, labels: Any, k: int = 16, reference: Any = None) -> WeakDirections:
    """The directions in which a constant trigger is cheapest.

    Wang et al. (ICLR 2024): for Gaussian classes the best trigger goes along the least variance, and in a direction
    without any variance one of every length works.

    Args:
        features (`Tensor`): `[n, D]`, any real dtype.
        labels: `n` labels of any kind.
        k (`int`): How many; all D where there are fewer.
        reference (`Tensor`, *optional*): `[D, D]`, covariance of data that are trusted, in whose standard deviations
            the spread is measured. It must be positive definite.

    Raises:
        ValueError: for bad shapes, NaN, features that are constant, and when no class has two rows.

    Returns:
        [`WeakDirections`], which unpacks into directions `[k, D]` and std `[k]`.

    Source: eigenvectors of the pooled covariance within the classes.
    """
    x = checks.numbers("features", features, 2)
    checks.varying("features", x)
    names, classes = checks.class_ids(labels, features=len(x))
    if len(names) == len(x):
        raise ValueError("`labels` differ in all rows, so that nothing varies within a class: give two rows of one.")
    trusted = None if reference is None else reference_of(reference, x.shape[1])
    return weakest(within_covariance(x, classes), checks.count("k", k, 1), trusted)


def smallest_magnitude(std: Any, alpha: float) -> Tensor:
    """How long a constant trigger along a direction must be for Gaussian classes to leave it a bias of alpha.

    L = 4 σ z with z the (1 - alpha / 2) quantile of the normal distribution: the length at which a tail
    P(|x - m| >= L / 4) is alpha. It is a rule of thumb, read off the shape of the paper's bounds and not their
    constants, and leaves out where the class means lie; [`RiskCurve.smallest_magnitude`] looks at the data.

    Args:
        std (`float` or `Tensor`): σ, standard deviations along the directions, as [`weak_directions`] gives them.
        alpha (`float`): Tolerated share of triggered inputs that escape, between 0 and 1.

    Raises:
        ValueError: for a std that is negative or NaN, and for an alpha out of range.

    Returns:
        `Tensor`: float64 like `std`, in its unit. 0 in a degenerate direction.
    """
    sigma = torch.as_tensor(std, dtype=torch.float64)
    if not bool((sigma >= 0).all()):
        raise ValueError(f"`std` must hold standard deviations of at least 0, not {std!r:.60}.")
    return 4 * float(ndtri(1 - checks.share("alpha", alpha) / 2)) * sigma
