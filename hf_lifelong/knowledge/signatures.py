"""Signatures: where a task's inputs lie in the trunk's hidden states. They store statistics, never examples.

A signature is the mean of a task's pooled hidden states, the means of its classes, and the scatter around the class
means as a low-rank factor plus a diagonal. An input goes to the task of its likeliest class, where all classes are
Gaussians with one shared covariance (linear discriminant analysis; Hastie, Tibshirani, Friedman, *The Elements of
Statistical Learning*, 4.3). If several tasks remain candidates, their individual covariances decide (regularised
discriminant analysis; Friedman, 1989). Shared quantities are computed from the tasks present, in their order, so a
task that is left out leaves no trace.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from scipy.linalg import eigh
from torch import Tensor

from .constants import Constants

# Inputs that are compared at a time, each with the factors of its candidates (1.5 MB at 2,048 features).
ROWS_AT_ONCE, ROWS_AT_ONCE_GPU = 16, 256
# Tasks whose factors are summed at a time. The order of summation must depend only on the tasks present.
TASKS_AT_ONCE = 64
# Columns of a triangular or symmetric product that are computed at a time. Zero and mirrored columns are skipped.
COLUMNS_AT_ONCE = 384
# No known base has hidden states near this size. Beyond it, products of statistics overflow float32.
LARGEST_FEATURE = 1e8


@dataclass(frozen=True)
class Signature:
    """Statistics of the pooled hidden states of one task (`[D]`, `[rank, D]`, `[D]`, `[C, D]`) or of several: with a
    leading `[tasks]`, except for the classes `[ΣC, D]`, task after task.

    Args:
        mean (`Tensor`): float32, mean of the task.
        factor (`Tensor`): float32; covariance around the class means = factorᵀ factor + diagonal.
        diagonal (`Tensor`): float32, at least 0.
        classes (`Tensor`): float32, mean of each class; the task's mean if its inputs have no class.
    """

    mean: Tensor
    factor: Tensor
    diagonal: Tensor
    classes: Tensor


@dataclass(frozen=True)
class OwnScatter:
    """Gaussians of tasks with partly individual covariances, `shared + factorᵀ factor`. They are computed by
    Woodbury's identity in whitened coordinates, in which the shared part is the identity.

    Args:
        whitener (`Tensor`): `[D, D]`, float32, maps features to the whitened coordinates.
        places (`Tensor`): `[ΣC, D]`, float32, the class means in whitened coordinates.
        factor (`Tensor`): `[tasks, R, D]`, float32; its product with a difference has as squared length the part of
            the squared distance that the task's own scatter explains.
        volume (`Tensor`): `[tasks]`, float32, half the log-determinant that the own scatter adds.
        classes (`Tensor`): `[tasks, C]`, int64, the classes of each task, padded with -1.
        candidates (`int`): Number of groups that are compared.
    """

    whitener: Tensor
    places: Tensor
    factor: Tensor
    volume: Tensor
    classes: Tensor
    candidates: int

    def __call__(self, features: Tensor, of_class: Tensor, of_task: Tensor, of_group: Tensor, group: Tensor) -> Tensor:
        """Log-likelihoods of the tasks, `[rows, tasks]`, up to a constant per row.

        The nearest task of each of the nearest groups is compared. The other tasks keep their distance to the first,
        and stay behind all compared tasks.

        Args:
            features (`Tensor`): `[rows, D]`.
            of_class, of_task, of_group (`Tensor`): `[rows, ΣC]`, `[rows, tasks]` and `[rows, groups]`, log-likelihoods
                under the shared covariance.
            group (`Tensor`): `[tasks]`, the group of each task.
        """
        least = torch.finfo(of_task.dtype).min  # for excluded tasks, unlike tasks of other groups, which get -inf
        near = of_group.topk(min(self.candidates, of_group.shape[1]), dim=1).indices
        elsewhere = group != near.unsqueeze(2)
        shared, task = of_task.clamp_min(least).unsqueeze(1).masked_fill(elsewhere, float("-inf")).max(2)
        classes = self.classes[task]
        likelihood = of_class.gather(1, classes.clamp_min(0).flatten(1)).view_as(classes)
        likeliest = likelihood.masked_fill(classes < 0, float("-inf")).argmax(2, keepdim=True)
        away = (features @ self.whitener.T).unsqueeze(1) - self.places[classes.gather(2, likeliest).squeeze(2)]
        explained = (self.factor[task] @ away.unsqueeze(3)).squeeze(3)
        compared = 0.5 * (explained.square().sum(2) - away.square().sum(2)) - self.volume[task]
        rest = torch.minimum(of_task - shared[:, :1] + compared[:, :1], compared.amin(1, keepdim=True))
        return rest.scatter(1, task, compared.masked_fill(shared == least, float("-inf")))


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
        sure (`float`): From this posterior on, the discriminants decide alone.
    """

    weight: Tensor
    bias: Tensor
    owner: Tensor
    apart: Tensor
    group: Tensor
    groups: int
    own_scatter: OwnScatter | None = None
    sure: float = Constants.sure

    def __call__(self, features: Tensor, allowed: Tensor | None = None) -> Tensor:
        """Features `[rows, D]` → log-likelihoods `[rows, tasks]` up to a constant per row. A task has the likelihood
        of its likeliest class, or -inf if it is not `allowed`, `[tasks]` bool."""
        of_class = torch.addmm(self.bias, features, self.weight.T)
        of_task = best_of(of_class, self.owner, len(self.apart))
        if allowed is not None:
            of_task = of_task.masked_fill(~allowed, float("-inf"))
        if self.own_scatter is None:
            return of_task
        of_group = best_of(of_task, self.group, self.groups)
        sure = of_group.softmax(1).amax(1) >= self.sure
        own_scatter, group = self.own_scatter, self.group

        def compared(rows: slice | Tensor) -> Tensor:
            return own_scatter(features[rows], of_class[rows], of_task[rows], of_group[rows], group)

        if features.device.type != "cpu" or torch.compiler.is_compiling():
            starts = range(0, max(len(features), 1), ROWS_AT_ONCE_GPU)
            every = torch.cat([compared(slice(i, i + ROWS_AT_ONCE_GPU)) for i in starts])
            return torch.where(sure.unsqueeze(1), of_task, every)
        # On a CPU, reading a value costs nothing, so only the rows that are not sure are compared. Checked first,
        # because `split` returns one chunk even of an empty tensor.
        if not bool(sure.all()):
            for rows in (~sure).nonzero().squeeze(1).split(ROWS_AT_ONCE):
                of_task[rows] = compared(rows)
        return of_task


