"""Proximal training of many networks at once, and the path of penalties that they walk."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .networks import Networks, row_losses
from .proximal import shrunk

_MOMENTUM, _DECAY, _TINY = 0.9, 0.999, 1e-8  # the usual ones of Adam
_RATE, _NARROW = 0.02, 100  # learning rate, and inputs up to which the weights have it
_START = 1 / 3  # of the steps of the path are taken before it
_FULL, _BATCH = 1024, 512  # rows up to which every step sees all of them, and how many it sees of more
# Smallest penalty of a path as a share of the largest useful one; with more inputs than rows nothing can be told from
# chance below the second one (as in glmnet, Friedman, Hastie and Tibshirani, 2010).
_LARGEST, _SMALLEST, _SMALLEST_WIDE, _POINTS = 0.5, 0.015, 0.05, 6
_TRAINED = 0.8  # of the rows train a network, the others measure it


@dataclass(frozen=True)
class Problem:
    """What networks are trained on.

    Args:
        x (`Tensor`): `[n, p]`, float32, columns of mean 0 and variance 1.
        target (`Tensor`): `[n, K]`, float32: numbers of variance 1 (K = 1), or one-hot classes.
        classes (`bool`): Whether the targets are classes.
        trained (`Tensor`): `[n, R]`, bool: the rows that train each repeat.
    """

    x: Tensor
    target: Tensor
    classes: bool
    trained: Tensor

    @property
    def largest_penalty(self) -> float:
        """Length of the greatest covariance of an input with the target: a penalty above it leaves no input."""
        covariances = self.x.T @ (self.target - self.target.mean(0)) / len(self.x)
        return float(torch.linalg.vector_norm(covariances, dim=1).max())


@dataclass(frozen=True)
class Trained:
    """Where a path has led: networks at every penalty, in every repeat.

    Args:
        importances (`Tensor`): `[L, R, p]`.
        losses (`Tensor`): `[L, m]`, of each row, mean over the repeats that were not trained on it; the m rows that
            trained all repeats are no part of it.
        constant (`Tensor`): `[m]`, the same of answering without looking at the inputs.
    """

    importances: Tensor
    losses: Tensor
    constant: Tensor


def penalty_shares(rows: int, inputs: int) -> Tensor:
    """Penalties of a path `[L]`, as shares of the largest, falling."""
    smallest = _SMALLEST if rows >= inputs else _SMALLEST_WIDE
    return torch.logspace(math.log10(_LARGEST), math.log10(smallest), _POINTS)


def draw_rows(rows: int, repeats: int, generator: torch.Generator) -> Tensor:
    """Subsamples without replacement, `[n, R]` bool: rows that came twice would make noise look like a finding."""
    order = torch.rand(rows, repeats, generator=generator).argsort(0)
    return order < min(rows - 1, round(_TRAINED * rows))


def train_path(
    problem: Problem, shares: Tensor, penalty: str, hidden: int, steps: int, generator: torch.Generator
) -> Trained:
    """Trains a network for every penalty and repeat, all in one tensor.

    The repeats start dense and walk to the smallest penalty; inputs that none of them sees there are left out. From
    each, one network goes on to every penalty of the path and settles there.

    Args:
        problem (`Problem`): Inputs, targets and the rows of the R repeats.
        shares (`Tensor`): `[L]`, penalties as shares of the largest one.
        penalty (`str`): `"l1"` or `"group"`.
        hidden (`int`): Neurons of each network.
        steps (`int`): Steps along the path; a third as many come before.
        generator (`torch.Generator`): For first weights and batches.
    """
    repeats, points = problem.trained.shape[1], len(shares)
    networks = Networks.random(problem.x.shape[1], repeats, hidden, problem.target.shape[1], generator)
    penalties = shares * problem.largest_penalty
    smallest = penalties.min().repeat(repeats)
    rise = math.ceil(steps * _START)
    networks = descend(problem, networks, torch.zeros(repeats), smallest, penalty, rise, generator, settle=False)

    seen = networks.importances.any(0).nonzero().flatten()
    part = replace(
        problem, x=problem.x[:, seen].contiguous(), trained=problem.trained.repeat_interleave(points, dim=1)
    )
    networks = networks.on_inputs(seen).repeated(points)
    start, goal = smallest.repeat_interleave(points), penalties.repeat(repeats)
    networks = descend(part, networks, start, goal, penalty, steps, generator, settle=True)

    importances = torch.zeros(points, repeats, problem.x.shape[1])
    importances[:, :, seen] = networks.importances.view(repeats, points, -1).transpose(0, 1)
    losses = networks.row_losses(part.x, part.target, part.classes).view(-1, repeats, points)
    measured = ~problem.trained.all(1)
    left_out = ~problem.trained[measured]
    times = left_out.sum(1)
    return Trained(
        importances,
        ((losses[measured] * left_out[:, :, None]).sum(1) / times[:, None]).T.contiguous(),
        (_constant_losses(problem)[measured] * left_out).sum(1) / times,
    )


def descend(
    problem: Problem,
    networks: Networks,
    start: Tensor,
    goal: Tensor,
    penalty: str,
    steps: int,
    generator: torch.Generator,
    settle: bool,
) -> Networks:
    """Proximal Adam (Kingma and Ba, 2015) on all networks while the penalty of each goes from `start` to `goal`.

    All weights of one input share the scale of their steps, so that the proximal step is the exact one of Adam's
    metric for both penalties.

    Args:
        start, goal (`Tensor`): `[M]`, penalties; the way takes the first half of the steps.
        settle (`bool`): Whether the steps get shorter, to zero, so that the networks come to rest.
    """
    values = [value.clone() for value in networks.tensors()]
    first = [torch.zeros_like(value) for value in values]
    second = [torch.zeros_like(value[..., :1] if i == 0 else value) for i, value in enumerate(values)]
    networks = Networks(*values)
    # The first steps of all inputs add up in a row's hidden values; with many inputs they would end far off.
    slower = min(1.0, _NARROW / len(values[0])) ** 0.5
    for step in range(1, steps + 1):
        rate = _RATE * (0.5 + 0.5 * math.cos(math.pi * (step - 1) / steps) if settle else 1.0)
        penalties = torch.lerp(start, goal, min(1.0, 2 * step / steps))
        gradients = networks.gradients(*_batch(problem, generator), problem.classes)
        for i, gradient in enumerate(gradients):
            square = gradient.square().mean(-1, keepdim=True) if i == 0 else gradient.square()
            first[i].lerp_(gradient, 1 - _MOMENTUM)
            second[i].lerp_(square, 1 - _DECAY)
            reach = rate * (slower if i == 0 else 1.0) / ((second[i] / (1 - _DECAY**step)).sqrt_() + _TINY)
            values[i].sub_(first[i] * (reach / (1 - _MOMENTUM**step)))
            if i == 0:
                values[i].copy_(shrunk(values[i], reach * penalties[:, None], penalty))
        values[2].copy_(normalize(values[2], dim=-1))
    return networks


def _batch(problem: Problem, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, targets and shares of the rows for one step."""
    x, target, trained = problem.x, problem.target, problem.trained
    if len(x) > _FULL:
        rows = torch.randint(len(x), (_BATCH,), generator=generator)
        x, target, trained = x[rows], target[rows], trained[rows]
    return x, target, trained / trained.sum(0).clamp_min(1)


def _constant_losses(problem: Problem) -> Tensor:
    """Loss `[n, R]` on every row of answering what is best without inputs on the trained rows of a repeat."""
    trained = problem.trained.float()
    means = trained.T @ problem.target / trained.sum(0)[:, None]
    # A class that a subsample lacks is not impossible.
    scores = (means + 1 / len(problem.x)).log() if problem.classes else means
    return row_losses(scores, problem.target[:, None], problem.classes)
