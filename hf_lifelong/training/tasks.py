"""`Task`: the data and settings that a user gives for one task."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import evaluate
from datasets import Dataset
from transformers import EvalPrediction

from ..evaluation import is_name
from ..knowledge import UNKNOWN
from ..objectives import MissingColumnError, get_kind, kind_names, kinds_on
from .parts import Part

# What `evaluate.load` and `evaluate.combine` return.
MODULES = (evaluate.EvaluationModule, evaluate.CombinedEvaluations)


@dataclass
class Task:
    """A data set, and the kind of task it is learned as.

    Columns that a data set's format hides are not used. A transform must be applied with `map` first.

    Args:
        name (`str`): Unique name of the task.
        kind (`str`): `"text-classification"`, `"text-regression"`, `"question-answering"` or `"token-classification"`;
            on a base that takes images `"image-classification"`; on a causal language model `"text-generation"`; or
            the name of a kind of your own ([`register_kind`]).
        train (`datasets.Dataset`): Training data; the model learns only from these rows.
        validation (`datasets.Dataset`, *optional*): Data for grouping and early stopping; by default split off the
            training data.
        test (`datasets.Dataset`, *optional*): Data for scores only; nothing is chosen by it. Without it the task is
            scored on its validation data.
        columns (`dict[str, str]`, *optional*): Role → column, for columns whose name is not the one that the kind
            expects (`text`, `text_pair`, `label`; `question`, `context`, `answers`; `tokens`, `tags`; `image`,
            `label`; `prompt`, `answer`), and for columns that a statistic of the trainer reads, such as
            `{"group": "sex"}`.
        compute_metrics (`Callable` or `evaluate.EvaluationModule`, *optional*): Either a function as in `Trainer`, for
            evaluations while this task is trained. Or a module of the `evaluate` library (`evaluate.load` or
            `evaluate.combine`), whose numbers are added to the kind's own whenever the stream is scored, and while the
            task is trained (but not on a language model, which would have to generate). A module gets answers in the
            usual form of the kind: label ids, or names if it takes texts; SQuAD's layout; lists of tags; texts.
        template (`str`, *optional*): For a language model: makes a prompt from a row's columns, in the syntax of
            `str.format`, such as `"{title}: {body}"`. Prompts also go through the tokenizer's chat template if it has
            one, so the template must not contain it.
        max_train_samples, max_test_samples (`int`, *optional*): Maximum number of rows of `train` and `test`. Rows are
            drawn at random, in proportion to their classes; label names are those of all rows.
        transform (`Callable`, *optional*): For images: changes a training image (PIL, RGB) anew in every epoch, such
            as a transform of `torchvision.transforms.v2`, and returns a PIL image, an array or a tensor. The image
            processor of the base comes after it. Signatures, validation and answers see images as they are.
        extends (`str`, *optional*): For classification: name of the task to which this one adds labels, learned before
            or earlier in the list. The rows need only be of the new labels, of which there may be one. Answers have
            that task's name; those of its old labels stay as they are unless a new label is likelier. This task's own
            name is for scores and for forgetting it.
    """

    name: str
    kind: str
    train: Dataset
    validation: Dataset | None = None
    test: Dataset | None = None
    columns: dict[str, str] = field(default_factory=dict)
    compute_metrics: Callable[[EvalPrediction], dict[str, float]] | evaluate.EvaluationModule | None = None
    template: str | None = None
    max_train_samples: int | None = None
    max_test_samples: int | None = None
    transform: Callable[[Any], Any] | None = None
    extends: str | None = None

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise ValueError(f"`name` of a task is {self.name!r:.100}; give only printable characters, at least one.")
        if self.name == UNKNOWN:
            raise ValueError(
                f"`name` of a task is {UNKNOWN!r}, which is the answer to inputs of no task; give another name."
            )
        if self.kind not in kind_names():
            raise ValueError(
                f"`kind` of task `{self.name}` is {self.kind!r}; choose one of {kind_names()}, or register your own "
                "kind first (`hf_lifelong.register_kind`)."
            )
        if not isinstance(self.columns, dict) or not all(
            isinstance(name, str) for pair in self.columns.items() for name in pair
        ):
            raise ValueError(
                f"`columns` of task `{self.name}` is {self.columns!r:.100}; give a dict from role to column name."
            )
        if not isinstance(self.template, str | None):
            raise ValueError(f"`template` of task `{self.name}` is {self.template!r:.100}; give a text.")
        if self.template is not None and get_kind(self.kind).task_type != "CAUSAL_LM":
            raise ValueError(
                f"`template` of task `{self.name}`: only tasks of language models have prompts, and this is a "
                f"{self.kind} task. Leave it out."
            )
        augmented = get_kind(self.kind).modality.augmented
        if self.transform is not None and (augmented is None or not callable(self.transform)):
            raise ValueError(
                f"`transform` of task `{self.name}` is {self.transform!r:.60}; give a function from image to image, "
                f"for a task of images only (this is a {self.kind} task)."
            )
        if self.extends is not None and not isinstance(self.extends, str):
            raise ValueError(f"`extends` of task `{self.name}` is {self.extends!r:.60}; give the name of a task.")
        if self.extends is not None and not get_kind(self.kind).one_label:
            raise ValueError(
                f"`extends` of task `{self.name}`: labels are added to tasks whose inputs have one label each, and "
                f"this is a {self.kind} task. Leave it out, and learn it as a task of its own."
            )
        for key in ("max_train_samples", "max_test_samples"):
            check_samples(getattr(self, key), f"`{key}` of task `{self.name}`")
        metrics = self.compute_metrics
        if metrics is not None and not callable(metrics) and not isinstance(metrics, MODULES):
            raise ValueError(
                f"`compute_metrics` of task `{self.name}` is {metrics!r:.60}; give a function as for `Trainer`, or "
                "the result of `evaluate.load` or `evaluate.combine`."
            )
        for split in ("train", "validation", "test"):
            data = getattr(self, split)
            if data is None and split != "train":
                continue
            if not isinstance(data, Dataset):
                raise ValueError(
                    f"`{split}` of task `{self.name}` must be a `datasets.Dataset`, not {type(data).__name__}. From a "
                    '`DatasetDict` give one split, such as `data["train"]`; streaming data cannot be split and '
                    "counted."
                )
            if not len(data):
                raise ValueError(f"`{split}` of task `{self.name}` is empty; give at least one row.")


def check_names(tasks: list[Task], learned: list[str]) -> None:
    """Refuses names that occur twice or that the adapter has learned already.

    Raises:
        ValueError: names the task.
    """
    names: set[str] = set()
    for task in tasks:
        if task.name in names:
            raise ValueError(f"`tasks` names `{task.name}` twice; give each task its own name.")
        if task.name in learned:
            raise ValueError(
                f"`tasks` names `{task.name}`, which this adapter has learned already. To teach it more of the same, "
                "give the new data its own name: if it is the same task, it joins the old group by itself."
            )
        names.add(task.name)


def check_samples(value: Any, what: str) -> None:
    """Refuses a value that is not a number of rows (`ValueError`)."""
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise ValueError(f"{what} is {value!r}; give an integer of at least 1.")


def tasks_of(
    tasks: Any, train: Any, validation: Any, learned: list[str], task_type: str | None, modality: str = "text"
) -> list[Task]:
    """The tasks of a trainer: its `tasks`, or the single task that `train_dataset` and `eval_dataset` make up.

    Args:
        tasks (`list[Task]`, *optional*): The user's `tasks`.
        train, validation (`datasets.Dataset`, *optional*): The user's `train_dataset` and `eval_dataset`.
        learned (`list[str]`): Names of the tasks that the adapter has learned.
        task_type (`str`): The `task_type` of the adapter's configuration.
        modality (`str`): Name of what the base takes.

    Raises:
        ValueError: when both or neither of `tasks` and `train_dataset` are given, or `tasks` is not a list of tasks.
    """
    if (tasks is None) == (train is None):
        raise ValueError("Give either `tasks` or `train_dataset`: exactly one of them says what to learn.")
    if tasks is not None and validation is not None:
        raise ValueError("`eval_dataset` goes with `train_dataset`; with `tasks`, give each `Task` a `validation`.")
    if tasks is None:
        return [single_task(train, validation, learned, task_type, modality)]
    listed = list(tasks) if isinstance(tasks, Iterable) else None
    if listed is None or not all(isinstance(task, Task) for task in listed):
        raise ValueError(f"`tasks` is {tasks!r:.60}; give a list of `Task`.")
    if not listed:
        raise ValueError("`tasks` is empty; give at least one `Task`.")
    return listed


def single_task(
    train: Any, validation: Any, learned: list[str], task_type: str | None, modality: str = "text"
) -> Task:
    """The task of a `train_dataset`. Its kind follows from the columns.

    Args:
        task_type (`str`): The `task_type` of the adapter's configuration.
        modality (`str`): Name of what the base takes.
        learned (`list[str]`): Names of the tasks that the adapter has learned; the new task gets another name.

    Raises:
        ValueError: when the data is not a `datasets.Dataset`, is empty, or its columns fit no kind or several.
    """
    if not isinstance(train, Dataset) or not len(train):
        what = "is empty" if isinstance(train, Dataset) else f"is a `{type(train).__name__}`"
        raise ValueError(f'`train_dataset` {what}; give a `datasets.Dataset` with rows, such as `data["train"]`.')
    data = Part.whole("train_dataset", train).data
    every = kinds_on(task_type, modality)
    kinds = every if len(every) == 1 else kinds_of(data, every)
    if len(kinds) != 1:
        fits = f"fit several kinds of task ({', '.join(kinds)})" if kinds else "fit no kind of task"
        raise ValueError(
            f"`train_dataset` has the columns {sorted(data.column_names)}, which {fits}. Give "
            f'`tasks=[Task("name", "{(kinds or every)[0]}", train_dataset, columns={{...}})]` instead.'
        )
    names = itertools.chain(["task"], (f"task-{i}" for i in itertools.count(2)))
    return Task(next(name for name in names if name not in learned), kinds[0], train, validation)


def kinds_of(data: Dataset, kinds: list[str]) -> list[str]:
    """The kinds, out of `kinds`, whose columns a data set has under their default names. If no kind's column types
    fit, the first kind whose column names fit, so that it can say what is wrong with the types."""
    fitting, named = [], []
    for kind in kinds:
        try:
            get_kind(kind).recognise(data)
        except MissingColumnError:
            continue
        except ValueError:
            named.append(kind)
        else:
            fitting.append(kind)
    return fitting or named[:1]