def best_of(values: Tensor, owner: Tensor, owners: int) -> Tensor:
    """The largest value of each owner, `[rows, n]` and `[n]` → `[rows, owners]`; -inf for an owner without values."""
    least = values.new_full((len(values), owners), float("-inf"))
    return least.scatter_reduce(1, owner.expand_as(values), values, "amax")


def group_posterior(log_likelihood: Tensor, group_of_task: Tensor, groups: int) -> Tensor:
    """Log-likelihoods per task `[rows, tasks]` → probabilities per group `[rows, groups]`, all groups equally likely.

    A group's likelihood is that of its likeliest task.

    Args:
        group_of_task (`Tensor`): `[tasks]`, index of the group of each task.
        groups (`int`): Number of groups.
    """
    return best_of(log_likelihood, group_of_task, groups).softmax(1)


def check_features(features: Tensor) -> None:
    """Refuses features that no statistics can be made of (`ValueError`)."""
    if not torch.isfinite(features).all():
        raise ValueError("`features` holds NaN or infinite values; the base model does not give finite hidden states.")
    if features.abs().max() > LARGEST_FEATURE:
        raise ValueError(
            f"`features` holds values up to {float(features.abs().max()):.1e}, more than {LARGEST_FEATURE:.0e}; the "
            "hidden states of the base model are too large to tell inputs apart by."
        )


