"""Signatures: where a task's inputs lie in the trunk's hidden states, as statistics, never as examples.

A task is remembered by the mean of its pooled hidden states, the means of its classes, and the scatter around these,
as a low-rank factor plus a diagonal. An input goes to the task with the class that it is most likely of, all classes
being Gaussians with one covariance (linear discriminant analysis; Hastie, Tibshirani, Friedman, *The Elements of
Statistical Learning*, 4.3). Where that leaves several tasks in question, how differently they scatter decides
(regularised discriminant analysis; Friedman, 1989). What tasks share is computed from the tasks present, in their
order, so that leaving a task out leaves no trace of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from scipy.linalg import eigh
from scipy.stats import chi2
from torch import Tensor

from .constants import Constants

# Inputs that are compared at a time, each with the factors of its candidates (1.5 MB at 2,048 features).
ROWS_AT_ONCE, ROWS_AT_ONCE_GPU = 16, 256
# Tasks whose factors are summed at a time; the order of summation must not depend on anything but the tasks present.
TASKS_AT_ONCE = 64
# Columns of a triangular or symmetric product that are computed at a time, without those that are zero or known.
COLUMNS_AT_ONCE = 384
# No base is known whose hidden states come near to this; beyond it, products of statistics are no float32 any more.
LARGEST_FEATURE = 1e8


@dataclass(frozen=True)
class Signature:
    """Statistics of pooled hidden states, of one task (`[D]`, `[rank, D]`, `[D]`, `[C, D]`) or of several (leading
    `[tasks]`, but `[ΣC, D]`, the classes of one task after those of another).

    Args:
        mean (`Tensor`): float32.
        factor (`Tensor`): float32; covariance around the means of the classes = factorᵀ factor + diagonal.
        diagonal (`Tensor`): float32, at least 0.
        classes (`Tensor`): float32, mean of each class; the task's mean where its inputs have no class.
    """

    mean: Tensor
    factor: Tensor
    diagonal: Tensor
    classes: Tensor


@dataclass(frozen=True)
class OwnScatter:
    """Gaussians of tasks whose covariances are partly their own: `shared + factorᵀ factor`, by Woodbury's identity in
    coordinates in which the shared part is the identity.

    Args:
        whitener (`Tensor`): `[D, D]`, float32, of features to these coordinates.
        places (`Tensor`): `[ΣC, D]`, float32, the classes' means there.
        factor (`Tensor`): `[tasks, R, D]`, float32: how much of a squared distance a task's own scatter explains.
        volume (`Tensor`): `[tasks]`, float32, half the log-determinant that the own scatter adds.
        classes (`Tensor`): `[tasks, C]`, int64, the classes of each task, padded with -1.
        candidates (`int`): Groups that are compared.
    """

    whitener: Tensor
    places: Tensor
    factor: Tensor
    volume: Tensor
    classes: Tensor
    candidates: int

    def __call__(self, features: Tensor, of_class: Tensor, of_task: Tensor, of_group: Tensor, group: Tensor) -> Tensor:
        """Log-likelihoods `[rows, tasks]` up to a constant per row, from those under the shared covariance, per class
        `[rows, ΣC]`, task `[rows, tasks]` and group `[rows, groups]`; `group` `[tasks]` is the one of each task.

        Of each of the nearest groups the nearest task is compared. The others stay as far behind the first as they
        were, and behind all that are.
        """
        least = torch.finfo(of_task.dtype).min  # of tasks that are out of question, but not of other groups
        near = of_group.topk(min(self.candidates, of_group.shape[1]), dim=1).indices
        elsewhere = group != near.unsqueeze(2)
        shared, task = of_task.clamp_min(least).unsqueeze(1).masked_fill(elsewhere, float("-inf")).max(2)
        classes = self.classes[task]
        likelihood = of_class.gather(1, classes.clamp_min(0).flatten(1)).view_as(classes)
        likeliest = likelihood.masked_fill(classes < 0, float("-inf")).argmax(2, keepdim=True)
        away = (features @ self.whitener.T).unsqueeze(1) - self.places[classes.gather(2, likeliest).squeeze(2)]
        explained = (self.factor[task] @ away.unsqueeze(3)).squeeze(3)
        own = 0.5 * (explained.square().sum(2) - away.square().sum(2)) - self.volume[task]
        rest = torch.minimum(of_task - shared[:, :1] + own[:, :1], own.amin(1, keepdim=True))
        return rest.scatter(1, task, own.masked_fill(shared == least, float("-inf")))


@dataclass(frozen=True)
class Router:
    """Linear discriminants `features @ weight.T + bias`, one per class: log-likelihoods up to a shared constant.

    Args:
        weight (`Tensor`): `[ΣC, D]`, float32.
        bias (`Tensor`): `[ΣC]`, float32.
        owner (`Tensor`): `[ΣC]`, int64, the task of each class.
        apart (`Tensor`): `[tasks, D]`, float32: discriminants of whole tasks, one Gaussian each, which say along which
            directions tasks differ.
        group (`Tensor`): `[tasks]`, int64, the group of each task. What tasks of one group are in question among
            themselves does not matter.
        groups (`int`): How many there are.
        own ([`OwnScatter`], *optional*): Decides between groups that the discriminants leave in question.
        sure (`float`): Posterior from which they leave nothing in question.
    """

    weight: Tensor
    bias: Tensor
    owner: Tensor
    apart: Tensor
    group: Tensor
    groups: int
    own: OwnScatter | None = None
    sure: float = Constants.sure

    def __call__(self, features: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Features `[rows, D]` → log-likelihoods `[rows, tasks]` up to a constant per row, each that of the task's
        likeliest class; -inf for tasks that are not `allowed`, `[tasks]` bool."""
        of_class = torch.addmm(self.bias, features, self.weight.T)
        of_task = best_of(of_class, self.owner, len(self.apart))
        if allowed is not None:
            of_task = of_task.masked_fill(~allowed, float("-inf"))
        if self.own is None:
            return of_task
        of_group = best_of(of_task, self.group, self.groups)
        sure = of_group.softmax(1).amax(1) >= self.sure
        own, group = self.own, self.group

        def compared(rows: Any) -> Tensor:
            return own(features[rows], of_class[rows], of_task[rows], of_group[rows], group)

        if features.device.type != "cpu" or torch.compiler.is_compiling():
            starts = range(0, max(len(features), 1), ROWS_AT_ONCE_GPU)
            every = torch.cat([compared(slice(i, i + ROWS_AT_ONCE_GPU)) for i in starts])
            return torch.where(sure.unsqueeze(1), of_task, every)
        # Where it costs nothing to know, only the rows in question are compared; `split` gives one part even of none.
        if not bool(sure.all()):
            for rows in (~sure).nonzero().squeeze(1).split(ROWS_AT_ONCE):
                of_task[rows] = compared(rows)
        return of_task


