"""`DriftTrainingArguments`: Trainer's arguments, per task, and the drift."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from transformers import TrainingArguments

from ..fairness import METRICS, FairnessSums
from ..safety import TaskAudit, TaskWeakDirections
from ..statistics import TaskStatistic

STARTS = ("fresh", "previous", "nearest")
GROUPINGS = ("performance", "boundary")
AUDITS = ("off", "report", "refuse")
SHARES, INNER_SHARES = (
    ("gradient_noise", "input_noise", "grouping_tolerance"),
    ("first_cycle", "validation_share", "audit_false_alarms"),
)
# A task's own seed, below 2**20, is added to `seed`, and generators take 32 bits.
COUNTS = (
    ("per_device_train_batch_size", 1, 2**31),
    ("per_device_eval_batch_size", 1, 2**31),
    ("gradient_accumulation_steps", 1, 2**31),
    ("signature_samples", 2, 2**31),
    ("expected_run", 100, 2**31),
    ("stream_buffer", 2, 2**31),
    ("stream_least", 2, 2**31),
    ("stream_save_steps", 1, 2**31),
    ("seed", 0, 2**32 - 2**20),
)


@dataclass
class DriftTrainingArguments(TrainingArguments):
    """Arguments of [`DriftTrainer`]. Those of `TrainingArguments` apply to each task separately: epochs, steps,
    warm-up and logging restart with every task.

    With every drift source off (`gradient_noise=0`, `input_noise=0`, `drift_dropout=False`,
    `cyclic_learning_rate=False`) training is plain fine-tuning with snapshots.

    Args:
        learning_rate (`float`, *optional*, defaults to `2e-3`):
            As in `TrainingArguments`; the default fits low-rank adapters.
        cyclic_learning_rate (`bool`, *optional*, defaults to `True`):
            Whether the learning rate falls to zero along a cosine in each cycle. A task has `members` cycles, and a
            snapshot is taken at the end of each. If `False`, `lr_scheduler_type` applies to the whole task, with
            snapshots at the same steps.
        first_cycle (`float`, *optional*, defaults to `0.5`):
            Share of a task's steps in its first cycle; the other cycles share the rest. In (0, 1).
        gradient_noise (`float`, *optional*, defaults to `0.05`):
            Norm of the Gaussian noise added to the gradient, as a share of the gradient's norm; falls to zero in each
            cycle.
        input_noise (`float`, *optional*, defaults to `0.05`):
            Standard deviation of the Gaussian noise added to each hidden state at the trunk's end, as a share of that
            state's root mean square; falls to zero in each cycle.
        drift_dropout (`bool`, *optional*, defaults to `True`):
            Whether dropout is on above the trunk, with the probabilities of the base model and of `lora_dropout`.
        start_from (`str`, *optional*, defaults to `"nearest"`):
            What a task starts from. `"nearest"`: the newest task of the nearest group of the same kind with the same
            label names (all question answering tasks have the same); fresh if there is no such group. `"previous"`:
            the task learned last. `"fresh"`: new weights.
        grouping (`str`, *optional*, defaults to `"performance"`):
            `"performance"`: a task joins an old group if their data overlap and the group answers the task as well as
            the new members do.
            `"boundary"`: every task opens a group.
        grouping_tolerance (`float`, *optional*, defaults to `0.01`):
            How much worse (in the task's metric, on its validation part) an old group may be for a task to join it.
        validation_share (`float`, *optional*, defaults to `0.1`):
            Share of a task's training data that is split off for validation if the task has no validation data. In
            (0, 1).
        signature_samples (`int`, *optional*, defaults to `4000`):
            Number of training texts that a signature is fitted on.
        audit (`str`, *optional*, defaults to `"off"`):
            Whether each text or image classification task is audited for poison before it is committed. `"report"`:
            what was found is stored with the task, and shown by `inspect` and on the model card. `"refuse"`: a
            suspicious task also raises [`~statistics.TaskRefused`], and nothing of it is kept; one that cannot be
            audited, because its texts were already tokenised, is refused before training. Both store the weakest
            directions of the task, too. Other kinds of tasks are not audited.
        audit_false_alarms (`float`, *optional*, defaults to `0.01`):
            Share of clean tasks that an audit may find suspicious. In (0, 1).
        fairness (`str`, *optional*):
            Keeps the answers fair towards the groups that each task's column of the role `"group"` names
            (`Task(columns={"group": "sex"})`), over all tasks together: `"sp"`, `"eop"` or `"cal"` (see
            [`~hf_lifelong.fairness.GroupFairness`]). Each task then keeps the statistic `"fairness"`, whose sums stand
            for its data when later tasks are learned. Text classification only; other tasks are learned without it.
        fairness_weight (`float`, *optional*, defaults to `20.0`):
            How much fairness counts: `fairness_weight · F² / 2` is added to the mean loss, F being the metric over all
            tasks. With 0 it is only measured, and training is as without it. Tasks learned with more have no
            closed-form head, which nothing would make fair.
        expected_run (`int`, *optional*, defaults to `2000`):
            Of a `stream` whose boundaries are found: mean number of inputs between two false alarms. Larger values
            find boundaries later.
        stream_buffer (`int`, *optional*, defaults to `10000`):
            Of a `stream`: most rows with a label that are kept in memory. When so many have come without a boundary,
            they are learned as a task, and what follows is learned as a further visit to the same task.
        stream_least (`int`, *optional*, defaults to `32`):
            Of a `stream`: fewest rows with a label that a segment between two boundaries is learned from. Smaller
            segments are left out, with a warning.
        stream_save_steps (`int`, *optional*, defaults to `1000`):
            Of a `stream`: inputs between two checkpoints of its reading. A killed run reads so many again, at most.
        hub_base_model (`str`, *optional*):
            Name of the base model on the Hub. Pushed adapters name it when the base was loaded from a folder.
    """

    # Title of the section that `HfArgumentParser` gives them in `--help`.
    _argument_group_name: ClassVar[str] = "training of each task"

    learning_rate: float = field(default=2e-3, metadata={"help": "Highest learning rate of each task."})
    cyclic_learning_rate: bool = field(
        default=True, metadata={"help": "Cosine cycles of the learning rate, a snapshot at the end of each."}
    )
    first_cycle: float = field(
        default=0.5, metadata={"help": "Share of a task's steps in its first cycle, in (0, 1)."}
    )
    gradient_noise: float = field(
        default=0.05, metadata={"help": "Norm of the gradient noise as a share of the gradient's norm."}
    )
    input_noise: float = field(
        default=0.05, metadata={"help": "Noise at the trunk's end as a share of the hidden states' root mean square."}
    )
    drift_dropout: bool = field(default=True, metadata={"help": "Dropout above the trunk."})
    start_from: str = field(default="nearest", metadata={"help": "What a task starts from.", "choices": STARTS})
    grouping: str = field(
        default="performance", metadata={"help": "When a task joins an old group.", "choices": GROUPINGS}
    )
    grouping_tolerance: float = field(
        default=0.01, metadata={"help": "How much worse an old group may be for a task to join it."}
    )
    validation_share: float = field(
        default=0.1, metadata={"help": "Share of the training data split off for validation where none is given."}
    )
    signature_samples: int = field(default=4000, metadata={"help": "Training texts that a signature is fitted on."})
    audit: str = field(default="off", metadata={"help": "Audit of each task for poison.", "choices": AUDITS})
    audit_false_alarms: float = field(
        default=0.01, metadata={"help": "Share of clean tasks that an audit may find suspicious, in (0, 1)."}
    )
    fairness: str | None = field(
        default=None,
        metadata={"help": "Fairness between groups of people, over all tasks together.", "choices": METRICS},
    )
    fairness_weight: float = field(
        default=20.0, metadata={"help": "How much fairness counts beside the mean loss; at least 0."}
    )
    expected_run: int = field(
        default=2000, metadata={"help": "Inputs between two false alarms, in a stream whose boundaries are found."}
    )
    stream_buffer: int = field(default=10_000, metadata={"help": "Rows of a stream kept in memory, at most."})
    stream_least: int = field(default=32, metadata={"help": "Fewest rows that a segment of a stream is learned from."})
    stream_save_steps: int = field(default=1_000, metadata={"help": "Inputs of a stream between two checkpoints."})
    hub_base_model: str | None = field(
        default=None, metadata={"help": "Name of the base model on the Hub, for a base from a folder."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least, most in COUNTS:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
                raise ValueError(f"`{name}` is {value!r:.60}; it must be an integer from {least} to {most}.")
        if self.stream_least > self.stream_buffer:
            raise ValueError(
                f"`stream_least` is {self.stream_least}, more than fit into `stream_buffer` ({self.stream_buffer}); "
                "raise the buffer."
            )
        for name in ("cyclic_learning_rate", "drift_dropout"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"`{name}` is {getattr(self, name)!r:.60}; it must be true or false.")
        for name in ("learning_rate", "weight_decay", "fairness_weight", *SHARES, *INNER_SHARES):
            if not isinstance(getattr(self, name), int | float) or isinstance(getattr(self, name), bool):
                raise ValueError(f"`{name}` is {getattr(self, name)!r:.60}; it must be a number.")
        for name, choices in (("start_from", STARTS), ("grouping", GROUPINGS), ("audit", AUDITS)):
            if getattr(self, name) not in choices:
                raise ValueError(f"`{name}` is {getattr(self, name)!r}; choose one of {list(choices)}.")
        if self.fairness is not None and self.fairness not in METRICS:
            raise ValueError(f"`fairness` is {self.fairness!r:.60}; choose one of {list(METRICS)}, or leave it out.")
        for name in ("learning_rate", "weight_decay", "fairness_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"`{name}` is {getattr(self, name)!r}; it must be a finite number of at least 0.")
        for name in SHARES:
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"`{name}` is {getattr(self, name)!r}; it must be a share of at least 0.")
        for name in INNER_SHARES:
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)!r}; it must lie between 0 and 1.")
        # F1 of a whole is not the mean of the F1 of its batches, so metrics are computed once, on all answers.
        for name, value in (("batch_eval_metrics", True), ("eval_do_concat_batches", False)):
            if getattr(self, name) == value:
                raise ValueError(
                    f"`{name}={value}` is not supported, because a task is scored on its whole validation part at "
                    "once. Leave it out; `eval_accumulation_steps` moves what an evaluation keeps off the GPU."
                )

    @property
    def trains_fair(self) -> bool:
        """Whether fairness counts in training."""
        return self.fairness is not None and self.fairness_weight > 0

    def task_statistics(self) -> list[TaskStatistic]:
        """The statistics of each task that the arguments ask for."""
        statistics: list[TaskStatistic] = []
        if self.audit != "off":
            statistics += [TaskAudit(self.audit_false_alarms, refuse=self.audit == "refuse"), TaskWeakDirections()]
        if self.fairness is not None:
            statistics.append(FairnessSums())
        return statistics
