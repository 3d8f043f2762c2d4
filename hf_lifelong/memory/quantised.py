"""Stand-ins for bitsandbytes layers. They store the same bytes and create the same tensors, without its kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import BitsAndBytesConfig

from ..compat import Conv1D, not_quantised, should_convert_module

# Weights per constant, and constants per constant of second order (double quantisation).
_BLOCK, _DOUBLE_BLOCK = 64, 256


class _Quantised(nn.Linear):
    """A frozen linear layer on the meta device whose weight is stored in fewer bits."""

    weight: Any

    def __init__(self, layer: Any) -> None:
        fan_in, fan_out = layer.weight.shape if isinstance(layer, Conv1D) else reversed(layer.weight.shape)
        super().__init__(fan_in, fan_out, layer.bias is not None, device="meta", dtype=layer.weight.dtype)

    def store(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        """Replaces the weight by a tensor of the stored shape and dtype."""
        self.weight = nn.Parameter(torch.empty(shape, dtype=dtype, device="meta"), requires_grad=False)

    def keep(self, name: str, size: int, dtype: torch.dtype) -> None:
        """Adds a tensor that is needed to dequantise the stored weight."""
        self.register_buffer(name, torch.empty(size, dtype=dtype, device="meta"))

    def dequantised(self, dtype: torch.dtype) -> Tensor:
        """The whole weight `[out, in]`, in the form that a product needs."""
        return self.weight.new_empty(self.out_features, self.in_features, dtype=dtype)


class Linear4bit(_Quantised):
    """A layer in 4 bits. Each forward and backward pass dequantises the whole weight for the length of one product."""

    def __init__(self, layer: Any, settings: BitsAndBytesConfig) -> None:
        super().__init__(layer)
        blocks = -(-self.weight.numel() // _BLOCK)
        self.compute_dtype = settings.bnb_4bit_compute_dtype
        self.store((-(-self.weight.numel() // 2), 1), torch.uint8)
        self.keep("code", 16, torch.float32)
        if settings.bnb_4bit_use_double_quant:
            self.keep("absmax", blocks, torch.uint8)
            self.keep("nested_absmax", -(-blocks // _DOUBLE_BLOCK), torch.float32)
            self.keep("nested_code", 256, torch.float32)
            self.keep("nested_offset", 1, torch.float32)
        else:
            self.keep("absmax", blocks, torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        return _Product4bit.apply(x.to(self.compute_dtype), self).to(x.dtype)


class Linear8bit(_Quantised):
    """A layer in 8 bits. Its input is also quantised, and kept for the backward pass."""

    def __init__(self, layer: Any) -> None:
        super().__init__(layer)
        self.store(tuple(self.weight.shape), torch.int8)
        self.keep("SCB", self.out_features, torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        return _Product8bit.apply(x, self)


class _Product4bit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Linear4bit) -> Tensor:
        ctx.layer = layer
        return functional.linear(x, layer.dequantised(x.dtype), layer.bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] @ ctx.layer.dequantised(gradients[0].dtype), None


class _Product8bit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Linear8bit) -> Tensor:
        ctx.layer, ctx.x = layer, x
        rows = x.flatten(0, -2).to(torch.float16).to(torch.int8)
        product = rows.new_empty(len(rows), layer.out_features, dtype=torch.int32)
        return product.to(x.dtype).unflatten(0, x.shape[:-1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] @ ctx.layer.dequantised(gradients[0].dtype), None


def quantise(model: Any, settings: BitsAndBytesConfig) -> None:
    """Replaces the layers that transformers would quantise by stand-ins (not embeddings, norms and the head).

    Args:
        model (`PreTrainedModel`): The model on the meta device.
        settings (`BitsAndBytesConfig`): As given to `from_pretrained`.
    """
    skipped = not_quantised(model, settings.llm_int8_skip_modules)
    layers = {
        name: module
        for name, module in model.named_modules()
        if (type(module) is nn.Linear or isinstance(module, Conv1D)) and should_convert_module(name, skipped)
    }
    for name, layer in layers.items():
        model.set_submodule(name, Linear4bit(layer, settings) if settings.load_in_4bit else Linear8bit(layer))


def count_weights(model: nn.Module) -> int:
    """Number of weights of a model, however many bits each is stored in."""
    stored = sum(parameter.numel() for parameter in model.parameters())
    return stored + sum(layer.in_features * layer.out_features - layer.weight.numel() for layer in _layers(model))


def largest_layer(model: nn.Module) -> int:
    """Bytes of the largest quantised layer in 16 bits, before it is quantised; 0 if no layer is quantised."""
    return max((2 * layer.in_features * layer.out_features for layer in _layers(model)), default=0)


def _layers(model: nn.Module) -> list[_Quantised]:
    return [module for module in model.modules() if isinstance(module, _Quantised)]