def best_of(values: Tensor, owner: Tensor, owners: int) -> Tensor:
    """The largest value of each owner, `[rows, n]` and `[n]` → `[rows, owners]`; -inf where it has none."""
    least = values.new_full((len(values), owners), float("-inf"))
    return least.scatter_reduce(1, owner.expand_as(values), values, "amax")


def group_posterior(log_likelihood: Tensor, group_of_task: Tensor, groups: int) -> Tensor:
    """Log-likelihoods per task `[rows, tasks]` → probabilities per group `[rows, groups]`, all groups equally likely.

    A group of several tasks counts by its nearest one.

    Args:
        group_of_task (`Tensor`): `[tasks]`, index of the group of each task.
        groups (`int`): How many groups there are.
    """
    return best_of(log_likelihood, group_of_task, groups).softmax(1)


def fit_signature(features: Tensor, rank: int, labels: Tensor | None = None, classes: int = 1) -> Signature:
    """Fits the signature of one task.

    Args:
        features (`Tensor`): `[n, D]`, pooled hidden states, n ≥ 2.
        rank (`int`): Rows of the factor; missing directions (n - 1 < rank) are zero.
        labels (`Tensor`, *optional*): `[n]`, int64, class of each row, less than `classes`.
        classes (`int`): How many there are. One without rows is put where another is, so that it draws no inputs.

    Raises:
        ValueError: with fewer than 2 rows, or values that are not finite or beyond `LARGEST_FEATURE`.
    """
    if len(features) < 2:
        raise ValueError(f"`features` must have at least 2 rows to fit a signature, not {len(features)}.")
    if not torch.isfinite(features).all():
        raise ValueError("`features` holds NaN or infinite values; the base model does not give finite hidden states.")
    if features.abs().max() > LARGEST_FEATURE:
        raise ValueError(
            f"`features` holds values up to {float(features.abs().max()):.1e}, more than {LARGEST_FEATURE:.0e}; the "
            "hidden states of the base model are too large to tell inputs apart by."
        )
    x = features.double()
    mean = x.mean(0)
    labels = torch.zeros(len(x), dtype=torch.long) if labels is None else labels
    labels = labels.to(x.device)
    count = torch.bincount(labels, minlength=classes).unsqueeze(1)
    places = torch.zeros(classes, x.shape[1], dtype=x.dtype, device=x.device).index_add_(0, labels, x)
    places = torch.where(count > 0, places / count.clamp_min(1), places[labels[0]] / count[labels[0]])
    x = (x - places[labels]) / (len(x) - 1) ** 0.5
    if len(x) > x.shape[1]:
        values, directions = _leading(x.T @ x, rank)
        factor = directions * values.clamp_min(0).sqrt().unsqueeze(1)
    else:
        # Eigenvectors of the n × n Gram matrix give the leading directions of the D × D scatter without forming it.
        factor = _leading(x @ x.T, rank)[1] @ x
    if len(factor) < rank:
        factor = torch.cat([factor, factor.new_zeros(rank - len(factor), x.shape[1])])
    diagonal = (x.square().sum(0) - factor.square().sum(0)).clamp_min(0)
    return Signature(mean.float(), factor.float(), diagonal.float(), places.float())


