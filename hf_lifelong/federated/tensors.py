"""The tensors of a model that travel between server and clients: those that are trained."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def trained_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the trainable parameters by name, on the CPU. Those of less than 32 bits become float32, because an
    average of rounded values would be rounded again.

    Raises:
        ValueError: when no parameter is trainable.
    """
    tensors = {
        name: parameter.detach().to("cpu", torch.promote_types(parameter.dtype, torch.float32), copy=True).contiguous()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    if not tensors:
        raise ValueError("The model has no trainable parameter, so there is nothing to average; give it an adapter.")
    return tensors


def load_trained(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Puts tensors, as [`trained_tensors`] gives them, into a model.

    Raises:
        ValueError: when they are not exactly those that the model trains, or one is of another shape.
    """
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if parameters.keys() != tensors.keys():
        odd = sorted(parameters.keys() ^ tensors.keys())
        raise ValueError(
            f"`arrays` and the model differ in {len(odd)} trainable tensors (first: `{odd[0]}`); server and clients "
            "must make the same model with the same adapter."
        )
    for name, parameter in parameters.items():
        if parameter.shape != tensors[name].shape:
            raise ValueError(
                f"`{name}` is {list(tensors[name].shape)} in `arrays`, but {list(parameter.shape)} in the model; "
                "server and clients must make the same model with the same adapter."
            )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])
