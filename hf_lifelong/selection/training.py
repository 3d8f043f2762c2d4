"""Proximal training of many networks at once, and the path of penalties that they walk."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import normalize

from .networks import Networks, row_losses
from .proximal import shrunk

_MOMENTUM, _DECAY, _TINY = 0.9, 0.999, 1e-8  # the usual ones of Adam
_RATE, _NARROW = 0.02, 100  # learning rate, and inputs up to which the weights have it
_START = 1 / 3  # of the steps of the path are taken before it
_FULL, _BATCH = 1024, 512  # rows up to which all are taken at once, and how many a step sees of more
# Smallest penalty of a path as a share of the largest useful one; with more inputs than rows nothing can be told from
# chance below the second one (as in glmnet, Friedman, Hastie and Tibshirani, 2010).
_LARGEST, _SMALLEST, _SMALLEST_WIDE, _POINTS = 0.3, 0.01, 0.05, 6
_ADAPTIVE = 0.5  # the adaptive penalty, as a share of the one before
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

    @cached_property
    def columns(self) -> Tensor:
        """Inputs and the constant one `[p + 1, n]`, each in one piece of memory."""
        return torch.cat([self.x, self.x.new_ones(len(self.x), 1)], dim=1).T.contiguous()

    @property
    def largest_penalty(self) -> float:
        """Length of the greatest covariance of an input with the target: a penalty above it leaves no input."""
        covariances = self.x.T @ (self.target - self.target.mean(0)) / len(self.x)
        return float(torch.linalg.vector_norm(covariances, dim=1).max())

    @property
    def shares(self) -> Tensor:
        """Weight `[R, n]` of each row in the mean of a repeat."""
        return (self.trained / self.trained.sum(0)).T.contiguous()

    def seen(self, inputs: Tensor, rows: Tensor | None = None) -> Tensor:
        """What each repeat sees `[R, a, n]` of all or some rows, at positions `inputs` `[R, a]`."""
        columns = self.columns if rows is None else self.columns[:, rows]
        if inputs.shape[1] == len(columns):
            return columns.expand(len(inputs), -1, -1)
        return columns[inputs]


@dataclass(frozen=True)
class Trained:
    """Where a path has led: networks at every penalty, in every repeat.

    Args:
        importances (`Tensor`): `[L, R, p]`.
        losses (`Tensor`): `[L, m]`, of each row, mean over the repeats that were not trained on it; the m rows that
            trained all repeats are no part of it.
        constant (`Tensor`): `[m]`, the same of answering without looking at the inputs.
        networks (`Networks`): R × L.
        seen (`Tensor`): `[R, a]`, int64, the inputs that they see.
    """

    importances: Tensor
    losses: Tensor
    constant: Tensor
    networks: Networks
    seen: Tensor


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

    The repeats start dense and walk to the smallest penalty. From each, one network walks on to every penalty of the
    path and settles there. Inputs are screened twice: a repeat walks on with those that it sees at the smallest
    penalty, and settles with those that one of its networks sees, or would: of which the gradient exceeds the penalty,
    so that the network is not at rest without them. As in the strong rules of Tibshirani et al., 2012, this proves
    nothing about where the networks end, only about where they are when they are asked.

    Args:
        problem (`Problem`): Inputs, targets and the rows of the R repeats.
        shares (`Tensor`): `[L]`, penalties as shares of the largest one.
        penalty (`str`): `"l1"` or `"group"`.
        hidden (`int`): Neurons of each network.
        steps (`int`): Steps along the path; a third as many come before.
        generator (`torch.Generator`): For first weights and batches.
    """
    repeats, inputs = problem.trained.shape[1], problem.x.shape[1]
    penalties = shares * problem.largest_penalty
    smallest = penalties.min().view(1)
    everything = torch.arange(inputs + 1).expand(repeats, -1)
    networks = Networks.random(inputs, repeats, hidden, problem.target.shape[1], generator)
    rise = math.ceil(steps * _START)
    networks = descend(problem, everything, networks, smallest * 0, smallest, penalty, rise, generator, settle=False)

    seen = most(networks.importances[:, 0] > 0)
    networks = networks.on_inputs(seen).fanned(len(shares))
    start = smallest.expand(len(shares))
    walk = steps // 2
    networks = descend(problem, seen, networks, start, penalties, penalty, walk, generator, settle=False)

    wanted = pull(problem, seen, networks, penalty) > penalties[:, None]
    networks = networks.among(seen, inputs + 1)
    seen = most((wanted | (networks.importances > 0)).any(1))
    networks = networks.on_inputs(seen)
    networks = descend(problem, seen, networks, penalties, penalties, penalty, steps - walk, generator, settle=True)

    losses = torch.cat(
        [
            networks.row_losses(problem.seen(seen, rows), problem.target[rows], problem.classes)
            for rows in torch.arange(len(problem.x)).split(_FULL)
        ],
        dim=1,
    )
    importances = networks.among(seen, inputs + 1).importances
    measured = ~problem.trained.all(1)
    left_out = ~problem.trained[measured]
    times = left_out.sum(1)
    return Trained(
        importances.transpose(0, 1),
        (losses[:, measured] * left_out.T[:, :, None]).sum(0).div(times[:, None]).T.contiguous(),
        (_constant_losses(problem)[measured] * left_out).sum(1) / times,
        networks,
        seen,
    )


