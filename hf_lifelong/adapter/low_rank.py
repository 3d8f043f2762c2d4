"""Members of low rank: a linear layer with one trainable working pair and a frozen bank of pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..compat import Conv1D
from ..storage import LOW_RANK, specs_at
from .forward.context import Context
from .forward.plan import Plan
from .layers import Bank, MemberKind, is_linear, names_of


class DriftLayer(MemberKind):
    """A linear layer with low-rank members.

    `drift_A [r, in]` and `drift_B [out, r]` are trained. `drift_bank_A [members, r, in]` and
    `drift_bank_B [members, r, out]` are not; their layout lets members stack without a copy.
    """

    specs = specs_at(LOW_RANK)
    tensors = tuple(spec.name for spec in specs)
    adapter_layer_names = names_of(specs, trained=True)
    bank_names = names_of(specs, trained=False)
    other_param_names = (*bank_names, "drift_dropout", "scaling")
    what = "linear layer"
    drift_A: Bank
    drift_B: Bank
    drift_bank_A: Bank
    drift_bank_B: Bank

    def __init__(self, base_layer: nn.Module, context: Context) -> None:
        super().__init__(base_layer, context)
        self.scaling: dict[str, float] = {}

    @classmethod
    def fits(cls, module: nn.Module) -> bool:
        return is_linear(module)

    def own_sizes(self) -> dict[str, int]:
        base = self.get_base_layer()
        weight: Any = base.weight
        shape = getattr(weight, "ds_shape", weight.shape)  # a weight that ZeRO-3 shards has an empty shape
        fan: Any = shape if isinstance(base, Conv1D) else (base.in_features, base.out_features)
        return {"in": int(fan[0]), "out": int(fan[1])}

    def update_layer(self, adapter_name: str, config: Any, sizes: Mapping[str, int]) -> None:
        fan_in, fan_out = self.own_sizes().values()
        if config.r > max(fan_in, fan_out):
            # Checked here for every way of loading: a configuration may come from anyone, and determines the memory.
            raise ValueError(
                f"`r` is {config.r}, but a layer with {fan_in} inputs and {fan_out} outputs has no use for a rank "
                f"above {max(fan_in, fan_out)}. Give a smaller one."
            )
        self.scaling[adapter_name] = config.lora_alpha / config.r
        super().update_layer(adapter_name, config, sizes)

    def reset(self, adapter_name: str, closed: bool = False) -> None:
        super().reset(adapter_name, closed)
        if not closed:
            nn.init.kaiming_uniform_(self.drift_A[adapter_name], a=math.sqrt(5))

    def answer(
        self, name: str, plan: Plan, factors: tuple[Tensor, ...], x: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        result = self.base_layer(x, *args, **kwargs)
        scale = self.scaling[name] / (plan.members.shape[1] if plan.weights is None else 1)
        a, b = factors
        return with_update(result, x, a, b, scale)

    def work(self, name: str, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        result = self.base_layer(x, *args, **kwargs)
        x = self.drift_dropout[name](x.to(self.drift_A[name].dtype))
        return with_update(result, x, self.drift_A[name], self.drift_B[name].T, self.scaling[name])

    def factors(self, banks: tuple[Tensor, ...], members: Tensor, weights: Tensor | None) -> tuple[Tensor, ...]:
        bank_a, bank_b = banks
        return member_factors(bank_a, bank_b, members, weights)


def with_update(result: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """`result + scale · x aᵀ b` in the dtype of `result`.

    Args:
        result (`Tensor`): `[…, out]`.
        x (`Tensor`): `[…, in]`.
        a, b (`Tensor`): `[r, in]` and `[r, out]` for all rows, or `[N, r, in]` and `[N, r, out]` for N blocks of rows.
    """
    # One row takes some forty such sums, each of microseconds, so conversions are called only where they do something.
    x = x if x.dtype == a.dtype else x.to(a.dtype)
    blocks = a.dim() == 3
    if blocks:
        inner = x.reshape(len(a), -1, x.shape[-1]) @ a.mT
        rows = result.reshape(len(a), -1, result.shape[-1])
    else:
        inner = F.linear(x, a).flatten(0, -2)
        rows = result.flatten(0, -2)
    is_plain = not torch.is_grad_enabled() and not torch.is_autocast_enabled(result.device.type)
    if is_plain and result.dtype == inner.dtype == b.dtype:
        add_in_place = rows.baddbmm_ if blocks else rows.addmm_  # the layer's output is nobody else's
        return add_in_place(inner, b, alpha=scale).view(result.shape)
    if torch.promote_types(result.dtype, inner.dtype) != inner.dtype:
        # Under autocast, a base may still answer in float32 (as in 4 bits). The sum must not round its result.
        return torch.add(result, (inner @ b).view(result.shape), alpha=scale).to(result.dtype)
    # Otherwise the product itself adds, which saves a tensor of the size of the layer's output.
    add_product = torch.baddbmm if blocks else torch.addmm
    return add_product(rows.to(inner.dtype), inner, b, alpha=scale).view(result.shape).to(result.dtype)


def member_factors(bank_a: Tensor, bank_b: Tensor, members: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """The factors whose product is the sum of the updates of each row's members: `x @ a.mT @ b`.

    `Σ_k weights[n, k] · B_k A_k x_n` is one product of rank K·r. The members' factors are stacked, not summed, so the
    sum of the updates is exact.

    Args:
        bank_a (`Tensor`): `[members, r, in]`.
        bank_b (`Tensor`): `[members, r, out]`.
        members (`Tensor`): `[N, K]`.
        weights (`Tensor`, *optional*): `[N, K]`; all 1 by default.

    Returns:
        `a [N, K·r, in]` and `b [N, K·r, out]`; for N = 1 without the first dimension, for all rows.
    """
    # On a CPU `index_select` copies whole members; indexing would copy number by number.
    a, b = (bank.index_select(0, members.flatten()).unflatten(0, members.shape) for bank in (bank_a, bank_b))
    if weights is not None:
        b = b * weights[..., None, None].to(b.dtype)
    a, b = a.flatten(1, 2), b.flatten(1, 2)
    return (a[0], b[0]) if len(members) == 1 else (a, b)
