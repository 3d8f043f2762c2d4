"""Progress of a stream on the terminal: one line that says what will be learned, then one bar for each task."""

from __future__ import annotations

import time
from typing import Any

from tqdm.auto import tqdm
from transformers import ProgressCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..hub import duration
from .data import PreparedTask
from .drift import steps_of
from .trainer import DriftTrainer

TIMED = 30  # steps after which the total time is estimated; the first steps are slower than the rest


class TaskBar(TrainerCallback):
    """One progress bar for a training, without lines of numbers in between.

    Args:
        title (`str`): Title of the bar.
    """

    def __init__(self, title: str = "") -> None:
        self.title = title
        self.bar: Any = None

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            # Shown at once, because the first step may take long.
            self.bar = tqdm(desc=self.title, total=state.max_steps, initial=state.global_step, unit=" steps")

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any) -> None:
        if self.bar is not None and "loss" in logs:
            self.bar.set_postfix_str(f"loss {logs['loss']:.3f}")

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.close()

    def close(self, result: str = "") -> None:
        """Closes the bar as it stands, with a result beside it."""
        if self.bar is not None:
            self.bar.set_postfix_str(result)
            self.bar.close()
            self.bar = None


class StreamBars(TaskBar):
    """One bar for each task of a stream instead of Trainer's bars. A task's bar stays open while it is scored.

    Args:
        trainer ([`DriftTrainer`]): The trainer whose progress is shown.
    """

    def __init__(self, trainer: DriftTrainer) -> None:
        super().__init__()
        self.trainer = trainer
        self.work: list[float] = []

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.close()  # a failed task leaves its bar open
        trainer, name = self.trainer, self.trainer.snapshots.task
        todo = [task for task in trainer.tasks if task.name not in trainer.knowledge.names]
        if not self.work:
            prepared = [trainer.prepared(task) for task in todo]
            if state.is_world_process_zero:
                print(plan(args, prepared), flush=True)
            # A single task's bar already shows its time. Every process measures, because they split the rows.
            costs = [cost_of(trainer, task) for task in prepared] if len(todo) > 1 else [0.0]
            self.work = [steps_of(args, len(task.train)) * cost for task, cost in zip(prepared, costs, strict=True)]
        number = [task.name for task in trainer.tasks].index(name) + 1
        self.title = f"{name} ({number} of {len(trainer.tasks)})"
        super().on_train_begin(args, state, control)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        super().on_step_end(args, state, control)
        if self.bar is not None and self.bar.n - self.bar.initial == TIMED and len(self.work) > 1:
            seconds = self.bar.format_dict["elapsed"] * sum(self.work) / self.work[0] * state.max_steps / TIMED
            self.bar.write(f"Training on all tasks takes about {duration(seconds)}.")
            self.work = self.work[:1]

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.set_postfix_str("scoring")

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any) -> None:
        super().on_log(args, state, control, logs)
        if "eval_average_accuracy" in logs:
            names = self.trainer.knowledge.names
            scored, count = len({task.name for task in self.trainer.tasks} & set(names)), len(names)
            over = "so far" if scored == count else f"over {scored} of {count} tasks"
            self.close(f"average accuracy {over} {logs['eval_average_accuracy']:.3f}")


def show_bars(trainer: DriftTrainer) -> None:
    """Shows one bar for each task of a trainer instead of all other bars."""
    trainer.remove_callback(ProgressCallback)
    trainer.evaluator.quiet = True
    trainer.add_callback(StreamBars(trainer))


def plan(args: TrainingArguments, tasks: list[PreparedTask]) -> str:
    """What will be learned, in one line."""
    descriptions = [
        f"{task.name} ({len(task.train_examples):,} rows, {steps_of(args, len(task.train)):,} steps)" for task in tasks
    ]
    return f"Learning {', then '.join(descriptions)}. Each task is trained, then all so far are scored."


def cost_of(trainer: DriftTrainer, task: PreparedTask) -> float:
    """Seconds that a batch of a task takes through the trunk, which is roughly proportional to the time of its
    training steps."""
    for _ in range(2):  # the first pass also sets things up
        start = time.perf_counter()
        trainer.evaluator.features(task, task.asked, trainer.args.train_batch_size)
    return time.perf_counter() - start
