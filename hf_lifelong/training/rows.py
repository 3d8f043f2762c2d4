"""The rows of a stream that does not say where a task ends: read, checked, and split into input and answer."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from datasets import ClassLabel, Dataset, Features, IterableDataset
from datasets.fingerprint import Hasher

from ..objectives import TEXT, Modality, TaskKind, get_kind, kinds_on


class Arrival(NamedTuple):
    """A row of a stream.

    Args:
        position (`int`): Its number, counted from 0.
        given (`Any`): The input, in a form that [`LifelongPipeline`] takes.
        row (`dict`, *optional*): What is learned, by column; `None` if the row has no label.
    """

    position: int
    given: Any
    row: dict[str, Any] | None


class RowStream:
    """The rows that a user gives as a stream.

    Args:
        rows (`Iterable[dict]`): An `IterableDataset`, or anything that gives dicts from column to value.
        kind (`str`): The kind of task that all rows are learned as.
        columns (`dict[str, str]`): Role → column, as in [`Task`].

    Attributes:
        forms (`dict[str, str]`): The type of the values of each column that was read so far.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]], kind: str, columns: Mapping[str, str]) -> None:
        self.rows, self.kind, self.columns = rows, kind, dict(columns)
        self.task_kind: TaskKind = get_kind(kind)
        # The last role of a kind is its answer; roles of statistics belong to what is learned.
        *self.inputs, self.answer = self.task_kind.columns
        self.more = [role for role in columns if role not in self.task_kind.columns]
        self.features: Features | None = getattr(rows, "features", None)
        self.forms: dict[str, str] = {}

    def start(self, position: int) -> Iterator[Any]:
        """The rows from a position on. Rows before it are skipped."""
        if isinstance(self.rows, IterableDataset):
            return iter(self.rows.skip(position))
        return itertools.islice(self.rows, position, None)

    def read(self, row: Any, position: int) -> Arrival:
        """Splits a row into what is asked and what is learned.

        Raises:
            ValueError: when it is no dict, lacks a column, or has a value of another type than the rows before it.
        """
        if not isinstance(row, Mapping):
            raise ValueError(f"Row {position} of the stream is {row!r:.100}; give a dict from column to value.")
        held = {role: self._column(role, row, position) for role in self.inputs}
        asked = {role: row[column] for role, column in held.items() if column is not None}
        answer = self._answer(row)
        learned = {column: row[column] for column in held.values() if column is not None}
        if answer is not None:
            learned[answer] = row[answer]
            learned |= {
                str(column): row[str(column)] for column in (self._column(r, row, position) for r in self.more)
            }
        for column, value in learned.items():
            form = form_of(value)
            if form is not None and self.forms.setdefault(column, form) != form:
                raise ValueError(
                    f"Row {position} of the stream holds {form} in the column {column!r}, where earlier rows held "
                    f"{self.forms[column]}; convert it, for example with `IterableDataset.map`."
                )
        return Arrival(position, self._given(asked), learned if answer is not None else None)

    def dataset(self, rows: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> Dataset:
        """Rows of the stream as a data set.

        Args:
            rows (`list[dict]`): At least one.
            labels (`list[str]`): Label names of the task that the rows continue. If all labels of the rows are among
                them, they become the names of the data set, too; otherwise it has the labels that occur.
        """
        columns, answer = list(rows[0]), self._answer(rows[0])
        declared = self.features if self.features is not None and set(columns) <= set(self.features) else None
        plain = [dict(row) for row in rows]
        data = Dataset.from_list(plain, features=declared and Features({name: declared[name] for name in columns}))
        if answer is None or not self.task_kind.one_label or isinstance(data.features[answer], ClassLabel):
            return data
        numbers = {name: number for number, name in enumerate(labels)}
        if not {str(row[answer]) for row in rows} <= numbers.keys():
            return data
        named = [{**row, answer: numbers[str(row[answer])]} for row in plain]
        return Dataset.from_list(named, Features({**data.features, answer: ClassLabel(names=list(labels))}))

    def labels(self, arrivals: Sequence[Arrival]) -> list[str]:
        """The label of each row that has one, as text; empty if this kind of task has no single label."""
        rows = [arrival.row for arrival in arrivals if arrival.row is not None]
        return [str(row[str(self._answer(row))]) for row in rows] if self.task_kind.one_label else []

    def _column(self, role: str, row: Mapping[str, Any], position: int) -> str | None:
        candidates = self._names(role)
        used = [name for name in candidates if name in self.forms]
        found = next((name for name in used or candidates if name in row), None)
        required = bool(used) or role in self.columns or role not in self.task_kind.optional
        if not required and self.forms:
            return None  # an optional column that the first row lacked
        if found is None and required:
            raise ValueError(
                f"Row {position} of the stream has no column {' or '.join(map(repr, candidates))}, only "
                f"{sorted(map(str, row))}; a {self.kind} task needs it. Give its name as "
                f"`columns={{{role!r}: ...}}`, or correct the row."
            )
        return found

    def _answer(self, row: Mapping[str, Any]) -> str | None:
        """The column of a row's answer; `None` if it has none."""
        names = self._names(self.answer)
        for name in [name for name in names if name in self.forms] or names:
            is_class = self.features is not None and isinstance(self.features.get(name), ClassLabel)
            if row.get(name) is not None and not (is_class and row[name] == -1):
                return name
        return None

    def _names(self, role: str) -> tuple[str, ...]:
        """The columns that may hold a role. The first row in which one of them has a value decides."""
        if role in self.columns:
            return (self.columns[role],)
        return (self.task_kind.columns[role], *self.task_kind.aliases.get(role, ()))

    def _given(self, asked: Mapping[str, Any]) -> Any:
        values = list(asked.values())
        if len(values) == 1 and not (self.task_kind.modality is TEXT and isinstance(values[0], list)):
            return values[0]
        return {self.task_kind.columns[role]: value for role, value in asked.items()}


def form_of(value: Any) -> str | None:
    """The type of a value; `None` if it does not show, in missing values and empty lists. Numbers are of one type, and
    so are images from files of any format."""
    if value is None or isinstance(value, list | tuple):
        return f"a list of {form_of(value[0])}" if value else None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "a number"
    return f"`{type(value).__name__ if isinstance(value, bool) else type(value).__mro__[-2].__name__}`"


def strays(labels: Sequence[str], before: Collection[str], after: Collection[str]) -> set[str]:
    """The labels of a segment that strayed over its boundaries, which are found to a few inputs only, or may be
    blurred: those of the segment before that occur in the first half only, and those of what comes after that occur in
    the second half only. Labels of both occur in the first and the last quarter only.

    Args:
        labels (`list[str]`): The label of each row of the segment, in order.
        before, after (`Collection[str]`): Labels of its neighbours; empty if they show the same task.
    """
    own: set[str] = set()
    for place, label in enumerate(labels):
        reach = len(labels) / (4 if label in before and label in after else 2)
        near_start, near_end = place < reach, place >= len(labels) - reach
        if not (label in before and near_start) and not (label in after and near_end):
            own.add(label)
    return set(labels) - own


def fingerprint(before: str, given: Any) -> str:
    """A digest of inputs: of those that gave `before`, and one more."""
    return str(Hasher.hash([before, given]))


def row_stream(
    stream: Any,
    kind: Any,
    columns: Any,
    others: Mapping[str, Any],
    task_type: str | None,
    modality: Modality,
    processor: Any,
) -> RowStream | None:
    """The stream that a user gives to a trainer, checked; `None` if there is none.

    Args:
        stream, kind, columns: The trainer's arguments.
        others (`dict`): Arguments that cannot be given with a stream, by name.
        task_type (`str`): The `task_type` of the adapter's configuration.
        modality ([`~objectives.Modality`]): What the base takes.
        processor: The trainer's `processing_class`.

    Raises:
        ValueError: names the argument that cannot be used.
    """
    if stream is None:
        for name, value in (("kind", kind), ("columns", columns)):
            if value is not None:
                raise ValueError(f"`{name}` goes with `stream`, which is not given; each `Task` has its own.")
        return None
    for name, value in others.items():
        if value is not None:
            raise ValueError(
                f"`{name}` and `stream` are both given; a stream is all that is learned. Give one of them."
            )
    if not isinstance(stream, Iterable) or isinstance(stream, str | bytes | Mapping):
        raise ValueError(
            f"`stream` is {stream!r:.60}; give an `IterableDataset` (`load_dataset(..., streaming=True, "
            'split="train")`), or anything else that gives rows as dicts.'
        )
    possible = kinds_on(task_type, modality.name)
    if kind not in possible:
        raise ValueError(
            f"`kind` is {kind!r}; it says what the rows of `stream` are learned as. This base learns {possible}."
        )
    if columns is not None and (
        not isinstance(columns, Mapping) or not all(isinstance(name, str) for pair in columns.items() for name in pair)
    ):
        raise ValueError(f"`columns` is {columns!r:.100}; give a dict from role to column name.")
    if processor is None:
        raise ValueError(
            f"`processing_class` is missing; rows of a stream are not tokenised. Give the {modality.processor_noun} "
            "of the base."
        )
    return RowStream(stream, kind, columns or {})