def fit_signature(features: Tensor, rank: int, labels: Tensor | None = None, classes: int = 1) -> Signature:
    """Fits the signature of one task.

    Args:
        features (`Tensor`): `[n, D]`, pooled hidden states, n ≥ 2.
        rank (`int`): Rows of the factor. If n - 1 < rank, the missing directions are zero.
        labels (`Tensor`, *optional*): `[n]`, int64, class of each row, less than `classes`.
        classes (`int`): Number of classes. A class without rows gets the mean of another, so it attracts no inputs of
            its own.

    Raises:
        ValueError: when there are fewer than 2 rows, or values are not finite or beyond `LARGEST_FEATURE`.
    """
    if len(features) < 2:
        raise ValueError(f"`features` must have at least 2 rows to fit a signature, not {len(features)}.")
    check_features(features)
    x = features.double()
    mean = x.mean(0)
    labels = torch.zeros(len(x), dtype=torch.long) if labels is None else labels
    labels = labels.to(x.device)
    count = torch.bincount(labels, minlength=classes).unsqueeze(1)
    places = torch.zeros(classes, x.shape[1], dtype=x.dtype, device=x.device).index_add_(0, labels, x)
    places = torch.where(count > 0, places / count.clamp_min(1), places[labels[0]] / count[labels[0]])
    x = (x - places[labels]) / (len(x) - 1) ** 0.5
    # Eigenvectors of the n × n Gram matrix give the leading directions of the D × D scatter, which is not formed then.
    factor = _factor(x.T @ x, rank) if len(x) > x.shape[1] else leading_of(x @ x.T, rank)[1] @ x
    return _signature(mean, places, factor, x.square().sum(0), rank)


def signature_of_sums(counts: Tensor, means: Tensor, scatter: Tensor, rank: int) -> Signature:
    """The signature of rows of which only sums are known. It is that of [`fit_signature`] up to rounding; where there
    are fewer rows than features, that function takes a shorter way.

    Args:
        counts (`Tensor`): `[C]`, int64, rows of each class.
        means (`Tensor`): `[C, D]`, float64. A class without rows gets the mean of the most frequent one.
        scatter (`Tensor`): `[D, D]`, float64, scatter around the class means, summed over classes.
        rank (`int`): Rows of the factor.

    Raises:
        ValueError: when there are fewer than 2 rows.
    """
    rows = int(counts.sum())
    if rows < 2:
        raise ValueError(f"`counts` are of {rows} rows; a signature needs at least 2.")
    covariance = scatter / (rows - 1)
    mean = (counts.unsqueeze(1) * means).sum(0) / rows
    places = torch.where(counts.unsqueeze(1) > 0, means, means[counts.argmax()])
    return _signature(mean, places, _factor(covariance, rank), covariance.diagonal(), rank)


def _factor(scatter: Tensor, rank: int) -> Tensor:
    values, directions = leading_of(scatter, rank)
    return directions * values.clamp_min(0).sqrt().unsqueeze(1)


def _signature(mean: Tensor, places: Tensor, factor: Tensor, variance: Tensor, rank: int) -> Signature:
    if len(factor) < rank:
        factor = torch.cat([factor, factor.new_zeros(rank - len(factor), factor.shape[1])])
    diagonal = (variance - factor.square().sum(0)).clamp_min(0)
    return Signature(mean.float(), factor.float(), diagonal.float(), places.float())


