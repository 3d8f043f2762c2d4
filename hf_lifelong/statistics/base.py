"""The interface of a task statistic: something measured of one task at its commit, stored with it, gone with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal

from torch import Tensor

from ..storage import TensorSpec

Values = dict[str, Tensor]


class TaskRefused(ValueError):
    """Raised in `fit` by a statistic that finds that a task must not be learned; says why."""


@dataclass(frozen=True)
class TaskRows:
    """What a statistic is fitted on: rows of one task. n of them, with D features and C classes.

    Args:
        task (`str`): Name of the task.
        kind (`str`): Its kind.
        classes (`tuple[str, ...]`): Names of its labels.
        features (`Tensor`): `[n, D]`, float32, on the CPU: what the frozen trunk says of each row.
        labels (`Tensor`, *optional*): `[n]`, int64, positions in `classes`; `None` where rows have no one label.
        scores (`Tensor`, *optional*): `[n, C]`, float32, the probabilities that the task's own members give; `None`
            unless the statistic asks for them (`needs_scores`).
        columns (`Mapping[str, Sequence]`): Role → n values, as the user's data holds them: the statistic's `columns`.
        ask (`Callable`, *optional*): Puts other inputs to the task's own members: role → m texts, as in a row of the
            task, gives probabilities `[m, C]`. `None` where `scores` cannot be had, or the data came tokenised.
    """

    task: str
    kind: str
    classes: tuple[str, ...]
    features: Tensor
    labels: Tensor | None
    scores: Tensor | None
    columns: Mapping[str, Sequence[Any]]
    ask: Callable[[Mapping[str, Sequence[Any]]], Tensor] | None


class TaskStatistic(ABC):
    """Something measured of one task when it has been learned, before it is committed.

    It sees that task alone: its data and its own members. So forgetting another task never changes it, and what is
    known of several tasks is their `total`, in the order of the manifest.

    A statistic is fitted on the tasks that have what it needs: every role in `columns`, and scores where it asks for
    them. Others are learned without it.

    Attributes:
        name (`str`): Unique: lower-case letters, digits and `_.-`. What stores other tensors has another name.
        tensors (`tuple[TensorSpec, ...]`): What it stores of a task: names, symbols of sizes (equal symbols are equal
            numbers), and dtypes, one of float16, float32, float64 and int64.
        columns (`tuple[str, ...]`): Roles of the columns that it reads: of the task's kind, such as `"text"`, or of
            its own, which the user maps: `Task(columns={"group": "sex"})`.
        part (`str`): `"train"`, the training rows that the signature is fitted on (at most `signature_samples`), or
            `"validation"`, the validation rows, of which nothing was trained.
        needs_scores (`bool`): Whether it reads scores, for which the task's members answer all these rows.
    """

    name: str
    tensors: tuple[TensorSpec, ...]
    columns: tuple[str, ...] = ()
    part: Literal["train", "validation"] = "train"
    needs_scores: bool = False

    def check(self, columns: Mapping[str, Sequence[Any]]) -> None:  # noqa: B027  (most have nothing to refuse)
        """Refuses the columns of a task (role → all values of a part) before anything is trained (`ValueError`)."""

    @abstractmethod
    def fit(self, rows: TaskRows) -> Values:
        """Measures a task.

        Returns:
            `dict[str, Tensor]`: A tensor for each of `tensors`, finite.

        Raises:
            TaskRefused: when the task must not be learned. It is then rolled back; earlier tasks stay as they are.
        """

    def merge(self, a: Values, b: Values) -> Values:
        """What `fit` would give of the rows of both, from what it gave of each.

        Raises:
            ValueError: by default; only some statistics can be merged.
        """
        raise ValueError(f"The statistic `{self.name}` is of one task alone and cannot be merged.")

    def total(self, values: Iterable[Values]) -> Values:
        """All of them merged, from left to right (`ValueError` where there are none)."""
        found = list(values)
        if not found:
            raise ValueError(f"No task has the statistic `{self.name}`, so there is nothing to sum.")
        return reduce(self.merge, found)

    @abstractmethod
    def describe(self, values: Values) -> Mapping[str, str | int | float | bool]:
        """What the values say, for people: a few short lines, each with a name. What it says of a task when that is
        committed is kept in the manifest, and shown by `inspect` and on the model card."""


def checked(statistic: TaskStatistic, values: Values) -> Values:
    """Values as they are stored: in the order of the statistic's `tensors`, on the CPU.

    Raises:
        ValueError: when a tensor is missing, surplus, of another dtype or shape, or not finite; names it.
    """
    where = f"statistic `{statistic.name}`"
    expected = [spec.name for spec in statistic.tensors]
    if not isinstance(values, dict) or sorted(values) != sorted(expected):
        names = list(values) if isinstance(values, dict) else type(values).__name__
        raise ValueError(f"The {where} must give the tensors {expected}, not {names}.")
    sizes: dict[str, int] = {}
    found = {}
    for spec in statistic.tensors:
        value = values[spec.name]
        what = f"`{spec.name}` of the {where}"
        if not isinstance(value, Tensor) or value.dtype != spec.torch_dtype or value.dim() != len(spec.symbols):
            given = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"{what} must be {spec.dtype} with the dimensions {spec.symbols}, not {given}.")
        for symbol, size in zip(spec.symbols, value.shape, strict=True):
            if sizes.setdefault(symbol, size) != size:
                raise ValueError(f"{what} has {size} {symbol}, but another of its tensors has {sizes[symbol]}.")
        if not bool(value.isfinite().all()):
            raise ValueError(f"{what} holds NaN or infinite values.")
        found[spec.name] = value.detach().cpu().contiguous()
    return found
