"""What learning asks of whatever trains: [`DriftTrainer`] is one, a loop of one's own may be another."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from accelerate import Accelerator
from transformers.trainer_utils import TrainOutput

from ..adapter import Snapshot
from ..statistics import TaskStatistic
from .arguments import DriftTrainingArguments
from .checkpoints import Checkpoint
from .data import PreparedTask
from .evaluator import Evaluator
from .tasks import Task


class Trained(NamedTuple):
    """What the training of a task gave.

    Args:
        members (`list[Snapshot]`): Snapshots of the working adapter, oldest first, as `take_snapshot` returns them.
        output (`TrainOutput`): Steps, loss and metrics.
    """

    members: list[Snapshot]
    output: TrainOutput


class TaskTrainer(Protocol):
    """What [`TaskLearner`] needs of a trainer.

    Attributes:
        model (`nn.Module`): The model with the lifelong adapter that learns.
        args ([`DriftTrainingArguments`]): Seed, where a task starts from, how it is grouped, where commits go.
        accelerator (`accelerate.Accelerator`): The processes that learn together.
        evaluator ([`Evaluator`]): Answers data sets with the model.
        processing_class: The base's tokenizer; `None` where all data is tokenised.
        statistics (`tuple[TaskStatistic, ...]`): What is measured of each task and stored with it.
        is_sharded (`bool`): Whether training shares the model's parameters out among processes (FSDP, DeepSpeed). Such
            a model cannot grow after it was trained, and can be asked only from then on.
    """

    args: DriftTrainingArguments
    statistics: tuple[TaskStatistic, ...]

    @property
    def processing_class(self) -> object: ...

    @property
    def model(self) -> torch.nn.Module: ...

    @property
    def accelerator(self) -> Accelerator: ...

    @property
    def evaluator(self) -> Evaluator: ...

    @property
    def is_sharded(self) -> bool: ...

    def check_task(self, task: PreparedTask) -> None:
        """Refuses a task that this trainer could not train to its end.

        Raises:
            ValueError: says what is wrong with its data or the arguments.
        """

    def train_task(
        self, task: PreparedTask, checkpoint: Checkpoint | None, ignore_keys_for_eval: list[str] | None = None
    ) -> Trained:
        """Trains the working adapter, which is open for the task, and takes `members` snapshots of it.

        Args:
            task ([`PreparedTask`]): What is learned.
            checkpoint ([`Checkpoint`], *optional*): Where a run that was killed goes on.
            ignore_keys_for_eval (`list[str]`, *optional*): As in `Trainer.train`.
        """

    def log(self, logs: dict[str, float]) -> None:
        """Notes the scores that were measured after a task."""

    def save_adapter(self, folder: Path) -> None:
        """Writes the whole adapter folder: what a commit holds."""


class StreamTrainer(TaskTrainer, Protocol):
    """What the loop over a list of tasks needs beside that.

    Attributes:
        tasks (`list[Task]`): What is to be learned, in order.
        session (`list[str]`): Names of those that were learned with the trainer's arguments.
    """

    tasks: list[Task]
    session: list[str]

    def prepared(self, task: Task) -> PreparedTask:
        """A task with its data encoded; done once."""

    def push_to_hub(self, commit_message: str | None = ...) -> object:
        """Pushes the adapter as it is now.

        Raises:
            PushError: when the Hub does not take it.
        """
