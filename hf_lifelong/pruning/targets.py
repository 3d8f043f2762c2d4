"""Which weights of a model can be pruned, and along which axis their neurons lie."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers.utils import logging

from ..compat import Conv1D

logger = logging.get_logger(__name__)
_LAYER_TYPES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, Conv1D)


@dataclass(frozen=True)
class Target:
    """A weight that can be pruned.

    Args:
        parameter (`Tensor`): The weight, two or more axes.
        axis (`int`): Axis of the neurons; GPT-2's `Conv1D` keeps them in axis 1.
        module (`nn.Module`): The layer that it belongs to.
    """

    parameter: Tensor
    axis: int
    module: nn.Module

    def rows(self, tensor: Tensor) -> Tensor:
        """A tensor of the weight's shape as `[neurons, inputs]`; a view wherever one is possible."""
        return tensor.movedim(self.axis, 0).flatten(1)

    def unrows(self, rows: Tensor) -> Tensor:
        """Inverse of `rows`."""
        shape = list(self.parameter.shape)
        neurons = shape.pop(self.axis)
        return rows.reshape(neurons, *shape).movedim(0, self.axis)


def prunable(model: nn.Module, targets: str | None = None) -> dict[str, Target]:
    """Weights that can be pruned, by parameter name.

    Args:
        model (`nn.Module`): Any model.
        targets (`str`, *optional*): `"backbone"`: linear and convolution layers of the base model, without embeddings,
            heads, norms and biases; weights that several layers share count once. `"adapter"`: the trainable low-rank
            matrices of a PEFT model. Anything else: a regular expression over full parameter names that picks among
            the linear and convolution layers of the whole model (heads too, but for those tied to embeddings).
            Default: `"adapter"` for a PEFT model, `"backbone"` for others.

    Raises:
        ValueError: when nothing matches, or for weights that are quantised or sharded; the message says what to do.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"`model` must be a model (`nn.Module`), not {model!r:.60}.")
    if not isinstance(targets, str | None):
        raise ValueError(f"`targets` must be `'backbone'`, `'adapter'` or a regular expression, not {targets!r:.60}.")
    peft = hasattr(model, "peft_config")
    if targets is None:
        targets = "adapter" if peft else "backbone"
    if targets == "backbone" and peft:
        raise ValueError(
            '`targets="backbone"`: the backbone below an adapter is frozen, and the adapter was made for it. Prune '
            'the base before `get_peft_model`, or prune the adapter (`targets="adapter"`).'
        )
    chosen = _adapter(model) if targets == "adapter" else _layers(model, targets)
    if not chosen:
        raise ValueError(_nothing(model, targets))
    if targets != "adapter" and getattr(model, "is_quantized", False):
        raise ValueError(_quantised(f"`{type(model).__name__}`"))
    for name, target in chosen.items():
        _check(name, target)
    return chosen


def _layers(model: nn.Module, targets: str) -> dict[str, Target]:
    outside = _heads(model) if targets == "backbone" else set()
    taken = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    try:
        pattern = re.compile("" if targets == "backbone" else targets)
    except re.error as error:
        raise ValueError(f"`targets` is no regular expression: {targets!r} ({error}).") from error
    chosen = {}
    for path, module in model.named_modules():
        name = f"{path}.weight" if path else "weight"
        if not isinstance(module, _LAYER_TYPES) or not pattern.search(name):
            continue
        if id(module) in outside or id(module.weight) in taken:
            continue
        taken.add(id(module.weight))
        chosen[name] = Target(module.weight, 1 if isinstance(module, Conv1D) else 0, module)
    if targets == "backbone":
        others = [
            name
            for name, parameter in model.named_parameters()
            if parameter.dim() > 2 and parameter.shape[0] > 1 and id(parameter) not in taken
        ]
        if others:
            logger.warning_once(
                f"{len(others)} weights with three or more axes, such as the experts of a mixture (first: "
                f"`{others[0]}`), belong to no layer that can be pruned; they stay as they are and are not counted."
            )
    return chosen


def _heads(model: Any) -> set[int]:
    """Identities of the modules outside of a transformers model's backbone."""
    inside = {id(module) for module in getattr(model, "base_model", model).modules()}
    return {id(module) for module in model.modules() if id(module) not in inside}


def _adapter(model: Any) -> dict[str, Target]:
    if not hasattr(model, "peft_config"):
        raise ValueError(f'`targets="adapter"`: `{type(model).__name__}` has no PEFT adapter.')
    owners = {
        id(parameter): module
        for module in model.modules()
        for container in getattr(module, "adapter_layer_names", ())
        if hasattr(module, "base_layer") and hasattr(module, container)
        for parameter in getattr(module, container).parameters()
    }
    return {
        name: Target(parameter, 0, owners[id(parameter)])
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.dim() == 2 and id(parameter) in owners and "embedding" not in name
    }


def _check(name: str, target: Target) -> None:
    weight = target.parameter
    if hasattr(weight, "quant_state") or type(weight).__name__ in ("Params4bit", "Int8Params"):
        raise ValueError(_quantised(f"`{name}`"))
    if not weight.is_floating_point() or weight.element_size() < 2:
        raise ValueError(f"`{name}` is {weight.dtype}; only floating-point weights can be pruned.")
    if isinstance(weight, DTensor):
        raise ValueError(
            f"`{name}` is sharded over processes (FSDP), so none of them can rank it among all weights. "
            "Prune in one process or under DDP, save, then shard."
        )
    if weight.device.type == "meta":
        raise ValueError(f"`{name}` has no values yet (meta device); load the model first.")


def _quantised(what: str) -> str:
    return (
        f"{what} is quantised, so its numbers are codes that cannot be pruned. Prune, then quantise: zeros stay zero. "
        'Or prune the adapter on it (`targets="adapter"`).'
    )


def _nothing(model: nn.Module, targets: str) -> str:
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    layers = [(f"{name}.weight", module) for name, module in model.named_modules() if isinstance(module, _LAYER_TYPES)]
    tied = [name for name, layer in layers if id(layer.weight) in embeddings and re.search(targets, name)]
    if tied:
        return (
            f"`targets={targets!r}` matches nothing but `{tied[0]}`, which is tied to the embeddings and would prune "
            "these too; name other layers."
        )
    linear = sorted({name.rsplit(".", 1)[-1] for name, m in model.named_modules() if isinstance(m, _LAYER_TYPES)})
    return (
        f"`targets={targets!r}` matches no weight of `{type(model).__name__}` that can be pruned. Give `'backbone'`, "
        f"`'adapter'`, or a regular expression over names; its linear layers end in {linear[:20]}."
    )
