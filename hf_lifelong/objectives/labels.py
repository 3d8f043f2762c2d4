"""Class labels: finding their names in a data set, turning them into indices, scoring them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from .base import column_values, is_string

if TYPE_CHECKING:
    from datasets import Dataset

IGNORED = -100
"""Target that torch's cross entropy leaves out; marks tokens that carry no label."""

SHOWN = 10
"""Label names that an error message lists at most."""


def find_label_names(dataset: Dataset, column: str, declared_in: Iterable[str], nested: bool) -> list[str]:
    """Returns the names of the labels in a column.

    The names of a `ClassLabel` if one declares them, else the sorted strings, else "0" to the largest integer.

    Args:
        dataset (`datasets.Dataset`): At least one row.
        column (`str`): The column with the labels.
        declared_in (`Iterable[str]`): Columns whose `ClassLabel` may give the names, the first that does counts.
        nested (`bool`): Whether each row is a list of labels, in which `IGNORED` is no label.

    Raises:
        ValueError: If a label is negative, too large or missing, or there are fewer than two names.
    """
    rows = column_values(dataset, column)
    found = set(chain.from_iterable(labels_of_rows(rows, column))) - {IGNORED} if nested else set(rows)
    names = declared_names(dataset, declared_in)
    if names is None:
        names = _names_of(found, column)
    index = label_index(names)
    outside = [value for value in found if value not in index]
    if outside:
        row = next(i for i, value in enumerate(rows) if (outside[0] in value if nested else outside[0] == value))
        raise_outside(column, row, outside[0], names)
    if len(names) < 2:
        raise ValueError(
            f"column {column!r} has {len(names)} label name(s) {names}, but classification needs at least 2; check "
            "that the data set is not sorted by label and cut off."
        )
    return names


def declared_names(dataset: Dataset, columns: Iterable[str]) -> list[str] | None:
    """Returns the names of the first `ClassLabel`, or list of them, among the columns."""
    from datasets import ClassLabel

    for column in columns:
        feature = dataset.features.get(column)
        feature = getattr(feature, "feature", feature)
        if isinstance(feature, ClassLabel):
            return list(feature.names)
    return None


def label_index(labels: Sequence[str]) -> dict[Any, int]:
    """Returns what turns a label, be it a name or an index, into its index."""
    return {**{i: i for i in range(len(labels))}, **{name: i for i, name in enumerate(labels)}}


def label_ids(
    values: Sequence[Any], rows: Sequence[int], column: str, index: Mapping[Any, int], labels: Sequence[str]
) -> list[int]:
    """Turns labels into indices.

    Args:
        values (`list`): Names or indices.
        rows (`list[int]`): The row of each value, for the error message.
        column (`str`): Where they come from, for the error message.
        index (`dict`): `label_index(labels)`.
        labels (`list[str]`): The label names.

    Raises:
        ValueError: If a value is neither a name nor an index.
    """
    ids = []
    for value, row in zip(values, rows, strict=True):
        if value not in index:
            raise_outside(column, row, value, labels)
        ids.append(index[value])
    return ids


def labels_of_rows(rows: Sequence[Any], column: str) -> list[list[Any]]:
    """Returns the rows of a column of lists, and raises a `ValueError` if one is missing."""
    for row, values in enumerate(rows):
        if values is None:
            raise ValueError(f"column {column!r}, row {row}: the list of labels is missing; give one or drop the row.")
    return list(rows)


def raise_outside(column: str, row: int, value: Any, labels: Sequence[str]) -> NoReturn:
    """Raises the error for a label that is not among the names."""
    shown = ", ".join(repr(name) for name in labels[:SHOWN]) + (", ..." if len(labels) > SHOWN else "")
    raise ValueError(
        f"column {column!r}, row {row}: the label {value!r} is none of the {len(labels)} labels ({shown}); correct it "
        "or drop the row."
    )


def is_label(feature: Any) -> bool:
    """Whether a `datasets` feature holds one class label: a `ClassLabel`, a string or an integer."""
    return is_string(feature) or getattr(feature, "dtype", "").startswith(("int", "uint", "bool"))


def most_frequent(values: Sequence[str]) -> str:
    """Returns the most frequent string, of equally frequent ones the first in the alphabet."""
    return min(Counter(values).items(), key=lambda item: (-item[1], item[0]))[0]


def label_scores(answers: Sequence[str | None], references: Sequence[str]) -> dict[str, float]:
    """Accuracy and macro F1.

    F1 is averaged over the labels in the references only: a foreign label is a miss of the right one, not a class
    of its own.

    Args:
        answers (`list[str | None]`): Labels; `None` is always wrong.
        references (`list[str]`): The right labels, as many and at least one.

    Returns:
        `dict[str, float]`: `accuracy` and `f1`, in [0, 1].
    """
    from sklearn.metrics import f1_score

    names = {name: i for i, name in enumerate(sorted(set(references)))}
    right = np.array([names[name] for name in references])
    given = np.array([-1 if name is None else names.get(name, -1) for name in answers])
    f1 = f1_score(right, given, labels=list(names.values()), average="macro", zero_division=0)
    return {"accuracy": float((right == given).mean()), "f1": float(f1)}


def _names_of(found: set[Any], column: str) -> list[str]:
    values = found - {None}
    if all(isinstance(value, str) for value in values):
        return sorted(values)
    if all(isinstance(value, int) for value in values):
        return [str(i) for i in range(max(values) + 1)]
    raise ValueError(f"column {column!r} holds labels that are neither all strings nor all integers; convert them.")
