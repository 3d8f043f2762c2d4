"""Learning a stream of tasks with the Hugging Face `Trainer`, or with a loop of one's own."""

from .arguments import DriftTrainingArguments
from .cards import adapter_record
from .checkpoints import Checkpoint, newest_commit, task_folder, write_commit
from .confused import plot_confused
from .data import PreparedTask, Split
from .drift import gradient_noise_hook
from .evaluator import Evaluator, Scores
from .events import StreamCallback
from .files import encoding_of, separator_of
from .learner import TaskLearner, Visit
from .measuring import majority, measure
from .progress import TaskBar, show_bars
from .protocol import TaskTrainer, Trained
from .reading import Boundary
from .sources import TaskSource
from .statistics import fitted_statistics
from .stream import restore
from .tasks import Task, check_samples
from .trainer import DriftTrainer

__all__ = [
    "Boundary",
    "Checkpoint",
    "DriftTrainer",
    "DriftTrainingArguments",
    "Evaluator",
    "PreparedTask",
    "Scores",
    "Split",
    "StreamCallback",
    "Task",
    "TaskBar",
    "TaskLearner",
    "TaskSource",
    "TaskTrainer",
    "Trained",
    "Visit",
    "adapter_record",
    "check_samples",
    "encoding_of",
    "fitted_statistics",
    "gradient_noise_hook",
    "majority",
    "measure",
    "newest_commit",
    "plot_confused",
    "restore",
    "separator_of",
    "show_bars",
    "task_folder",
    "write_commit",
]
