"""Class labels: finding their names in a data set, turning them into indices, scoring them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from .rows import DataError, column_values, is_string

if TYPE_CHECKING:
    from datasets import Dataset

IGNORED = -100
"""Target that torch's cross entropy leaves out; marks tokens that carry no label."""

SHOWN = 10
"""Most label names that an error message lists."""

FEW_VALUES = 20
"""Up to this many integers may all differ and still be classes."""


def find_label_names(dataset: Dataset, column: str, names: Sequence[str] | None, nested: bool) -> list[str]:
    """Returns the names of the labels in a column: those declared, else the distinct values, sorted.

    Args:
        dataset (`datasets.Dataset`): At least one row.
        column (`str`): The column with the labels.
        names (`list[str]`, *optional*): The names that a `ClassLabel` declares.
        nested (`bool`): Whether each row is a list of labels, in which `IGNORED` is no label.

    Raises:
        DataError: If a label is missing or not declared, or integers look like the target of a regression.
    """
    rows = column_values(dataset, column)
    values = list(chain.from_iterable(labels_of_rows(rows, column))) if nested else rows
    occurring = set(values) - ({IGNORED} if nested else set())
    if names is None:
        distinct = sorted(occurring - {None, IGNORED})
        if bare_integers(dataset.features[column]):
            check_classes(column, len(distinct), len(values))
        labels = [name_of(value, None) for value in distinct]
    else:
        labels = list(names)
    index = label_index(labels)
    outside = {value for value in occurring if name_of(value, names) not in index}
    if outside:
        row = next(i for i, value in enumerate(rows) if not outside.isdisjoint(value if nested else [value]))
        value = next(value for value in (rows[row] if nested else [rows[row]]) if value in outside)
        raise_outside(column, row, value, labels)
    return labels


def check_enough(column: str, labels: Sequence[str], fewest: int) -> None:
    """Refuses fewer labels than `fewest`.

    Raises:
        DataError: Names them.
    """
    if len(labels) < fewest:
        raise DataError(
            column,
            f"it has {len(labels)} label name(s) {list(labels)}, but classification needs at least {fewest}; check "
            "that the data set is not sorted by label and cut off.",
        )


def check_classes(column: str, distinct: int, values: int) -> None:
    """Refuses integers that are hardly classes, by scikit-learn's rule: over 20 values, over half of them distinct.

    Raises:
        DataError: Says that this looks like a regression.
    """
    if values > FEW_VALUES and 2 * distinct > values:
        raise DataError(
            column,
            f"it has {distinct} different integers in {values} values, which looks like the target of a regression: "
            "that is a `text-regression` task. If they are classes, convert them to strings.",
        )


def declared_names(dataset: Dataset, columns: Iterable[str]) -> list[str] | None:
    """Returns the names of the first `ClassLabel`, or list of them, among the columns."""
    from datasets import ClassLabel

    for column in columns:
        feature = dataset.features.get(column)
        feature = getattr(feature, "feature", feature)
        if isinstance(feature, ClassLabel):
            return list(feature.names)
    return None


def named_values(dataset: Dataset, column: str) -> list[Any]:
    """Returns a column as plain Python values; of a `ClassLabel` the names, and `None` where it has none."""
    names, values = declared_names(dataset, [column]), column_values(dataset, column)
    if names is None:
        return values
    return [None if isinstance(name := name_of(value, names), int) else name for value in values]


def name_of(value: Any, names: Sequence[str] | None) -> Any:
    """The name of a label, or the list of names of a list of them.

    Args:
        value: As its data set has it.
        names (`list[str]`, *optional*): What an integer is a position in; without them it is a name in itself.

    Returns:
        The name; what has none (missing values, positions outside, `IGNORED`) is returned as it is.
    """
    if isinstance(value, list):
        return [name_of(entry, names) for entry in value]
    if not isinstance(value, int) or value == IGNORED:
        return value
    if names is None:
        return str(value)
    return names[value] if 0 <= value < len(names) else value


