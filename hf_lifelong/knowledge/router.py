"""Which task do features belong to? An input goes to the task of its likeliest class.

All classes are Gaussians with one shared covariance (linear discriminant analysis; Hastie, Tibshirani, Friedman, *The
Elements of Statistical Learning*, 4.3). If that is not clear, the nearest groups are compared under covariances that
are partly those of their classes (`own_scatter`). Shared quantities are computed from the tasks present, in their
order, so a task that is left out leaves no trace.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .constants import Constants
from .own_scatter import TASKS_AT_ONCE, OwnScatter, leading_rows, own_scatter_of
from .signatures import Signature, class_spread
from .triangular import add_gram, root_of

# Inputs that are compared at a time.
ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class Router:
    """Linear discriminants `features @ weight.T + bias`, one per class: log-likelihoods up to a shared constant.

    Args:
        weight (`Tensor`): `[ΣC, D]`, float32.
        bias (`Tensor`): `[ΣC]`, float32.
        owner (`Tensor`): `[ΣC]`, int64, the task of each class.
        apart (`Tensor`): `[tasks, D]`, float32: discriminants of whole tasks, one Gaussian each. They give the
            directions along which tasks differ.
        group (`Tensor`): `[tasks]`, int64, the group of each task. Only groups are told apart, not the tasks within a
            group.
        groups (`int`): Number of groups.
        own_scatter ([`OwnScatter`], *optional*): Decides between groups if the discriminants are not sure.
        sure (`float`): From these log-odds of the likeliest group on, the discriminants decide alone.
        candidates (`int`): Number of groups that are compared otherwise.
    """

    weight: Tensor
    bias: Tensor
    owner: Tensor
    apart: Tensor
    group: Tensor
    groups: int
    own_scatter: OwnScatter | None = None
    sure: float = Constants.sure
    candidates: int = Constants.candidates

    def __call__(self, features: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Features `[rows, D]` → log-likelihoods `[rows, tasks]` up to a constant per row: those of the likeliest
        class of each task by the discriminants, where these are not sure under its own covariance; -inf for a task
        that is not `allowed`, `[tasks]` bool."""
        of_class = self._of_classes(features)
        if allowed is not None:
            of_class = of_class.masked_fill(~allowed[self.owner], torch.finfo(of_class.dtype).min)
        of_task = best_of(of_class, self.owner, len(self.apart))
        if self.own_scatter is not None:
            of_task = self._settled(features, of_class, of_task, self.own_scatter)
        return of_task if allowed is None else of_task.masked_fill(~allowed, float("-inf"))

    def by_shared_covariance(self, features: Tensor) -> Tensor:
        """The log-likelihoods `[rows, tasks]` by the discriminants alone."""
        return best_of(self._of_classes(features), self.owner, len(self.apart))

    def _of_classes(self, features: Tensor) -> Tensor:
        return torch.addmm(self.bias, features, self.weight.T)

    def _settled(self, features: Tensor, of_class: Tensor, of_task: Tensor, own_scatter: OwnScatter) -> Tensor:
        """The log-likelihoods `of_task`, `[rows, tasks]`, with those rows compared that are not sure."""
        of_group = best_of(of_task, self.group, self.groups)
        sure = log_odds(of_group) >= self.sure

        def compared(rows: slice | Tensor) -> Tensor:
            return self._compared(features[rows], of_class[rows], of_task[rows], of_group[rows], own_scatter)

        if torch.compiler.is_compiling():  # a loop over rows would make a graph for each number of rows
            return torch.where(sure.unsqueeze(1), of_task, compared(slice(None)))
        if features.device.type != "cpu":
            starts = range(0, max(len(features), 1), ROWS_AT_ONCE)
            every = torch.cat([compared(slice(i, i + ROWS_AT_ONCE)) for i in starts])
            return torch.where(sure.unsqueeze(1), of_task, every)
        # On a CPU, reading a value costs nothing, so only the rows that are not sure are compared. Checked first,
        # because `split` returns one chunk even of an empty tensor.
        if not bool(sure.all()):
            for rows in (~sure).nonzero().squeeze(1).split(ROWS_AT_ONCE):
                of_task[rows] = compared(rows)
        return of_task

    def _compared(
        self, features: Tensor, of_class: Tensor, of_task: Tensor, of_group: Tensor, own_scatter: OwnScatter
    ) -> Tensor:
        """The log-likelihoods where the likeliest class of each of the nearest groups has a covariance of its own. The
        other tasks keep their distance to the first, and stay behind all that are compared."""
        shared, near = of_group.topk(min(self.candidates, self.groups), dim=1)
        classes = first_best_of(of_class, of_group, self.group[self.owner]).gather(1, near)
        compared = own_scatter(features, classes)
        may = shared > torch.finfo(shared.dtype).min
        behind = compared.masked_fill(~may, float("inf")).amin(1, keepdim=True)
        rest = torch.minimum(of_task - shared[:, :1] + compared[:, :1], behind)
        return rest.scatter(1, self.owner[classes], compared)


def log_odds(of_group: Tensor) -> Tensor:
    """Log-likelihoods `[rows, groups]` → log-odds of the likeliest group against all others, `[rows]`."""
    best, which = of_group.max(1, keepdim=True)
    return -(of_group - best).scatter(1, which, float("-inf")).logsumexp(1)


def best_of(values: Tensor, owner: Tensor, owners: int) -> Tensor:
    """The largest value of each owner, `[rows, n]` and `[n]` → `[rows, owners]`; -inf for an owner without values."""
    least = values.new_full((len(values), owners), float("-inf"))
    return least.scatter_reduce(1, owner.expand_as(values), values, "amax")


