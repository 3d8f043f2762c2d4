"""Checks of what a user passes in: every refusal names the argument, what was wrong and what to do."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def numbers(name: str, values: Any, dims: int) -> Tensor:
    """`values` as finite float64 on the CPU, with `dims` dimensions, none of them empty.

    Raises:
        ValueError: for another shape, what is no number, and NaN or infinite values.
    """
    try:
        found = torch.as_tensor(values, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"`{name}` must hold real numbers, not {values!r:.60}.") from error
    if found.dim() != dims or found.numel() == 0:
        raise ValueError(
            f"`{name}` must have {dims} dimension{'s' * (dims != 1)}, none empty, not the shape {list(found.shape)}."
        )
    bad = (~found.isfinite()).nonzero()
    if len(bad):
        raise ValueError(
            f"`{name}` has {len(bad)} values that are NaN or infinite, the first at {bad[0].tolist()}. Leave these "
            "rows out, or look for what made them."
        )
    return found


def varying(name: str, features: Tensor) -> None:
    """Refuses features `[n, D]` that are the same in all rows (`ValueError`)."""
    if bool((features == features[:1]).all()):
        raise ValueError(
            f"`{name}` is the same in all {len(features)} rows, so nothing can be told of any direction. Give "
            "features that depend on the input."
        )


def same_length(**sizes: int) -> None:
    """Refuses arguments that should have as many rows as each other (`ValueError`)."""
    if len(set(sizes.values())) > 1:
        raise ValueError(
            "There must be one row for each input, but there are "
            + ", ".join(f"{count} in `{name}`" for name, count in sizes.items())
            + "."
        )


def share(name: str, value: Any) -> float:
    """`value` as a number strictly between 0 and 1 (`ValueError`)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise ValueError(f"`{name}` must lie between 0 and 1, both excluded, not {value!r}.")
    return float(value)


def count(name: str, value: Any, least: int) -> int:
    """`value` as an integer of at least `least` (`ValueError`)."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"`{name}` must be an integer of at least {least}, not {value!r}.")
    return value


def trigger(value: Any) -> str:
    """`value` as words that can be put into texts (`ValueError`)."""
    if not isinstance(value, str) or not value.split():
        raise ValueError(f"`trigger` must have words to put into the texts, not {value!r}: it would change nothing.")
    return value


def columns(name: str, data: Any, text: str, label: str) -> tuple[list[Any], list[Any]]:
    """Two columns of a data set or a mapping (`ValueError` for one that is missing)."""
    known = list(getattr(data, "column_names", None) or data)
    for column in (text, label):
        if column not in known:
            raise ValueError(f"`{name}` has no column {column!r}, only {known}. Name the right one.")
    return list(data[text]), list(data[label])


def listed(values: Any) -> list[Any]:
    """Values of an array, a tensor or any series, as Python's own."""
    return values.tolist() if hasattr(values, "tolist") else list(values)


def class_ids(labels: Any, **rows: int) -> tuple[list[Any], Tensor]:
    """The labels that occur, in order of their first row, and the number of each row's among them, int64 `[n]`.

    Args:
        labels: `n` labels of any kind.
        rows (`int`): How many there must be, by the name of the argument that says so.

    Raises:
        ValueError: for another number of rows, and labels that are missing (`None` or NaN).
    """
    found = listed(labels)
    same_length(**rows, labels=len(found))
    lacking = [row for row, x in enumerate(found) if x is None or (isinstance(x, float) and math.isnan(x))]
    if lacking:
        raise ValueError(f"`labels` has no label in {len(lacking)} rows, the first is {lacking[0]}. Leave them out.")
    names = list(dict.fromkeys(found))
    number = {name: i for i, name in enumerate(names)}
    return names, torch.tensor([number[x] for x in found])
