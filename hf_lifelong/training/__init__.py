"""Learning a stream of tasks with the Hugging Face `Trainer`."""

from .arguments import DriftTrainingArguments
from .tasks import Task
from .trainer import DriftTrainer

__all__ = ["DriftTrainer", "DriftTrainingArguments", "Task"]
