"""What an adapter stores: every tensor, declared once, and the checks for adapters that come from elsewhere."""

from .checks import LayoutError, check_layout, check_values, dtype_in_header
from .packing import check_statistics, pack, record_of, stored_statistics
from .settings import ANSWERS, TASK_TYPES, UNCERTAINTIES, are_names, check_kind, check_settings, check_tasks
from .tensors import (
    LAYER,
    PREFIX,
    ROOT,
    STATISTICS,
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
    "ANSWERS",
    "LAYER",
    "PREFIX",
    "ROOT",
    "STATISTICS",
    "TASK_TYPES",
    "TENSORS",
    "UNCERTAINTIES",
    "UNITS",
    "LayoutError",
    "TensorSpec",
    "are_names",
    "check_kind",
    "check_layout",
    "check_settings",
    "check_statistics",
    "check_tasks",
    "check_values",
    "dtype_in_header",
    "pack",
    "part_of_task",
    "record_of",
    "sizes_of",
    "spec_of",
    "specs_at",
    "stored_statistics",
    "task_bytes",
]
