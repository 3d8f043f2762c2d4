"""The callbacks of training. The first turns a Trainer run into members: it sets the drift of each step, takes
snapshots, and completes checkpoints."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..adapter import Snapshot, lifelong_of, take_snapshot
from .checkpoints import Checkpoint, mark_complete
from .drift import cycle_ends, cycle_position, decay


class SnapshotCallback(TrainerCallback):
    """Takes a member at the end of each cycle, and sets the noise of each step.

    Args:
        members (`int`): Cycles of a task.
    """

    def __init__(self, members: int) -> None:
        self.members = members
        self.begin("", [], "")

    def begin(
        self, task: str, learned: list[str], folder: str | os.PathLike[str], resumed: Checkpoint | None = None
    ) -> None:
        """Prepares for a task.

        Args:
            task (`str`): Its name.
            learned (`list[str]`): Names of the tasks that the adapter knows already.
            folder (path): Where the task's checkpoints go.
            resumed (`Checkpoint`, *optional*): Checkpoint of a killed run to continue from.
        """
        self.task, self.learned, self.folder, self.resumed = task, learned, folder, resumed
        self.snapshots: list[Snapshot] = []
        self.steps: list[int] = []
        self.ends: list[int] = []
        self.scale = 1.0

    @property
    def ended(self) -> bool:
        """Whether training had ended before the run was killed, so that no steps remain."""
        return self.resumed is not None and self.resumed.ended

    def plan(self, steps: int, first: float) -> list[int]:
        """Fixes the ends of the cycles, once the number of steps is known."""
        self.ends = cycle_ends(steps, self.members, first)
        return self.ends

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.plan(state.max_steps, args.first_cycle)
        # Set here, not in `begin`, because `auto_find_batch_size` restarts training.
        self.snapshots = list(self.resumed.snapshots) if self.resumed is not None else []
        self.steps = self.ends[: len(self.snapshots)]

    def on_epoch_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.ended:
            control.should_training_stop = True
            control.should_log = control.should_evaluate = control.should_save = False

    def on_step_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        self.scale = decay(cycle_position(state.global_step, self.ends))
        lifelong_of(model).input_noise = args.input_noise * self.scale

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        if state.global_step in self.ends:
            self._take(model, state.global_step)

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if args.save_only_model:
            return  # without an optimizer, training cannot resume from the checkpoint
        PartialState().wait_for_everyone()  # until every process has written its files
        if args.should_save:
            checkpoint = Path(self.folder, f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}")
            mark_complete(checkpoint, self.task, self.learned, self.snapshots, control.should_training_stop)

    def on_train_end(
        self, args: Any, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        lifelong_of(model).input_noise = 0.0
        best = state.best_global_step if args.load_best_model_at_end else None
        if best and state.best_model_checkpoint:
            # The model holds the best weights, so members from later steps are discarded with the later weights.
            self.snapshots = [s for s, step in zip(self.snapshots, self.steps, strict=True) if step < best]
            self._take(model, best)
        elif not self.steps or self.steps[-1] != state.global_step:
            self._take(model, state.global_step)

    def _take(self, model: torch.nn.Module, step: int) -> None:
        snapshot = take_snapshot(model)
        if not all(bool(torch.isfinite(tensor).all()) for tensor in snapshot.values()):
            raise FloatingPointError(
                f"The weights of task `{self.task}` are NaN or infinite at step {step}; nothing of the task was kept. "
                "Lower `learning_rate` or raise `warmup_steps`."
            )
        self.snapshots.append(snapshot)
        self.steps.append(step)


class EpochCallback(TrainerCallback):
    """Tells training rows that change from epoch to epoch which one begins."""

    def on_epoch_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        begin = getattr(getattr(kwargs.get("train_dataloader"), "dataset", None), "set_epoch", None)
        if begin is not None:
            begin(int(state.epoch or 0))
