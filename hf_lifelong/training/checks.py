"""Checks of a stream that run before anything is trained or written."""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import torch
from datasets import Dataset
from peft.utils import get_peft_model_state_dict
from torch.utils.data import DataLoader
from transformers import EvalPrediction, PreTrainedTokenizerBase, Trainer
from transformers.trainer_utils import IntervalStrategy

from ..adapter import InputLimits, active_adapter, active_config, check_usable, input_limits, knowledge_of
from ..evaluation import AccuracyMatrix
from ..hub import CONFIG, check_config, check_processor, check_sizes
from ..knowledge import KnowledgeBase
from ..loading import read_processor
from ..objectives import TEXT, Modality
from ..storage import spec_of
from ..utils.files import read_json
from .arguments import DriftTrainingArguments
from .data import PreparedTask
from .drift import cycle_ends
from .protocol import TaskTrainer
from .statistics import check_statistics

# What Trainer measures in addition to a task's metrics.
MEASURED = frozenset({"loss", "runtime", "samples_per_second", "steps_per_second", "model_preparation_time"})
ROWS_AT_ONCE = 10_000


def check_setup(model: Any, args: Any, options: Mapping[str, Any]) -> None:
    """Refuses a model, arguments and options that cannot train a stream of tasks (`ValueError`)."""
    if not isinstance(args, DriftTrainingArguments):
        raise ValueError(f"`args` must be `DriftTrainingArguments`, not `{type(args).__name__}`.")
    if options.get("model_init") is not None:
        raise ValueError("`model_init` would discard the learned tasks each time it is called; give `model`.")
    if options.get("optimizers", (None, None)) != (None, None):
        raise ValueError("`optimizers` cannot be given: each task needs its own. Use `optim` in the arguments.")
    if not isinstance(model, torch.nn.Module):
        raise ValueError(
            f"`model` must be a model, not {model!r:.60}; give `get_peft_model(base, DriftAdapterConfig())`."
        )
    check_usable(model, active_adapter(model))
    if args.n_gpu > 1:
        raise ValueError(
            "Several GPUs in one process (`nn.DataParallel`) are not supported. Start one process per GPU: "
            "`accelerate launch script.py`."
        )


def check_stream(trainer: TaskTrainer, tasks: Sequence[PreparedTask]) -> None:
    """Refuses tasks that could not be trained to the end, and an adapter that could not be read after it is saved.

    Args:
        trainer ([`TaskTrainer`]): The trainer whose model is to learn the tasks.
        tasks (`list[PreparedTask]`): All tasks that are to be learned.

    Raises:
        ValueError: says what is wrong, and with which task if it concerns one.
    """
    limits = input_limits(trainer.model)
    check_base_kept(trainer.model)
    if isinstance(trainer.processing_class, PreTrainedTokenizerBase) and limits is not None:
        check_tokenizer_kept(trainer.processing_class, limits)
    elif trainer.processing_class is not None:
        check_processor_kept(trainer.processing_class, trainer.modality)
    check_extensions(knowledge_of(trainer.model), tasks)
    for task in tasks:
        try:
            if len(task.train) < 2:
                raise ValueError(
                    "1 row is left for training, and inputs are told apart by how rows vary; give at least 2 beside "
                    "those for validation."
                )
            check_statistics(trainer.statistics, task)
            trainer.check_task(task)
            if limits is not None:
                check_inputs(task, limits)
            elif not trainer.is_sharded:
                check_first(trainer, task)
            read_again(trainer.model, [task])
        except ValueError as error:
            raise ValueError(f"Task `{task.name}`: {error}") from error


