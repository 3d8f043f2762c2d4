"""Pruned models in few bytes: one bit for every weight, and the values of those that are left."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..utils.files import DamagedFileError, read_tensors, write_tensors
from .masks import pack_bits, unpack_bits

_FORMAT, _VERSION = "hf_lifelong.compact", 1
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def save_compact(model: nn.Module | dict[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Writes a model's weights so that zeros cost one bit.

    Tensors in which that saves nothing are stored as they are, and shared ones once. With 90 % zeros, the file takes
    about 13 % of the bytes of float32.

    Args:
        model (`nn.Module` or state dict): Dense or pruned.
        path: The safetensors file to write.

    Raises:
        ValueError: when `model` is neither a model nor a state dict.
    """
    state = model.state_dict() if isinstance(model, nn.Module) else model
    if not isinstance(state, Mapping) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise ValueError(f"`model` must be a model (`nn.Module`) or its state dict, not {model!r:.60}.")
    tensors: dict[str, Tensor] = {}
    shapes: dict[str, list[int]] = {}
    aliases: dict[str, str] = {}
    first: dict[tuple, str] = {}
    for name, tensor in state.items():
        place = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride(), str(tensor.device))
        owner = first.setdefault(place, name) if tensor.numel() else name
        if owner != name:
            aliases[name] = owner
            continue
        values = tensor.detach().cpu().contiguous()
        # By bits, because a negative zero is a value of its own.
        nonzero = values.view(_INTEGERS[values.element_size()]) != 0 if _packable(values) else None
        if nonzero is not None and nonzero.numel() / 8 + int(nonzero.sum()) * values.element_size() < values.nbytes:
            whole = values.view(_INTEGERS[values.element_size()])
            tensors[f"bits:{name}"], tensors[f"values:{name}"] = pack_bits(nonzero), whole[nonzero].view(values.dtype)
            shapes[name] = list(values.shape)
        else:
            tensors[f"dense:{name}"] = values
    header = {"format": _FORMAT, "version": _VERSION, "shapes": shapes, "aliases": aliases}
    write_tensors(path, tensors, {"hf_lifelong": json.dumps(header)})


def load_compact(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Reads what [`save_compact`] wrote, as a state dict that is bit-identical to the one saved.

    ```python
    model.load_state_dict(load_compact("model.compact.safetensors"))
    ```

    Raises:
        DamagedFileError: for a file that is missing, truncated, no compact file, of a newer version, or whose parts do
            not fit one another.
    """
    tensors = read_tensors(path)
    header = _header(path)
    out: dict[str, Tensor] = {}
    expected = set()
    for name, shape in header["shapes"].items():
        expected |= {f"bits:{name}", f"values:{name}"}
        out[name] = _unpacked(path, name, shape, tensors)
    for key, tensor in tensors.items():
        name = key.removeprefix("dense:")
        if name != key:
            if name in out:
                raise DamagedFileError(path, f"it holds `{name}` twice")
            expected.add(key)
            out[name] = tensor
    if surplus := sorted(tensors.keys() - expected):
        raise DamagedFileError(path, f"it holds tensors of unknown use (first: `{surplus[0]}`)")
    for name, source in header["aliases"].items():
        if name in out or not isinstance(source, str) or source not in out:
            raise DamagedFileError(path, f"`{name}` is stated to share the values of `{source}`, which is not there")
        out[name] = out[source]
    return out


def _packable(values: Tensor) -> bool:
    return values.element_size() in _INTEGERS and not values.is_complex() and values.numel() > 0 and values.dim() > 0


def _unpacked(path: str | os.PathLike[str], name: str, shape: Any, tensors: dict[str, Tensor]) -> Tensor:
    bits, values = tensors.get(f"bits:{name}"), tensors.get(f"values:{name}")
    if bits is None or values is None:
        raise DamagedFileError(path, f"`{name}` lacks its bits or its values")
    if not isinstance(shape, list) or not all(type(n) is int and n > 0 for n in shape):
        raise DamagedFileError(path, f"`{name}` has the shape {shape!r:.60}")
    # Checked before any memory is taken: the bits say how large a tensor can be.
    if bits.dtype != torch.uint8 or bits.dim() != 1 or len(bits) != (math.prod(shape) + 7) // 8 or values.dim() != 1:
        raise DamagedFileError(path, f"the bits of `{name}` do not fit its shape {shape}")
    nonzero = unpack_bits(bits, tuple(shape))
    if int(nonzero.sum()) != len(values):
        raise DamagedFileError(path, f"`{name}` has {len(values)} values for {int(nonzero.sum())} bits")
    if values.element_size() not in _INTEGERS:
        raise DamagedFileError(path, f"`{name}` is {values.dtype}")
    whole = _INTEGERS[values.element_size()]  # as integers, for which every operation exists
    tensor = torch.zeros(shape, dtype=whole)
    tensor[nonzero] = values.view(whole)
    return tensor.view(values.dtype)


def _header(path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("hf_lifelong", "null"))
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise DamagedFileError(path, f"its header cannot be read ({type(error).__name__})") from error
    if not isinstance(header, dict) or header.get("format") != _FORMAT:
        raise DamagedFileError(path, "it was not written by `save_compact`")
    if header.get("version") != _VERSION:
        raise DamagedFileError(
            path, f"it has version {header.get('version')!r}, this release reads {_VERSION}; upgrade hf_lifelong"
        )
    if not all(isinstance(header.get(key), dict) for key in ("shapes", "aliases")):
        raise DamagedFileError(path, "its header lacks the shapes")
    return header
