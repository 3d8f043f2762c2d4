"""What poison leaves in the hidden states of a trained model: a direction of its own, and a cluster of its own.

Both look at one class at a time, in the standard deviations of a reference: a covariance of data that are trusted. The
reference takes out how features vary anyway. They rank rows and classes, and say nothing of how high is too high; only
of rows that are suspected beforehand there is a p-value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import hypergeom, mannwhitneyu
from torch import Tensor

from . import checks
from .directions import reference_of, whitening

_LLOYD_STEPS = 30


@dataclass(frozen=True)
class TwoClusters:
    """How the rows of each class part in two.

    Args:
        names (`list`): The classes, in order of their first row; `C` of them.
        smaller (`Tensor`): bool `[n]`, whether a row is in the smaller cluster of its class.
        share (`Tensor`): float64 `[C]`, share of the class in that cluster; small where few rows are poisoned.
        separation (`Tensor`): float64 `[C]`, distance of the clusters' means in standard deviations within the
            clusters along it. One Gaussian cut in half has 2.65; two clusters have more.
    """

    names: list[Any]
    smaller: Tensor
    share: Tensor
    separation: Tensor


def spectral_scores(features: Any, labels: Any, reference: Any = None) -> Tensor:
    """How far each row lies out along the direction in which its class varies most (the spectral signature).

    Args:
        features (`Tensor`): `[n, D]`, hidden states of a model that was trained on the rows, any real dtype.
        labels: `n` labels of any kind, those of the training data.
        reference (`Tensor`, *optional*): `[D, D]`, positive definite covariance of trusted data within their classes.

    Returns:
        `Tensor`: float64 `[n]`, squared distance from the mean of the class along the direction; the larger, the more
        suspicious. 0 in a class with a single row.

    Raises:
        ValueError: for bad shapes, NaN, features that are constant, and a reference that is no covariance.

    Source: Tran, Li and Madry, "Spectral Signatures in Backdoor Attacks" (NeurIPS 2018), algorithm 1; whitening by
    trusted data after Hayase et al., "SPECTRE" (ICML 2021).
    """
    _, place, rows, _ = _by_class(features, labels, reference)
    return _along(rows, 1).square().squeeze(-1)[place]


def two_clusters(features: Any, labels: Any, reference: Any = None, dims: int = 10) -> TwoClusters:
    """Parts the rows of each class in two by 2-means in its first principal components (activation clustering).

    Args:
        features (`Tensor`): `[n, D]`, hidden states of a model that was trained on the rows, any real dtype.
        labels: `n` labels of any kind, those of the training data; each on at least two rows.
        reference (`Tensor`, *optional*): `[D, D]`, positive definite covariance of trusted data within their classes.
        dims (`int`): Number of principal components; all where there are fewer.

    Raises:
        ValueError: as [`spectral_scores`], and for a class with a single row.

    Source: Chen et al., "Detecting Backdoor Attacks on Deep Neural Networks by Activation Clustering" (2018), with
    principal components for independent ones.
    """
    names, place, rows, mask = _by_class(features, labels, reference)
    sizes = mask.sum(1)
    if int(sizes.min()) < 2:
        raise ValueError(f"Label {names[int(sizes.argmin())]!r} has a single row, which makes no two clusters.")
    points = _along(rows, checks.count("dims", dims, 1))
    second, centres = _two_means(points, mask)
    # Which of the two is called the second does not depend on the sign of a component.
    counts = second.sum(1)
    smaller = torch.where((counts * 2 <= sizes).unsqueeze(1), second, mask & ~second)
    difference = centres[:, 1] - centres[:, 0]
    distance = difference.norm(dim=-1)
    own = torch.where(second.unsqueeze(-1), centres[:, 1:], centres[:, :1])
    residual = ((points - own) @ difference.unsqueeze(-1)).squeeze(-1) / distance.clamp(min=1e-300).unsqueeze(1)
    spread = (residual.square() * mask).sum(1).div(sizes).sqrt()
    separation = torch.where(distance > 0, distance / spread, 0.0)  # rows that are all alike do not part
    return TwoClusters(names, smaller[place], smaller.sum(1) / sizes.double(), separation)


def lies_apart(features: Any, suspected: Any, reference: Any = None) -> float:
    """P-value of suspected rows of a class lying where other rows of the class do.

    Two tests, the better one counts twice: their spectral scores are not higher than those of the others (Mann and
    Whitney), and they are not more often in the smaller of two clusters (Fisher).

    Args:
        features (`Tensor`): `[n, D]`, hidden states of rows of one class, of a model that was trained on them.
        suspected (`Tensor`): bool `[n]`, some of the rows, and not all.
        reference (`Tensor`, *optional*): `[D, D]`, as in [`spectral_scores`].

    Raises:
        ValueError: as [`two_clusters`], and when none or all of the rows are suspected.
    """
    chosen = torch.as_tensor(suspected, dtype=torch.bool)
    checks.same_length(features=len(features), suspected=len(chosen))
    drawn, n = int(chosen.sum()), len(chosen)
    if not 0 < drawn < n:
        raise ValueError(f"`suspected` names {drawn} of {n} rows: give some of a class, and others to compare with.")
    scores, smaller = spectral_scores(features, [0] * n, reference), two_clusters(features, [0] * n, reference).smaller
    higher = mannwhitneyu(scores[chosen].numpy(), scores[~chosen].numpy(), alternative="greater").pvalue
    together = hypergeom.sf(int(smaller[chosen].sum()) - 1, n, int(smaller.sum()), drawn)
    return min(1.0, 2 * float(min(higher, together)))


def _by_class(features: Any, labels: Any, reference: Any) -> tuple[list[Any], tuple[Tensor, Tensor], Tensor, Tensor]:
    """Names of the classes; where each row is in `[C, m]`; rows around the mean of their class, whitened, float64
    `[C, m, D]` with zeros after the last of each class; and which of them are rows, bool `[C, m]`."""
    x = checks.numbers("features", features, 2)
    checks.varying("features", x)
    names, classes = checks.class_ids(labels, features=len(x))
    if reference is not None:
        x = x @ whitening(reference_of(reference, x.shape[1]))
    sizes = torch.bincount(classes)
    order = classes.argsort(stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(x)) - (sizes.cumsum(0) - sizes)[classes[order]]
    place = (classes, rank)
    rows = x.new_zeros(len(names), int(sizes.max()), x.shape[1])
    rows[place] = x
    mask = torch.arange(rows.shape[1]) < sizes.unsqueeze(1)
    rows = (rows - rows.sum(1, keepdim=True) / sizes.view(-1, 1, 1)) * mask.unsqueeze(-1)
    return names, place, rows, mask


def _along(rows: Tensor, dims: int) -> Tensor:
    """Coordinates `[C, m, k]` in the at most `dims` directions in which each class varies most, the first first."""
    axes = torch.linalg.eigh(rows.mT @ rows).eigenvectors.flip(-1)[..., :dims]
    return rows @ axes


def _two_means(points: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm in all classes at once, from the two sides of the mean along the first coordinate.

    Returns which points `[C, m]` are in the second cluster, and the centres `[C, 2, k]`.
    """
    second = (points[..., 0] > 0) & mask
    for _ in range(_LLOYD_STEPS):
        members = torch.stack([mask & ~second, second], 1).double()  # [C, 2, m]
        centres = members @ points / members.sum(-1, keepdim=True).clamp(min=1)
        distances = torch.cdist(points, centres)
        nearer = (distances[..., 1] < distances[..., 0]) & mask
        if torch.equal(nearer, second):
            break
        second = nearer
    return second, centres
