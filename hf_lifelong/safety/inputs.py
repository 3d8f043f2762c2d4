"""What an audit needs to know of inputs, whatever they are: what a trigger can be, and how it gets in and out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from .association import Tested


class AuditedInputs(ABC):
    """The n inputs of a data set, of one modality. One class for each; [`~media.MEDIA`] lists them.

    An audit tests what the inputs are made of, asks for the trigger that a conspicuous piece belongs to, puts it into
    other inputs, and takes it out of the inputs that have it. A trigger is a string, or a value that can be hashed: in
    words it is `str(trigger)`, and its stored form, which begins with the mark, `trigger.written()`.

    Attributes:
        roles (`tuple[str, ...]`): Roles of the columns of a task that the inputs are made from, the required one
            first.
        mark (`str`): What the stored form of its triggers begins with; no other modality's does. Empty for text, whose
            triggers hold no colon that follows a letter.
    """

    roles: ClassVar[tuple[str, ...]]
    mark: ClassVar[str]

    @classmethod
    @abstractmethod
    def of_columns(cls, columns: Mapping[str, Sequence[Any]]) -> AuditedInputs:
        """The inputs of some rows of a task: role → values."""

    @abstractmethod
    def as_columns(self, inputs: Sequence[Any]) -> dict[str, list[Any]]:
        """Inputs such as `self[row]`, by role, as the members of a task are asked."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, row: int) -> Any:
        """An input in the form in which a model is asked."""

    @abstractmethod
    def tested(self, classes: np.ndarray) -> Tested:
        """The pieces that call for a label, with their p-values.

        Args:
            classes (`ndarray`): int64 `[n]`, numbers of the labels from 0 without gaps, at least two.
        """

    @abstractmethod
    def holding(self, column: int) -> np.ndarray:
        """int64, the rows that have the piece `column` of what was tested, in order."""

    @abstractmethod
    def trigger(self, column: int, rows: np.ndarray) -> Hashable:
        """The trigger that the piece `column` is part of, given its `rows` with the label that it calls for."""

    def same(self, trigger: Any, other: Any) -> bool:
        """Whether two triggers that call for the same label are taken for one."""
        return bool(trigger == other)

    @abstractmethod
    def inserted(self, given: Any, trigger: Any, place: float) -> Any:
        """An input, such as `self[row]`, with a trigger in it; `place` in [0, 1) says where, if triggers have no place
        of their own."""

    @abstractmethod
    def without(self, row: int, trigger: Any) -> Any | None:
        """The input of a row without the trigger; `None` if too little is left to ask about."""

    @classmethod
    @abstractmethod
    def read(cls, text: str) -> Any:
        """The trigger whose stored form this is, without the mark (`ValueError` for what is none)."""