def _leading(scatter: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest eigenvalues of a symmetric matrix `[n, n]`, `[k]`, and their eigenvectors as rows, `[k, n]`, largest
    first; k is `count`, at most n. (The others, which torch would compute too, take most of the time.)"""
    n = len(scatter)
    values, vectors = eigh(scatter.cpu().numpy(), subset_by_index=[max(n - count, 0), n - 1], check_finite=False)
    values, vectors = (torch.from_numpy(part).to(scatter.device) for part in (values, vectors))
    return values.flip(0), vectors.T.flip(0)


def shared_router(
    signature: Signature,
    counts: Tensor,
    classes: Sequence[int],
    groups: Sequence[int],
    shrinkage: float,
    constants: Constants,
) -> Router:
    """Linear discriminants under the covariance that the classes of the present tasks share.

    Args:
        signature (`Signature`): `[tasks, …]`.
        counts (`Tensor`): `[tasks]`, texts that each signature was fitted on.
        classes (`list[int]`): Classes of each task.
        groups (`list[int]`): Group of each task, numbered from 0.
        shrinkage (`float`): Share of the covariance that is replaced by its mean variance on the diagonal; keeps the
            inverse stable when there are fewer texts than dimensions.
        constants ([`Constants`]): Those of the adapter.
    """
    share = (counts.double() - 1).clamp_min(1)
    share = (share / share.sum()).to(signature.mean.device)
    # Of symmetric matrices the lower triangle alone, which is what Cholesky's method reads.
    covariance = torch.diag(share @ signature.diagonal.double())
    leading = torch.zeros_like(covariance)
    # In parts: in float64 the factors of a thousand tasks would be eight times their file and minutes of work.
    for factor, part in zip(signature.factor.split(TASKS_AT_ONCE), share.split(TASKS_AT_ONCE), strict=True):
        rows = factor * part.sqrt().float()[:, None, None]
        add_gram(leading, rows[:, : constants.own_rank].flatten(0, 1))
        add_gram(covariance, rows[:, constants.own_rank :].flatten(0, 1))
    covariance += leading
    group, count = torch.tensor(groups, device=covariance.device), max(groups) + 1
    # As few of these matrices as can be at a time: they are what learning a task would else take most memory for.
    floor = shrinkage * covariance.diagonal().mean()
    common = _root(leading.mul_(-constants.own_share).add_(covariance), floor, shrinkage) if count > 1 else None
    del leading
    places = signature.classes.double()
    weight, bias = _discriminants(places, _root(covariance, floor, shrinkage))
    owner = torch.tensor([task for task, count in enumerate(classes) for _ in range(count)], device=weight.device)
    spread = _spread(signature, owner) * share[owner].sqrt().unsqueeze(1)
    covariance.addmm_(spread.T, spread)
    floor = shrinkage * covariance.diagonal().mean()
    apart, _ = _discriminants(signature.mean.double(), _root(covariance, floor, shrinkage))
    del covariance
    own = None
    if common is not None:
        factor = signature.factor[:, : constants.own_rank]
        own = _own_scatter(
            factor, places, common, (1 - shrinkage) * constants.own_share, classes, constants.candidates
        )
    weight = weight.float().T.contiguous().T  # the layout that a product with a single row reads fastest
    return Router(weight, bias.float(), owner, apart.float(), group, count, own, constants.sure)


def _own_scatter(
    factor: Tensor, places: Tensor, common: Tensor, share: float, classes: Sequence[int], candidates: int
) -> OwnScatter:
    """Gaussians with the covariances `common commonᵀ + share · factorᵀ factor`, factor `[tasks, R, D]`, common
    `[D, D]` lower triangular."""
    identity = torch.eye(len(common), dtype=common.dtype, device=common.device)
    whitener = torch.linalg.solve_triangular(common, identity, upper=False)
    own, volume = torch.empty_like(factor), factor.new_empty(len(factor))
    for part, scaled, size in zip(*(all_of.split(TASKS_AT_ONCE) for all_of in (factor, own, volume)), strict=True):
        white = through_lower(part.flatten(0, 1), whitener.float()).view_as(part)
        inner = white @ white.mT * share
        inner.diagonal(dim1=1, dim2=2).add_(1)
        root = torch.linalg.cholesky(inner)
        torch.linalg.solve_triangular(root, white, upper=False, out=scaled).mul_(share**0.5)
        torch.sum(root.diagonal(dim1=1, dim2=2).log(), dim=1, out=size)
    offsets = [0, *accumulate(classes)]
    table = [
        [start + c if c < count else -1 for c in range(max(classes))]
        for start, count in zip(offsets, classes, strict=False)
    ]
    return OwnScatter(
        whitener.float(),
        (places @ whitener.T).float(),
        own,
        volume,
        torch.tensor(table, device=factor.device),
        candidates,
    )


def add_gram(total: Tensor, rows: Tensor) -> None:
    """Adds `rowsᵀ rows`, rows `[n, D]`, to the lower triangle of `total` `[D, D]`; above it only near the diagonal."""
    for start in range(0, len(total), COLUMNS_AT_ONCE):
        stop = start + COLUMNS_AT_ONCE
        total[start:, start:stop] += rows[:, start:].T @ rows[:, start:stop]


def through_lower(rows: Tensor, lower: Tensor) -> Tensor:
    """`rows @ lower.T`, rows `[n, D]`, of a lower triangular matrix `[D, D]`."""
    product = torch.empty_like(rows)
    for start in range(0, len(lower), COLUMNS_AT_ONCE):
        stop = start + COLUMNS_AT_ONCE
        product[:, start:stop] = rows[:, :stop] @ lower[start:stop, :stop].T
    return product


def _spread(signature: Signature, owner: Tensor) -> Tensor:
    """`[ΣC, D]`, float64: the covariance of a task's class means, all counting alike, is the product of its rows,
    transposed, with themselves."""
    away = (signature.classes - signature.mean[owner]).double()
    count = torch.zeros(len(signature.mean), dtype=away.dtype, device=away.device)
    return away / count.index_add_(0, owner, torch.ones_like(away[:, 0]))[owner].sqrt().unsqueeze(1)


def _root(covariance: Tensor, floor: Tensor, shrinkage: float) -> Tensor:
    """The Cholesky factor of a covariance `[D, D]` of which a share is replaced by `floor` on the diagonal."""
    shrunk = (1 - shrinkage) * covariance
    # And by far less than any real variance, so that constant features (a task of one repeated text) can be inverted.
    shrunk.diagonal().add_(floor + 1e-12)
    return torch.linalg.cholesky(shrunk)


def _discriminants(mean: Tensor, root: Tensor) -> tuple[Tensor, Tensor]:
    """Weights `[n, D]` and biases `[n]` of Gaussians with means `[n, D]` and one covariance, whose Cholesky factor is
    `root` `[D, D]`."""
    centre = mean.mean(0)
    weight = torch.cholesky_solve((mean - centre).T, root).T
    return weight, -0.5 * ((mean + centre) * weight).sum(1)


@dataclass(frozen=True)
class Familiarity:
    """Where the inputs of each task lie along the directions that tell the tasks apart.

    Args:
        basis (`Tensor`): `[m, D]`, the leading directions between the tasks' discriminants, m < tasks.
        mean (`Tensor`): `[tasks, m]`.
        precision (`Tensor`): `[tasks, m, m]`, inverse covariance: half of it the task's own, half the shared one.
        limit (`float`): Squared distance above which an input counts as unknown.
    """

    basis: Tensor
    mean: Tensor
    precision: Tensor
    limit: float


def familiarity(signature: Signature, router: Router, constants: Constants) -> Familiarity | None:
    """What `novelty` needs, from the tasks present; `None` with a single task, which nothing can be told apart from.

    Inputs of a task that was never learned lie between the learned ones: not far out in the hidden states as a whole,
    where long and short texts differ more than tasks do, but along the directions that tell tasks apart.
    """
    apart = (router.apart - router.apart.mean(0)).double()
    values, vectors = torch.linalg.eigh(apart @ apart.T)
    keep = values > values.max() * 1e-6
    keep[: max(len(values) - constants.directions, 1)] = False
    if not keep.any():
        return None
    basis = vectors[:, keep].T @ apart
    factor = torch.cat([part.double() @ basis.T for part in signature.factor.split(TASKS_AT_ONCE)])
    own = factor.mT @ factor + (basis * signature.diagonal.double().unsqueeze(1)) @ basis.T
    # Around its mean, a task scatters as its classes do around theirs, and as these do.
    spread = _spread(signature, router.owner) @ basis.T
    own.index_add_(0, router.owner, spread.unsqueeze(2) * spread.unsqueeze(1))
    covariance = (own + own.mean(0)) / 2
    m = len(basis)
    limit = (constants.stretch * m + constants.added) / m * float(chi2.ppf(1 - constants.false_alarms, m))
    mean = signature.mean.double() @ basis.T
    return Familiarity(basis.float(), mean.float(), torch.linalg.inv(covariance).float(), limit)


def novelty(features: Tensor, task: Tensor, known: Familiarity) -> Tensor:
    """How far inputs lie from a task, along the directions that tell tasks apart, as a share of the limit.

    Args:
        features (`Tensor`): `[rows, D]`.
        task (`Tensor`): `[rows]`, the task of each row.

    Returns:
        `[rows]`, squared distance; above 1 the input counts as unknown.
    """
    away = features @ known.basis.T - known.mean[task]
    return torch.einsum("nm,nmk,nk->n", away, known.precision[task], away).clamp_min(0) / known.limit
