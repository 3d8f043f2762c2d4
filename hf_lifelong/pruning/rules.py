"""Rules that say which surviving weights go next. Pure functions of tensors; counts are exact, ties prune fewer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from .masks import Masks
from .measures import PowerSums, check_sap, joined, power_sums, sap_counts

Scope = Literal["neuron", "layer", "global"]
SCOPES = ("neuron", "layer", "global")


@dataclass(frozen=True)
class SAP:
    """Sparsity-informed Adaptive Pruning: the PQ Index of the survivors says how many of the smallest go.

    Args:
        p, q (`float`): Orders of the PQ Index, 0 < p < q; (0.5, 1) prunes gently, (1, 2) hard.
        gamma (`float`): Factor on the share that can go by the index.
        beta (`float`): The largest share that may go at once, below 1.
        eta_r (`float`): Tolerated l_p energy of what goes, as a share of that of what stays.
        scope (`str`): Each `"neuron"` has its own index and count, or each `"layer"`, or all weights together
            (`"global"`). Per neuron kept far more accuracy in `benchmarks/results/pruning.json` and is therefore
            the default; the main figures of the paper are global.

    Source: Diao et al., ICLR 2023. Counts use the real-valued r and exact integers; the released code rounds r up and
    counts in float32.
    """

    p: float = 0.5
    q: float = 1.0
    gamma: float = 1.0
    beta: float = 0.9
    eta_r: float = 0.0
    scope: Scope = "neuron"
    ranks_dense: ClassVar[bool] = False
    needs_inputs: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_sap(self.p, self.q, self.gamma, self.beta, self.eta_r)
        _check_scope(self.scope)

    def select(self, rows: dict[str, Tensor], pruned: dict[str, Tensor]) -> dict[str, Tensor]:
        sums = {name: power_sums(value, self.p, self.q, pruned[name]) for name, value in rows.items()}

        def count(group_sums: PowerSums) -> Tensor:
            return sap_counts(group_sums, self.gamma, self.beta, self.eta_r)

        return _by_scope(
            self.scope,
            rows,
            pruned,
            lambda name: count(sums[name]),
            lambda names: int(count(joined(sums[n] for n in names))),
        )


@dataclass(frozen=True)
class Magnitude:
    """A fixed share of the survivors goes, smallest first. In `prune_iteratively` that is lottery-ticket pruning.

    Args:
        rate (`float`): Share that goes each time, between 0 and 1.
        scope (`str`): `"neuron"`, `"layer"` or `"global"`.
    """

    rate: float = 0.2
    scope: Scope = "global"
    ranks_dense: ClassVar[bool] = False
    needs_inputs: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_share("rate", self.rate)
        _check_scope(self.scope)

    def select(self, rows: dict[str, Tensor], pruned: dict[str, Tensor]) -> dict[str, Tensor]:
        rate = Fraction(str(self.rate))
        left = {name: (~gone).sum(1) for name, gone in pruned.items()}
        return _by_scope(
            self.scope,
            rows,
            pruned,
            lambda name: torch.tensor([math.floor(rate * d) for d in left[name].tolist()]),
            lambda names: math.floor(rate * sum(int(left[name].sum()) for name in names)),
        )


@dataclass(frozen=True)
class OneShot(Magnitude):
    """As [`Magnitude`], but weights are ranked by their values in the trained dense model, not by their present ones.

    The baseline "one shot" of Diao et al. Pruned only once, it is the same as `Magnitude`.
    """

    ranks_dense: ClassVar[bool] = True


@dataclass(frozen=True)
class Tail:
    """Each neuron keeps the smallest set of weights whose remainder is within a tolerance.

    One knob with a meaning: how much of a neuron's weights, as l1 or l2 norm, may go. Weighted by the inputs, the l1
    tail bounds the root mean square by which the neuron's output moves (see [`output_change`]).

    Args:
        tolerance (`float`): Norm of what goes, as a share of the norm of the neuron's surviving weights; between 0
            and 1.
        norm (`int`): 1 or 2.
        by_inputs (`bool`): Weighs each weight by the root mean square of its input, which needs `calibration` batches.

    Source: our own rule, after the l_q view of Yang et al. (arXiv 2206.05604), whose sufficient count is usually
    larger than the neuron; the exact tail is what is used here.
    """

    tolerance: float = 0.1
    norm: Literal[1, 2] = 1
    by_inputs: bool = False
    scope: ClassVar[Scope] = "neuron"
    ranks_dense: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_share("tolerance", self.tolerance)
        if self.norm not in (1, 2):
            raise ValueError(f"`norm` must be 1 or 2, not {self.norm!r}.")

    @property
    def needs_inputs(self) -> bool:
        return self.by_inputs

    def select(self, rows: dict[str, Tensor], pruned: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: smallest_of_rows(rows[name], gone, self.counts(rows[name], gone)) for name, gone in pruned.items()
        }

    def counts(self, rows: Tensor, pruned: Tensor) -> Tensor:
        """How many of the smallest weights of each row are within the tolerance, int64 `[neurons]`."""
        sizes = rows.abs().double().masked_fill(pruned, torch.inf).sort(1).values
        energy = torch.where(sizes.isfinite(), sizes, 0.0) ** self.norm
        within = energy.cumsum(1) <= self.tolerance**self.norm * energy.sum(1, keepdim=True)
        return (within & sizes.isfinite()).sum(1).minimum((~pruned).sum(1) - 1).clamp(min=0)


Rule = SAP | Magnitude | OneShot | Tail


def choose(
    rule: Rule,
    masks: Masks,
    dense: Mapping[str, Tensor] | None = None,
    input_sizes: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Masks after one more pruning, bool by weight name; nothing is changed.

    Args:
        rule: What goes.
        masks ([`Masks`]): What is gone already.
        dense (`Mapping`, *optional*): Weights to rank by in place of the model's own.
        input_sizes (`Mapping`, *optional*): Root mean square of each input, `[inputs]` by weight name.

    Raises:
        ValueError: when a weight is NaN or infinite.
    """
    rows, gone = {}, {}
    for name, target in masks.targets.items():
        weight = (dense[name].to(target.parameter.device) if dense is not None else target.parameter).detach()
        if not torch.isfinite(weight).all():
            raise ValueError(f"`{name}` holds NaN or infinite values: training has diverged. Lower `learning_rate`.")
        rows[name] = target.rows(weight)
        if input_sizes is not None:
            rows[name] = rows[name].float() * input_sizes[name].to(weight.device)
        gone[name] = target.rows(masks.pruned[name])
    return {name: masks.targets[name].unrows(value) for name, value in rule.select(rows, gone).items()}


