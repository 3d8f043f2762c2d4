"""Parameters that are shared out among processes (FSDP2, DeepSpeed ZeRO-3): read whole, and made whole again."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor


def gathered(parameters: Iterable[nn.Parameter]) -> AbstractContextManager:
    """Inside of it, parameters that ZeRO-3 has shared out hold their values; all processes must enter it."""
    parted = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
    if not parted:
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(parted)


def is_whole(parameter: Tensor) -> bool:
    """Whether this process holds all values of a parameter."""
    return not isinstance(parameter, DTensor)


def whole(parameter: Tensor) -> Tensor:
    """A parameter with the parts of all processes; all of them must ask for it."""
    return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds, which shares its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def make_whole(model: nn.Module, wrapped: Any) -> None:
    """Gives each process all parameters of a model, for good.

    After training, processes answer different rows, while a model that is shared out runs in step or not at all.

    Args:
        wrapped: The model as it was trained; of DeepSpeed its engine, which cannot train any more.
    """
    if any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        gathered(model.parameters()).__enter__()  # and never left, which would share them out again
        wrapped.destroy()
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_reshard_after_forward(False)
            module.unshard()
