"""Prepares the data of a task for training and scoring: splits it, finds columns and labels, and encodes texts."""

from __future__ import annotations

import copy
import functools
import re
import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import EvalPrediction

from ..adapter import DriftAdapterConfig
from ..knowledge import LONGEST_NOTE, LearnedTask, TaskData
from ..objectives import TaskKind, check_enough, get_kind, head_kind
from ..storage import check_kind
from ..utils.texts import suggestion
from .modules import with_module
from .parts import Part, draw, spread_over
from .tasks import MODULES, Task


@dataclass(frozen=True, eq=False)
class Split:
    """Examples of a task and the features made from them (several per example if contexts are long).

    A split is equal only to itself and can be hashed, so results can be cached under it.

    Args:
        examples (`datasets.Dataset`): Rows as the user gave them; for text generation, with their prompts.
        features (`datasets.Dataset`): Encoded rows; `example` is the index of each row's example in `examples`.
    """

    examples: Dataset
    features: Dataset


class PreparedTask:
    """A task with its labels found, its columns checked and its data encoded.

    Args:
        task (`Task`): What the user handed in.
        tokenizer: The base model's tokenizer, or its image processor.
        config (`DriftAdapterConfig`): Gives the maximum lengths.
        validation_share (`float`): Share of the training data that is split off if there is no validation data.
        roles (`Collection[str]`): Roles of columns that statistics read.
        modality (`str`): Name of what the base takes.

    Attributes:
        row_numbers (`dict[str, Sequence[int]]`): For the rows of `"train"` and of `"validation"`, the position of each
            in the data that the user gave.
        roles (`dict[str, str]`): Role → column, for the columns that the task names and those that its kind finds.
        samples (`dict`): The rows on which statistics were fitted, by part and limit.

    Raises:
        ValueError: for missing columns, labels outside the names, too little data.
    """

    def __init__(
        self,
        task: Task,
        tokenizer: Any,
        config: DriftAdapterConfig,
        validation_share: float,
        roles: Collection[str] = (),
        modality: str = "text",
    ) -> None:
        self.task_kind: TaskKind = get_kind(task.kind)
        others = {
            role: column for role, column in task.columns.items() if role in set(roles) - {*self.task_kind.columns}
        }
        task = replace(task, columns={role: task.columns[role] for role in task.columns.keys() - others.keys()})
        if unread := sorted(task.columns.keys() - self.task_kind.columns.keys()):
            hint = suggestion(unread[0], self.task_kind.columns) or (
                f"; a {task.kind} task has the roles {', '.join(self.task_kind.columns)}, and others are read by "
                "statistics: `fairness=` in the arguments reads `group`, and `statistics=[...]` of the trainer what "
                "each statistic names."
            )
            raise ValueError(f"Task `{task.name}`: columns has the unknown role {unread[0]!r}{hint}")
        self.task, self.name, self.kind = task, task.name, task.kind
        self.samples: dict[tuple[str, int], tuple[list[int], Split]] = {}
        self.tokenizer, self.config = tokenizer, config
        self.generates = self.task_kind.task_type == "CAUSAL_LM"
        try:
            check_kind(task.kind, str(config.task_type), modality)
            if tokenizer is not None:
                self.task_kind.prepare_tokenizer(tokenizer)
            whole = Part.whole("train", task.train)
            train, validation = self._split(whole, validation_share)
            with whole.located():
                self.labels = tuple(self._label_names(whole.data))
            self.width = self.task_kind.head_width(self.labels)
            self.train_examples = train.data
            self.row_numbers = {"train": train.rows, "validation": validation.rows}
            self.columns = self.task_kind.resolve_columns(train.data, task.columns)
            self.roles = {**self.columns, **others}
            if self.width and (role := self.task_kind.label_role) is not None:
                with whole.located():
                    check_enough(self.columns[role], self.labels, 2 if task.extends is None else 1)
            with train.located():
                self.constants = self.task_kind.constants(train.data, self.columns)
            self.train = self._encode(train, training=True)
            self.validation = self._scored(validation)
            # Scores are measured on it. It is encoded here so that bad data is refused before training.
            test = None if task.test is None else self._at_most(Part.whole("test", task.test), task.max_test_samples)
            self.test = self.validation if test is None else self._scored(test.map(self._written))
            self._check_scores()
        except ValueError as error:
            raise ValueError(f"Task `{task.name}`: {error}") from error

    def _label_names(self, data: Dataset) -> list[str]:
        """The task's labels; of a task that adds labels to another, those that occur: the others are not its own."""
        kind, columns = self.task_kind, self.task.columns
        names = kind.label_names(data, columns)
        if self.task.extends is None or kind.is_tokenised(data):  # whose labels are positions in all names
            return names
        occurring = set(kind.references(data, kind.resolve_columns(data, columns), names))
        return [name for name in names if name in occurring]

    @functools.cached_property
    def seen(self) -> Any:
        """The training rows as training sees them: after the task's transform, if it has one."""
        transform, augmented = self.task.transform, self.task_kind.modality.augmented
        if transform is None or augmented is None:
            return self.train
        return augmented(self.train, transform, self.seed)

    @functools.cached_property
    def asked(self) -> Dataset:
        """The training rows in the form in which the model is asked, without answers. Signatures are fitted on
        them."""
        return self._features(self.train_examples, training=False) if self.generates else self.train

    def asked_classes(self, limit: int) -> torch.Tensor | None:
        """The class of each row of `asked`, `[n]`, int64; if there are more than `limit` rows, of `limit` rows spread
        evenly over them. `None` if texts have no class."""
        if not self.task_kind.one_label:
            return None
        labels = self.asked["labels"]
        return torch.tensor([labels[row] for row in spread_over(len(labels), limit)])

    @functools.cached_property
    def held_out(self) -> Dataset:
        """The validation rows with their targets, for evaluation while the task is trained."""
        return self._features(self.validation.examples, training=True) if self.generates else self.validation.features

    @property
    def source(self) -> TaskData:
        """Facts about the data that `datasets` recorded when it was loaded."""
        info = self.task.train.info
        on_hub = re.search(r"hf://datasets/([\w.-]+/[\w.-]+)@", " ".join(info.download_checksums or {}))
        # `datasets` names data from single files after their format.
        name = info.dataset_name if info.dataset_name != info.builder_name else None
        config = info.config_name if on_hub and info.config_name != "default" else None
        texts = {"name": name, "hub_id": on_hub and on_hub[1], "config": config, "license": info.license}
        return TaskData(
            **{key: text[:LONGEST_NOTE] if text else None for key, text in texts.items()},
            rows=len(self.train_examples),
            scored_on="validation" if self.task.test is None else "test",
        )

    def _split(self, whole: Part, share: float) -> tuple[Part, Part]:
        """Training and validation rows. Validation rows are split off if the task has none."""
        task = self.task
        train = self._at_most(whole, task.max_train_samples)
        if task.validation is not None:
            validation = Part.whole("validation", task.validation)
        elif len(train.rows) < 2:
            raise ValueError("`train` has one row, so no validation part can be split off; give more rows.")
        else:
            size = min(max(round(len(train.rows) * share), 1), len(train.rows) - 1)
            training_rows, validation_rows = draw(self._classes(train), len(train.rows) - size)
            train, validation = train.select(training_rows), train.select(validation_rows)
        return train.map(self._written), validation.map(self._written)

    def _at_most(self, part: Part, most: int | None) -> Part:
        if most is None or most >= len(part.rows):
            return part
        return part.select(draw(self._classes(part), most)[0])

    def _classes(self, part: Part) -> Sequence[Any]:
        return self.task_kind.classes(part.data, self.task.columns) or [None] * len(part.rows)

    def _written(self, data: Dataset) -> Dataset:
        return self.task_kind.prepare(data, self.task.columns, self.task.template)

    def _scored(self, part: Part) -> Split:
        with part.located():
            self.task_kind.check_names(part.data, self.train_examples, self.columns, self.labels)
        return Split(part.data, self._encode(part, training=False))

    def _encode(self, part: Part, training: bool) -> Dataset:
        with part.located():
            if self.task_kind.is_tokenised(part.data):  # encoding does not check the answers of tokenised data
                self.task_kind.references(part.data, self.columns, self.labels)
            return self._features(part.data, training)

    def encoded(self, data: Dataset) -> Dataset:
        """Rows in the form in which the model is asked, each with the index of its `example`."""
        return self._features(data, training=False)

    def _features(self, data: Dataset, training: bool) -> Dataset:
        if self.tokenizer is None and not self.task_kind.is_tokenised(data):
            noun = self.task_kind.modality.processor_noun
            raise ValueError(
                f"`processing_class` is missing, and the data is not tokenised; give the {noun} to `DriftTrainer`."
            )
        lengths = self.config.max_length, self.config.stride
        return self.task_kind.encode(
            data, self.columns, self.labels, self.tokenizer, *lengths, training, self.constants
        )

    @property
    def seed(self) -> int:
        """A seed of the task's own, which does not depend on other tasks."""
        return zlib.crc32(self.name.encode()) % 2**20

    def collator(self) -> Any:
        """A collator that pads a batch of this kind's features. Kinds with heads are padded on the kind's side,
        whatever the tokenizer's default."""
        if self.tokenizer is None:
            return None
        if self.generates or not self.task_kind.modality.padded:
            return self.task_kind.collator(self.tokenizer)
        tokenizer = copy.copy(self.tokenizer)  # the user's tokenizer must not change
        tokenizer.padding_side = self.task_kind.padding_side
        return self.task_kind.collator(tokenizer)

    def batch(self, rows: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Some rows as tensors, padded on the side that the kind asks for."""
        return self.task_kind.modality.batch(rows, self.tokenizer, self.task_kind.padding_side)

    def _check_scores(self) -> None:
        """Refuses what could not be scored after training: rows, or an unusable module."""
        for part, split in (("validation", self.validation), ("test", self.test)):
            try:
                self.scores_of_references(split)
            except ValueError as error:
                raise ValueError(f"the {part} rows cannot be scored: {error}") from error

    def scores_of_references(self, split: Split) -> dict[str, float]:
        """Metrics of the kind, and of the task's module, for the right answers to rows."""
        references = self.task_kind.references(split.examples, self.columns, self.labels)
        answers = [self.task_kind.right_answer(reference) for reference in references]
        return with_module(self.task_kind.score(answers, references), self.task, self.labels, answers, references)

    def learned(
        self, members: int, examples: int, of_class: torch.Tensor | None = None, started_from: str | None = None
    ) -> LearnedTask:
        """The task's record in the manifest once it is learned, before it has a score or joins a group.

        Args:
            members (`int`): Number of snapshots.
            examples (`int`): Number of texts that the signature was fitted on.
            of_class (`Tensor`, *optional*): The class of each, if inputs have one.
            started_from (`str`, *optional*): The task that training started from.
        """
        classes = len(self.labels) if self.task_kind.one_label else 1
        of_class = torch.zeros(examples, dtype=torch.long) if classes == 1 else of_class
        counts = [] if of_class is None else torch.bincount(of_class, minlength=classes).tolist()
        return LearnedTask(
            name=self.name,
            kind=self.kind,
            labels=self.labels,
            width=self.width,
            members=members,
            group=self.name,
            examples=examples,
            classes=classes,
            class_examples=tuple(counts),
            started_from=started_from,
            template=self.task.template,
            data=self.source,
            constants=self.constants,
            extends=self.task.extends,
        )

    @property
    def compute_metrics(self) -> Callable[[EvalPrediction], dict[str, float]] | None:
        """Computes metrics while the task is trained: the user's function, or the kind's metrics. `None` on a language
        model, whose metrics would need the logits of all tokens; it reports only the loss."""
        user_metrics = self.task.compute_metrics
        if user_metrics is not None and not isinstance(user_metrics, MODULES):
            return user_metrics
        return None if self.generates else self.own_metrics

    def own_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """Metrics of the kind, and of the task's module, for the working adapter on the validation data, from logits
        padded with -100."""
        kind = head_kind(self.kind)
        logits = torch.as_tensor(np.asarray(prediction.predictions), dtype=torch.float32)
        if not bool(logits.isfinite().all()):
            raise ValueError(
                f"Task `{self.name}`: the working adapter gives NaN or infinite logits, so training has diverged. "
                "Lower `learning_rate`, or set `max_grad_norm`."
            )
        mask = logits[..., 0] != -100 if logits.dim() == 3 else torch.ones(len(logits), 1, dtype=torch.bool)
        factor, summand = kind.scaling(self.constants)
        scores = kind.distributions(factor * logits + summand, mask)[0].numpy()
        split = self.validation
        decoded = kind.decode(scores, split.features, split.examples, self.columns, self.labels, self.constants)
        references = kind.references(split.examples, self.columns, self.labels)
        answers = [answer["answer"] for answer in decoded]
        return with_module(kind.score(answers, references), self.task, self.labels, answers, references)
