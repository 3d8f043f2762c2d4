"""How sparse weights are: the PQ Index, the l_q sparsity index, and what SAP prunes for it.

Formulas: Diao et al., "Pruning Deep Neural Networks from a Sparsity Perspective" (ICLR 2023, arXiv 2302.05601); the
l_q index after Yang et al., "A Theoretical Understanding of Neural Network Compression from Sparse Linear
Approximation" (arXiv 2206.05604).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

# As a share of the weights in a group: how far below an integer a float64 result may lie and still count as it.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class PowerSums:
    """What the measures need of each group of weights; the sums of a group that is spread over tensors add up.

    Args:
        count (`Tensor`): int64 `[groups]`, surviving weights.
        p, q (`float`): The two orders, 0 < p < q.
        sum_p, sum_q (`Tensor`): float64 `[groups]`, sums of |w|^p and |w|^q over the survivors.
    """

    count: Tensor
    p: float
    q: float
    sum_p: Tensor
    sum_q: Tensor

    def __add__(self, other: PowerSums) -> PowerSums:
        return PowerSums(self.count + other.count, self.p, self.q, self.sum_p + other.sum_p, self.sum_q + other.sum_q)

    def total(self) -> PowerSums:
        """All groups as one."""
        return PowerSums(
            self.count.sum(0, keepdim=True), self.p, self.q, self.sum_p.sum(0, keepdim=True), self.sum_q.sum(0, True)
        )

    def index(self) -> Tensor:
        """PQ Index of each group, float64 `[groups]` in [0, 1]: 1 - d^(1/q - 1/p) ‖w‖_p / ‖w‖_q.

        0 for groups without survivors and those of zeros only, where it is not defined and nothing can be ranked.
        """
        defined = self.sum_q > 0
        # As power means, which stay in range for millions of weights where d^(1/q - 1/p) and the norms do not.
        count = self.count.clamp(min=1)
        mean_p = (self.sum_p / count) ** (1 / self.p)
        mean_q = (self.sum_q / count) ** (1 / self.q)
        return torch.where(defined, 1 - mean_p / mean_q.where(defined, torch.ones_like(mean_q)), 0.0).clamp(min=0.0)


def joined(sums: Iterable[PowerSums]) -> PowerSums:
    """All groups of all sums (at least one) as one group."""
    total, *others = (each.total() for each in sums)
    for other in others:
        total = total + other
    return total


def check_orders(p: float, q: float) -> None:
    """Refuses orders that make no index (`ValueError`)."""
    if not (_is_number(p) and _is_number(q) and 0 < p < q):
        raise ValueError(f"`p` and `q` must be numbers with 0 < p < q, not p = {p!r} and q = {q!r}.")


def power_sums(rows: Tensor, p: float, q: float, pruned: Tensor | None = None) -> PowerSums:
    """Sums over each row.

    Args:
        rows (`Tensor`): `[groups, weights]`, any real dtype; summed in float64.
        p, q (`float`): Orders, 0 < p < q.
        pruned (`Tensor`, *optional*): bool like `rows`, true where a weight is gone and does not count.
    """
    size = rows.detach().abs().double()
    if pruned is not None:
        size = size.masked_fill(pruned, 0.0)
        count = (~pruned).sum(1)
    else:
        count = torch.full((len(rows),), rows.shape[1], device=rows.device)
    return PowerSums(count, p, q, size.pow(p).sum(1), size.pow(q).sum(1))


def sap_counts(sums: PowerSums, gamma: float, beta: float, eta_r: float) -> Tensor:
    """How many of the smallest weights SAP prunes in each group, int64 `[groups]` on the CPU.

    r = d (1 + eta_r)^(-q/(q-p)) (1 - I)^(qp/(q-p)) weights must stay; floor(d min(gamma (1 - r/d), beta)) go. The
    floor is that of exact arithmetic: a float64 result a rounding error below an integer counts as that integer.
    """
    p, q = sums.p, sums.q
    index = sums.index().cpu()
    staying = (1 + eta_r) ** (-q / (q - p)) * (1 - index) ** (q * p / (q - p))
    count = sums.count.cpu()
    size = count.double()  # an integer tensor times a number would be float32, exact only up to 16.7 million
    wanted = (size * gamma * (1 - staying) + size * _ROUNDING).floor().long()
    cap = Fraction(str(beta))
    most = torch.tensor([math.floor(d * cap) for d in count.tolist()])
    # A group that is empty or all zero has no index, and nothing to rank by.
    return torch.minimum(wanted, most).where(sums.sum_q.cpu() > 0, 0)


def check_sap(p: float, q: float, gamma: float, beta: float, eta_r: float) -> None:
    """Refuses settings that SAP is not defined for (`ValueError`)."""
    check_orders(p, q)
    if not (_is_number(gamma) and gamma > 0):
        raise ValueError(f"`gamma` must be a number above 0 (1 prunes what the index states), not {gamma!r}.")
    if not (_is_number(beta) and 0 < beta < 1):
        raise ValueError(
            f"`beta` must lie between 0 and 1, not {beta!r}: it is the most that one pruning may take of a group."
        )
    if not (_is_number(eta_r) and eta_r >= 0):
        raise ValueError(f"`eta_r` must be a number of at least 0, not {eta_r!r}.")


def pq_index(weights: Tensor | Sequence[float], p: float = 0.5, q: float = 1.0) -> float:
    """PQ Index of weights: 0 when all have one magnitude, up to 1 - d^(1/q - 1/p) when all but one are zero.

    Args:
        weights (`Tensor` or numbers): Any shape; taken as one group. Zeros count as weights: leave out pruned ones.
        p, q (`float`): Orders, 0 < p < q.

    Raises:
        ValueError: for no weights, only zeros (the index is not defined), NaN or infinite ones, or bad orders.

    Source: Diao et al. 2023, definition of the PQ Index.
    """
    check_orders(p, q)
    return float(power_sums(_one_group(weights), p, q).index())


def lq_sparsity_index(weights: Tensor | Sequence[float], q: float) -> float:
    """‖w‖_1 / ‖w‖_q for 0 < q < 1: from d^(1 - 1/q) (all alike) to 1 (one non-zero); larger is sparser.

    Related to the PQ Index by I_{q,1} = 1 - d^(1 - 1/q) / SI_q.

    Args:
        weights (`Tensor` or numbers): Any shape; taken as one group.
        q (`float`): Order, between 0 and 1.

    Raises:
        ValueError: as [`pq_index`].
    """
    if not (_is_number(q) and 0 < q < 1):
        raise ValueError(f"`q` must lie between 0 and 1, not {q!r}.")
    group = _one_group(weights)
    return group.shape[1] ** (1 - 1 / q) / (1 - float(power_sums(group, q, 1.0).index()))


def sap_prune_count(
    weights: Tensor | Sequence[float],
    p: float = 0.5,
    q: float = 1.0,
    gamma: float = 1.0,
    beta: float = 0.9,
    eta_r: float = 0.0,
) -> int:
    """How many of the smallest weights one step of SAP prunes.

    Args:
        weights (`Tensor` or numbers): Any shape; taken as one group.
        p, q (`float`): Orders of the PQ Index, 0 < p < q.
        gamma (`float`): Factor on the share that can go by the index.
        beta (`float`): The largest share that may go at once, below 1.
        eta_r (`float`): Tolerated l_p energy of what goes, as a share of that of what stays.

    Raises:
        ValueError: as [`pq_index`], and for settings out of range.

    Source: Diao et al. 2023, algorithm 1, with the real-valued r.
    """
    check_sap(p, q, gamma, beta, eta_r)
    return int(sap_counts(power_sums(_one_group(weights), p, q), gamma, beta, eta_r))


def _one_group(weights: Tensor | Sequence[float]) -> Tensor:
    try:
        group = torch.as_tensor(weights, dtype=None if isinstance(weights, Tensor) else torch.float64).detach()
    except (TypeError, ValueError) as error:
        raise ValueError(f"`weights` must be a tensor or numbers, not {weights!r:.60}.") from error
    if group.is_complex():
        raise ValueError(f"`weights` are {group.dtype}; the measures are for real numbers.")
    group = group.double().reshape(1, -1)
    if group.shape[1] == 0:
        raise ValueError("`weights` is empty.")
    if not torch.isfinite(group).all():
        raise ValueError("`weights` holds NaN or infinite values.")
    largest = group.abs().max()
    if largest == 0:
        raise ValueError("`weights` are all zero; their sparsity is not defined.")
    return group / largest  # no measure depends on the scale, and squares of tiny weights would be lost


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