def refine(
    problem: Problem,
    trained: Trained,
    place: int,
    share: float,
    penalty: str,
    steps: int,
    generator: torch.Generator,
    adapt: bool,
) -> tuple[Tensor, Tensor]:
    """Trains the networks at one penalty of the path further: first each repeat for itself, then, if asked, under an
    adaptive penalty (Zou, 2006).

    In that the penalty of each input is divided by its median importance, in units of their mean, so that inputs that
    matter are hardly shrunk and the others get to zero. What half of the repeats do not see is left out. Half of the
    penalty is enough for that; the whole one takes weak inputs too.

    Args:
        trained (`Trained`): The path.
        place (`int`): Of the penalty in it.
        share (`float`): The penalty as a share of the largest one.
        steps (`int`): Each time.
        adapt (`bool`): Whether the adaptive penalty follows.

    Returns:
        Importances `[R, p]` of the first time, and of the last.
    """
    inputs = problem.x.shape[1]
    penalties = torch.tensor([share * problem.largest_penalty])
    networks, seen = trained.networks.at(place), trained.seen
    networks = descend(problem, seen, networks, penalties, penalties, penalty, steps, generator, settle=True)
    networks = networks.among(seen, inputs + 1)
    alone = networks.importances[:, 0]
    if not adapt:
        return alone, alone
    # The middle value, and of an even number the lower one: 0 if half of them are.
    sizes = alone.median(0).values
    kept = sizes.nonzero().flatten()
    seen = torch.cat([kept, kept.new_tensor([inputs])]).expand(len(alone), -1)
    networks = networks.on_inputs(seen)
    weights = _ADAPTIVE * (sizes[kept].mean() / sizes[kept])[:, None, None]
    networks = descend(problem, seen, networks, penalties, penalties, penalty, steps, generator, True, weights)
    return alone, networks.among(seen, inputs + 1).importances[:, 0]


def most(alive: Tensor) -> Tensor:
    """Positions `[R, a]`, rising, of the inputs that each repeat goes on with and of the constant one behind them; `a`
    suits the repeat with most, the others take more.

    Args:
        alive (`Tensor`): `[R, p]`, bool.
    """
    count = int(alive.sum(1).max())
    kept = alive.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :count].sort(1).values
    return torch.cat([kept, kept.new_full((len(kept), 1), alive.shape[1])], dim=1)


