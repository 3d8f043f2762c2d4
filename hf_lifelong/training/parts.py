"""Parts of a task's data: selects the rows of each part, and says which of the user's rows an error is about."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from datasets import Dataset

from ..objectives import DataError, as_seen


@dataclass(frozen=True)
class Part:
    """Some rows of the data that a user gave for a task.

    Args:
        argument (`str`): The task's argument from which they come.
        data (`datasets.Dataset`): The rows.
        rows (`Sequence[int]`): The row number of each in that argument.
    """

    argument: str
    data: Dataset
    rows: Sequence[int]

    @classmethod
    def whole(cls, argument: str, data: Dataset) -> Part:
        """All rows of an argument, as the user sees them.

        Raises:
            ValueError: when the data set's format changes values.
        """
        try:
            return cls(argument, as_seen(data), range(len(data)))
        except ValueError as error:
            raise ValueError(f"`{argument}` {error}") from error

    def select(self, places: Sequence[int]) -> Part:
        """The rows at these positions of this part."""
        return Part(self.argument, self.data.select(places), [self.rows[i] for i in places])

    def map(self, function: Callable[[Dataset], Dataset]) -> Part:
        """The same rows after a function, which must keep their number and order."""
        with self.located():
            return replace(self, data=function(self.data))

    @contextmanager
    def located(self) -> Iterator[None]:
        """Makes data errors that are raised inside name the argument and its row."""
        try:
            yield
        except DataError as error:
            row = "" if error.row is None else f", row {self.rows[error.row]}"
            raise ValueError(f"`{self.argument}`{row}, column {error.column!r}: {error.problem}") from error


def draw(classes: Sequence[Any], count: int, seed: int = 0) -> tuple[list[int], list[int]]:
    """Draws a stratified random sample: each class gets its share, but at least one row as far as `count` allows, the
    most frequent classes first.

    Args:
        classes (`Sequence`): The class of each row; one value for all rows if there are no classes.
        count (`int`): Number of rows to draw, at most the number of rows.
        seed (`int`): The same seed draws the same rows.

    Returns:
        `tuple[list[int], list[int]]`: The rows that are drawn, and the other rows, both in random order.
    """
    rng = np.random.default_rng(seed)
    codes = {value: code for code, value in enumerate(dict.fromkeys(classes))}
    shuffled = rng.permutation(len(classes))
    of_class = np.array([codes[value] for value in classes])[shuffled]
    sizes = np.bincount(of_class)[of_class]
    by_class = np.argsort(of_class, kind="stable")
    rank = np.empty(len(classes), dtype=np.int64)  # number of earlier rows of the same class
    rank[by_class] = np.arange(len(classes)) - np.searchsorted(of_class[by_class], of_class[by_class])
    # One row of every class first, then by relative rank within the class, so that every prefix is stratified.
    order = shuffled[np.lexsort((np.where(rank > 0, (rank + 0.5) / sizes, -sizes), rank > 0))]
    return rng.permutation(order[:count]).tolist(), rng.permutation(order[count:]).tolist()


def spread_over(count: int, limit: int | None) -> list[int]:
    """Row numbers of a data set of `count` rows: all, or `limit` rows spread evenly over it if it is longer."""
    if limit is None or count <= limit:
        return list(range(count))
    return np.linspace(0, count - 1, limit).astype(int).tolist()
