"""How unsure answers are, from the distributions that the members of a group give. Pure functions of tensors.

`pair` numbers the (input, group) pairs that were run; a row of model output belongs to one member of one pair.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class MemberAnswers:
    """What the members that ran say of each (input, group) pair.

    Args:
        values (`Tensor`): `[N, D, C]`, float32, what `HeadKind.distributions` gives for each row of output.
        pair (`Tensor`): `[N]`, int64, the pair of each row.
        mean (`Tensor`): `[pairs, D, C]`, their means over the members of a pair.
        weights (`Tensor`): `[pairs, D]`, share of each distribution, summing to 1.
        log_classes (`Tensor`): `[pairs, D]`, the largest entropy that each can have, in nats.
        unit (`Tensor`): `[pairs]`, float32, what 1 of a head's own output is in `values` (`TaskKind.scaling`).
    """

    values: Tensor
    pair: Tensor
    mean: Tensor
    weights: Tensor
    log_classes: Tensor
    unit: Tensor


def entropy_of_mean(answers: MemberAnswers) -> Tensor:
    """Predictive entropy of each pair, `[pairs]`; see `normalised_entropy`."""
    return normalised_entropy(answers.mean, answers.weights, answers.log_classes)


def variance_between(answers: MemberAnswers) -> Tensor:
    """Variance between the members of each pair, `[pairs]`; see `summed_variance`."""
    return summed_variance(answers.values, answers.weights, answers.pair, len(answers.mean))


def spread_of_numbers(answers: MemberAnswers) -> Tensor:
    """How far the members' numbers differ in each pair, `[pairs]`: `s² / (1 + s²)` in [0, 1), where s² is their
    variance in units of their heads; 0 where they answer as one."""
    in_units = answers.values / answers.unit[answers.pair][:, None, None]
    variance = summed_variance(in_units, answers.weights, answers.pair, len(answers.mean))
    return variance / (1 + variance)


def mean_by_pair(values: Tensor, pair: Tensor, pairs: int) -> Tensor:
    """Means of `values [rows, …]` over the rows of each pair, `[pairs, …]`."""
    total = values.new_zeros(pairs, *values.shape[1:]).index_add(0, pair, values)
    # Not by `bincount`, whose size depends on its values, so that a compiled graph would break there.
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
