"""Rows of a data set: what a user sees of them, reading a column, checks, and errors that say where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset


class DataError(ValueError):
    """Something is wrong in a column.

    Args:
        column (`str`): The column.
        problem (`str`): What is wrong, and what to do.
        row (`int`, *optional*): The row, in the data set at hand. That may be a part of the user's, in another
            order; whoever took the part knows which of the user's rows it is.
    """

    def __init__(self, column: str, problem: str, row: int | None = None) -> None:
        super().__init__(column, problem, row)
        self.column, self.problem, self.row = column, problem, row

    def __str__(self) -> str:
        where = "" if self.row is None else f", row {self.row}"
        return f"column {self.column!r}{where}: {self.problem}"


class MissingColumnError(ValueError):
    """A data set lacks a column that a kind of task needs."""


def as_seen(dataset: Dataset) -> Dataset:
    """The rows as indexing the data set shows them, in plain Python values.

    Columns that `set_format(columns=...)` hides are left out. Formats that only put the same values into other
    containers (numpy, torch, pandas, ...) make no difference.

    Raises:
        ValueError: If the format changes values. A transform may give different ones at each access, so that a
            resumed run would not repeat the first.
    """
    form = dataset.format
    if form["type"] == "custom":
        raise ValueError(
            "has a transform (`set_transform`), which would give its rows anew at every access; apply it once with "
            "`dataset.with_format(None).map(function, batched=True)`, or give what changes training images as "
            "`transform` of the `Task`."
        )
    if "dtype" in form["format_kwargs"]:
        raise ValueError(
            f"has the format {form['type']!r} with a `dtype`, which changes its values; convert its columns with "
            "`dataset.with_format(None).cast_column` instead."
        )
    visible = dataset.column_names if form["output_all_columns"] else form["columns"]
    return dataset.select_columns(visible).with_format(None)


def check_dataset(dataset: Any) -> None:
    """Raises a `ValueError` unless the object is a map-style data set."""
    from datasets import Dataset

    if not isinstance(dataset, Dataset):
        raise ValueError(
            f"dataset must be a datasets.Dataset, not {type(dataset).__name__}; pass one split of a DatasetDict, and "
            "load without streaming."
        )


def check_not_empty(dataset: Dataset) -> None:
    """Raises a `ValueError` if a data set has no rows."""
    if len(dataset) == 0:
        raise ValueError(
            "dataset is empty; a task needs at least one row, so check the split or filter it comes from."
        )


def is_string(feature: Any) -> bool:
    """Whether a `datasets` feature holds strings."""
    return getattr(feature, "dtype", None) in ("string", "large_string")


def column_values(dataset: Dataset, name: str) -> list[Any]:
    """Returns a column as plain Python values, whatever format the data set is set to."""
    return dataset.select_columns([name]).with_format("arrow")[:].column(name).to_pylist()


def check_comparable(answers: Sequence[Any], references: Sequence[Any]) -> None:
    """Raises a `ValueError` unless answers and references can be compared one by one."""
    if not references:
        raise ValueError("references is empty; there is nothing to score, so give at least one example.")
    if len(answers) != len(references):
        raise ValueError(f"answers has {len(answers)} entries and references {len(references)}; give one per example.")


def check_references(references_train: Sequence[Any]) -> None:
    """Raises a `ValueError` if there is nothing to take the most frequent answer of."""
    if not references_train:
        raise ValueError("references_train is empty; the majority answer needs at least one training example.")
