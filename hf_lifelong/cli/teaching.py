"""Teaches and forgets tasks of an adapter in a folder, for the page of a server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..hub import pull
from ..training import DriftTrainingArguments
from .forget import forget_saved
from .learning import AdapterArguments, LearnArguments, defaults, learn, was_audited


class FolderTeacher:
    """Teaches the adapter in a folder; see [`~serving.page.Teacher`].

    Args:
        folder (`Path`): The adapter's folder.
        load_in_4bit (`bool`): Whether the base is quantised to 4 bits.
    """

    def __init__(self, folder: Path, load_in_4bit: bool = False) -> None:
        self.folder, self.load_in_4bit = folder, load_in_4bit

    def learn(
        self,
        name: str,
        kind: str,
        file: str,
        columns: Mapping[str, str],
        epochs: int,
        on_progress: Callable[[float], None],
    ) -> None:
        """Learns a task from a file of rows; audited if the task before it was."""
        task = {"name": name, "kind": kind, "dataset": file, "columns": dict(columns)}
        learning = LearnArguments(adapter=str(self.folder), tasks=[task], load_in_4bit=self.load_in_4bit)
        audit = "report" if was_audited(pull(self.folder).knowledge) else "off"
        settings = {**defaults(), "disable_tqdm": True, "save_strategy": "no", "num_train_epochs": epochs}
        training = DriftTrainingArguments(output_dir=str(self.folder), audit=audit, **settings)
        learn(learning, AdapterArguments(), training, [_Steps(on_progress)])

    def forget(self, name: str) -> None:
        """Forgets a task."""
        forget_saved(pull(self.folder), name, self.folder, load_in_4bit=self.load_in_4bit)


class _Steps(TrainerCallback):
    """Tells the share of the steps that are done."""

    def __init__(self, on_progress: Callable[[float], None]) -> None:
        self.on_progress = on_progress

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.on_progress(state.global_step / max(state.max_steps, 1))
