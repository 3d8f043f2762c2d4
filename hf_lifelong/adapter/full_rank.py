"""Members of full rank: whole differences to the weights and biases of a layer, for networks trained from scratch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..compat import Conv1D
from ..storage import FULL, specs_at
from .forward.plan import Plan
from .layers import Bank, MemberKind, is_linear, names_of


class FullLayer(MemberKind):
    """A linear layer or layer norm whose members are differences to its weight and bias.

    `drift_full [out, columns]` is trained, `drift_bank_full [members, out, columns]` is not. The columns are the
    layer's inputs (for a layer norm one, its weight) and, if it has a bias, a last one for it. The layer runs once,
    with the sum of the base's weights and the difference, in float32.
    """

    specs = specs_at(FULL)
    tensors = tuple(spec.name for spec in specs)
    adapter_layer_names = names_of(specs, trained=True)
    bank_names = names_of(specs, trained=False)
    other_param_names = (*bank_names, "drift_dropout")
    what = "linear or norm layer"
    drift_full: Bank
    drift_bank_full: Bank

    @classmethod
    def fits(cls, module: nn.Module) -> bool:
        if isinstance(module, nn.LayerNorm):
            return module.elementwise_affine and len(module.normalized_shape) == 1
        return is_linear(module)

    @property
    def base_tensors(self) -> tuple[Tensor, ...]:
        base = self.base_layer
        return (base.weight,) if base.bias is None else (base.weight, base.bias)

    def own_sizes(self) -> dict[str, int]:
        base = self.base_layer
        if not base.weight.is_floating_point() or base.weight.dim() > 2 or not base.weight.numel():
            raise ValueError(
                f'`r` is "full", but the weights of a `{type(base).__name__}` of the base are quantised or sharded, '
                "and full members are differences to them. Load the base in a floating-point dtype, whole on each "
                "device, or give a rank."
            )
        weight, *bias = self._flat()
        return {"out": len(weight), "columns": weight.shape[1] + len(bias)}

    def answer(
        self, name: str, plan: Plan, factors: tuple[Tensor, ...], x: Tensor, *args: Any, **kwargs: Any
    ) -> Tensor:
        return self._run(x, *factors)

    def work(self, name: str, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self._run(x if self._is_norm else self.drift_dropout[name](x), *self._added(self.drift_full[name]))

    def factors(self, banks: tuple[Tensor, ...], members: Tensor, weights: Tensor | None) -> tuple[Tensor, ...]:
        (bank,) = banks
        mode = "mean" if weights is None else "sum"
        # A weighted sum of gathered rows, without a copy of every row's K members.
        mean = functional.embedding_bag(members, bank.flatten(1), mode=mode, per_sample_weights=weights)
        return self._added((mean[0] if len(mean) == 1 else mean).unflatten(-1, bank.shape[1:]))

    def mean_of(self, name: str, members: slice) -> tuple[Tensor, ...]:
        """Weight and bias, shaped as the base's, with the mean of some members."""
        weight, *bias = self._added(self.drift_bank_full[name].detach()[members].mean(0))
        return ((weight.T if isinstance(self.base_layer, Conv1D) else weight).view_as(self.base_layer.weight), *bias)

    @property
    def _is_norm(self) -> bool:
        return isinstance(self.base_layer, nn.LayerNorm)

    def _flat(self) -> list[Tensor]:
        """Weight `[out, inputs]` and, if there is one, bias `[out]` of the base's layer."""
        weight, *bias = self.base_tensors
        return [weight.T if isinstance(self.base_layer, Conv1D) else weight.view(len(weight), -1), *bias]

    def _added(self, difference: Tensor) -> tuple[Tensor, ...]:
        """The base's weight and bias plus a difference `[…, out, columns]`."""
        weight, *bias = (tensor.to(difference.device) for tensor in self._flat())
        inputs = weight.shape[1]
        return (weight + difference[..., :inputs], *(b + difference[..., inputs] for b in bias))

    def _run(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The layer with one weight `[out, inputs]` for all rows, or `[N, out, inputs]` for N blocks of rows."""
        result = (self._normalised if self._is_norm else _linear)(x.to(weight.dtype), weight, bias)
        # Under autocast, the operation chooses the dtype of its result, as it does in the base.
        return result if torch.is_autocast_enabled(x.device.type) else result.to(self.base_layer.weight.dtype)

    def _normalised(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        shape, eps = self.base_layer.normalized_shape, self.base_layer.eps
        if weight.dim() == 2:
            return functional.layer_norm(x, shape, weight.squeeze(1), bias, eps)
        blocks = functional.layer_norm(x, shape, eps=eps).reshape(len(weight), -1, x.shape[-1]) * weight.mT
        return (blocks if bias is None else blocks + bias.unsqueeze(1)).view(x.shape)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if weight.dim() == 2:
        return functional.linear(x, weight, bias)
    blocks = x.reshape(len(weight), -1, x.shape[-1])
    result = blocks @ weight.mT if bias is None else torch.baddbmm(bias.unsqueeze(1), blocks, weight.mT)
    return result.view(*x.shape[:-1], -1)
