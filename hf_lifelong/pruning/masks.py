"""Which weights are gone: masks that hold through training, checkpoints and reloads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from .targets import Target

_KEY = "pruned"


class Masks:
    """Pruned weights of a model.

    Args:
        targets (`dict[str, Target]`): The weights that can be pruned, by name.
        pruned (`Mapping[str, Tensor]`, *optional*): bool per weight, true where it is gone; default: none is.
    """

    def __init__(self, targets: dict[str, Target], pruned: Mapping[str, Tensor] | None = None) -> None:
        self.targets = targets
        self.pruned: dict[str, Tensor] = {
            name: torch.zeros_like(target.parameter, dtype=torch.bool) for name, target in targets.items()
        }
        if pruned is not None:
            self.update(pruned)

    @classmethod
    def of_zeros(cls, targets: dict[str, Target]) -> Masks:
        """Masks that count a model's zeros as pruned, except in a tensor of only zeros, which was never trained."""
        zeros = {name: target.parameter.detach() == 0 for name, target in targets.items()}
        return cls(targets, {name: mask & ~mask.all() for name, mask in zeros.items()})

    @property
    def total(self) -> int:
        """Weights that can be pruned."""
        return sum(target.parameter.numel() for target in self.targets.values())

    @property
    def gone(self) -> int:
        """Weights that are pruned."""
        return sum(int(mask.sum()) for mask in self.pruned.values())

    @property
    def remaining(self) -> float:
        """Share of the weights that are left."""
        return 1 - self.gone / self.total

    def update(self, pruned: Mapping[str, Tensor]) -> None:
        """Takes new masks (bool, named and shaped like the targets); the weights are not touched until `apply`.

        Raises:
            ValueError: when the masks are not those of this model.
        """
        if pruned.keys() != self.targets.keys():
            missing, surplus = sorted(self.targets.keys() - pruned), sorted(pruned.keys() - self.targets)
            raise ValueError(
                f"The masks are of another model: {len(missing)} weights have none ({missing[:1]}), {len(surplus)} "
                f"are of unknown weights ({surplus[:1]})."
            )
        for name, mask in pruned.items():
            weight = self.targets[name].parameter
            if mask.shape != weight.shape or mask.dtype != torch.bool:
                raise ValueError(
                    f"The mask of `{name}` is {mask.dtype} {tuple(mask.shape)}, its weight has shape "
                    f"{tuple(weight.shape)}."
                )
            self.pruned[name] = mask.to(weight.device)

    @torch.no_grad()
    def apply(self) -> None:
        """Sets the pruned weights to zero."""
        for name, mask in self.pruned.items():
            # Filled, not multiplied: a product would leave negative zeros, and NaN where a weight has overflowed.
            self.targets[name].parameter.masked_fill_(mask, 0.0)

    def hold(self, optimizer: Any) -> list[Any]:
        """Keeps the pruned weights at zero through every step of an optimizer; returns the hooks, for their removal.

        The gradients of pruned weights are cleared before each step, after reduction, unscaling and clipping, so that
        momentum and moments collect nothing; the weights are cleared after it, whatever the optimizer did. The masks
        are saved with the optimizer's state.
        """
        optimizer = getattr(optimizer, "optimizer", optimizer)

        @torch.no_grad()
        def clear_gradients(*_: Any) -> None:
            for name, mask in self.pruned.items():
                gradient = self.targets[name].parameter.grad
                if gradient is not None:
                    gradient.masked_fill_(mask, 0.0)

        def clear_weights(*_: Any) -> None:
            self.apply()

        def save(_: Any, state: dict[str, Any]) -> None:
            # In a parameter group: the part of a loaded state that an optimizer takes over unchanged.
            state["param_groups"][0][_KEY] = self.packed()

        return [
            optimizer.register_step_pre_hook(clear_gradients),
            optimizer.register_step_post_hook(clear_weights),
            optimizer.register_state_dict_post_hook(save),
        ]

    def restore(self, optimizer: Any) -> bool:
        """Takes over the masks in a loaded optimizer state; returns whether there were any."""
        packed = getattr(optimizer, "optimizer", optimizer).param_groups[0].pop(_KEY, None)
        if packed is None:
            return False
        self.update(self.unpacked(packed))
        return True

    @torch.no_grad()
    def clear_moments(self, optimizer: Any) -> None:
        """Clears what an optimizer has collected for the pruned weights, such as momentum."""
        state = getattr(optimizer, "optimizer", optimizer).state
        for name, mask in self.pruned.items():
            for value in state.get(self.targets[name].parameter, {}).values():
                # The moments of 8-bit optimizers are codes, in which 0 is not zero.
                if isinstance(value, Tensor) and value.shape == mask.shape and value.is_floating_point():
                    value.masked_fill_(mask, 0.0)

    def packed(self) -> dict[str, Tensor]:
        """The masks at one bit a weight: uint8 `[⌈weights / 8⌉]` by name."""
        return {name: pack_bits(mask) for name, mask in self.pruned.items()}

    def unpacked(self, packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Inverse of `packed`."""
        if packed.keys() != self.targets.keys():
            return dict(packed)  # `update` says what is wrong
        return {name: unpack_bits(packed[name], target.parameter.shape) for name, target in self.targets.items()}


def agreed(pruned: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gives all processes the masks of the first: batches, and sums on a GPU, can differ between processes."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        for name, mask in pruned.items():
            bits = mask.to(torch.uint8)
            dist.broadcast(bits, src=0)
            pruned[name] = bits.bool()
    return pruned


def pack_bits(mask: Tensor) -> Tensor:
    """A bool tensor of any shape as uint8 `[⌈n / 8⌉]` on the CPU, eight values a byte."""
    return torch.from_numpy(np.packbits(mask.cpu().numpy().reshape(-1)))


def unpack_bits(bits: Tensor, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """Inverse of [`pack_bits`].

    Raises:
        ValueError: when the number of bytes does not fit the shape.
    """
    size = math.prod(shape)
    if bits.dtype != torch.uint8 or bits.dim() != 1 or len(bits) != (size + 7) // 8:
        raise ValueError(f"{tuple(bits.shape)} {bits.dtype} is no mask of shape {tuple(shape)}.")
    flat = np.unpackbits(bits.cpu().numpy(), count=size)
    return torch.from_numpy(flat).bool().reshape(shape)
