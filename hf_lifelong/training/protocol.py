"""The interface between learning and training. [`DriftTrainer`] implements it, and so can a custom training loop."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from accelerate import Accelerator
from transformers.trainer_callback import CallbackHandler
from transformers.trainer_utils import TrainOutput

from ..adapter import Snapshot
from ..objectives import Modality
from ..statistics import TaskStatistic
from .arguments import DriftTrainingArguments
from .checkpoints import Checkpoint
from .data import PreparedTask
from .evaluator import Evaluator
from .rows import RowStream
from .tasks import Task


class Trained(NamedTuple):
    """The result of training a task.

    Args:
        members (`list[Snapshot]`): Snapshots of the working adapter, oldest first, as `take_snapshot` returns them.
        output (`TrainOutput`): Steps, loss and metrics.
    """

    members: list[Snapshot]
    output: TrainOutput


class TaskTrainer(Protocol):
    """What [`TaskLearner`] needs from a trainer.

    Attributes:
        model (`nn.Module`): The model whose lifelong adapter learns.
        args ([`DriftTrainingArguments`]): Seed, starting point of a task, grouping, and the folder of commits.
        accelerator (`accelerate.Accelerator`): The processes that learn together.
        evaluator ([`Evaluator`]): Answers data sets with the model.
        processing_class: The base's tokenizer or image processor; `None` if all data is tokenised.
        modality ([`~objectives.Modality`]): What the base takes.
        statistics (`tuple[TaskStatistic, ...]`): Statistics that are fitted on each task and stored with it.
        is_sharded (`bool`): Whether the model's parameters are sharded among processes (FSDP, DeepSpeed). A sharded
            model can be asked only after it is trained, and cannot grow after that.
    """

    args: DriftTrainingArguments
    statistics: tuple[TaskStatistic, ...]

    @property
    def processing_class(self) -> object: ...

    @property
    def modality(self) -> Modality: ...

    @property
    def model(self) -> torch.nn.Module: ...

    @property
    def accelerator(self) -> Accelerator: ...

    @property
    def evaluator(self) -> Evaluator: ...

    @property
    def is_sharded(self) -> bool: ...

    def check_task(self, task: PreparedTask) -> None:
        """Refuses a task that this trainer could not train to the end.

        Raises:
            ValueError: says what is wrong with the task's data or the arguments.
        """

    def train_task(
        self, task: PreparedTask, checkpoint: Checkpoint | None, ignore_keys_for_eval: list[str] | None = None
    ) -> Trained:
        """Trains the working adapter, which is open for the task, and takes `members` snapshots of it.

        Args:
            task ([`PreparedTask`]): The task to train on.
            checkpoint ([`Checkpoint`], *optional*): Checkpoint of a killed run to resume from.
            ignore_keys_for_eval (`list[str]`, *optional*): As in `Trainer.train`.
        """

    def log(self, logs: dict[str, float]) -> None:
        """Logs the scores that were measured after a task."""

    def save_adapter(self, folder: Path) -> None:
        """Writes the complete adapter folder, as a commit holds it."""


class StreamTrainer(TaskTrainer, Protocol):
    """What the loop over a list of tasks needs in addition.

    Attributes:
        tasks (`list[Task]`): The tasks to learn, in order.
        session (`list[str]`): Names of the tasks that were learned with the trainer's arguments.
    """

    tasks: list[Task]
    session: list[str]

    def prepared(self, task: Task) -> PreparedTask:
        """A task with its data encoded; each task is prepared once."""

    def push_to_hub(self, commit_message: str | None = ...) -> object:
        """Pushes the adapter as it is now.

        Raises:
            PushError: when the Hub does not accept the push.
        """


class UnannouncedTrainer(StreamTrainer, Protocol):
    """What the loop over a stream without boundaries needs in addition.

    Attributes:
        stream ([`RowStream`]): The rows to learn.
        callback_handler (`CallbackHandler`): Has the callbacks that are told of boundaries and answers.
    """

    callback_handler: CallbackHandler

    @property
    def stream(self) -> RowStream: ...

    def release(self, name: str) -> None:
        """Drops the encoded data of a task."""
