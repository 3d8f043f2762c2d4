"""Checks of the values in an accuracy matrix. Errors name the field, say what is wrong, and what to give instead."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

MOST_NUMBERS, LARGEST = 100, 1e30  # numbers that a matrix keeps, and their largest size
Row = list[float | None]


def checked_score(value: Any, name: str) -> float | None:
    if value is None:
        return None
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not is_number:
        raise ValueError(f"`{name}` is {value!r}, not a number; give a share in [0, 1], or None if not measured.")
    if value != value:
        raise ValueError(f"`{name}` is NaN; give None for a score that was not measured.")
    # Checked before the conversion, which fails for integers that are too large for a float.
    if not 0 <= value <= 1:
        raise ValueError(f"`{name}` is {value}, outside [0, 1]; give scores as shares, not in percent.")
    return float(value)


def checked_list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"`{name}` is of type {type(value).__name__}; give a list.")
    return list(value)


def is_name(value: Any) -> bool:
    """Whether a value can be the name of a task or group. Names appear in terminals, Markdown tables and plots, where
    line breaks and control characters do harm."""
    return isinstance(value, str) and bool(value.strip()) and value.isprintable()


def checked_name(value: Any, name: str) -> str:
    if not is_name(value):
        raise ValueError(f"`{name}` is {value!r}; give a non-empty name of printable characters.")
    return value


def checked_names(value: Any, name: str) -> list[str]:
    return [checked_name(item, f"{name}[{index}]") for index, item in enumerate(checked_list(value, name))]


def check_length(values: Sequence[Any], tasks: int, name: str) -> None:
    if len(values) != tasks:
        raise ValueError(
            f"`{name}` has {len(values)} entries for {tasks} tasks; give one for each task, in their order."
        )


def checked_square(value: Any, tasks: int, name: str, forward: bool) -> list[Row]:
    rows = checked_list(value, name)
    check_length(rows, tasks, name)
    square: list[Row] = []
    for i, cells in enumerate(rows):
        where = f"{name}[{i}]"
        cells = checked_list(cells, where)
        if not i < len(cells) <= tasks:
            raise ValueError(
                f"`{where}` has {len(cells)} entries; give {i + 1} (the tasks learned so far) to {tasks} (all tasks)."
            )
        # A quick test for valid cells comes first, because a thousand tasks have millions of cells.
        row = [
            cell if cell is None or (type(cell) is float and 0 <= cell <= 1) else checked_score(cell, f"{where}[{j}]")
            for j, cell in enumerate(cells)
        ]
        if not forward and any(cell is not None for cell in row[i + 1 :]):
            raise ValueError(f"`{where}` has a value for a task that was not learned yet; give None there.")
        square.append(row + [None] * (tasks - len(row)))
    return square


def checked_mapping(value: Any, name: str, what: str) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"`{name}` is of type {type(value).__name__}; give a dict from {what}.")
    return value


def check_known(names: Mapping[Any, Any], tasks: Sequence[str], name: str) -> None:
    unknown = [key for key in names if key not in tasks]
    if unknown:
        raise ValueError(
            f"`{name}` names {', '.join(map(repr, unknown))}, which the matrix does not have; its tasks are "
            f"{', '.join(map(repr, tasks))}."
        )


def checked_confusion(value: Any, tasks: Sequence[str]) -> dict[str, dict[str, float]]:
    """Task → group → share, in the order of `tasks`; the shares of each task must sum to 1."""
    rows = checked_mapping(value, "confusion", "task name to a dict of shares")
    check_known(rows, tasks, "confusion")
    confusion: dict[str, dict[str, float]] = {}
    for task in (task for task in tasks if task in rows):
        where = f"confusion[{task!r}]"
        cells = checked_mapping(rows[task], where, "group name to share")
        shares: dict[str, float] = {}
        for group, share in cells.items():
            checked_share = checked_score(share, f"{where}[{group!r}]")
            if checked_share is None:
                raise ValueError(f"`{where}[{group!r}]` is None; leave out a group that answered nothing.")
            shares[checked_name(group, f"a group of {where}")] = checked_share
        total = math.fsum(shares.values())
        if not math.isclose(total, 1.0, abs_tol=1e-6):
            raise ValueError(f"`{where}` sums to {total:g}, not to 1; give the share of every group that answered.")
        confusion[task] = shares
    return confusion


def checked_numbers(value: Any) -> dict[str, float]:
    """Name → finite number."""
    rows = checked_mapping(value, "numbers", "name to number")
    if len(rows) > MOST_NUMBERS:
        raise ValueError(f"`numbers` has {len(rows)} entries; give at most {MOST_NUMBERS}.")
    for name, number in rows.items():
        is_number = isinstance(number, int | float) and not isinstance(number, bool)
        if not is_number or not -LARGEST <= number <= LARGEST:
            raise ValueError(f"`numbers[{name!r:.60}]` is {number!r:.60}; give a number of at most {LARGEST:g}.")
    return {checked_name(name, "a name of `numbers`"): float(number) for name, number in rows.items()}
