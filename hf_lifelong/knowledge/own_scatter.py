"""Gaussians whose covariance is partly that of their own class (regularised discriminant analysis; Friedman, 1989)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from .constants import Constants
from .signatures import Signature, own_blocks
from .triangular import through_lower, times_lower

# Tasks whose factors are computed at a time.
TASKS_AT_ONCE = 64


@dataclass(frozen=True)
class OwnScatter:
    """Covariances `common + factorᵀ factor`, computed by Woodbury's identity. Classes that share a factor are a block.

    Args:
        weight, bias (`Tensor`): `[ΣC, D]` and `[ΣC]`, float32, discriminants under the common covariance.
        centre (`Tensor`): `[D]`, float32, what is subtracted from features.
        factor (`Tensor`): `[ΣR, D]`, float32, one block after another. The squared length of a block's product with a
            difference is the part of the squared distance that its own scatter explains.
        along (`Tensor`): `[Σ_C R]`, float32, products of each class mean with its block, class after class.
        volume (`Tensor`): `[blocks]`, float32, half the log-determinant that the own scatter adds.
        block, place (`Tensor`): `[ΣC]`, int64, the block of each class, and where it begins in `along`.
        of_row, within (`Tensor`): `[ΣR]`, int64, the block of each row of `factor`, and its place in the block.
        bounds (`list[int]`): Where the blocks begin in `factor`, and where the last one ends.
    """

    weight: Tensor
    bias: Tensor
    centre: Tensor
    factor: Tensor
    along: Tensor
    volume: Tensor
    block: Tensor
    place: Tensor
    of_row: Tensor
    within: Tensor
    bounds: list[int]

    def __call__(self, features: Tensor, classes: Tensor) -> Tensor:
        """Log-likelihoods of K classes for each row, `[n, K]`, up to a constant per row.

        Args:
            features (`Tensor`): `[n, D]`.
            classes (`Tensor`): `[n, K]`, int64, no two of one block in a row.
        """
        if features.device.type != "cpu" or torch.compiler.is_compiling():
            return self.among(features, classes, None)
        # Reading values costs nothing on a CPU, so only the blocks in question are multiplied.
        return self.among(features, classes, self.block[classes].unique())

    def among(self, features: Tensor, classes: Tensor, used: Tensor | None) -> Tensor:
        """The same, where all classes are of the blocks `used`, `[U]`, rising; `None` stands for all blocks."""
        asked, centred = self.block[classes], features - self.centre
        if used is None:
            at, count = asked, len(self.volume)
            of_row, within, along = self.of_row, self.within, centred @ self.factor.T
        else:
            # Block by block, because one product would have to copy the blocks first, which takes longer.
            bounds = [slice(self.bounds[i], self.bounds[i + 1]) for i in used.tolist()]
            along = torch.cat([centred @ self.factor[rows].T for rows in bounds], 1)
            within = torch.cat([self.within[rows] for rows in bounds])
            at, count, of_row = torch.searchsorted(used, asked), len(used), (within == 0).cumsum(0) - 1
        # Where a row asks for no class of a block, the numbers of any class do.
        place = at.new_zeros(len(at), count).scatter(1, at, self.place[classes])
        away = along - self.along[place[:, of_row] + within]
        explained = away.new_zeros(len(at), count).index_add_(1, of_row, away.square()).gather(1, at)
        linear = (self.weight[classes] @ features.unsqueeze(2)).squeeze(2) + self.bias[classes]
        return linear + 0.5 * explained - self.volume[asked]


def own_scatter_of(
    signature: Signature,
    discriminants: tuple[Tensor, Tensor],
    whitener: Tensor,
    share: float,
    classes: Sequence[int],
    constants: Constants,
) -> OwnScatter:
    """Gaussians with the covariances `common + share · own`, where `own` is the covariance of a class times
    its share of the task's inputs and the number of classes, so that few inputs count little.

    Args:
        signature ([`Signature`]): `[tasks, …]`.
        discriminants (`tuple[Tensor, Tensor]`): Weight `[ΣC, D]` and bias `[ΣC]` under the common covariance.
        whitener (`Tensor`): `[D, D]`, float32, inverse of the lower triangular root of the common covariance.
        share (`float`): Weight of the own covariance.
        classes (`list[int]`): Number of classes of each task.
        constants ([`Constants`]): The adapter's constants.
    """
    weight, bias = (part.float() for part in discriminants)
    rank, centre = signature.factor.shape[1], signature.classes.mean(0)
    table = _Blocks(classes, rank, constants)
    factor = weight.new_empty(sum(table.rows), len(centre))
    along = weight.new_empty(sum(table.rows[block] for block in table.block))
    volume = weight.new_empty(len(table.rows))
    for count in dict.fromkeys(classes):
        blocks, each = own_blocks(count, rank, constants.own)
        alike = [task for task, other in enumerate(classes) if other == count]
        for start in range(0, len(alike), TASKS_AT_ONCE):
            tasks = alike[start : start + TASKS_AT_ONCE]
            own = signature.factor[tasks, : blocks * each].view(-1, each, len(centre))[:, : constants.own_rank]
            white = through_lower(own.flatten(0, 1), whitener).view_as(own)
            inner = white @ white.mT * (share * blocks)
            inner.diagonal(dim1=1, dim2=2).add_(1)
            root = torch.linalg.cholesky(inner)
            white = torch.linalg.solve_triangular(root, white, upper=False).mul_((share * blocks) ** 0.5)
            own = times_lower(white.flatten(0, 1), whitener).view_as(own)
            of_block = [table.first_block[task] + b for task in tasks for b in range(blocks)]
            of_class = [table.first_class[task] + c for task in tasks for c in range(count)]
            volume[of_block] = root.diagonal(dim1=1, dim2=2).log().sum(1)
            factor[[table.first[block] + r for block in of_block for r in range(own.shape[1])]] = own.flatten(0, 1)
            places = (signature.classes[of_class] - centre).view(len(own), -1, len(centre))
            products = (own @ places.mT).mT.flatten()
            along[[table.place[c] + r for c in of_class for r in range(own.shape[1])]] = products
    device, rows_of = whitener.device, enumerate(table.rows)
    of_row = torch.tensor([block for block, rows in rows_of for _ in range(rows)], device=device)
    within = torch.tensor([place for rows in table.rows for place in range(rows)], device=device)
    block, place = (torch.tensor(values, device=device) for values in (table.block, table.place))
    return OwnScatter(
        weight, bias, centre, factor, along, volume, block, place, of_row, within, [*table.first, len(factor)]
    )


def leading_rows(classes: int, rank: int, constants: Constants) -> list[int]:
    """The rows of a task's factor that its own scatter has: the leading directions of each block."""
    blocks, each = own_blocks(classes, rank, constants.own)
    return [block * each + place for block in range(blocks) for place in range(min(each, constants.own_rank))]


class _Blocks:
    """Where the blocks of tasks and their classes lie.

    Attributes:
        first_class, first_block (`list[int]`): The first class and the first block of each task.
        rows, first (`list[int]`): The rows of each block in [`OwnScatter`], and the first of them.
        block, place (`list[int]`): The block of each class, and where it begins in `OwnScatter.along`.
    """

    def __init__(self, classes: Sequence[int], rank: int, constants: Constants) -> None:
        shapes = [own_blocks(count, rank, constants.own) for count in classes]
        self.first_class = _starts(classes)
        self.first_block = _starts([blocks for blocks, _ in shapes])
        self.rows = [min(each, constants.own_rank) for blocks, each in shapes for _ in range(blocks)]
        self.first = _starts(self.rows)
        of_task = zip(self.first_block, shapes, classes, strict=True)
        self.block = [first + min(c, blocks - 1) for first, (blocks, _), count in of_task for c in range(count)]
        self.place = _starts([self.rows[block] for block in self.block])


def _starts(lengths: Sequence[int]) -> list[int]:
    return list(accumulate(lengths, initial=0))[:-1]
