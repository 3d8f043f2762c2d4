"""What an adapter stores: every tensor named once, and the one checker of what came from elsewhere."""

from .checks import LayoutError, check_layout, check_values, dtype_in_header
from .tensors import (
    LAYER,
    PREFIX,
    ROOT,
    TENSORS,
    UNITS,
    TensorSpec,
    part_of_task,
    sizes_of,
    spec_of,
    specs_at,
    task_bytes,
)

__all__ = [
    "LAYER",
    "PREFIX",
    "ROOT",
    "TENSORS",
    "UNITS",
    "LayoutError",
    "TensorSpec",
    "check_layout",
    "check_values",
    "dtype_in_header",
    "part_of_task",
    "sizes_of",
    "spec_of",
    "specs_at",
    "task_bytes",
]
