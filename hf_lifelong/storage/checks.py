"""Checks of stored tensors: in a file before it is read, after reading, and in a model."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..knowledge import ManifestError
from .tensors import LOW_RANK, ROOT, spec_of, specs_at

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
    """Tensors that do not match the manifest. Names the first wrong tensor and what is wrong with it."""


def dtype_in_header(code: str) -> str:
    """The dtype's name for its `code` in a safetensors header."""
    return _IN_HEADER.get(code, code)


def check_layout(
    layouts: Mapping[str, tuple[str, tuple[int, ...]]],
    sizes: Mapping[str, int],
    layers: Mapping[str, Mapping[str, int]] | None = None,
    kind: str = LOW_RANK,
) -> dict[str, dict[str, int]]:
    """Checks the names, dtypes and shapes of an adapter's tensors.

    Args:
        layouts (`Mapping[str, tuple[str, tuple[int, ...]]]`): Name in a file, without `PREFIX` → dtype and shape.
        sizes (`Mapping[str, int]`): Symbol → size, for the symbols whose size is known (`TensorSpec.sizes`,
            `sizes_of`).
        layers (`Mapping[str, Mapping[str, int]]`, *optional*): The injected layers, each with its own sizes, as `in`
            and `out`. Without a base these are unknown; the tensors of a layer must then agree with each other.
        kind (`str`): How members are kept: `LOW_RANK` or `FULL` (`layer_of`).

    Returns:
        `dict[str, dict[str, int]]`: Module → the sizes of all its symbols.

    Raises:
        LayoutError: names the first tensor that is missing, surplus, or of the wrong dtype or shape.
    """
    modules: dict[str, dict[str, tuple[int, ...]]] = {name: {} for name in (ROOT, *(layers or ()))}
    for name, (dtype, shape) in layouts.items():
        spec, (module, _, container) = spec_of(name), name.rpartition(".")
        known = spec is not None and spec.where in (ROOT, kind)
        if spec is None or not known or spec.is_absent(sizes) or (layers is not None and module not in modules):
            raise LayoutError(f"`{name}` is surplus")
        if dtype != spec.dtype:
            raise LayoutError(f"`{name}` is {dtype}, it must be {spec.dtype}")
        modules.setdefault(module, {})[container] = shape
    return {
        module: _check_module(module, kind, shapes, {**sizes, **(layers or {}).get(module, {})})
        for module, shapes in modules.items()
    }


def _check_module(
    module: str, kind: str, shapes: Mapping[str, tuple[int, ...]], sizes: dict[str, int]
) -> dict[str, int]:
    """Checks that the shapes of a module's tensors agree with each other and with `sizes`; returns all its sizes."""
    for spec in specs_at(ROOT if module == ROOT else kind):
        name, shape = f"{module}.{spec.name}", shapes.get(spec.name)
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


def check_values(name: str, values: Tensor) -> None:
    """Checks that values of the tensor `name`, or of a slice of it, are finite and in its range (`LayoutError`)."""
    # Summing is faster than testing every value. Only if the sum is not finite must each value be tested: the sum of
    # finite but huge values can overflow.
    if values.is_floating_point() and not math.isfinite(values.sum()) and not torch.isfinite(values).all():
        raise LayoutError(f"`{name}` holds NaN or infinite values")
    spec = spec_of(name)
    if spec is not None and spec.bounds is not None and values.numel():
        least, most = map(float, values.aminmax())
        if not spec.bounds[0] <= least <= most <= spec.bounds[1]:
            raise LayoutError(
                f"`{name}` holds values from {least:.3g} to {most:.3g}, but its values must lie between "
                f"{spec.bounds[0]:.3g} and {spec.bounds[1]:.3g}"
            )