def is_decimal(name: str) -> bool:
    """Whether a name is that of a bare integer."""
    return re.fullmatch(r"0|-?[1-9][0-9]*", name) is not None


def label_index(labels: Sequence[str]) -> dict[Any, int]:
    """Maps the name of each label to its position."""
    return {name: i for i, name in enumerate(labels)}


def label_ids(
    values: Sequence[Any], rows: Sequence[int], column: str, index: Mapping[Any, int], labels: Sequence[str]
) -> list[int]:
    """Turns names of labels into positions.

    Args:
        values (`list`): Names.
        rows (`list[int]`): The row of each value, for the error message.
        column (`str`): Where they come from, for the error message.
        index (`dict`): `label_index(labels)`.
        labels (`list[str]`): The label names.

    Raises:
        DataError: If a value is none of the names.
    """
    ids = []
    for value, row in zip(values, rows, strict=True):
        if not isinstance(value, str | int) or value not in index:
            raise_outside(column, row, value, labels)
        ids.append(index[value])
    return ids


def labels_of_rows(rows: Sequence[Any], column: str) -> list[list[Any]]:
    """Returns the rows of a column of lists, and raises a `DataError` if one is missing."""
    for row, values in enumerate(rows):
        if values is None:
            raise DataError(column, "the list of labels is missing; give one or drop the row.", row)
    return list(rows)


def raise_outside(column: str, row: int, value: Any, labels: Sequence[str]) -> NoReturn:
    """Raises the error for a label that is not among the names."""
    problem = f"the label {value!r} is none of the {len(labels)} labels ({shown(labels)}); correct it or drop the row."
    raise DataError(column, problem, row)


def shown(labels: Sequence[str]) -> str:
    """The first names, for an error message."""
    return ", ".join(repr(name) for name in labels[:SHOWN]) + (", ..." if len(labels) > SHOWN else "")


def is_label(feature: Any) -> bool:
    """Whether a `datasets` feature holds one class label: a `ClassLabel`, a string or an integer."""
    return is_string(feature) or getattr(feature, "dtype", "").startswith(("int", "uint", "bool"))


def bare_integers(feature: Any) -> bool:
    """Whether a `datasets` feature holds integers, or lists of them, without names."""
    feature = getattr(feature, "feature", feature)
    return type(feature).__name__ == "Value" and feature.dtype.startswith(("int", "uint"))


def why_no_label(feature: Any) -> str:
    """What an error adds about columns that are often mistaken for labels."""
    if hasattr(feature, "feature"):
        return "; lists of labels for a whole text are multi-label classification, and multi-label is not supported"
    if getattr(feature, "dtype", "").startswith("float"):
        return (
            "; floats are the target of a regression, which is a `text-regression` task (where blanks made floats of "
            "integers, fill these rows or drop them)"
        )
    return ""


def most_frequent(values: Sequence[str]) -> str:
    """Returns the most frequent string, of equally frequent ones the first in the alphabet."""
    return min(Counter(values).items(), key=lambda item: (-item[1], item[0]))[0]


def label_scores(answers: Sequence[str | None], references: Sequence[str]) -> dict[str, float]:
    """Accuracy and macro F1.

    F1 is averaged over the labels in the references only: a foreign label is a miss of the right one, not a class
    of its own.

    Args:
        answers (`list[str | None]`): Labels; `None` is always wrong.
        references (`list[str]`): The right labels, one per answer and at least one.

    Returns:
        `dict[str, float]`: `accuracy` and `f1`, in [0, 1].
    """
    from sklearn.metrics import f1_score

    names = {name: i for i, name in enumerate(sorted(set(references)))}
    right = np.array([names[name] for name in references])
    answered = np.array([-1 if name is None else names.get(name, -1) for name in answers])
    f1 = f1_score(right, answered, labels=list(names.values()), average="macro", zero_division=0)
    return {"accuracy": float((right == answered).mean()), "f1": float(f1)}
