"""The lifelong learner: one training, scored under every retrieval policy; and the same with one setting changed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import get_peft_model
from transformers import AutoModel, set_seed

from hf_lifelong import DriftAdapterConfig, DriftTrainer, DriftTrainingArguments
from hf_lifelong.training.cards import adapter_record
from hf_lifelong.training.tasks import PreparedTask, Split

from .shared import Result, Setting, training_arguments

# Test rows a task that a policy is scored on; all members on all rows of a long stream take hours on a CPU.
OTHER_POLICIES = {"cascade": None, "uncertainty": 100}


class Timed(DriftTrainer):
    """Counts the seconds that learning takes: steps, snapshots, signature and grouping, without the scoring."""

    seconds = 0.0

    def train_task(self, *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        output = super().train_task(*args, **kwargs)
        self.seconds += time.perf_counter() - start
        return output


def learn(tasks: Sequence[PreparedTask], setting: Setting, folder: str) -> Timed:
    """Learns the stream. `chosen` holds `adapter` and `training`: settings that differ from the defaults."""
    set_seed(setting.seed)
    base = AutoModel.from_pretrained(setting.model, dtype=torch.float32)
    lengths = {name: setting.budget[name] for name in ("max_length", "stride")}
    config = DriftAdapterConfig(r=8, lora_alpha=16, **lengths, **setting.chosen.get("adapter", {}))
    args = DriftTrainingArguments(
        folder,
        per_device_eval_batch_size=64,
        **{**training_arguments(setting), **setting.chosen.get("training", {})},
    )
    trainer = Timed(
        get_peft_model(base, config),
        args,
        tasks=[task.task for task in tasks],
        processing_class=tasks[0].tokenizer,
    )
    trainer.train()
    return trainer


def ours(tasks: Sequence[PreparedTask], setting: Setting) -> Result:
    """The lifelong learner with its default retrieval; `beside["policies"]` has the others, from the same training."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = learn(tasks, setting, folder)
        size = Path(folder, "adapter_model.safetensors").stat().st_size
        record = adapter_record(trainer, seconds=round(trainer.seconds))
    matrix = trainer.matrix
    if matrix is None:
        raise RuntimeError("The stream was learned, but its accuracy matrix is missing.")
    beside = {
        "oracle_accuracy": matrix.oracle_accuracy(),
        "retrieval_accuracy": matrix.retrieval_accuracy(),
        "groups": [task.group for task in trainer.knowledge.tasks],
        "policies": {
            policy: {"rows": rows, **under(trainer, policy, rows)} for policy, rows in OTHER_POLICIES.items()
        },
        "adapter": record,
    }
    return Result(matrix, [size // len(tasks)] * len(tasks), trainer.seconds, beside=beside)


def under(trainer: DriftTrainer, policy: str, most: int | None) -> dict[str, float]:
    """Final scores under a retrieval policy, on the first `most` test rows of each task (`None`: all)."""
    accuracies, retrieved = [], []
    for task in trainer.tasks:
        prepared = trainer.prepared(task)
        scored = trainer.scorer.score(prepared, first_rows(prepared.test, most), policy)
        accuracies.append(scored.metrics[prepared.objective.metric])
        retrieved.append(scored.retrieval)
    return {"average_accuracy": float(np.mean(accuracies)), "retrieval_accuracy": float(np.mean(retrieved))}


def first_rows(split: Split, most: int | None) -> Split:
    """The first `most` examples of a split, with all of their features."""
    if most is None or most >= len(split.examples):
        return split
    features = [i for i, example in enumerate(split.features["example"]) if example < most]
    return Split(split.examples.select(range(most)), split.features.select(features))
