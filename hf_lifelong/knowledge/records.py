"""The manifest's records of a task's statistics: names, stored tensors and summaries.

With them, a reader that lacks a statistic's code can check, keep and forget its tensors.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from typing import Any

from .reading import ManifestError, check_count, check_list, check_type, same_keys

SIZES = {"float16": 2, "float32": 4, "float64": 8, "int64": 8}  # bytes per number, for each dtype that can be stored
# Limits: statistics per task, tensors per statistic, dimensions per tensor, and summary lines per statistic.
MOST_STATISTICS, MOST_TENSORS, MOST_DIMENSIONS, MOST_SHOWN = 32, 32, 8, 32
LONGEST_NAME, LONGEST_SHOWN = 60, 200  # characters


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that a statistic stores for a task.

    Args:
        name (`str`): Its name, unique within its statistic.
        dtype (`str`): One of `SIZES`.
        shape (`tuple[int, ...]`): Its shape.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return SIZES[self.dtype] * math.prod(self.shape)


@dataclass(frozen=True)
class StatisticRecord:
    """One statistic of one task.

    Args:
        name (`str`): Name of the statistic.
        tensors (`tuple[StoredTensor, ...]`): Its tensors, in the order in which they are stored.
        shown (`tuple[tuple[str, str | int | float | bool], ...]`): Its summary of the task, line by line.
    """

    name: str
    tensors: tuple[StoredTensor, ...]
    shown: tuple[tuple[str, str | int | float | bool], ...] = ()

    @property
    def bytes(self) -> int:
        return sum(tensor.bytes for tensor in self.tensors)

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe form."""
        tensors = [{"name": t.name, "dtype": t.dtype, "shape": list(t.shape)} for t in self.tensors]
        return {"name": self.name, "tensors": tensors, "shown": [list(line) for line in self.shown]}


def read_statistics(where: str, data: Any) -> tuple[StatisticRecord, ...]:
    """Reads the records of a task's statistics (`ManifestError`)."""
    check_list(where, data, MOST_STATISTICS)
    records = tuple(_read_record(f"{where}[{i}]", record) for i, record in enumerate(data))
    _check_unique(where, [record.name for record in records])
    return records


def _read_record(where: str, data: Any) -> StatisticRecord:
    check_type(where, data, dict)
    same_keys(where, data, {field.name for field in fields(StatisticRecord)})
    _check_name(f"{where}.name", data["name"])
    check_list(f"{where}.tensors", data["tensors"], MOST_TENSORS)
    tensors = tuple(_read_tensor(f"{where}.tensors[{i}]", tensor) for i, tensor in enumerate(data["tensors"]))
    _check_unique(f"{where}.tensors", [tensor.name for tensor in tensors])
    check_list(f"{where}.shown", data["shown"], MOST_SHOWN)
    for line in data["shown"]:
        if not isinstance(line, list) or len(line) != 2 or not isinstance(line[0], str) or not _can_be_shown(line[1]):
            raise ManifestError(f"`{where}.shown` must hold pairs of a text and a text or number, not {line!r:.60}")
        if len(line[0]) > LONGEST_NAME or len(str(line[1])) > LONGEST_SHOWN:
            raise ManifestError(
                f"`{where}.shown` has a text of more than {LONGEST_NAME} or {LONGEST_SHOWN} characters"
            )
    return StatisticRecord(data["name"], tensors, tuple((line[0], line[1]) for line in data["shown"]))


def _read_tensor(where: str, data: Any) -> StoredTensor:
    check_type(where, data, dict)
    same_keys(where, data, {field.name for field in fields(StoredTensor)})
    _check_name(f"{where}.name", data["name"])
    if data["dtype"] not in list(SIZES):
        raise ManifestError(f"`{where}.dtype` must be one of {list(SIZES)}, not {data['dtype']!r:.60}")
    check_list(f"{where}.shape", data["shape"], MOST_DIMENSIONS)
    for size in data["shape"]:
        check_count(f"{where}.shape", size)
    return StoredTensor(data["name"], data["dtype"], tuple(data["shape"]))


def _check_name(where: str, name: Any) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9_.-]*", name) or len(name) > LONGEST_NAME:
        raise ManifestError(
            f"`{where}` must be at most {LONGEST_NAME} lower-case letters, digits and `_.-`, not {name!r:.80}"
        )


def _check_unique(where: str, names: list[str]) -> None:
    if len(set(names)) < len(names):
        raise ManifestError(f"`{where}` names {next(name for name in names if names.count(name) > 1)!r} twice")


def _can_be_shown(value: Any) -> bool:
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
