"""Descriptions of tasks in a YAML file or on a command line, and loading the data that they name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from datasets import DatasetDict, load_dataset
from datasets.exceptions import DatasetsError

from ..utils.texts import suggestion
from .files import FORMATS, load_files
from .tasks import Task, check_samples

TEXTS = ("name", "kind", "dataset", "template", "extends", "train_split", "validation_split", "test_split")


@dataclass(frozen=True)
class TaskSource:
    """A task whose data is not loaded yet.

    Args:
        name (`str`): Unique name of the task.
        kind (`str`): As in [`Task`].
        dataset (`str`): Id on the Hub (`id:config` where it has several configurations), a folder, or a file (`.csv`,
            `.tsv`, `.json`, `.jsonl` or `.parquet`).
        columns (`dict[str, str]`, *optional*): As in [`Task`].
        template, extends (`str`, *optional*): As in [`Task`].
        train_split (`str`, *optional*, defaults to `"train"`): Split that is learned from.
        validation_split (`str`, *optional*): Split for grouping and early stopping; by default a share of the training
            rows.
        test_split (`str`, *optional*): Split for scores; by default `test`, or `validation` if there is no `test`.
        max_train_samples, max_test_samples (`int`, *optional*): As in [`Task`].

    Raises:
        ValueError: when an argument has the wrong type or range; names it.
    """

    name: str
    kind: str
    dataset: str
    columns: dict[str, str] = field(default_factory=dict)
    template: str | None = None
    extends: str | None = None
    train_split: str = "train"
    validation_split: str | None = None
    test_split: str | None = None
    max_train_samples: int | None = None
    max_test_samples: int | None = None

    def __post_init__(self) -> None:
        for key in TEXTS:
            value = getattr(self, key)
            optional = type(self).__dataclass_fields__[key].default is None
            if not isinstance(value, str) and not (optional and value is None):
                raise ValueError(f"`{key}` of task {self.name!r} is {value!r}; give a text.")
        if not self.dataset.strip():
            raise ValueError(f"`dataset` of task {self.name!r} is empty; give an id on the Hub, a folder, or a file.")
        columns = self.columns
        if not isinstance(columns, dict) or not all(
            isinstance(name, str) for pair in columns.items() for name in pair
        ):
            raise ValueError(f"`columns` of task `{self.name}` is {columns!r}; give names of columns by role.")
        for key in ("max_train_samples", "max_test_samples"):
            check_samples(getattr(self, key), f"`{key}` of task `{self.name}`")

    @classmethod
    def from_dict(cls, data: Any, where: str) -> TaskSource:
        """Reads a task from YAML or JSON.

        Args:
            data (`dict`): The arguments by name.
            where (`str`): Name of `data` in error messages.

        Raises:
            ValueError: when a key is missing or unknown, or a value is wrong.
        """
        if not isinstance(data, Mapping):
            raise ValueError(f"`{where}` is {data!r:.100}; give a mapping with `name`, `kind` and `dataset`.")
        names = [f.name for f in fields(cls)]
        unknown = [key for key in data if key not in names]
        if unknown:
            hint = suggestion(unknown[0], names) or f"; a task has {', '.join(names)}."
            raise ValueError(f"`{where}` has the unknown key `{unknown[0]}`{hint}")
        required = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]
        missing = [key for key in required if key not in data]
        if missing:
            raise ValueError(f"`{where}` lacks `{missing[0]}`; a task needs {', '.join(f'`{k}`' for k in required)}.")
        return cls(**data)

    def load(self, max_train_samples: int | None = None, max_test_samples: int | None = None) -> Task:
        """Loads the data.

        Args:
            max_train_samples, max_test_samples (`int`, *optional*): Further limits; the smaller of these and the
                task's own apply.

        Raises:
            ValueError: when the data set cannot be loaded or lacks a split; names the task.
        """
        data = self._dataset()
        scored = self.test_split or next((name for name in ("test", "validation") if name in data), None)
        train = self._split(data, "train_split", self.train_split)
        validation = self._split(data, "validation_split", self.validation_split)
        test = self._split(data, "test_split", scored)
        return Task(
            self.name,
            self.kind,
            train,
            validation=validation,
            test=test,
            columns=dict(self.columns),
            template=self.template,
            extends=self.extends,
            max_train_samples=fewest(self.max_train_samples, max_train_samples),
            max_test_samples=fewest(self.max_test_samples, max_test_samples),
        )

    def _dataset(self) -> DatasetDict:
        path = Path(self.dataset)
        try:
            if path.exists() or path.suffix.lower() in FORMATS:
                return load_files(path)
            name, _, config = self.dataset.partition(":")
            return load_dataset(name, config or None)
        except (OSError, ValueError, DatasetsError, RuntimeError) as error:  # RuntimeError: a loading script
            raise ValueError(
                f"`dataset` of task `{self.name}` is {self.dataset!r}, which cannot be loaded: {causes(error)}. "
                f"Give an id on the Hub (`id:config`), a folder, or a file with rows ({', '.join(FORMATS)})."
            ) from error

    def _split(self, data: DatasetDict, argument: str, name: str | None) -> Any:
        if name is not None and name not in data:
            raise ValueError(
                f"`{argument}` of task `{self.name}` is {name!r}, but `{self.dataset}` has the splits {list(data)}; "
                "name one of them."
            )
        return data[name] if name is not None else None


def fewest(*limits: int | None) -> int | None:
    """The smallest limit that is not `None`."""
    return min((limit for limit in limits if limit is not None), default=None)


def causes(error: BaseException | None) -> str:
    """The messages of an error and its causes, in one line."""
    messages = []
    while error is not None:
        messages.append(" ".join(str(error).split()).rstrip("."))
        error = error.__cause__
    return ": ".join(dict.fromkeys(messages))
