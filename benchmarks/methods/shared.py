"""What the rivals have in common: one backbone with one adapter, one head over all label names, one over spans.

Every rival is told whether a label or a span is asked for, and nothing else about the task of an input: a label is the
likeliest one among those of all tasks learned so far. Tasks with equal label names share their outputs. A stream is of
texts or of images.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, Trainer, TrainingArguments, set_seed

from hf_lifelong import DriftAdapterConfig, Task
from hf_lifelong.adapter.forward import masked_mean, stack_padded
from hf_lifelong.evaluation import AccuracyMatrix
from hf_lifelong.objectives import MODEL_INPUTS, head_kind, modality_named
from hf_lifelong.training import PreparedTask, Split, majority

NO_TARGET = -100
INPUTS = (*MODEL_INPUTS, *modality_named("image").inputs)
# Query and value, as the layers of encoders of texts and of images call them.
LORA = {"r": 8, "lora_alpha": 16, "lora_dropout": 0.1, "target_modules": ["query", "value", "q_proj", "v_proj"]}


@dataclass(frozen=True)
class Setting:
    """What every method of a cell is given alike, and the hyperparameters chosen for it.

    Args:
        model (`str`): Name or folder of the backbone.
        seed (`int`): Seed.
        budget (`dict`): `epochs`, `batch_size`; of texts `max_length` and `stride`, of images `side` in pixels.
        chosen (`dict`): The method's own hyperparameters, `learning_rate` among them.
    """

    model: str
    seed: int
    budget: dict[str, Any]
    chosen: dict[str, Any]


@dataclass
class Result:
    """What a method gives on a stream.

    Args:
        matrix (`AccuracyMatrix`): Its scores, without task id unless the method needs one.
        bytes_per_task (`list[int]`): What it stores of each task, beside the backbone.
        seconds (`float`): Of training, without the scoring.
        forwards (`float`): Cost of one answer, in forward passes of the backbone.
        beside (`dict`): Further figures.
    """

    matrix: AccuracyMatrix
    bytes_per_task: list[int]
    seconds: float
    forwards: float = 1.0
    beside: dict[str, Any] = field(default_factory=dict)


def prepare(tasks: Sequence[dict[str, Any]], setting: Setting) -> list[PreparedTask]:
    """The tasks as every method reads them: labels found, texts tokenised, images checked."""
    if side := setting.budget.get("side"):
        sizes = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
        processor = AutoImageProcessor.from_pretrained(setting.model, **sizes)
        return [PreparedTask(Task(**task), processor, DriftAdapterConfig(), 0.1, modality="image") for task in tasks]
    tokenizer = AutoTokenizer.from_pretrained(setting.model)
    config = DriftAdapterConfig(max_length=setting.budget["max_length"], stride=setting.budget["stride"])
    return [PreparedTask(Task(**task), tokenizer, config, 0.1) for task in tasks]


def training_arguments(setting: Setting) -> dict[str, Any]:
    """Trainer's arguments, the same for every method."""
    return {
        "seed": setting.seed,
        "num_train_epochs": setting.budget["epochs"],
        "per_device_train_batch_size": setting.budget["batch_size"],
        "learning_rate": setting.chosen["learning_rate"],
        "warmup_steps": 0.1,
        "bf16": True,
        "use_cpu": not torch.cuda.is_available(),
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


class SharedModel(nn.Module):
    """A backbone with an adapter, a head over all label names of a stream, and a head over spans.

    Args:
        backbone (`nn.Module`): Gives `last_hidden_state`.
        tasks (`list[PreparedTask]`): The stream.

    Attributes:
        names (`list[str]`): All label names, in the order of the stream.
        own (`Tensor`): `[tasks, names]` bool, the labels of each task.
        allowed (`Tensor`): `[tasks, names]` bool, the labels that a training row of each task competes among.
        half_precision (`bool`): Whether it is scored under autocast to bfloat16, as it is trained.
        penalty (`Callable`): Added to the loss in training: of the batch and the two logits.
    """

    own: Tensor
    allowed: Tensor

    def __init__(self, backbone: nn.Module, tasks: Sequence[PreparedTask]) -> None:
        super().__init__()
        self.backbone = backbone
        labels = [() if task.kind == "question-answering" else task.labels for task in tasks]
        self.names = list(dict.fromkeys(itertools.chain(*labels)))
        own = torch.tensor([[name in own for name in self.names] for own in labels], dtype=torch.bool)
        self.register_buffer("own", own.view(len(tasks), len(self.names)))
        self.register_buffer("allowed", self.own.clone())
        hidden = backbone.config.hidden_size
        self.label_head = nn.Linear(hidden, max(len(self.names), 1))
        self.span_head = nn.Linear(hidden, 2)
        self.half_precision = True
        self.dropout = nn.Dropout(0.1)
        self.penalty: Callable[[dict[str, Tensor], Tensor, Tensor], Tensor] | None = None

    def logits(self, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the labels `[N, names]` and of the spans `[N, T, 2]`, float32."""
        hidden = self.backbone(**inputs).last_hidden_state
        mask = inputs.get("attention_mask")
        pooled = image_parts(hidden).mean(1) if mask is None else masked_mean(hidden, mask)
        return self.label_head(self.dropout(pooled)).float(), self.span_head(self.dropout(hidden)).float()

    def inputs(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What of a batch of training rows the backbone reads."""
        return {name: batch[name] for name in INPUTS if name in batch}

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        inputs = self.inputs(batch)
        labels, spans = self.logits(**inputs)
        loss = self.loss(labels, spans, batch)
        if self.penalty is not None and self.training:
            loss = loss + self.penalty(inputs, labels, spans)
        return {"loss": loss}

    def loss(self, labels: Tensor, spans: Tensor, batch: dict[str, Tensor]) -> Tensor:
        """Mean cross-entropy of the rows: over the allowed labels, or over the tokens as start and end."""
        rows = labels.masked_fill(~self.allowed[batch["task"]], float("-inf"))
        has_label = batch["labels"] != NO_TARGET
        total = nn.functional.cross_entropy(rows[has_label], batch["labels"][has_label], reduction="sum")
        if has_label.all():
            return total / len(labels)
        outside = batch["attention_mask"].unsqueeze(-1) == 0
        ends = spans.masked_fill(outside, float("-inf"))[~has_label]
        for i, name in enumerate(("start_positions", "end_positions")):
            target = batch[name][~has_label]
            total = total + 0.5 * nn.functional.cross_entropy(ends[..., i], target, reduction="sum")
        return total / len(labels)


def image_parts(hidden: Tensor) -> Tensor:
    """Class token and mean of the patches, `[N, T, H]` → `[N, 2, H]`: what DINOv2's stock head reads, without
    registers. Our heads read their mean."""
    return torch.stack([hidden[:, 0].float(), hidden[:, 1:].float().mean(1)], 1)


def rows_of(task: PreparedTask, number: int, names: Sequence[str], part: Dataset | None = None) -> Dataset:
    """Training rows of a task in the form that tasks of all kinds share; `number` is its place in the stream.

    Args:
        part (`Dataset`, *optional*): Encoded rows of the task; its training part by default.
    """
    data = task.train if part is None else part
    count = len(data)
    if task.kind == "question-answering":
        targets = {"labels": [NO_TARGET] * count, **{n: list(data[n]) for n in ("start_positions", "end_positions")}}
    else:
        place = [names.index(name) for name in task.labels]
        nothing = [NO_TARGET] * count
        targets = {
            "labels": [place[label] for label in data["labels"]],
            "start_positions": nothing,
            "end_positions": nothing,
        }
    rows = data.select_columns([name for name in INPUTS if name in data.column_names])
    for name, values in {**targets, "task": [number] * count}.items():
        rows = rows.add_column(name, values)
    return rows


def lora_backbone(name: str) -> nn.Module:
    """The backbone with one stock LoRA."""
    base = AutoModel.from_pretrained(name, dtype=torch.float32)
    return get_peft_model(base, LoraConfig(**LORA))


class SharedLearner:
    """Trains and scores a `SharedModel`.

    Args:
        tasks (`list[PreparedTask]`): The stream.
        setting (`Setting`): What the method was given.
        backbone (`Callable`, *optional*): Makes the backbone from its name; with one LoRA by default.
    """

    def __init__(
        self,
        tasks: Sequence[PreparedTask],
        setting: Setting,
        backbone: Callable[[str], nn.Module] = lora_backbone,
    ) -> None:
        set_seed(setting.seed)
        self.tasks, self.setting = tasks, setting
        self.model = SharedModel(backbone(setting.model), tasks)
        self.tokenizer = tasks[0].tokenizer
        self.collator = tasks[0].task_kind.collator(self.tokenizer)

    def rows(self, number: int, part: Dataset | None = None) -> Dataset:
        return rows_of(self.tasks[number], number, self.model.names, part)

    def train(self, *parts: Dataset, seen: Sequence[int], trainer: type[Trainer] = Trainer) -> None:
        """Trains on rows.

        Args:
            parts (`Dataset`): Made by `rows`.
            seen (`list[int]`): Tasks learned by then. A row competes among all of their labels, or with
                `chosen["labels"] == "own"` among those of its own task.
        """
        own = self.model.own
        every = own[list(seen)].any(0).expand_as(own)
        self.model.allowed.copy_(own if self.setting.chosen.get("labels") == "own" else every | own)
        with tempfile.TemporaryDirectory() as out:
            args = TrainingArguments(out, remove_unused_columns=False, **training_arguments(self.setting))
            run = trainer(
                self.model,
                args,
                train_dataset=concatenate_datasets(list(parts)),
                data_collator=self.collator,
                processing_class=self.tokenizer,
            )
            run.model_accepts_loss_kwargs = False
            run.train()

    def score(self, number: int, seen: Sequence[int], split: Split | None = None) -> float:
        """The task's metric.

        Args:
            number (`int`): Place of the task in the stream.
            seen (`list[int]`): Tasks among whose labels the answer is chosen: `[number]` where the task is given.
            split (`Split`, *optional*): What is scored; the test part by default.
        """
        task = self.tasks[number]
        split = split or task.test
        kind = head_kind(task.kind)
        labels, spans, masks = answers_of(self.model, self.tokenizer, split.features)
        references = kind.references(split.examples, task.columns, task.labels)
        if task.kind == "question-answering":
            found = [kind.distributions(s[None], m[None])[0][0].numpy() for s, m in zip(spans, masks, strict=True)]
            answers = kind.decode(stack_padded(found), split.features, split.examples, task.columns, task.labels)
            given = [answer["answer"] for answer in answers]
        else:
            allowed = self.model.own[list(seen)].any(0).cpu()
            best = labels.masked_fill(~allowed, float("-inf")).argmax(1).tolist()
            given = [self.model.names[i] for i in best]
        return kind.score(given, references)[kind.metric]


@torch.no_grad()
def answers_of(
    model: SharedModel, tokenizer: Any, features: Dataset, batch_size: int = 64
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Logits of encoded rows, in their order: labels `[rows, names]`; per row spans `[T, 2]` and mask `[T]`."""

    def run(batch: dict[str, Tensor]) -> list[tuple[Tensor, ...]]:
        with torch.autocast(model.own.device.type, torch.bfloat16, enabled=model.half_precision):
            labels, spans = model.logits(**batch)
        masks = batch.get("attention_mask", torch.ones(spans.shape[:2]))
        return list(zip(labels.cpu(), spans.cpu(), masks.cpu(), strict=True))

    model.eval()
    rows = in_order(batches(tokenizer, features, batch_size, run, model.own.device))
    labels, spans, masks = zip(*rows, strict=True)
    return torch.stack(labels), list(spans), list(masks)


def batches(
    tokenizer: Any,
    features: Dataset,
    batch_size: int,
    run: Callable[[dict[str, Tensor]], Any],
    device: torch.device | str = "cpu",
) -> Iterator[tuple[list[int], Any]]:
    """Row numbers of each batch and what `run` gives for it; texts of like length stand together, to save padding."""
    names = [name for name in INPUTS if name in features.column_names]
    modality = modality_named(names[0])
    inputs = {name: list(features[name]) for name in names}
    order = modality.order(inputs, len(features))
    for start in range(0, len(order), batch_size):
        index = order[start : start + batch_size]
        rows = {name: [values[i] for i in index] for name, values in inputs.items()}
        batch = modality.batch(rows, tokenizer, "right")
        yield index, run({name: values.to(device) for name, values in batch.items()})


def in_order(parts: Iterable[tuple[list[int], Iterable[Any]]]) -> list[Any]:
    """What `batches` gave, row by row in the order of the rows."""
    found = {row: value for index, values in parts for row, value in zip(index, values, strict=True)}
    return [found[row] for row in range(len(found))]


def on_device(model: nn.Module) -> nn.Module:
    """A model for scoring, on the GPU where there is one."""
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def learn_in_turn(
    learner: SharedLearner, learn: Callable[[int], None], stored: Callable[[int], int] | None = None
) -> Result:
    """Learns task after task and scores all tasks learned so far after each.

    Args:
        learn (`Callable`): Learns the task of a number.
        stored (`Callable`, *optional*): Bytes that are stored for it, beside the one adapter.
    """
    matrix, seconds, stores = AccuracyMatrix(), 0.0, []
    for number, task in enumerate(learner.tasks):
        start = time.perf_counter()
        learn(number)
        seconds += time.perf_counter() - start
        seen = range(number + 1)
        scores = {learner.tasks[j].name: learner.score(j, seen) for j in seen}
        matrix.add(task.name, task.task_kind.metric, majority(task, task.test), scores)
        stores.append(stored(number) if stored else 0)
    last = len(learner.tasks) - 1
    given = [learner.score(j, [j]) for j in range(last + 1)]
    stores[0] += trainable_bytes(learner.model)
    return Result(matrix, stores, seconds, beside={"accuracy_task_given": float(np.mean(given))})


def trainable_bytes(model: nn.Module) -> int:
    """Bytes of what a method trained."""
    return sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
