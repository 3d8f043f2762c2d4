"""Parameters that are sharded across processes (FSDP2, DeepSpeed ZeRO-3): gathers them to read, or for good."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor


def gathered(parameters: Iterable[nn.Parameter]) -> AbstractContextManager:
    """A context in which parameters that ZeRO-3 shards hold all their values. All processes must enter it."""
    sharded = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
    if not sharded:
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(sharded)


def is_whole(parameter: Tensor) -> bool:
    """Whether this process holds all values of a parameter."""
    return not isinstance(parameter, DTensor)


def whole(parameter: Tensor) -> Tensor:
    """A parameter with the shards of all processes. All processes must call this."""
    return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter


def local(tensor: Tensor) -> Tensor:
    """This process's shard of a tensor, which shares its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def make_whole(model: nn.Module, wrapped: Any) -> None:
    """Permanently gives each process all parameters of a model.

    After training, processes answer different rows, but a sharded model only runs if all processes run it in step.

    Args:
        wrapped: The wrapped model of training. A DeepSpeed engine is destroyed and cannot train afterwards.
    """
    if any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
        gathered(model.parameters()).__enter__()  # never exited, which would shard them again
        wrapped.destroy()
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_reshard_after_forward(False)
            module.unshard()
