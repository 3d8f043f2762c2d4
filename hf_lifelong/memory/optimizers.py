"""The state that optimisers keep for a float32 parameter, by the optimiser's name in the training arguments."""

from __future__ import annotations

from collections.abc import Callable

from torch import Size, Tensor

# bitsandbytes keeps the state of tensors with fewer numbers than `_LEAST` in 32 bits. Larger tensors have one constant
# for each block of `_BLOCK` numbers.
_LEAST, _BLOCK = 4096, 256


def _adamw(parameter: Tensor) -> int:
    return 8 * parameter.numel() + 4  # two moments and the step


def _adamw_8bit(parameter: Tensor) -> int:
    numbers = parameter.numel()
    return 8 * numbers if numbers < _LEAST else 2 * numbers + 8 * -(-numbers // _BLOCK)


def _paged_adamw(parameter: Tensor) -> int:
    return 8 * parameter.numel()


def _adafactor(parameter: Tensor) -> int:
    *rest, columns = parameter.shape
    factors = (rest, (*rest[:-1], columns)) if parameter.dim() > 1 else (parameter.shape,)
    return sum(4 * Size(shape).numel() for shape in factors)


def _sgd(parameter: Tensor) -> int:
    return 0


# `optim` of the training arguments → bytes.
OPTIMIZERS: dict[str, Callable[[Tensor], int]] = {
    "adamw_torch": _adamw,
    "adamw_torch_fused": _adamw,
    "adamw_8bit": _adamw_8bit,
    "adamw_bnb_8bit": _adamw_8bit,
    "paged_adamw_8bit": _adamw_8bit,
    "paged_adamw_32bit": _paged_adamw,
    "adafactor": _adafactor,
    "sgd": _sgd,
}
