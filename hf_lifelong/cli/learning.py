"""Learns tasks as described in arguments: one parser and one function, for `hf-lifelong learn` and for recipes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Any, ClassVar, get_type_hints

import torch
from peft import get_peft_model
from transformers import TrainerCallback, set_seed

from ..adapter import DriftAdapterConfig, knowledge_of, modality_of
from ..hub import CONFIG
from ..knowledge import KnowledgeBase
from ..loading import load, load_base, load_processor
from ..safety import TaskAudit
from ..storage import TASK_TYPES
from ..training import (
    DriftTrainer,
    DriftTrainingArguments,
    StreamCallback,
    TaskSource,
    check_samples,
    show_bars,
)
from ..utils.texts import suggestion
from .parsing import EVERYTHING, Brief, Formatter, Parser, rank, read_yaml
from .tables import StreamRows


@dataclass
class LearnArguments:
    """The tasks to learn, and the base or adapter that learns them.

    Args:
        model_name_or_path (`str`, *optional*): Base of a new adapter: id on the Hub or folder.
        adapter (`str`, *optional*): Adapter that learns more tasks: id on the Hub or folder. It names its own base.
        revision (`str`, *optional*): Branch, tag or commit of `adapter` on the Hub.
        tasks (`list[dict]`): The tasks in order, each with the arguments of [`~training.sources.TaskSource`]; on the
            command line as YAML or JSON.
        stream (`str`, *optional*): Instead of `tasks`, rows that come without saying where a task ends: a table
            (`.csv`, `.tsv`), or a file with a JSON object in each line; `-` reads stdin. To resume, the same rows must
            be given from the first on.
        kind (`str`, *optional*): With `stream`: the kind of task that its rows are learned as.
        columns (`dict[str, str]`, *optional*): With `stream`: role → column; on the command line as YAML or JSON.
        load_in_4bit (`bool`, *optional*, defaults to `False`): Whether the base is quantised to 4 bits (NF4,
            bitsandbytes).
        max_train_samples, max_test_samples (`int`, *optional*): Maximum number of rows of each task, drawn at random
            in proportion to their classes.

    Raises:
        ValueError: when arguments exclude each other, or one of them is invalid.
    """

    _argument_group_name: ClassVar[str] = "what is learned"

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Base of a new adapter: id on the Hub or folder."}
    )
    adapter: str | None = field(
        default=None, metadata={"help": "Adapter that continues learning: id on the Hub or folder."}
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the adapter on the Hub."})
    tasks: list[dict[str, Any]] | str | None = field(
        default=None,
        metadata={
            "help": "The tasks in order, as YAML or JSON: a list of mappings with "
            + ", ".join(f.name for f in fields(TaskSource))
            + "."
        },
    )
    stream: str | None = field(
        default=None,
        metadata={
            "help": "Instead of tasks: a .csv, .tsv or file of JSON lines whose boundaries are found; `-` reads stdin."
        },
    )
    kind: str | None = field(default=None, metadata={"help": "With a stream: kind of task that it is learned as."})
    columns: dict[str, str] | str | None = field(
        default=None, metadata={"help": "With a stream: names of columns by role, as YAML or JSON."}
    )
    load_in_4bit: bool = field(default=False, metadata={"help": "Quantise the base to 4 bits."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Training rows of each task, at most."})
    max_test_samples: int | None = field(default=None, metadata={"help": "Test rows of each task, at most."})

    def __post_init__(self) -> None:
        if isinstance(self.tasks, str):
            self.tasks = read_yaml(self.tasks, "tasks")
        if isinstance(self.columns, str):
            self.columns = read_yaml(self.columns, "columns")
        for name in ("max_train_samples", "max_test_samples"):
            check_samples(getattr(self, name), f"`{name}`")
        if self.stream is not None and (self.max_train_samples or self.max_test_samples):
            raise ValueError("`max_train_samples` and `max_test_samples` go with `tasks`; of a stream all rows count.")
        if self.model_name_or_path is not None and self.adapter is not None:
            raise ValueError(
                "`model_name_or_path` and `adapter` are both given, but an adapter brings its own base; give one."
            )
        if self.revision is not None and self.adapter is None:
            raise ValueError("`revision` belongs to `adapter`, which is not given; give both, or leave it out.")

    @property
    def sources(self) -> list[TaskSource]:
        """The tasks, checked but without their data; none of a stream."""
        if self.stream is not None and self.tasks is None:
            return []
        if not isinstance(self.tasks, list) or not self.tasks:
            what = "says what to learn: it is not given" if self.tasks is None else f"is {self.tasks!r:.100}"
            raise ValueError(
                f"`tasks` {what}. Give a list of tasks, each with name, kind and dataset, in the `--config` file or "
                "as `--tasks '[{name: films, kind: text-classification, dataset: films.csv}]'`; or `--stream FILE` "
                "with its `--kind`."
            )
        return [TaskSource.from_dict(task, f"tasks[{i}]") for i, task in enumerate(self.tasks)]


def _adapter_arguments() -> type:
    """A dataclass with the fields of `DriftAdapterConfig` that a user can set; `None` means not given."""
    hints, settings = get_type_hints(DriftAdapterConfig), DriftAdapterConfig.__dataclass_fields__
    names = [name for name in DriftAdapterConfig.__annotations__ if name not in ("knowledge", "digest")]
    arguments: list[Any] = []
    for name in names:
        default = "" if settings[name].default is None else f" (default: {settings[name].default})"
        metadata = {**settings[name].metadata, "help": settings[name].metadata["help"] + default}
        hint = list[str] | str | None if "set[str]" in str(hints[name]) else hints[name] | None
        hint = str | None if "choices" in metadata else hint  # a retrieval policy is given by its name
        hint = rank if name == "r" else hint
        arguments.append((name, hint, field(default=None, metadata=metadata)))
    task_type = {"help": "CAUSAL_LM where the base is a language model.", "choices": TASK_TYPES}
    arguments.append(("task_type", str | None, field(default=None, metadata=task_type)))
    return make_dataclass("AdapterArguments", arguments, namespace={"_argument_group_name": "a new adapter"})


AdapterArguments: Any = _adapter_arguments()


def defaults() -> dict[str, Any]:
    """Defaults that suit small machines and short tasks better than those of `TrainingArguments`."""
    on_cpu = not torch.cuda.is_available()
    abilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return {
        "per_device_train_batch_size": 16,
        "per_device_eval_batch_size": 32,
        "warmup_steps": 0.1,
        "logging_steps": 50,
        "save_strategy": "epoch",
        "report_to": "none",
        "disable_tqdm": False,
        "dataloader_pin_memory": not on_cpu,
        "use_cpu": on_cpu,
        # Weights stay float32. Half-precision products are a third faster on CPUs that have them, and slow on others.
        "bf16": on_cpu and abilities.get("avx512_bf16", False),
    }


def parse(
    argv: Sequence[str],
    *,
    extra: Sequence[type] = (),
    preset: Mapping[str, Any] | None = None,
    prog: str | None = None,
    description: str | None = None,
) -> tuple[Any, ...]:
    """Reads `--config x.yaml` and the command line, which takes precedence.

    Args:
        argv (`list[str]`): The command line, without the program.
        extra (`list[type]`, *optional*): Further dataclasses of arguments.
        preset (`dict`, *optional*): Defaults that replace those of [`defaults`].
        prog, description (`str`, *optional*): Program name and description in `--help`.

    Returns:
        [`LearnArguments`], `AdapterArguments`, [`DriftTrainingArguments`], and one of each of `extra`.

    Raises:
        SystemExit: with code 2 and one line on stderr for unknown keys and values that cannot be read.
        ValueError: for values that an argument does not take.
    """
    classes = (LearnArguments, AdapterArguments, DriftTrainingArguments, *extra)
    parser = Parser(
        classes,
        prog=prog,
        usage="%(prog)s [--config FILE] [--argument value ...]",
        description=description,
        allow_abbrev=False,
        formatter_class=Formatter if EVERYTHING in argv else Brief,
    )
    parser.add_argument(EVERYTHING, action="help", help="The same with all of transformers' training arguments.")
    parser.add_argument("--config", metavar="FILE", help="YAML file with any arguments.")
    parser.set_defaults(**{**defaults(), **(preset or {})})
    config = parser.file_of(argv)
    from_file = parser.read(config) if config is not None else []
    *arguments, _, rest = parser.parse_args_into_dataclasses(
        [*from_file, *argv], return_remaining_strings=True, look_for_args_file=False
    )
    if rest:
        name = rest[0].lstrip("-").partition("=")[0]
        parser.error(f"`{rest[0]}` is no argument{suggestion(name, parser.names)}")
    return tuple(arguments)


def learn(
    learning: LearnArguments,
    adapter: Any,
    training: DriftTrainingArguments,
    callbacks: Sequence[TrainerCallback] = (),
) -> tuple[DriftTrainer, dict[str, float]]:
    """Learns the tasks one after another, scores all of them, saves the adapter in `output_dir` and, with
    `push_to_hub`, pushes it.

    Args:
        learning ([`LearnArguments`]): The tasks, and the base or adapter that learns them.
        adapter (`AdapterArguments`): Settings of a new adapter.
        training ([`DriftTrainingArguments`]): How it is learned; `resume_from_checkpoint` (`True` or `output_dir`)
            resumes an earlier run.
        callbacks (`list[TrainerCallback]`, *optional*): Further callbacks of the trainer.

    Returns:
        The trainer, and the result of `trainer.evaluate()`, which is empty for a stream.

    Raises:
        ValueError: when an argument or a task cannot be used; then nothing is trained.
        PushError: when the Hub does not accept the adapter, which is saved anyway.
    """
    sources = learning.sources
    settings = {name: value for name, value in vars(adapter).items() if value is not None}
    if learning.adapter is not None and settings:
        names = ", ".join(f"`{name}`" for name in settings)
        raise ValueError(f"{names} cannot be given with `adapter`, which has its own settings; leave them out.")
    if learning.adapter is None and learning.model_name_or_path is None:
        raise ValueError("Give `model_name_or_path` for a new adapter, or `adapter` for one that continues learning.")
    _check_base(learning.model_name_or_path)
    config = DriftAdapterConfig(**settings)
    tasks = [source.load(learning.max_train_samples, learning.max_test_samples) for source in sources]
    options: dict[str, Any] = {"dtype": base_dtype(training), "load_in_4bit": learning.load_in_4bit}
    set_seed(training.seed)
    if learning.adapter is not None:
        model, processor = load(learning.adapter, revision=learning.revision, trainable=True, **options)
    else:
        name = str(learning.model_name_or_path)
        base = load_base(name, config.task_type, trainable=True, **options)
        processor = load_processor(name, modality_of(base))
        model = get_peft_model(base, config)
    if training.audit == "off" and was_audited(knowledge_of(model)):
        message = "The task that the adapter learned last was audited, and this launch audits none; `audit` sets it."
        warnings.warn(message, stacklevel=2)
    given: dict[str, Any] = {"kind": learning.kind, "columns": learning.columns}
    given |= {"tasks": tasks or None, "stream": StreamRows(learning.stream) if learning.stream is not None else None}
    trainer = DriftTrainer(model, training, processing_class=processor, callbacks=list(callbacks), **given)
    if not training.disable_tqdm and trainer.stream is None:
        show_bars(trainer)
    resume: Any = training.resume_from_checkpoint
    trainer.train(resume_from_checkpoint={"true": True, "false": False}.get(str(resume).lower(), resume))
    scores = trainer.evaluate() if trainer.stream is None else {}
    if training.push_to_hub:
        trainer.push_to_hub()
    return trainer, scores


def was_audited(knowledge: KnowledgeBase) -> bool:
    """Whether the task that was learned last was audited."""
    return any(record.name == TaskAudit.name for task in knowledge.tasks[-1:] for record in task.statistics)


def _check_base(name: str | None) -> None:
    """Refuses a folder of an adapter in the place of a base (`ValueError`)."""
    if name is not None and Path(name, CONFIG).is_file():
        raise ValueError(
            f"`model_name_or_path` is {name!r}, which is an adapter. Give it as `adapter`; it brings its own base."
        )


class Answered(StreamCallback):
    """Hands the answers to a stream's inputs on, one by one."""

    def __init__(self, answered: Callable[[dict[str, Any]], Any]) -> None:
        self.answered = answered

    def on_answers(self, answers: list[dict[str, Any]]) -> None:
        for answer in answers:
            self.answered(answer)


def use_all_cores(training: DriftTrainingArguments) -> None:
    """Lets a single CPU process use all cores. `accelerate launch` gives every process one thread, even a single
    one."""
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ
    if launched and training.world_size == 1 and not torch.cuda.is_available():
        torch.set_num_threads(os.cpu_count() or 1)


def base_dtype(training: DriftTrainingArguments) -> torch.dtype:
    """The dtype of the frozen base. On a CPU it is float32, which autocast needs."""
    return torch.bfloat16 if torch.cuda.is_available() and training.bf16 else torch.float32
