"""The checker of stored tensors: of a file before it is read, of what was read, and of what a model holds."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..knowledge import ManifestError
from .tensors import LAYER, ROOT, spec_of, specs_at

# Dtypes as the header of a safetensors file spells them.
_IN_HEADER = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
}


class LayoutError(ManifestError):
    """Tensors that are not those that a manifest asks for: names the first one, and what is wrong with it."""


def dtype_in_header(code: str) -> str:
    """The name of a dtype that a header spells as `code`."""
    return _IN_HEADER.get(code, code)


def check_layout(
    found: Mapping[str, tuple[str, tuple[int, ...]]],
    known: Mapping[str, int],
    layers: Mapping[str, Mapping[str, int]] | None = None,
) -> dict[str, dict[str, int]]:
    """Refuses tensors that are not those of an adapter, by their names, dtypes and shapes.

    Args:
        found (`Mapping[str, tuple[str, tuple[int, ...]]]`): Name in a file, without `PREFIX` → dtype and shape.
        known (`Mapping[str, int]`): Symbol → number, as far as it is known (`TensorSpec.sizes`, `sizes_of`).
        layers (`Mapping[str, Mapping[str, int]]`, *optional*): The injected layers, each with its `in` and `out`.
            Without a base nobody knows them: the tensors of a layer must then agree with each other.

    Returns:
        `dict[str, dict[str, int]]`: Module → the numbers of all its symbols.

    Raises:
        LayoutError: names the first tensor that is missing, surplus, or of another dtype or shape.
    """
    modules: dict[str, dict[str, tuple[int, ...]]] = {name: {} for name in (ROOT, *(layers or ()))}
    for name, (dtype, shape) in found.items():
        spec, (module, _, part) = spec_of(name), name.rpartition(".")
        if spec is None or spec.is_absent(known) or (layers is not None and module not in modules):
            raise LayoutError(f"`{name}` is surplus")
        if dtype != spec.dtype:
            raise LayoutError(f"`{name}` is {dtype}, it must be {spec.dtype}")
        modules.setdefault(module, {})[part] = shape
    return {
        module: _check_module(module, parts, {**known, **(layers or {}).get(module, {})})
        for module, parts in modules.items()
    }


def _check_module(module: str, parts: Mapping[str, tuple[int, ...]], sizes: dict[str, int]) -> dict[str, int]:
    """Refuses tensors of a module whose shapes differ from each other or from what is known; returns all its sizes."""
    for spec in specs_at(ROOT if module == ROOT else LAYER):
        name, shape = f"{module}.{spec.name}", parts.get(spec.name)
        if shape is None:
            if spec.is_absent(sizes):
                continue
            raise LayoutError(f"`{name}` is missing")
        if len(shape) != len(spec.symbols):
            raise LayoutError(f"`{name}` has shape {shape}, it must have {len(spec.symbols)} dimensions")
        for symbol, size in zip(spec.symbols, shape, strict=True):
            sizes.setdefault(symbol, size)
        if shape != spec.shape(sizes):
            raise LayoutError(f"`{name}` has shape {shape}, it must be {spec.shape(sizes)}")
    return sizes


def check_values(name: str, part: Tensor) -> None:
    """Refuses values in a part of the tensor of that name that it cannot have (`LayoutError`)."""
    # A sum is quicker than a look at each value, and finite where all are, unless they are huge.
    if part.is_floating_point() and not math.isfinite(part.sum()) and not torch.isfinite(part).all():
        raise LayoutError(f"`{name}` holds NaN or infinite values")
    spec = spec_of(name)
    if spec is not None and spec.bounds is not None and part.numel():
        least, most = map(float, part.aminmax())
        if not spec.bounds[0] <= least <= most <= spec.bounds[1]:
            raise LayoutError(
                f"`{name}` holds values from {least:.3g} to {most:.3g}, but what it is a statistic of lies between "
                f"{spec.bounds[0]:.3g} and {spec.bounds[1]:.3g}"
            )
