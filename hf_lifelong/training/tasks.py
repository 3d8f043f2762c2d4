"""Tasks: what a user hands in, and the same made ready for training."""

from __future__ import annotations

import copy
import functools
import itertools
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from evaluate import EvaluationModule
from transformers import EvalPrediction

from ..adapter import DriftAdapterConfig
from ..evaluation.checks import is_name
from ..knowledge import LONGEST_NOTE, UNKNOWN, LearnedTask, TaskData
from ..objectives import TaskKind, get_objective, head_objective, kind_names, kinds_on
from ..objectives.rows import MissingColumnError
from ..settings import check_kind
from .modules import MODULES, with_module
from .parts import Part, draw


@dataclass
class Task:
    """One data set and one objective.

    Args:
        name (`str`): Unique name of the task.
        kind (`str`): `"text-classification"`, `"text-regression"`, `"question-answering"` or `"token-classification"`;
            on a causal language model `"text-generation"`; or the name of a kind of your own ([`register_kind`]).
        train (`datasets.Dataset`): Training data; only this is learned from. Columns that its format hides are not
            used, and a transform must be applied with `map` first; likewise of the others.
        validation (`datasets.Dataset`, *optional*): For grouping and early stopping. Split off the
            training data where it is absent.
        test (`datasets.Dataset`, *optional*): For scores only; nothing is chosen by it. A task without it is scored
            on its validation part.
        columns (`dict[str, str]`, *optional*): Role → column, where a column has another name than the kind expects
            (`text`, `text_pair`, `label`; `question`, `context`, `answers`; `tokens`, `tags`; `prompt`, `answer`).
        compute_metrics (`Callable` or `evaluate.EvaluationModule`, *optional*): A function as in `Trainer`, for
            evaluations while this task is trained. Or a module of the `evaluate` library, also of `evaluate.combine`:
            its numbers stand beside the kind's own, while the task is trained (not on a language model, which would
            have to generate) and whenever the stream is scored. It gets answers as the field writes them: label ids,
            or names where it takes texts; SQuAD's layout; lists of tags; texts.
        template (`str`, *optional*): On a language model: what makes a prompt of a row's columns, in the spelling of
            `str.format`, such as `"{title}: {body}"`. Where the tokenizer has a chat template, prompts go through it
            in any case, and must not contain it.
        max_train_samples, max_test_samples (`int`, *optional*): Rows of `train` and `test` at most, drawn at random,
            of each class its share; label names are those of all rows.
    """

    name: str
    kind: str
    train: Dataset
    validation: Dataset | None = None
    test: Dataset | None = None
    columns: dict[str, str] = field(default_factory=dict)
    compute_metrics: Callable[[EvalPrediction], dict[str, float]] | EvaluationModule | None = None
    template: str | None = None
    max_train_samples: int | None = None
    max_test_samples: int | None = None

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise ValueError(f"`name` of a task is {self.name!r:.100}; give printable characters, one at least.")
        if self.name == UNKNOWN:
            raise ValueError(f"`name` of a task is {UNKNOWN!r}, which is what inputs of no task are answered with.")
        if self.kind not in kind_names():
            raise ValueError(
                f"`kind` of task `{self.name}` is {self.kind!r}; choose one of {kind_names()}, or register a kind of "
                "your own first (`hf_lifelong.register_kind`)."
            )
        if not isinstance(self.columns, dict) or not all(
            isinstance(part, str) for pair in self.columns.items() for part in pair
        ):
            raise ValueError(f"`columns` of task `{self.name}` is {self.columns!r:.100}; give columns' names by role.")
        if not isinstance(self.template, str | None):
            raise ValueError(f"`template` of task `{self.name}` is {self.template!r:.100}; give a text.")
        if self.template is not None and get_objective(self.kind).task_type != "CAUSAL_LM":
            raise ValueError(
                f"`template` of task `{self.name}`: only tasks of language models have prompts to write, not those of "
                f"{self.kind}."
            )
        for key in ("max_train_samples", "max_test_samples"):
            check_samples(getattr(self, key), f"`{key}` of task `{self.name}`")
        given = self.compute_metrics
        if given is not None and not callable(given) and not isinstance(given, MODULES):
            raise ValueError(
                f"`compute_metrics` of task `{self.name}` is {given!r:.60}; give a function as `Trainer` takes it, or "
                "what `evaluate.load` or `evaluate.combine` returned."
            )
        for split in ("train", "validation", "test"):
            data = getattr(self, split)
            if data is None and split != "train":
                continue
            if not isinstance(data, Dataset):
                raise ValueError(
                    f"`{split}` of task `{self.name}` must be a `datasets.Dataset`, not {type(data).__name__}. Of a "
                    '`DatasetDict` give one split, such as `data["train"]`; streaming data cannot be split and '
                    "counted."
                )
            if not len(data):
                raise ValueError(f"`{split}` of task `{self.name}` is empty; give at least one row.")