def pull(problem: Problem, inputs: Tensor, networks: Networks, penalty: str) -> Tensor:
    """How strongly the loss asks each network for each input, seen or not `[R, L, p]`: the norm of the gradient that
    is dual to the penalty. An input that a network at rest does not see pulls by less than the penalty.

    Args:
        inputs (`Tensor`): `[R, a]`, those that the networks see.
    """
    gradient = torch.zeros(())
    for rows in torch.arange(len(problem.x)).split(_FULL):
        hidden = networks.hidden(problem.seen(inputs, rows))
        _, back = networks.slopes(hidden, problem.target[rows], problem.shares[:, rows], problem.classes)
        gradient = gradient + problem.x[rows].T @ back
    gradient = gradient.unflatten(2, networks.weight.shape[2:])
    norm = gradient.abs().amax(3) if penalty == "l1" else torch.linalg.vector_norm(gradient, dim=3)
    return norm.mT


def descend(
    problem: Problem,
    inputs: Tensor,
    networks: Networks,
    start: Tensor,
    goal: Tensor,
    penalty: str,
    steps: int,
    generator: torch.Generator,
    settle: bool,
    weights: Tensor | float = 1.0,
) -> Networks:
    """Proximal Adam (Kingma and Ba, 2015) on all networks while the penalty of each goes from `start` to `goal`.

    All weights of one input share the scale of their steps, so that the proximal step is the exact one of Adam's
    metric for both penalties.

    Args:
        inputs (`Tensor`): `[R, a]`, int64, the inputs that each repeat sees, the constant one last.
        start, goal (`Tensor`): `[L]`, penalties.
        settle (`bool`): Whether the steps get shorter, to zero, so that the networks come to rest.
        weights (`Tensor`): `[a - 1, 1, 1]`, by which the penalty of each input is multiplied.
    """
    values = [value.clone() for value in (networks.weight, networks.out, networks.offset)]
    first = [torch.zeros_like(value) for value in values]
    second = [torch.zeros_like(value[..., :1] if i == 0 else value) for i, value in enumerate(values)]
    networks = Networks(*values)
    # The first steps of all inputs add up in a row's hidden values; with many inputs they would end far off.
    slower = min(1.0, _NARROW / inputs.shape[1]) ** 0.5
    few = len(problem.x) <= _FULL
    everything = (problem.seen(inputs), problem.target, problem.shares) if few else None
    for step in range(1, steps + 1):
        rate = _RATE * (0.5 + 0.5 * math.cos(math.pi * (step - 1) / steps) if settle else 1.0)
        penalties = torch.lerp(start, goal, step / steps)
        gradients = networks.gradients(*(everything or _batch(problem, inputs, generator)), problem.classes)
        for i, gradient in enumerate(gradients):
            square = gradient.square().mean(-1, keepdim=True) if i == 0 else gradient.square()
            first[i].lerp_(gradient, 1 - _MOMENTUM)
            second[i].lerp_(square, 1 - _DECAY)
            reach = rate * (slower if i == 0 else 1.0) / ((second[i] / (1 - _DECAY**step)).sqrt_() + _TINY)
            values[i].sub_(first[i] * (reach / (1 - _MOMENTUM**step)))
            if i == 0:
                values[i][:, :-1] = shrunk(values[i][:, :-1], reach[:, :-1] * penalties[:, None] * weights, penalty)
        values[1].copy_(normalize(values[1], dim=-1))
    return networks


def _batch(problem: Problem, inputs: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, targets and shares of rows drawn for one step."""
    rows = torch.randint(len(problem.x), (_BATCH,), generator=generator)
    trained = problem.trained[rows]
    shares = (trained / trained.sum(0).clamp_min(1)).T.contiguous()
    return problem.seen(inputs, rows), problem.target[rows], shares


def _constant_losses(problem: Problem) -> Tensor:
    """Loss `[n, R]` on every row of answering what is best without inputs on the trained rows of a repeat."""
    trained = problem.trained.float()
    means = trained.T @ problem.target / trained.sum(0)[:, None]
    # A class that a subsample lacks is not impossible.
    scores = (means + 1 / len(problem.x)).log() if problem.classes else means
    return row_losses(scores, problem.target[:, None], problem.classes)
