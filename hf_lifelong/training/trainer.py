"""`DriftTrainer`: a `Trainer` for a stream of tasks."""

from __future__ import annotations

import functools
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset
from torch.optim.lr_scheduler import LambdaLR
from transformers import EvalPrediction, Trainer, TrainingArguments
from transformers.trainer_utils import PredictionOutput, TrainOutput

from ..adapter import active_config, knowledge_of, lifelong_of, make_whole
from ..compat import LengthGroupedSampler, note_scheduler
from ..hub import base_name, keep_active, write_matrix
from ..objectives import Modality
from ..statistics import TaskStatistic, get_statistics
from ..utils.folders import sole_writer
from ..utils.renewal import Renewal, load_states
from .arguments import DriftTrainingArguments
from .callbacks import EpochCallback, SnapshotCallback
from .cards import write_card
from .checkpoints import Checkpoint, stream_folder, task_folder
from .checks import check_best_metric, check_setup, check_smoothing, check_steps
from .data import PreparedTask
from .drift import gradient_noise_hook, learning_rate_factor
from .evaluator import Evaluator
from .fair import FairOverTasks
from .measuring import measure
from .protocol import Trained
from .pushing import PushedTrainer
from .rows import row_stream
from .sampling import RepeatableGrouping
from .statistics import measure_overall
from .stream import learn_stream
from .tasks import Task, check_names, tasks_of
from .unannounced import learn_unannounced