@dataclass
class Split:
    """Examples of a task and the features made of them (several per example where contexts are long)."""

    examples: Dataset
    features: Dataset


class PreparedTask:
    """A task with its labels found, its columns checked and its data encoded.

    Args:
        task (`Task`): What the user handed in.
        tokenizer: The base model's tokenizer.
        config (`DriftAdapterConfig`): Gives lengths.
        validation_share (`float`): For tasks without validation data.

    Raises:
        ValueError: for missing columns, labels outside the names, too little data.
    """

    def __init__(self, task: Task, tokenizer: Any, config: DriftAdapterConfig, validation_share: float) -> None:
        self.task, self.name, self.kind = task, task.name, task.kind
        self.tokenizer, self.config = tokenizer, config
        self.objective: TaskKind = get_objective(task.kind)
        self.generates = self.objective.task_type == "CAUSAL_LM"
        try:
            check_kind(task.kind, str(config.task_type))
            if tokenizer is not None:
                self.objective.prepare_tokenizer(tokenizer)
            whole = Part.whole("train", task.train)
            train, validation = self._split(whole, validation_share)
            with whole.located():
                self.labels = tuple(self.objective.label_names(whole.data, task.columns))
            self.width = self.objective.head_width(self.labels)
            self.train_examples = train.data
            self.columns = self.objective.resolve_columns(train.data, task.columns)
            with train.located():
                self.constants = self.objective.constants(train.data, self.columns)
            self.train = self._encode(train, training=True)
            self.validation = self._scored(validation)
            # What scores are measured on; encoded now, so that bad data is refused before anything is trained.
            test = None if task.test is None else self._at_most(Part.whole("test", task.test), task.max_test_samples)
            self.test = self.validation if test is None else self._scored(test.map(self._written))
        except ValueError as error:
            raise ValueError(f"Task `{task.name}`: {error}") from error
        if isinstance(task.compute_metrics, MODULES):
            self.scores_of_references()  # one that cannot be used is refused before training

    @functools.cached_property
    def asked(self) -> Dataset:
        """The training rows as the model is asked them, without answers: what a signature is fitted on."""
        return self._features(self.train_examples, training=False) if self.generates else self.train

    @functools.cached_property
    def held_out(self) -> Dataset:
        """The validation rows with their targets, for evaluation while the task is trained."""
        return self._features(self.validation.examples, training=True) if self.generates else self.validation.features

    @property
    def source(self) -> TaskData:
        """What is known of the data, from what `datasets` noted when it was loaded."""
        info = self.task.train.info
        found = re.search(r"hf://datasets/([\w.-]+/[\w.-]+)@", " ".join(info.download_checksums or {}))
        # Files that were given one by one are called after their format.
        name = info.dataset_name if info.dataset_name != info.builder_name else None
        config = info.config_name if found and info.config_name != "default" else None
        texts = {"name": name, "hub_id": found and found[1], "config": config, "license": info.license}
        return TaskData(
            **{key: text[:LONGEST_NOTE] if text else None for key, text in texts.items()},
            rows=len(self.train_examples),
            scored_on="validation" if self.task.test is None else "test",
        )

    def _split(self, whole: Part, share: float) -> tuple[Part, Part]:
        """Training and validation part, which is split off where it was not given."""
        task = self.task
        train = self._at_most(whole, task.max_train_samples)
        if task.validation is not None:
            validation = Part.whole("validation", task.validation)
        elif len(train.rows) < 2:
            raise ValueError("`train` has one row, so no validation part can be split off; give more rows.")
        else:
            size = min(max(round(len(train.rows) * share), 1), len(train.rows) - 1)
            kept, split_off = draw(self._classes(train), len(train.rows) - size)
            train, validation = train.select(kept), train.select(split_off)
        return train.map(self._written), validation.map(self._written)

    def _at_most(self, part: Part, most: int | None) -> Part:
        if most is None or most >= len(part.rows):
            return part
        return part.select(draw(self._classes(part), most)[0])

    def _classes(self, part: Part) -> Sequence[Any]:
        return self.objective.classes(part.data, self.task.columns) or [None] * len(part.rows)

    def _written(self, data: Dataset) -> Dataset:
        return self.objective.prepare(data, self.task.columns, self.task.template)

    def _scored(self, part: Part) -> Split:
        with part.located():
            self.objective.check_names(part.data, self.train_examples, self.columns, self.labels)
        return Split(part.data, self._encode(part, training=False))

    def _encode(self, part: Part, training: bool) -> Dataset:
        with part.located():
            if self.objective.is_tokenised(part.data):  # encoding does not read its answers
                self.objective.references(part.data, self.columns, self.labels)
            return self._features(part.data, training)

    def _features(self, data: Dataset, training: bool) -> Dataset:
        if self.tokenizer is None and not self.objective.is_tokenised(data):
            raise ValueError(
                "the data is not tokenised and `processing_class` is missing; give the tokenizer to `DriftTrainer`."
            )
        lengths = self.config.max_length, self.config.stride
        return self.objective.encode(
            data, self.columns, self.labels, self.tokenizer, *lengths, training, self.constants
        )

    @property
    def seed(self) -> int:
        """Differs between tasks, and does not depend on which other tasks there are."""
        return zlib.crc32(self.name.encode()) % 2**20

    def collator(self) -> Any:
        """Pads a batch of this kind's features; those of heads on the right, whatever the tokenizer prefers."""
        if self.tokenizer is None:
            return None
        if self.generates:
            return self.objective.collator(self.tokenizer)
        tokenizer = copy.copy(self.tokenizer)  # the user's own goes on as it is
        tokenizer.padding_side = self.objective.padding_side
        return self.objective.collator(tokenizer)

    def pad(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        """Tensors of some rows, padded as the kind is asked."""
        return dict(self.tokenizer.pad(batch, return_tensors="pt", padding_side=self.objective.padding_side))

    def scores_of_references(self) -> dict[str, float]:
        """The kind's metrics, and the task's module's, of the right answers to the test part."""
        references = self.objective.references(self.test.examples, self.columns, self.labels)
        answers = [self.objective.right_answer(reference) for reference in references]
        return with_module(self.objective.score(answers, references), self, answers, references)

    def learned(self, members: int, examples: int, started_from: str | None = None) -> LearnedTask:
        """What the manifest says of the task once it is learned, before it has a score or joins a group.

        Args:
            members (`int`): Snapshots that were kept.
            examples (`int`): Texts that the signature was fitted on.
            started_from (`str`, *optional*): The task that training started from.
        """
        return LearnedTask(
            name=self.name,
            kind=self.kind,
            labels=self.labels,
            width=self.width,
            members=members,
            group=self.name,
            examples=examples,
            classes=len(self.labels) if self.objective.one_label else 1,
            started_from=started_from,
            template=self.task.template,
            data=self.source,
            constants=self.constants,
        )

    @property
    def compute_metrics(self) -> Callable[[EvalPrediction], dict[str, float]] | None:
        """What is computed while the task is trained: the function it was given, or the kind's metrics. None beside
        the loss on a language model, where they would need the logits of all tokens."""
        given = self.task.compute_metrics
        if given is not None and not isinstance(given, MODULES):
            return given
        return None if self.generates else self.own_metrics

    def own_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """The kind's metrics, and the task's module's, of the working adapter on the validation part, from logits
        padded with -100."""
        objective = head_objective(self.kind)
        logits = torch.as_tensor(np.asarray(prediction.predictions), dtype=torch.float32)
        if not bool(logits.isfinite().all()):
            raise ValueError(
                f"Task `{self.name}`: the working adapter gives NaN or infinite logits, so training has diverged. "
                "Lower `learning_rate`, or set `max_grad_norm`."
            )
        mask = logits[..., 0] != -100 if logits.dim() == 3 else torch.ones(len(logits), 1, dtype=torch.bool)
        factor, summand = objective.scaling(self.constants)
        scores = objective.distributions(factor * logits + summand, mask)[0].numpy()
        split = self.validation
        found = objective.decode(scores, split.features, split.examples, self.columns, self.labels, self.constants)
        references = objective.references(split.examples, self.columns, self.labels)
        answers = [answer["answer"] for answer in found]
        return with_module(objective.score(answers, references), self, answers, references)


def check_names(tasks: list[Task], known: list[str]) -> None:
    """Refuses names that stand twice or that the adapter has learned already.

    Raises:
        ValueError: names the task.
    """
    seen: set[str] = set()
    for task in tasks:
        if task.name in seen:
            raise ValueError(f"`tasks` names `{task.name}` twice; give each task its own name.")
        if task.name in known:
            raise ValueError(
                f"`tasks` names `{task.name}`, which this adapter has learned already. To teach it more of the same, "
                "give the new data its own name: it joins the old group by itself when it is the same task."
            )
        seen.add(task.name)


def check_samples(value: Any, what: str) -> None:
    """Refuses what is no number of rows (`ValueError`)."""
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise ValueError(f"{what} is {value!r}; give an integer of at least 1.")


def single_task(train: Any, validation: Any, known: list[str], task_type: str | None) -> Task:
    """The task that `train_dataset=` stands for: its kind is read from its columns.

    Args:
        task_type (`str`): What the base is, as the adapter's configuration says.
        known (`list[str]`): Names of tasks that the adapter has learned; the new one is named otherwise.

    Raises:
        ValueError: when the data is no `datasets.Dataset`, is empty, or its columns fit no kind, or several.
    """
    if not isinstance(train, Dataset) or not len(train):
        what = "is empty" if isinstance(train, Dataset) else f"is a `{type(train).__name__}`"
        raise ValueError(f'`train_dataset` {what}; give a `datasets.Dataset` with rows, such as `data["train"]`.')
    seen = Part.whole("train_dataset", train).data
    every = kinds_on(task_type)
    kinds = every if len(every) == 1 else kinds_of(seen, every)
    if len(kinds) != 1:
        fits = f"fit several kinds of task ({', '.join(kinds)})" if kinds else "fit no kind of task"
        raise ValueError(
            f"`train_dataset` has the columns {sorted(seen.column_names)}, which {fits}. Give "
            f'`tasks=[Task("name", "{(kinds or every)[0]}", train_dataset, columns={{...}})]` instead.'
        )
    names = itertools.chain(["task"], (f"task-{i}" for i in itertools.count(2)))
    return Task(next(name for name in names if name not in known), kinds[0], train, validation)


def kinds_of(data: Dataset, kinds: list[str]) -> list[str]:
    """Those of some kinds whose columns a data set has under their default names; where no types fit, the first whose
    names do, which can say what is wrong with them."""
    fitting, named = [], []
    for kind in kinds:
        try:
            get_objective(kind).recognise(data)
        except MissingColumnError:
            continue
        except ValueError:
            named.append(kind)
        else:
            fitting.append(kind)
    return fitting or named[:1]