def first_best_of(values: Tensor, largest: Tensor, owner: Tensor) -> Tensor:
    """The first position of each owner's largest value, `[rows, n]`, `[rows, owners]` and `[n]` → `[rows, owners]`."""
    places = torch.arange(len(owner), device=owner.device).where(values == largest[:, owner], len(owner) - 1)
    last = owner.new_full(largest.shape, len(owner) - 1)
    return last.scatter_reduce(1, owner.expand_as(values), places, "amin")


def group_posterior(log_likelihood: Tensor, group_of_task: Tensor, groups: int) -> Tensor:
    """Log-likelihoods per task `[rows, tasks]` → probabilities per group `[rows, groups]`, all groups equally likely.

    A group's likelihood is that of its likeliest task.

    Args:
        group_of_task (`Tensor`): `[tasks]`, index of the group of each task.
        groups (`int`): Number of groups.
    """
    return best_of(log_likelihood, group_of_task, groups).softmax(1)


def shared_router(
    signature: Signature,
    counts: Tensor,
    classes: Sequence[int],
    groups: Sequence[int],
    shrinkage: float,
    constants: Constants,
    class_counts: Sequence[int] | None = None,
) -> Router:
    """Linear discriminants under the covariance that the classes of all present tasks share.

    Args:
        signature (`Signature`): `[tasks, …]`.
        counts (`Tensor`): `[tasks]`, number of texts that each signature was fitted on.
        classes (`list[int]`): Number of classes of each task.
        groups (`list[int]`): Group of each task, numbered from 0.
        shrinkage (`float`): Share of the covariance that is replaced by its mean variance on the diagonal. It keeps
            the inverse stable if there are fewer texts than dimensions.
        constants ([`Constants`]): The adapter's constants.
        class_counts (`list[int]`, *optional*): Number of texts of each class, task after task. The mean of n texts is
            off, which adds the number of directions / n to the squared distance of other texts of its class; what it
            adds on average is taken away, so that rare classes are as easily found as others.
    """
    share = (counts.double() - 1).clamp_min(1)
    share = (share / share.sum()).to(signature.mean.device)
    # Only the lower triangles of symmetric matrices, which is what Cholesky's method reads.
    covariance = torch.diag(share @ signature.diagonal.double())
    leading = torch.zeros_like(covariance)
    rank = signature.factor.shape[1]
    # In chunks: in float64 the factors of a thousand tasks would take eight times their file size, and minutes.
    for start in range(0, len(classes), TASKS_AT_ONCE):
        some = slice(start, start + TASKS_AT_ONCE)
        rows = (signature.factor[some] * share[some].sqrt().float()[:, None, None]).flatten(0, 1)
        own = {i * rank + row for i, count in enumerate(classes[some]) for row in leading_rows(count, rank, constants)}
        add_gram(leading, rows[sorted(own)])
        add_gram(covariance, rows[sorted(set(range(len(rows))) - own)])
    covariance += leading
    group, count = torch.tensor(groups, device=covariance.device), max(groups) + 1
    # As few of these matrices as possible live at the same time: they determine the peak memory of learning a task.
    floor = floor_within = shrinkage * covariance.diagonal().mean()
    common = root_of(leading.mul_(-constants.own_share).add_(covariance), floor, shrinkage) if count > 1 else None
    whitener = None if common is None else _inverse_of_lower(common)
    del leading
    places = signature.classes.double()
    weight, bias = _discriminants(places, root_of(covariance, floor, shrinkage))
    owner = torch.tensor([task for task, count in enumerate(classes) for _ in range(count)], device=weight.device)
    spread = class_spread(signature, owner) * share[owner].sqrt().unsqueeze(1)
    covariance.addmm_(spread.T, spread)
    floor = shrinkage * covariance.diagonal().mean()
    apart, _ = _discriminants(signature.mean.double(), root_of(covariance, floor, shrinkage))
    del covariance
    own_scatter = None
    if common is not None and whitener is not None:
        own_weight, own_bias = _discriminants(places, common)
        if class_counts is not None:
            directions = (len(common) - floor_within * whitener.square().sum()) / (1 - shrinkage)
            off = directions / torch.tensor(class_counts, device=bias.device).clamp_min(1)
            bias, own_bias = bias + 0.5 * off, own_bias + 0.5 * off
        weight_of_own = (1 - shrinkage) * constants.own_share
        own_scatter = own_scatter_of(
            signature, (own_weight, own_bias), whitener.float(), weight_of_own, classes, constants
        )
    weight = weight.float().T.contiguous().T  # the fastest layout for a product with a single row
    return Router(
        weight, bias.float(), owner, apart.float(), group, count, own_scatter, constants.sure, constants.candidates
    )


def _inverse_of_lower(root: Tensor) -> Tensor:
    identity = torch.eye(len(root), dtype=root.dtype, device=root.device)
    return torch.linalg.solve_triangular(root, identity, upper=False)


def _discriminants(mean: Tensor, root: Tensor) -> tuple[Tensor, Tensor]:
    """Weights `[n, D]` and biases `[n]` of the discriminants of Gaussians with means `[n, D]`. `root` `[D, D]` is the
    Cholesky factor of their shared covariance."""
    centre = mean.mean(0)
    weight = torch.cholesky_solve((mean - centre).T, root).T
    return weight, -0.5 * ((mean + centre) * weight).sum(1)