class DriftTrainer(FairOverTasks, PushedTrainer, Trainer):
    """Learns tasks one after another, each on its own data only, and keeps all of them.

    Takes everything that `Trainer` takes. Each task is one run of `Trainer.train` on a low-rank working adapter. Its
    snapshots then become members of the model's knowledge base, from which the model answers without being told the
    task.

    Args:
        model (`PeftModel`): A base with a lifelong adapter (`get_peft_model(base, DriftAdapterConfig())`). The adapter
            may be new, or loaded to learn more tasks.
        args ([`DriftTrainingArguments`], *optional*): Trainer's arguments, which apply to each task, and the drift.
        data_collator, train_dataset, eval_dataset, processing_class, compute_metrics and more: As in `Trainer`. A
            `train_dataset` without `tasks` is a single task, whose kind follows from its columns.
        tasks (`list[Task]`, *optional*): The tasks to learn, in order.
        stream (`Iterable[dict]`, *optional*): Instead of tasks, rows that come one after another without saying where
            a task ends: an `IterableDataset`, or anything else that gives rows as dicts. The boundaries are found, and
            each segment between two of them is learned as a task (`segment-1`, `segment-2`, ...), which joins the
            group of an earlier one that it repeats. Rows without a label are answered ([`StreamCallback`]), not
            learned.
        kind (`str`, *optional*): With `stream`: the kind of task that all its rows are learned as.
        columns (`dict[str, str]`, *optional*): With `stream`: role → column, as in [`Task`].
        statistics (`list`, *optional*): Statistics that are measured on each task and stored with it at its commit:
            instances or classes of [`~hf_lifelong.statistics.TaskStatistic`], or names of built-in ones. They are not
            in `args`, which hold only text, because a user can bring their own; those that `args` ask for, as by
            `audit`, come first.

    Raises:
        ValueError: when the model has no lifelong adapter, an argument clashes, or a task cannot be used.
    """

    args: DriftTrainingArguments
    model: Any
    optimizer: Any
    lr_scheduler: Any

    def __init__(
        self,
        model: Any = None,
        args: TrainingArguments | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        *,
        tasks: list[Task] | None = None,
        stream: Iterable[Mapping[str, Any]] | None = None,
        kind: str | None = None,
        columns: Mapping[str, str] | None = None,
        statistics: Iterable[TaskStatistic | type[TaskStatistic] | str] = (),
        **options: Any,
    ) -> None:
        args = args if args is not None else DriftTrainingArguments("trainer_output")
        check_setup(model, args, options)
        args = cast(DriftTrainingArguments, args)
        base, learned = active_config(model).task_type, knowledge_of(model).names
        modality = lifelong_of(model).conductor.modality
        others = {"tasks": tasks, "train_dataset": train_dataset, "eval_dataset": eval_dataset}
        self.stream = row_stream(stream, kind, columns, others, base, modality, processing_class)
        whole = (tasks, train_dataset, eval_dataset)
        self.tasks = [] if self.stream else tasks_of(*whole, learned, base, modality.name)
        if processing_class is not None and not modality.fits(processing_class):
            raise ValueError(
                f"`processing_class` is {processing_class!r:.60}; give the {modality.processor_noun} of the base "
                f"(`{modality.auto_class}`)."
            )
        check_names(self.tasks, [])
        self.statistics = get_statistics([*args.task_statistics(), *statistics])
        if args.push_to_hub:
            # A base without a public name is refused here, not after the first task is trained.
            base_name(active_config(model).base_model_name_or_path, args.hub_base_model)
        self.task_dir = str(args.output_dir)
        self.session: list[str] = []  # tasks that were learned with these arguments
        self._prepared: dict[str, PreparedTask] = {}
        self._user_metrics = options.get("compute_metrics")
        self._user_collator = data_collator
        first = self.tasks[0].train if self.tasks else Dataset.from_dict({})  # of a stream no row is known yet
        super().__init__(
            model,
            args,
            data_collator=data_collator,
            train_dataset=first,
            eval_dataset=(self.tasks[0].validation if self.tasks else None) or first,
            processing_class=processing_class,
            **options,
        )
        if active_config(model).task_type != "CAUSAL_LM":
            # The adapter's loss is a mean over the batch. Trainer would otherwise assume that it is already scaled for
            # gradient accumulation, because the base's forward accepts any keyword.
            self.model_accepts_loss_kwargs = False
        self.snapshots = SnapshotCallback(active_config(model).members)
        self.add_callback(self.snapshots)
        self.add_callback(EpochCallback())
        self._renewal = Renewal(self)

    @property
    def modality(self) -> Modality:
        """What the base takes."""
        return lifelong_of(self.model).conductor.modality

    @property
    def is_sharded(self) -> bool:
        """Whether training shards the model's parameters among processes (FSDP, DeepSpeed)."""
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

    @functools.cached_property
    def evaluator(self) -> Evaluator:
        """Answers data sets with the model."""
        return Evaluator(self.model, self.accelerator, self.args.eval_batch_size, bool(self.args.disable_tqdm))

    def prepared(self, task: Task) -> PreparedTask:
        """A task with its data encoded; each task is prepared once."""
        if task.name not in self._prepared:
            roles = {role for one in self.statistics for role in (*one.columns, *one.optional_columns)}
            self._prepared[task.name] = PreparedTask(
                task,
                self.processing_class,
                active_config(self.model),
                self.args.validation_share,
                roles,
                self.modality.name,
            )
        return self._prepared[task.name]

    def release(self, name: str) -> None:
        """Drops the encoded data of a task."""
        self._prepared.pop(name, None)

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Learns all tasks in order, or the stream to its end.

        Args:
            resume_from_checkpoint (`bool`, *optional*): `True` resumes an earlier run with the same `output_dir`, even
                in the middle of a task, and ends as that run would have ended. If nothing was saved, training starts
                from the beginning. A `stream` must be given from its start again; rows that the earlier run has dealt
                with are skipped.

        Returns:
            `TrainOutput` of the task that was learned last.

        Raises:
            ValueError: when a task cannot be used; then nothing is trained.
            BusyFolderError: when another process is learning in `output_dir`.
        """
        if isinstance(resume_from_checkpoint, str) and os.path.realpath(resume_from_checkpoint) != os.path.realpath(
            self.output_dir
        ):
            raise ValueError(
                f"`resume_from_checkpoint` is {resume_from_checkpoint!r}; a stream resumes from its `output_dir`. "
                "Give `True`."
            )
        if trial is not None:
            raise ValueError("`trial`: hyperparameter search is not supported for a stream of tasks.")
        alone = sole_writer(stream_folder(self.output_dir)) if self.args.should_save else nullcontext()
        learn: Any = learn_stream if self.stream is None else learn_unannounced
        with alone:
            return learn(self, bool(resume_from_checkpoint), ignore_keys_for_eval)

    def metrics_of(self, task: PreparedTask) -> Callable[[EvalPrediction], dict[str, float]] | None:
        """The function that computes metrics while a task is trained: the task's, else the trainer's, else the
        kind's."""
        is_own = task.task.compute_metrics is not None or self._user_metrics is None
        return task.compute_metrics if is_own else self._user_metrics

    def check_task(self, task: PreparedTask) -> None:
        """Refuses a task that this trainer could not train to the end, or whose evaluation does not give
        `metric_for_best_model` (`ValueError`)."""
        check_steps(self, self.args, self.snapshots.members, task)
        check_best_metric(self.args, task, self.metrics_of(task))
        check_smoothing(self.args, task)
        self.check_fairness(task)

    def train_task(
        self, task: PreparedTask, checkpoint: Checkpoint | None, ignore_keys_for_eval: list[str] | None = None
    ) -> Trained:
        """One run of `Trainer.train` on the task for which the working adapter is open."""
        self._start_task(task)
        self.snapshots.begin(task.name, self.knowledge.names, self.task_dir, checkpoint)
        try:
            output = super().train(str(checkpoint.folder) if checkpoint else None, None, ignore_keys_for_eval)
            make_whole(self.model, self.model_wrapped)
        finally:
            self.is_in_train = False
        return Trained(self.snapshots.snapshots, output)

    def _start_task(self, task: PreparedTask) -> None:
        """Resets everything that a task must not inherit from the previous one."""
        self.watch_fairness(None)
        lifelong_of(self.model).still = not self.args.drift_dropout
        self.task_dir = str(task_folder(self.output_dir, task.name))
        self.train_dataset, self.eval_dataset = task.seen, task.held_out
        collator = self._user_collator or task.collator()
        self.data_collator = collator if collator is not None else self.data_collator
        self.label_names = list(task.task_kind.targets)
        self.compute_metrics = self.metrics_of(task)
        self._renewal.begin()
        self.start_fairness(task)

    def save_adapter(self, folder: Path) -> None:
        """Writes the adapter folder: adapter, tokenizer or image processor, accuracy matrix (JSON and picture) and
        card."""
        self.model.save_pretrained(str(folder))
        keep_active(self.model, folder)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(str(folder))
        if self.matrix is not None:
            write_matrix(self.matrix, folder)
        write_card(self, folder)  # last, because it replaces PEFT's card and mentions the picture

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Scores every learned task of this trainer without telling the model which task an input belongs to.

        While a task is trained this is `Trainer.evaluate`: it scores the working adapter on the task's validation
        data.

        Returns:
            For each task its metrics, oracle score and retrieval accuracy. Over all tasks: average accuracy, learning
            accuracy, BWT, forgetting, FWT (if an earlier task had the same labels), retrieval and oracle accuracy, and
            what statistics say of all tasks together. All names are prefixed.
        """
        if lifelong_of(self.model).task is not None:
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        if eval_dataset is not None:
            raise ValueError(
                "`eval_dataset` cannot be given outside of training, when the test data of the tasks is scored. Give "
                "the data as `test` of its `Task`."
            )
        learned = [task for task in self.tasks if task.name in self.knowledge.names]
        if self.stream is not None:
            raise ValueError(
                "The rows of `stream` are not kept, so nothing can be scored with them. Each segment was scored when "
                "it was learned (`trainer.matrix`); give `tasks` with data of your own to score the model again."
            )
        if not learned:
            raise ValueError("This trainer has not learned any task yet; call `train()` first.")
        tasks = [self.prepared(task) for task in learned]
        scores = measure(self.model, self.evaluator, tasks) | measure_overall(self, tasks)
        metrics = {f"{metric_key_prefix}_{key}": value for key, value in scores.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def predict(
        self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """While a task is trained, `Trainer.predict` with the working adapter. Outside of training, use the pipeline
        or the model's own `predict`, because the answers of different tasks do not fit into one array.

        Raises:
            ValueError: outside of training; says what to call instead.
        """
        if lifelong_of(self.model).task is None:
            raise ValueError(
                "`predict` of a trainer works only while a task is trained. For answers, call "
                '`pipeline("lifelong", model=trainer.model, tokenizer=tokenizer)(texts)`, or `trainer.model.predict` '
                "on a batch of tensors. For scores, give the data as `test` of its `Task` and call "
                "`trainer.evaluate()`."
            )
        return super().predict(test_dataset, ignore_keys, metric_key_prefix)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list, Any]:
        if self.snapshots.ended:
            # Trainer would train on when it resumes at the last step in the middle of an epoch.
            return [], None
        return super().get_batch_samples(epoch_iterator, num_batches, device)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        before = self.optimizer
        optimizer = super().create_optimizer(model)
        if optimizer is not before:
            optimized = {id(p) for group in optimizer.param_groups for p in group["params"]}
            missing = [n for n, p in self.model.named_parameters() if p.requires_grad and id(p) not in optimized]
            if missing:
                raise RuntimeError(
                    f"{len(missing)} trainable parameters are not in the optimizer (first: `{missing[0]}`). Give no "
                    "`optimizers`; each task needs its own."
                )
            optimizer.register_step_pre_hook(
                gradient_noise_hook(self._noise_share, self._noise_seed, lambda: self.snapshots.task)
            )
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        if not self.args.cyclic_learning_rate:
            return super().create_scheduler(num_training_steps, optimizer)
        ends = self.snapshots.plan(num_training_steps, self.args.first_cycle)
        factor = functools.partial(
            learning_rate_factor, ends=ends, warmup=self.args.get_warmup_steps(num_training_steps)
        )
        self.lr_scheduler = LambdaLR(optimizer or self.optimizer, factor)
        note_scheduler(self)
        return self.lr_scheduler

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        super().save_model(output_dir, _internal_call)
        if _internal_call or not self.args.should_save:
            return
        if self.matrix is not None:
            write_matrix(self.matrix, Path(output_dir or self.output_dir))
        write_card(self, output_dir or self.output_dir)

    def _noise_share(self) -> float:
        return self.args.gradient_noise * self.snapshots.scale

    def _noise_seed(self) -> int:
        # Ranks with sharded parameters (FSDP, ZeRO) need different noise: with equal noise, shards would be
        # correlated.
        rank = self.accelerator.process_index if self.is_sharded else 0
        return zlib.crc32(f"{self.args.seed}/{self.snapshots.task}/{self.state.global_step}/{rank}".encode())

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        # The only place where Trainer writes a model. Trainer looks for the best model at the top of a checkpoint.
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            keep_active(self.model, Path(output_dir or self.output_dir))

    def _load_callback_state(self) -> None:
        # A resumed task must end like one that was not killed, with the user's own callbacks. Trainer would replace
        # them by new objects.
        load_states([*self.callback_handler.callbacks, self.control], self.state.stateful_callbacks)  # type: ignore[arg-type]

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        with self._every_row_in_order():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        with self._every_row_in_order():
            return super().get_test_dataloader(test_dataset)

    @contextmanager
    def _every_row_in_order(self) -> Iterator[None]:
        # Answers are scored beside the rows that they belong to. Trainer would group rows by length, and drop the
        # last ones, in an evaluation as in training.
        whole = {"train_sampling_strategy": "sequential", "dataloader_drop_last": False}
        given = {name: getattr(self.args, name) for name in whole}
        vars(self.args).update(whole)
        try:
            yield
        finally:
            vars(self.args).update(given)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        sampler = super()._get_train_sampler(train_dataset)
        if not isinstance(sampler, LengthGroupedSampler):
            return sampler
        return RepeatableGrouping(sampler, zlib.crc32(f"{self.args.seed}/{self.snapshots.task}".encode()))

    def _get_output_dir(self, trial: Any) -> str:
        # Trainer asks only here where checkpoints go. Checkpoints of different tasks must not mix.
        return self.task_dir
