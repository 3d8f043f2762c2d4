"""Retrieval: which group answers an input. Pure functions of tensors; no loop over rows, groups or members.

`pair` numbers the (input, group) pairs that were run; a row of model output belongs to one member of one pair.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .signatures import best_of


def group_posterior(log_likelihood: Tensor, group_of_task: Tensor, groups: int) -> Tensor:
    """Log-likelihoods per task `[rows, tasks]` → probabilities per group `[rows, groups]`, all groups equally likely.

    A group of several tasks counts by its nearest one.

    Args:
        group_of_task (`Tensor`): `[tasks]`, index of the group of each task.
        groups (`int`): How many groups there are.
    """
    return best_of(log_likelihood, group_of_task, groups).softmax(1)


def margin_of(preference: Tensor) -> Tensor:
    """Best minus second-best preference per row, `[rows, groups]` → `[rows]`; 1 where there is one group only."""
    if preference.shape[1] < 2:
        return preference.new_ones(len(preference))
    best = preference.topk(2, dim=1).values
    return best[:, 0] - best[:, 1]


def leading_candidates(posterior: Tensor, clear: float, least: float, most: int) -> Tensor:
    """The groups that are still in question for each row, `[rows, groups]` bool.

    Where the best posterior reaches `clear`, it is the only candidate; elsewhere the `most` best groups with a
    posterior of at least `least`. The best group is always a candidate.
    """
    best, order = posterior.topk(min(most, posterior.shape[1]), dim=1)
    keep = (best >= least) & (best[:, :1] < clear)
    keep[:, 0] = True
    return torch.zeros_like(posterior, dtype=torch.bool).scatter(1, order, keep)


def mean_by_pair(values: Tensor, pair: Tensor, pairs: int) -> Tensor:
    """Means of `values [rows, …]` over the rows of each pair, `[pairs, …]`."""
    total = values.new_zeros(pairs, *values.shape[1:]).index_add(0, pair, values)
    # Not by `bincount`, whose size depends on its values: a compiled graph would end there.
    count = pair.new_zeros(pairs).index_add(0, pair, torch.ones_like(pair)).clamp_min(1)
    return total / count.view(-1, *[1] * (values.dim() - 1))


def normalised_entropy(probabilities: Tensor, weights: Tensor, log_classes: Tensor) -> Tensor:
    """Entropy of mean probabilities as a share of the largest possible one, averaged over an answer's distributions.

    `H = -Σ_c p̄(c) log p̄(c) / log C` (predictive entropy, normalised because groups differ in their number of classes).

    Args:
        probabilities (`Tensor`): `[pairs, D, C]`, means over the members of a pair.
        weights (`Tensor`): `[pairs, D]`, share of each distribution, summing to 1.
        log_classes (`Tensor`): `[pairs, D]`.
    """
    entropy = torch.special.entr(probabilities).sum(-1) / log_classes
    return (entropy * weights).sum(-1)


def summed_variance(probabilities: Tensor, weights: Tensor, pair: Tensor, pairs: int) -> Tensor:
    """Output variance `V = Σ_c Var_k[p_k(c)]` over the members k of each pair, `[pairs]`.

    Args:
        probabilities (`Tensor`): `[rows, D, C]`, one row per member of a pair.
        weights (`Tensor`): `[pairs, D]`.
        pair (`Tensor`): `[rows]`.
    """
    mean = mean_by_pair(probabilities, pair, pairs)
    variance = mean_by_pair((probabilities - mean[pair]).square(), pair, pairs)
    return (variance.sum(-1) * weights).sum(-1)