def leading_of(scatter: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The k largest eigenvalues of a symmetric matrix `[n, n]`, `[k]`, and their eigenvectors as rows, `[k, n]`,
    largest first; k is `count`, at most n. Torch would compute all of them, which takes much longer."""
    n = len(scatter)
    values, vectors = eigh(scatter.cpu().numpy(), subset_by_index=[max(n - count, 0), n - 1], check_finite=False)
    values, vectors = (torch.from_numpy(array).to(scatter.device) for array in (values, vectors))
    return values.flip(0), vectors.T.flip(0)


def shared_router(
    signature: Signature,
    counts: Tensor,
    classes: Sequence[int],
    groups: Sequence[int],
    shrinkage: float,
    constants: Constants,
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
    """
    share = (counts.double() - 1).clamp_min(1)
    share = (share / share.sum()).to(signature.mean.device)
    # Only the lower triangles of symmetric matrices, which is what Cholesky's method reads.
    covariance = torch.diag(share @ signature.diagonal.double())
    leading = torch.zeros_like(covariance)
    # In chunks: in float64 the factors of a thousand tasks would take eight times their file size, and minutes.
    for factor, weights in zip(signature.factor.split(TASKS_AT_ONCE), share.split(TASKS_AT_ONCE), strict=True):
        rows = factor * weights.sqrt().float()[:, None, None]
        add_gram(leading, rows[:, : constants.own_rank].flatten(0, 1))
        add_gram(covariance, rows[:, constants.own_rank :].flatten(0, 1))
    covariance += leading
    group, count = torch.tensor(groups, device=covariance.device), max(groups) + 1
    # As few of these matrices as possible live at the same time: they determine the peak memory of learning a task.
    floor = shrinkage * covariance.diagonal().mean()
    common = root_of(leading.mul_(-constants.own_share).add_(covariance), floor, shrinkage) if count > 1 else None
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
    if common is not None:
        factor = signature.factor[:, : constants.own_rank]
        own_scatter = _own_scatter(
            factor, places, common, (1 - shrinkage) * constants.own_share, classes, constants.candidates
        )
    weight = weight.float().T.contiguous().T  # the fastest layout for a product with a single row
    return Router(weight, bias.float(), owner, apart.float(), group, count, own_scatter, constants.sure)


def _own_scatter(
    factor: Tensor, places: Tensor, common: Tensor, share: float, classes: Sequence[int], candidates: int
) -> OwnScatter:
    """Gaussians with the covariances `common commonᵀ + share · factorᵀ factor`.

    Args:
        factor (`Tensor`): `[tasks, R, D]`.
        common (`Tensor`): `[D, D]`, lower triangular.
    """
    identity = torch.eye(len(common), dtype=common.dtype, device=common.device)
    whitener = torch.linalg.solve_triangular(common, identity, upper=False)
    whitened, volume = torch.empty_like(factor), factor.new_empty(len(factor))
    chunks = (stack.split(TASKS_AT_ONCE) for stack in (factor, whitened, volume))
    for rows, scaled, size in zip(*chunks, strict=True):
        white = through_lower(rows.flatten(0, 1), whitener.float()).view_as(rows)
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
        whitened,
        volume,
        torch.tensor(table, device=factor.device),
        candidates,
    )


def add_gram(total: Tensor, rows: Tensor) -> None:
    """Adds `rowsᵀ rows`, rows `[n, D]`, to the lower triangle of `total` `[D, D]`. Near the diagonal it also adds to
    the upper triangle."""
    for start in range(0, len(total), COLUMNS_AT_ONCE):
        stop = start + COLUMNS_AT_ONCE
        total[start:, start:stop] += rows[:, start:].T @ rows[:, start:stop]


def through_lower(rows: Tensor, lower: Tensor) -> Tensor:
    """`rows @ lower.T` for rows `[n, D]` and a lower triangular matrix `[D, D]`."""
    product = torch.empty_like(rows)
    for start in range(0, len(lower), COLUMNS_AT_ONCE):
        stop = start + COLUMNS_AT_ONCE
        product[:, start:stop] = rows[:, :stop] @ lower[start:stop, :stop].T
    return product


def class_spread(signature: Signature, owner: Tensor) -> Tensor:
    """Scaled deviations of the class means from their task's mean, `[ΣC, D]`, float64. With the rows R of one task,
    `Rᵀ R` is the covariance of its class means, which all have the same weight."""
    away = (signature.classes - signature.mean[owner]).double()
    count = torch.zeros(len(signature.mean), dtype=away.dtype, device=away.device)
    return away / count.index_add_(0, owner, torch.ones_like(away[:, 0]))[owner].sqrt().unsqueeze(1)


def root_of(covariance: Tensor, floor: Tensor, shrinkage: float) -> Tensor:
    """The Cholesky factor of a covariance `[D, D]`, scaled by `1 - shrinkage`, with `floor` added to its diagonal."""
    shrunk = (1 - shrinkage) * covariance
    # Also adds far less than any real variance, to make constant features invertible (a task of one repeated text).
    shrunk.diagonal().add_(floor + 1e-12)
    return torch.linalg.cholesky(shrunk)


def _discriminants(mean: Tensor, root: Tensor) -> tuple[Tensor, Tensor]:
    """Weights `[n, D]` and biases `[n]` of the discriminants of Gaussians with means `[n, D]`. `root` `[D, D]` is the
    Cholesky factor of their shared covariance."""
    centre = mean.mean(0)
    weight = torch.cholesky_solve((mean - centre).T, root).T
    return weight, -0.5 * ((mean + centre) * weight).sum(1)
