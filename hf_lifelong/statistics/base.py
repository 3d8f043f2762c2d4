"""The interface of a task statistic: measured on one task at its commit, stored with the task, forgotten with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal, NamedTuple

from torch import Tensor

from ..storage import TensorSpec

Values = dict[str, Tensor]


class TaskRefused(ValueError):
    """A statistic raises this in `fit` when a task must not be learned. The message says why."""


class Answers(NamedTuple):
    """What the members of a task say of m inputs.

    Args:
        scores (`Tensor`): `[m, C]`, float32, on the CPU: probabilities of the classes.
        states (`Tensor`): `[m, H]`, float32, on the CPU: the members' last hidden states, pooled over tokens.
    """

    scores: Tensor
    states: Tensor


@dataclass(frozen=True)
class TaskRows:
    """What a statistic is fitted on: n rows of one task, with D features and C classes.

    Args:
        task (`str`): Name of the task.
        kind (`str`): Its kind.
        classes (`tuple[str, ...]`): Names of its labels.
        features (`Tensor`): `[n, D]`, float32, on the CPU: the trunk's features of each row.
        labels (`Tensor`, *optional*): `[n]`, int64, positions in `classes`; `None` if a row has no single label.
        scores (`Tensor`, *optional*): `[n, C]`, float32, probabilities from the task's own members; `None` unless the
            statistic requests them (`needs_scores`). Their last bits depend on which kinds and how many labels the
            adapter knows.
        columns (`Mapping[str, Sequence]`): Role → n values as in the user's data (of a `ClassLabel` its names), for
            each of the statistic's `columns`, and for those of its `optional_columns` that the task has.
        ask (`Callable`, *optional*): Has the task's own members answer any inputs. It maps role → m inputs, named
            as in a row of the task, to [`Answers`]. `None` if members of this kind give no scores of classes, or if
            the data was already tokenised.
        row_numbers (`Sequence[int]`): n positions of the rows in the data that the user gave.
        part_rows (`int`, *optional*): How many rows the part has, of which these are spread evenly; by default n.
        validation (`TaskRows`, *optional*): The validation rows, for statistics whose `part` is `"both"`.
        moved (`Tensor`, *optional*): `[n]`, bool: whether the members of another task answer the row when the model is
            not told the task. Only for `overall`.
    """

    task: str
    kind: str
    classes: tuple[str, ...]
    features: Tensor
    labels: Tensor | None
    scores: Tensor | None
    columns: Mapping[str, Sequence[Any]]
    ask: Callable[[Mapping[str, Sequence[Any]]], Answers] | None
    row_numbers: Sequence[int] = ()
    part_rows: int | None = None
    validation: TaskRows | None = None
    moved: Tensor | None = None


class TaskStatistic(ABC):
    """Something measured on one task after it is learned and before it is committed.

    A statistic sees only that task: its data and its own members. Forgetting another task therefore never changes it.
    The value for several tasks is their `total`, in the order of the manifest.

    A statistic is fitted on each task that has what it needs: every role in `columns`, and scores if it needs them.
    Other tasks are learned without it.

    Attributes:
        name (`str`): Unique: lower-case letters, digits and `_.-`. Change the name when the stored tensors change.
        tensors (`tuple[TensorSpec, ...]`): The tensors stored for a task: names, size symbols (equal symbols mean
            equal sizes), and dtypes (float16, float32, float64 or int64).
        columns (`tuple[str, ...]`): Roles of the columns that it reads: roles of the task's kind, such as `"text"`, or
            its own, which the user maps: `Task(columns={"group": "sex"})`.
        optional_columns (`tuple[str, ...]`): Roles that it reads too where a task has them. A statistic that asks does
            not get them where the data was already tokenised.
        part (`str`): `"train"`, the training rows that the signature is fitted on (at most `signature_samples`);
            `"validation"`, the validation rows, which are not trained on; or `"both"`, the training rows with the
            validation rows beside them.
        needs_scores (`bool`): Whether it reads scores. If so, the task's members answer all these rows.
        asks (`bool`): Whether it asks the members about inputs of its own (`TaskRows.ask`). If so, it is fitted only
            where members give scores of classes.
    """

    name: str
    tensors: tuple[TensorSpec, ...]
    columns: tuple[str, ...] = ()
    optional_columns: tuple[str, ...] = ()
    part: Literal["train", "validation", "both"] = "train"
    needs_scores: bool = False
    asks: bool = False

    def check(self, columns: Mapping[str, Sequence[Any]]) -> None:  # noqa: B027  (most have nothing to refuse)
        """Checks the columns of a task (role → all values in one part of its data) before training (`ValueError`). A
        statistic of both parts is called for each."""

    @abstractmethod
    def fit(self, rows: TaskRows) -> Values:
        """Measures a task.

        Returns:
            `dict[str, Tensor]`: One finite tensor for each of `tensors`.

        Raises:
            TaskRefused: when the task must not be learned. It is then rolled back; earlier tasks do not change.
        """

    def merge(self, a: Values, b: Values) -> Values:
        """Combines the values of two tasks into what `fit` would return for the rows of both.

        Raises:
            ValueError: by default; only some statistics can be merged.
        """
        raise ValueError(f"The statistic `{self.name}` is of one task alone and cannot be merged; read it per task.")

    def total(self, values: Iterable[Values]) -> Values:
        """Merges the values of all tasks from left to right (`ValueError` if there are none)."""
        of_tasks = list(values)
        if not of_tasks:
            raise ValueError(f"No task has the statistic `{self.name}`, so there is nothing to sum.")
        return reduce(self.merge, of_tasks)

    def overall(self, values: Mapping[str, Values], rows: Callable[[], Mapping[str, TaskRows]]) -> Mapping[str, float]:
        """Numbers about all tasks together, by default none. They are measured after every task, logged, kept with the
        scores until the next measurement, and shown by `inspect` and the model card.

        Args:
            values (`Mapping[str, Values]`): Task → what it stores, for each task that has the statistic, in the order
                of the manifest.
            rows (`Callable`): Returns task → [`TaskRows`] with `moved`, for each of them whose data is at hand. Its
                inputs pass through the trunk the first time.

        Returns:
            `dict[str, float]`: Finite numbers; their names begin with the statistic's.
        """
        return {}

    @abstractmethod
    def describe(self, values: Values) -> Mapping[str, str | int | float | bool]:
        """A readable summary of the values: a few short lines, each with a name. The summary made when a task is
        committed is stored in the manifest; `inspect` and the model card show it."""


def checked(statistic: TaskStatistic, values: Values) -> Values:
    """Values in the form in which they are stored: in the order of the statistic's `tensors`, on the CPU.

    Raises:
        ValueError: names the first tensor that is missing, unexpected, not finite, or of the wrong dtype or shape.
    """
    where = f"statistic `{statistic.name}`"
    expected = [spec.name for spec in statistic.tensors]
    if not isinstance(values, dict) or sorted(values) != sorted(expected):
        names = list(values) if isinstance(values, dict) else type(values).__name__
        raise ValueError(f"The {where} must give the tensors {expected}, not {names}.")
    sizes: dict[str, int] = {}
    stored = {}
    for spec in statistic.tensors:
        value = values[spec.name]
        what = f"`{spec.name}` of the {where}"
        if not isinstance(value, Tensor) or value.dtype != spec.torch_dtype or value.dim() != len(spec.symbols):
            actual = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{what} must be {spec.dtype} with the dimensions {spec.symbols}, not {actual}.")
        for symbol, size in zip(spec.symbols, value.shape, strict=True):
            if sizes.setdefault(symbol, size) != size:
                raise ValueError(f"{what} has {size} {symbol}, but another of its tensors has {sizes[symbol]}.")
        if not bool(value.isfinite().all()):
            raise ValueError(f"{what} holds NaN or infinite values.")
        stored[spec.name] = value.detach().cpu().contiguous()
    return stored
