"""What a stream is compared with: where the inputs of one task lie, and coordinates in which they look alike in all
directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from ..knowledge import Signature

# Directions that are levelled: the leading ones of a task's scatter, at most this share of the inputs behind it.
DIRECTIONS, SHARE = 64, 4
# Added to every variance, as a share of the mean variance, so that constant features do not count without limit.
FLOOR = 0.01


@dataclass(frozen=True)
class Reference:
    """Where the inputs of one task lie.

    Args:
        signature ([`~knowledge.Signature`]): The stored statistics of this task alone.
        inputs (`int`): Number of inputs that they were fitted on.
    """

    signature: Signature
    inputs: int

    def __post_init__(self) -> None:
        mean, classes = self.signature.mean, self.signature.classes
        if mean.ndim != 1 or classes.ndim != 2:
            raise ValueError(
                f"`signature` must be of one task, with a mean `[D]`, not of shape {list(mean.shape)}; split the "
                "signatures of several tasks with `references`."
            )
        if self.inputs < 2:
            raise ValueError(f"`inputs` must be at least 2, not {self.inputs}.")


def references(
    signature: Signature, names: Sequence[str], inputs: Sequence[int], classes: Sequence[int]
) -> dict[str, Reference]:
    """The references of tasks whose signatures are stacked, as an adapter holds them.

    Args:
        signature ([`~knowledge.Signature`]): `[tasks, …]`, class means task after task.
        names (`list[str]`): What each task is called in verdicts.
        inputs (`list[int]`): Number of inputs that each signature was fitted on.
        classes (`list[int]`): Number of class means of each task.
    """
    bounds = list(pairwise(accumulate(classes, initial=0)))
    if not len(signature.mean) == len(names) == len(inputs) == len(bounds):
        raise ValueError(
            f"`names`, `inputs` and `classes` must have one entry for each of the {len(signature.mean)} signatures, "
            f"not {len(names)}, {len(inputs)} and {len(bounds)}."
        )
    return {
        name: Reference(Signature(mean, factor, diagonal, signature.classes[start:stop]), count)
        for name, mean, factor, diagonal, (start, stop), count in zip(
            names, signature.mean, signature.factor, signature.diagonal, bounds, inputs, strict=True
        )
    }


@dataclass(frozen=True)
class Coordinates:
    """Maps features to the unit sphere around a task: centred, each feature scaled by its deviation, the leading
    directions of the scatter levelled with the rest, and divided by the length.

    The length is left out because single inputs far away must not decide (spatial signs; Wang, Peng, Li, *A high-
    dimensional nonparametric multivariate test for mean vector*, JASA 2015).

    Args:
        centre, scale (`Tensor`): `[D]`, float32, as all that meets every input; sums over inputs are float64.
        directions (`Tensor`): `[r, D]`, float32, orthonormal in scaled features.
        excess (`Tensor`): `[r]`, float32, the share of each direction that is taken away.
        size (`Tensor`): `[]`, float64, the mean squared length before the division.
        dimensions (`Tensor`): `[]`, float64, the number of dimensions in which inputs that vary evenly have products
            of the same size; a cautious estimate.
    """

    centre: Tensor
    scale: Tensor
    directions: Tensor
    excess: Tensor
    size: Tensor
    dimensions: Tensor

    def levelled(self, away: Tensor) -> Tensor:
        """Differences of features `[..., D]`, scaled and levelled."""
        scaled = away.float() * self.scale
        return scaled - ((scaled @ self.directions.T) * self.excess) @ self.directions

    def __call__(self, features: Tensor) -> Tensor:
        """`[..., D]` → unit vectors `[..., D]`, float32."""
        levelled = self.levelled(features - self.centre)
        return levelled / torch.linalg.vector_norm(levelled, dim=-1, keepdim=True).clamp_min(1e-12)


def coordinates_of(reference: Reference) -> Coordinates:
    """The coordinates of a task. Its classes count as part of its scatter: inputs of one class after another are as
    usual as their share."""
    signature = reference.signature
    away = (signature.classes - signature.mean).double() / len(signature.classes) ** 0.5
    return _coordinates(
        signature.mean.double(),
        torch.cat([signature.factor.double(), away]),
        signature.diagonal.double(),
        reference.inputs,
    )


def coordinates_of_rows(rows: Tensor) -> Coordinates:
    """The coordinates of a first window of inputs, `[n, D]`."""
    centre = rows.double().mean(0)
    return _coordinates(centre, (rows.double() - centre) / (len(rows) - 1) ** 0.5, torch.zeros_like(centre), len(rows))


def _coordinates(centre: Tensor, rows: Tensor, diagonal: Tensor, inputs: int) -> Coordinates:
    """Of the covariance rowsᵀ rows + diagonal."""
    variance = diagonal + rows.square().sum(0)
    scale = (variance + FLOOR * variance.mean()).clamp_min(1e-24).rsqrt()
    scaled = rows * scale
    # The eigenvectors of the small matrix of products give the directions; the D × D covariance is never formed.
    values, vectors = torch.linalg.eigh(scaled @ scaled.T)
    kept = min(DIRECTIONS, inputs // SHARE, int((values > 1e-9).sum()))
    values, vectors = values.flip(0), vectors.T.flip(0)
    directions = (vectors[:kept] @ scaled) / values[:kept].sqrt().unsqueeze(1)
    diagonal = diagonal * scale.square()
    level = (diagonal.sum() + values[kept:].clamp_min(0).sum()) / max(len(centre) - kept, 1)
    excess = 1 - (level / values[:kept]).clamp_max(1).sqrt()
    rows = scaled - ((scaled @ directions.T) * excess) @ directions
    size = rows.square().sum() + diagonal.sum()
    square = (rows @ rows.T).square().sum() + 2 * (diagonal * rows.square()).sum() + diagonal.square().sum()
    inverse = square / size.square().clamp_min(1e-24)
    # The sample's own error adds 1 / n. Of many inputs the scatter is not stored in full, and looks too even.
    inverse = inverse - 1 / inputs if inverse > 1.25 / inputs else 2 * inverse
    dimensions = (1 / inverse.clamp_min(1e-24)).clamp(1, len(centre))
    return Coordinates(centre.float(), scale.float(), directions.float(), excess.float(), size, dimensions)