def check_extensions(knowledge: KnowledgeBase, tasks: Sequence[PreparedTask]) -> None:
    """Refuses tasks that add labels to a task that is not there before them, or that cannot take them.

    Raises:
        ValueError: names the task.
    """
    before = {task.name: (task.kind, task.labels, task.extends) for task in knowledge.tasks}
    for task in tasks:
        name = task.task.extends
        if name is not None:
            where = f"`extends` of task `{task.name}` is {name!r:.100}"
            if name not in before:
                raise ValueError(f"{where}, which is no task before it; there are {list(before)}. Give one of them.")
            kind, labels, root = before[name]
            if kind != task.kind:
                raise ValueError(f"{where}, a {kind} task, but this is a {task.kind} task. Give one of the same kind.")
            if root is not None:
                raise ValueError(f"{where}, which adds labels to `{root}` itself. Give `extends={root!r}`.")
            if set(task.labels) <= set(labels):
                raise ValueError(
                    f"{where}, which has the labels {sorted(task.labels)} already. Leave `extends` out: more data of "
                    "the same task joins its group by itself."
                )
        before[task.name] = (task.kind, task.labels, task.task.extends)


def check_steps(trainer: Trainer, args: DriftTrainingArguments, members: int, task: PreparedTask) -> None:
    """Refuses a task whose rows make no batch, or fewer optimiser steps than members, as Trainer counts steps."""
    rows: Any = range(len(task.train))
    loader: Any = DataLoader(rows, batch_size=args.train_batch_size, drop_last=args.dataloader_drop_last)
    loader = trainer.accelerator.prepare_data_loader(loader)
    if not len(loader):
        raise ValueError(
            f"its {len(task.train)} training rows fill no batch of {args.train_batch_size} in each of "
            f"{args.world_size} processes, and `dataloader_drop_last` drops batches that are not full. Lower "
            "`per_device_train_batch_size`, or leave `dataloader_drop_last` out."
        )
    steps = trainer.set_initial_training_values(args, loader)[-1]
    cycle_ends(steps, members, args.first_cycle)


def check_smoothing(args: DriftTrainingArguments, task: PreparedTask) -> None:
    """Refuses to smooth the labels of a task whose targets are no ids of classes or tokens."""
    labels = task.train.features.get("labels")
    of_row = getattr(labels, "feature", labels)
    if args.label_smoothing_factor and not (of_row is not None and of_row.dtype.startswith("int")):
        raise ValueError(
            f"`label_smoothing_factor` is {args.label_smoothing_factor}, but {task.kind} has no label that "
            "could be spread over classes. Leave it out."
        )


def check_inputs(task: PreparedTask, limits: InputLimits) -> None:
    """Refuses rows that are longer than the base's positions, and ids for which the base has no embeddings."""
    config, most = task.config, limits.positions
    if most is not None and config.max_length > most:
        raise ValueError(
            f"`max_length` is {config.max_length}, but the base has positions for {most} tokens only; lower it in "
            "`DriftAdapterConfig`."
        )
    if most is not None and task.generates and config.max_length + config.max_new_tokens > most:
        raise ValueError(
            f"`max_length` ({config.max_length}) and `max_new_tokens` ({config.max_new_tokens}) make "
            f"{config.max_length + config.max_new_tokens} tokens, but the base has positions for {most} only; lower "
            "one of them in `DriftAdapterConfig`."
        )
    splits = {"train": task.train, "validation": task.validation.features, "test": task.test.features}
    for split, features in splits.items():
        longest = max(pc.max(pc.list_value_length(ids)).as_py() for ids in _batches(features, "input_ids"))
        if most is not None and longest > most:
            raise ValueError(f"`{split}` has a row of {longest} tokens, but the base has positions for {most} only.")
        for column, size in (("input_ids", limits.tokens), ("token_type_ids", limits.token_types)):
            for values in _batches(features, column):
                lowest, highest = pc.min_max(pc.list_flatten(values)).as_py().values()
                if size is None or lowest is None or 0 <= lowest <= highest < size:
                    continue
                raise ValueError(
                    f"`{split}` has {lowest if lowest < 0 else highest} among its `{column}`, but the base knows 0 to "
                    f"{size - 1}; take the tokenizer of the base."
                )


def check_first(trainer: TaskTrainer, task: PreparedTask) -> None:
    """Refuses images that the base cannot read as the image processor makes them, and a transform that does not give
    images, by the first row."""
    row = task.train.select(range(1))
    try:
        trainer.evaluator.features(task, row)
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"the base cannot read what `processing_class` makes of the first image ({error}); give the image "
            "processor of the base, and set its `size` and `crop_size` to what the base was made for."
        ) from error
    if task.seen is not task.train:
        try:
            task.collator()([task.seen[0]])
        except (ValueError, TypeError, RuntimeError, AttributeError) as error:
            raise ValueError(
                f"`transform` fails on the first image of `train` ({error!r}); it gets a PIL image in RGB, and must "
                "return a PIL image, an array or a tensor."
            ) from error