def smallest_of_rows(rows: Tensor, pruned: Tensor, counts: Tensor) -> Tensor:
    """Adds to each row of a mask its smallest survivors.

    Args:
        rows (`Tensor`): `[neurons, inputs]`; magnitudes are compared in float32.
        pruned (`Tensor`): bool like `rows`.
        counts (`Tensor`): int64 `[neurons]`, how many go; fewer where magnitudes tie at the limit.
    """
    sizes = rows.abs().float().masked_fill(pruned, torch.inf)
    limit = sizes.sort(1).values.gather(1, counts.to(rows.device)[:, None])
    return pruned | (sizes < limit)


def kth_smallest(tensors: Sequence[Tensor], pruned: Sequence[Tensor], k: int) -> float:
    """The magnitude with exactly `k` survivors before it in sorted order, over many tensors, without joining them.

    Non-negative floats sort as their bits do, so two passes find it: one counts the upper half of the bits, the other
    the lower.

    Args:
        tensors (`Sequence[Tensor]`): Of any shapes; compared as float32.
        pruned (`Sequence[Tensor]`): bool, what does not count.
        k (`int`): From 0 to the number of survivors - 1.
    """
    kth_bits = 0
    for shift, settled in ((16, None), (0, 16)):
        bins = torch.zeros(1 << 16, dtype=torch.int64)
        for tensor, gone in zip(tensors, pruned, strict=True):
            bits = tensor.detach().abs().float()[~gone].view(torch.int32)
            if settled is not None:
                bits = bits[bits >> settled == kth_bits >> settled]
            bins += torch.bincount((bits >> shift) & 0xFFFF, minlength=1 << 16).cpu()
        below = bins.cumsum(0)
        place = int(torch.searchsorted(below, k, right=True))
        k -= int(below[place - 1]) if place else 0
        kth_bits |= place << shift
    return float(torch.tensor(kth_bits, dtype=torch.int32).view(torch.float32))


def _by_scope(
    scope: Scope,
    rows: dict[str, Tensor],
    pruned: dict[str, Tensor],
    of_neurons: Callable[[str], Tensor],
    of_group: Callable[[list[str]], int],
) -> dict[str, Tensor]:
    """Adds the smallest survivors of each group of a scope to the masks.

    Args:
        of_neurons (`Callable`): How many go in each row of a weight.
        of_group (`Callable`): How many go in some weights together.
    """
    if scope == "neuron":
        return {name: smallest_of_rows(rows[name], pruned[name], of_neurons(name)) for name in rows}
    out: dict[str, Tensor] = {}
    for names in [[name] for name in rows] if scope == "layer" else [list(rows)]:
        limit = 0.0
        if count := of_group(names):
            limit = kth_smallest([rows[name] for name in names], [pruned[name] for name in names], count)
        out |= {name: pruned[name] | (rows[name].abs().float() < limit) for name in names}
    return out


def _check_share(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise ValueError(f"`{name}` must lie between 0 and 1, not {value!r}: it is a share.")


def _check_scope(scope: str) -> None:
    if scope not in SCOPES:
        raise ValueError(f"`scope` must be one of {SCOPES}, not {scope!r}.")