def check_processor_kept(processor: Any, modality: Modality) -> None:
    """Refuses a tokenizer or image processor that could not be read again after saving it."""
    with tempfile.TemporaryDirectory() as folder:
        processor.save_pretrained(folder)
        try:
            check_sizes(folder, {file.name: file.stat().st_size for file in Path(folder).iterdir() if file.is_file()})
            check_processor(Path(folder))
            read_processor(Path(folder), modality)
        except ValueError as error:
            raise ValueError(f"`processing_class` could not be read again after saving it: {error}") from error


def _batches(features: Dataset, column: str) -> Iterator[Any]:
    """A column of lists as Arrow arrays of up to `ROWS_AT_ONCE` rows; nothing if there is no such column."""
    if column in features.column_names:
        rows = features.select_columns(column).with_format("arrow")
        for table in rows.iter(batch_size=ROWS_AT_ONCE):
            yield table.column(column)


def check_best_metric(
    args: DriftTrainingArguments, task: PreparedTask, metrics: Callable[[EvalPrediction], dict[str, float]] | None
) -> None:
    """Refuses a `metric_for_best_model` that the evaluation of a task does not give; `metrics` computes its
    metrics."""
    name = args.metric_for_best_model
    if name is None or args.eval_strategy == IntervalStrategy.NO:
        return
    names = set(MEASURED)
    if metrics is not None and not args.prediction_loss_only:
        if metrics != task.own_metrics:
            return  # nobody knows what a user's function returns
        names |= task.scores_of_references(task.test).keys()
    if name.removeprefix("eval_") not in names:
        raise ValueError(f"`metric_for_best_model` is {name!r}; a {task.kind} task gives {sorted(names)}.")


def check_tokenizer_kept(tokenizer: PreTrainedTokenizerBase, limits: InputLimits) -> None:
    """Refuses a tokenizer with more tokens than the base has embeddings, or that could not be read after saving."""
    largest = max(tokenizer.get_vocab().values(), default=0)
    if largest >= limits.tokens:
        raise ValueError(
            f"`processing_class` has token ids up to {largest}, but the base has embeddings for {limits.tokens} only. "
            "Use the tokenizer of the base; or enlarge the base (`resize_token_embeddings`), save it in a folder and "
            "load it from there."
        )
    check_processor_kept(tokenizer, TEXT)


def check_base_kept(model: torch.nn.Module) -> None:
    """Refuses a base that a saved adapter could not name, or of which PEFT would save tensors with the adapter."""
    read_again(model, [])
    with warnings.catch_warnings(action="ignore"):  # saving says the same
        saved = get_peft_model_state_dict(model, adapter_name=active_adapter(model))
    surplus = [name for name in saved if spec_of(name) is None]
    if surplus:
        raise ValueError(
            f"The base's `{surplus[0]}` differs from the saved base, for example after `resize_token_embeddings`, and "
            "an adapter holds no tensors of its base. Save the changed base in a folder (`save_pretrained`) with its "
            "tokenizer, and load it from there."
        )


def read_again(model: torch.nn.Module, tasks: list[PreparedTask]) -> None:
    """Writes the configuration that a commit of these tasks would write, and checks that it can be read
    (`ValueError`)."""
    config, before = copy.copy(active_config(model)), knowledge_of(model)
    matrix = AccuracyMatrix()
    for task in tasks:
        matrix.add(task.name, task.task_kind.metric, None, {})
    # Without the names of other tasks, which `check_extensions` has checked and which are not in this configuration.
    learned = [replace(task.learned(config.members, 1), extends=None) for task in tasks]
    config.knowledge = replace(before, tasks=learned, scores=matrix.to_dict()).to_dict()
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        check_config(read_json(Path(folder, CONFIG)), from_hub=False)
